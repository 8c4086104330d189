"""What a rank sends in a solve, as formulas: in neighbours, halo, iterations, restart and levels.

`tests/distributed/test_messages.py` holds them to what is counted (`messages.py`), to the byte:
whoever adds a reduction to a method changes the formula here, and what `scaling_model.py` says with
it. All is of one rank, in double precision but where a level of multigrid is in single.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from hpc_sla.distributed.transport.base import Neighbours

REAL = 8
"""Bytes of a number."""


class Traffic:
    """Calls and bytes by MPI's name; those of messages between neighbours by "message".

    Attributes
    ----------
    calls, bytes : Counter
    """

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()

    def call(self, name: str, numbers: int, times: int = 1, width: int = REAL) -> Traffic:
        self.calls[name] += times
        self.bytes[name] += times * numbers * width
        return self

    def reduce(self, numbers: int, times: int = 1, width: int = REAL) -> Traffic:
        """Sums, or maxima, of so many numbers over ranks."""
        return self.call("Allreduce", numbers, times, width)

    def agree(self, times: int = 1) -> Traffic:
        """`World.agree`: whether anybody failed, a number, and three hashes with their squares."""
        return self.reduce(8, times)

    def number(self, times: int = 1) -> Traffic:
        """`World.sum` and `World.max`."""
        return self.reduce(4, times)

    def exchange(
        self, sends: Neighbours, times: int = 1, columns: int = 1, width: int = REAL
    ) -> Traffic:
        """Of a vector's halo, or of several columns at once."""
        self.calls["message"] += times * len(sends.ranks)
        self.bytes["message"] += times * sends.total * columns * width
        return self

    def ask(self, ranks: Sequence[int]) -> Traffic:
        """A sparse exchange with messages to these ranks, of any length."""
        self.calls["Ibarrier"] += 1
        self.calls["Issend"] += len(ranks)
        return self

    def __iadd__(self, other: Traffic) -> Traffic:
        self.calls.update(other.calls)
        self.bytes.update(other.bytes)
        return self

    def __mul__(self, times: int) -> Traffic:
        made = Traffic()
        made.calls.update({name: count * times for name, count in self.calls.items()})
        made.bytes.update({name: count * times for name, count in self.bytes.items()})
        return made


def together(*parts: Traffic) -> Traffic:
    made = Traffic()
    for part in parts:
        made += part
    return made


NONE = Traffic()


# Krylov methods: one solve that converges, by a solver that is set up, of one right-hand side


def _around(sends: Neighbours) -> Traffic:
    """The arguments agreed on, and at the end b - A x and how good each row is."""
    return Traffic().agree().exchange(sends).reduce(4).reduce(3)


def cg(sends: Neighbours, iterations: int, apply: Traffic = NONE) -> Traffic:
    """Two sums a step: p . A p, and r . r with r . M r and the time that the step took.

    `apply` is one application of the preconditioner.
    """
    pointwise = not apply.calls
    made = _around(sends).exchange(sends, iterations)
    made.reduce(2).reduce(1, iterations).reduce(3, iterations)
    return made if pointwise else together(made, apply * (iterations + 1))


def pipelined_cg(sends: Neighbours, iterations: int, replacement: int = 50) -> Traffic:
    """One sum a step, under way while the product is; all anew every `replacement` steps."""
    exchanges = iterations + 2 + 4 * ((iterations - 1) // replacement)
    made = _around(sends).exchange(sends, exchanges)
    return made.call("Iallreduce", 3).call("Iallreduce", 4, iterations)


def gmres(sends: Neighbours, iterations: int, restart: int) -> Traffic:
    """Step i of a cycle sums i products with the basis twice over, in one reduction."""
    made = _around(sends).reduce(1)
    for first in range(0, iterations, restart):
        made += _cycle(min(restart, iterations - first))
        if first:
            made.reduce(1).exchange(sends)  # the residual that the cycle begins with
    return made.exchange(sends, iterations)


def _cycle(steps: int) -> Traffic:
    made = Traffic()
    for i in range(1, steps + 1):
        made.reduce(2 * i + 2)
    return made.reduce(steps + 1)


# Multigrid


def v_cycle(levels: Sequence[Any], width: int) -> Traffic:
    """One cycle. Smoothing takes a product a step, but the first, which is from zero.

    To a level on fewer ranks vectors go in the messages of the transfer.

    Parameters
    ----------
    levels : sequence of MultigridLevel
        This rank's.
    width : int
        Bytes of a number in it.
    """
    made = Traffic()
    for level in levels:
        if level.direct is not None:
            if level.layout.world.size > 1:
                made.reduce(level.layout.n_global, width=width)
        elif level.transfer is not None:
            steps, plan = len(level.steps.coefficients), level.transfer.plan
            sends = level.operator.pattern.plan.sends
            made.exchange(sends, 2 * steps, width=width)  # with the residual between them
            made.exchange(plan.receives, width=width).exchange(plan.sends, width=width)
        else:
            steps = len(level.steps.coefficients)
            made.exchange(level.operator.pattern.plan.sends, steps - 1, width=width)
    return made


def set_up(hierarchy: Any, rounds: Sequence[Sequence[int]], width: int) -> Traffic:
    """Multigrid's, of a symmetric matrix of one unknown a point, with communicators made before.

    Not the bytes of "Issend": rows of A, of P and of their product, which follow from values.

    Parameters
    ----------
    hierarchy : Hierarchy
        This rank's part of it.
    rounds : sequence of sequence of int
        As `messages.aggregations` notes them, of the levels that this rank takes part in.
    width : int
        Bytes of a number of the cycle.
    """
    finest = hierarchy.levels[0].operator.pattern
    # Rows of their own, twice; symmetry; the size and the sign; units, twice; the nullspace's size.
    made = Traffic().agree().number(8).ask(finest.plan.receives.ranks)
    for depth, level in enumerate(hierarchy.levels):
        if level.layout.world.size > 1:
            tried = rounds[depth] if depth < len(rounds) else ()
            made += _one_level(hierarchy, depth, tried, width)
    # What its levels are like, to ranks that are not in all of them.
    return made.agree().reduce(4 * (len(hierarchy.summaries) + 1))


def _one_level(hierarchy: Any, depth: int, rounds: Sequence[int], width: int) -> Traffic:
    """The largest eigenvalue, the aggregates and the next matrix; or the inverse."""
    level = hierarchy.levels[depth]
    sends, steps = level.operator.pattern.plan.sends, min(8, level.layout.n_global)
    made = Traffic().reduce(1, 2 * steps + 1, width).exchange(sends, steps, width=width)
    for looked in rounds:
        made.agree().exchange(sends).number().call("Allgather", 1)
        if looked:  # nodes whose strong neighbours are all on other ranks
            made.exchange(sends, 2 + 2 * looked).number(looked + 1)
    if depth < len(hierarchy._kept):
        made += _next_level(hierarchy, depth, sends)
    if level.direct is not None:
        n, whole = level.layout.n_owned, level.layout.n_global
        made.call("Allgather", 1).call("Allgatherv", n * whole)
    return made


def _next_level(hierarchy: Any, depth: int, sends: Neighbours) -> Traffic:
    """The prolongator, the product, and where that goes on."""
    kept, world = hierarchy._kept[depth], hierarchy.levels[depth].layout.world
    move, coarse = kept.move, kept.coarse
    home = kept.transfer.plan if move is None else kept.plan
    made = Traffic().number().exchange(sends, width=4)  # the halo's aggregates
    made.ask(home.receives.ranks).ask(sends.ranks)  # P's plan, its rows
    made.agree(2).ask(home.receives.ranks)  # the product's rows go home
    made.ask(coarse.plan.receives.ranks).reduce(2)
    if coarse.layout.n_global > hierarchy._options.coarse_size:
        made.call("Allgather", 4)
    if move is not None:
        parts = [rank for rank, _ in move._parts(move.among_all) if rank != world.rank]
        made.ask(parts).ask(kept.transfer.plan.receives.ranks)
        if move.world is not None and move.world.size > 1:
            below = hierarchy.levels[depth + 1].operator.pattern.plan
            made.agree().ask(below.receives.ranks).reduce(2)
    return made


# Eigenpairs and roots


def eigsh(sends: Neighbours, iterations: int, k: int, m: int) -> Traffic:
    """LOBPCG on m vectors by a diagonal, of which none is found before `iterations` (2 or more).

    An iteration makes two sums: the Gram matrices, and the residuals' norms with the digest of what
    this rank has decided.
    """
    made = Traffic().agree(4).number(2 + 1 + 2)
    made.reduce(2).exchange(sends)  # how large A is
    made.exchange(sends, iterations + 1, m).reduce(2 * m * m).reduce(2 * (2 * m) ** 2)
    made.reduce(2 * (3 * m) ** 2, iterations - 1).reduce(m + 6, iterations + 2)
    # At the end all is computed afresh: [X | P], X, |A||X|, and the norms, safe from overflow.
    made.exchange(sends, 1, 2 * m).exchange(sends, 2, m)
    made.reduce(2 * m * m).reduce(2 * m).reduce(2 * m).reduce(2 * m).reduce(m).reduce(k)
    return made.ask(sends.ranks)  # whether A is symmetric


def newton(sends: Neighbours, evaluations: int, products: int, inner: Sequence[int]) -> Traffic:
    """Newton's method, matrix-free, by gmres that is not restarted, not preconditioned.

    Parameters
    ----------
    sends : Neighbours
        Of an exchange that F(u) makes one of; J x, in forward mode, two.
    evaluations, products : int
        Of F, and of J x.
    inner : sequence of int
        The iterations of each step's solve.
    """
    made = Traffic().agree(3).number().exchange(sends, evaluations + 2 * products)
    made.reduce(1, evaluations - 1).reduce(2)
    made.calls["Ibarrier"] += 1
    for steps in inner:
        made.agree(2).reduce(2).reduce(1).reduce(1)
        made += _cycle(steps)
    return made

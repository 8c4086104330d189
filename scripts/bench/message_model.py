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
            made.reduce(level.layout.n_global, width=width)
        elif level.transfer is not None:
            steps, plan = len(level.steps.coefficients), level.transfer.plan
            sends = level.operator.pattern.plan.sends
            made.exchange(sends, 2 * steps, width=width)  # with the residual between them
            made.exchange(plan.receives, width=width).exchange(plan.sends, width=width)
            if level.shrink is not None:
                made += _to_fewer(level, width)
        else:
            steps = len(level.steps.coefficients)
            made.exchange(level.operator.pattern.plan.sends, steps - 1, width=width)
    return made


def _to_fewer(level: Any, width: int) -> Traffic:
    """A vector to the ranks that go on, and one back."""
    made = Traffic()
    like = next(iter(level.shrink._channels))
    for channel in level.shrink._channels[like]:
        size = channel.send_buffer.numel()
        made.calls["message"] += sum(
            1 for request in channel._requests[_receives(channel) :] if request is not None
        )
        made.bytes["message"] += size * width
    return made


def _receives(channel: Any) -> int:
    """How many of a channel's requests receive: they come first."""
    return len(channel._requests) - len(channel.send_ranks)


def set_up(
    levels: Sequence[Any],
    asked: int,
    width: int,
    entries: int,
) -> Traffic:
    """Multigrid's, of a matrix of one unknown a point, on levels that all ranks take part in.

    Not the bytes of what travels once (rows of A and P, which depend on the coefficients).

    Parameters
    ----------
    levels : sequence of MultigridLevel
    asked : int
        Messages of this rank's sparse exchanges.
    width : int
        Bytes of a number of the cycle.
    entries : int
        Bytes of this rank's rows of the coarsest matrix, dense.
    """
    coarser = len(levels) - 1
    made = Traffic().agree().number(8).call("bcast", 0)
    # Of each level: its size, and the largest eigenvalue by eight steps of the power method.
    for level in levels:
        made.number().reduce(1, 17, width)
        made.exchange(level.operator.pattern.plan.sends, 8, width=width)
    # To each coarser one: aggregates counted and numbered, a product agreed on before each half.
    for _ in range(coarser):
        made.agree(3).number(3).call("Allgather", 1)
    for level in levels[:-1]:
        made.exchange(level.operator.pattern.plan.sends, 2)
    made.calls["Ibarrier"] += 1 + 4 * coarser
    made.calls["Issend"] += asked
    made.call("Allgather", 1)
    made.calls["Allgatherv"] += 1
    made.bytes["Allgatherv"] += entries
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
    made.calls["Ibarrier"] += 1  # whether A is symmetric
    made.calls["Issend"] += len(sends.ranks)
    return made


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

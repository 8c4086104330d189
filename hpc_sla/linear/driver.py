"""The loop around every Krylov method: claims, limits, statuses that tell the truth."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import torch

from hpc_sla.linear.graphs import Bursts
from hpc_sla.linear.info import Status, worst
from hpc_sla.linear.method import Method, System, norms_of
from hpc_sla.linear.recover import Recovery
from hpc_sla.observe.heartbeat import beat

if TYPE_CHECKING:
    from hpc_sla.linear.keeper import Keeper

Callback = Callable[[int, float], None]


@dataclass
class Outcome:
    """How one right-hand side fares (replicated)."""

    target: float
    norm: float
    """The true residual norm, when last computed."""
    ceiling: float = math.inf
    """A norm above it is divergence."""
    history: list[float] = field(default_factory=list)
    status: Status | None = None
    iterations: int = 0
    lowest: float = math.inf
    lowest_after: int = 0
    """The method's own least residual norm of a round, and after how many steps of it."""
    _best: float = math.inf
    _best_at: int = 0
    _last_claim: float = math.inf
    _round_at: int = 0

    def __post_init__(self) -> None:
        self.history.append(self.norm)
        if not math.isfinite(self.norm):
            self.status = "not_finite"
        elif self.norm <= self.target < math.inf:
            self.status = "converged"

    @property
    def steps(self) -> int:
        """Of this round."""
        return self.iterations - self._round_at

    def begin(self) -> None:
        """Begin a round."""
        self.lowest, self.lowest_after, self._round_at = math.inf, 0, self.iterations

    def iterated(self, norm: float, status: Status | None, patience: int) -> None:
        """Take in an iteration: the method's own residual norm, and what it makes of it."""
        self.iterations += 1
        self.history.append(norm)
        self.status = status
        if norm < self.lowest:
            self.lowest, self.lowest_after = norm, self.steps
        if status is None and norm > self.ceiling:
            self.status = "diverged"
        elif norm < self._best:
            self._best, self._best_at = norm, self.iterations
        elif status is None and self.iterations - self._best_at > patience:
            self.status, self._last_claim = "stagnated", 0.0  # for good

    def judge(self, norm: float, may_go_on: bool) -> None:
        """Hold what the method claims against the true residual."""
        self.norm = norm
        if norm <= self.target < math.inf:
            self.status = "converged"
        elif self.status == "diverged":
            pass
        elif not math.isfinite(norm):
            self.status = "not_finite"
        elif self.status is None or (self.status == "converged" and not may_go_on):
            self.status = "max_iterations"
        elif self.status in ("converged", "stagnated", "breakdown") and may_go_on:
            # The recurrence claims what the true residual denies, rounding having parted them, or
            # has come to a halt. Go on from the true residual, as long as that helps.
            if norm > 0.5 * self._last_claim or norm > self.ceiling:
                self.status = "breakdown" if self.status == "breakdown" else "stagnated"
            else:
                self.status = None
            self._last_claim = norm


def iterate(
    method: Method,
    system: System,
    x0: torch.Tensor | None,
    max_iterations: int,
    callback: Callback | None = None,
    keeper: Keeper | None = None,
) -> list[Outcome]:
    """Run a method until the *true* residuals meet the targets, or it cannot. **Collective.**

    Parameters
    ----------
    method : Method
    system : System
        Its x is updated in place; r is b - A x at the end.
    x0 : torch.Tensor like x, or None
        What x is, to go back to; not modified. None for 0, which saves a product.
    max_iterations : int
        Replicated.
    callback : callable(iteration, residual_norm), optional
        With several right-hand sides, the largest norm.
    keeper : Keeper, optional
        Of a checkpoint.

    Returns
    -------
    list of Outcome
        One a right-hand side.
    """
    scalars = system.scalars
    restored = keeper.restore(method, partial(_outcome, system)) if keeper else None
    if restored is not None:
        outcomes, iterations = restored.outcomes, restored.iterations
    else:
        outcomes, iterations = _first_look(system, x0 is None), 0
    if callback:
        callback(iterations, worst(o.history[-1] for o in outcomes))
    if keeper:
        keeper.start(iterations)
    captured = method.capturable and system.operator.world.size == 1 and system.b.is_cuda
    bursts = Bursts(method, scalars, captured=captured and system.precond.pointwise)
    # The residual's 2-norm may rise for long while another norm of the error falls, but hardly
    # for more iterations than the method needs in all without rounding.
    patience = max(100, system.operator.n_global)
    within = restored is not None and restored.within
    recovery = Recovery(method, bursts, x0, restored is None)
    while any(o.status is None for o in outcomes):
        running = [o for o in outcomes if o.status is None]
        if within and restored is not None:
            running = [o for o, ran in zip(outcomes, restored.running, strict=True) if ran]
        recovery.begin(outcomes, within)
        if not within:
            _start(method, outcomes)
        within = False
        watch = None
        if keeper:
            watch = partial(keeper.after, method, outcomes, running)
        iterations = _round(
            method, bursts, outcomes, iterations, max_iterations, patience, callback, watch
        )
        method.finish()
        norms = norms_of(system.residual())
        stopped = keeper is not None and keeper.stopped
        recovery.end(outcomes, norms)
        for outcome, norm in zip(outcomes, norms, strict=True):
            if any(outcome is one for one in running):
                outcome.judge(norm, iterations < max_iterations and not stopped)
                if stopped and outcome.status in ("max_iterations", "breakdown", "stagnated"):
                    outcome.status = "preempted"
    if keeper is None or not keeper.stopped:
        recovery(outcomes)
    return outcomes


def _first_look(system: System, at_zero: bool) -> list[Outcome]:
    """Where x begins. **Collective.**"""
    if at_zero:
        measures = system.measures
        system.r.copy_(system.b)
    else:
        measures = norms_of(system.residual())
    return [_outcome(system, column, norm) for column, norm in enumerate(measures)]


def _outcome(system: System, column: int, norm: float) -> Outcome:
    """Of a column whose true residual norm that is. Local."""
    ceiling = system.ceiling[column] if system.ceiling else math.inf
    return Outcome(system.target[column], norm, max(ceiling, norm * system.dtol))


def _start(method: Method, outcomes: Sequence[Outcome]) -> None:
    """Begin from x and its residual. **Collective.**"""
    scalars = method.scalars
    method.start(scalars.flag([o.status is None for o in outcomes]))
    (rows,) = scalars.read()
    for outcome, row in zip(outcomes, rows, strict=True):
        if outcome.status is None:
            outcome.status = method.classify(row, outcome.target)


def _round(
    method: Method,
    bursts: Bursts,
    outcomes: Sequence[Outcome],
    iterations: int,
    max_iterations: int,
    patience: int,
    callback: Callback | None,
    stop: Callable[[int], bool] | None,
) -> int:
    """Iterate until nobody goes on; return the iterations in all. **Collective.**

    `stop` is asked whenever somebody does, with the iterations so far.
    """
    scalars = method.scalars
    while iterations < max_iterations and any(o.status is None for o in outcomes):
        bursts.run(min(scalars.check_every, max_iterations - iterations))
        beat()
        for rows in scalars.read():
            if all(o.status is not None for o in outcomes):
                break
            iterations += 1
            for outcome, row in zip(outcomes, rows, strict=True):
                if outcome.status is None:
                    status = method.classify(row, outcome.target)
                    outcome.iterated(method.norm(row), status, patience)
            if callback:
                callback(iterations, worst(o.history[-1] for o in outcomes))
        if any(o.status == "stagnated" for o in outcomes):
            method.keep(scalars.flag([o.status is None for o in outcomes]))
        going = iterations < max_iterations and any(o.status is None for o in outcomes)
        if stop is not None and going and stop(iterations):
            break
    return iterations

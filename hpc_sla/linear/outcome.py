"""How one right-hand side fares while a method iterates, and what status it ends in."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from hpc_sla.linear.info import SolveInfo, Status


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
    best: float = math.inf
    best_at: int = 0
    """The method's own least residual norm ever, and at which iteration."""
    last_claim: float = math.inf
    """The true residual norm when the method last claimed what that denied."""
    _round_at: int = 0

    def __post_init__(self) -> None:
        self.history.append(self.norm)
        if not math.isfinite(self.norm):
            self.status = "not_finite"
        elif self.norm <= self.target < math.inf:
            self.status = "converged"

    def follow(self, before: Outcome) -> None:
        """Count what another method has done before this one."""
        self.history, self.iterations = list(before.history), before.iterations
        self.best_at = self.iterations

    @property
    def steps(self) -> int:
        """Iterations of this round."""
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
        elif norm < self.best:
            self.best, self.best_at = norm, self.iterations
        elif status is None and self.iterations - self.best_at > patience:
            self.status, self.last_claim = "stagnated", 0.0  # for good

    def passed(self, norms: Sequence[float]) -> None:
        """Take in iterations that end nothing: `iterated`, one after another, with no status."""
        if not norms:
            return
        least = min(norms)
        first = norms.index(least) + 1
        if least < self.lowest:
            self.lowest, self.lowest_after = least, self.steps + first
        if least < self.best:
            self.best, self.best_at = least, self.iterations + first
        self.iterations += len(norms)
        self.history += norms

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
            if norm > 0.5 * self.last_claim or norm > self.ceiling:
                self.status = "breakdown" if self.status == "breakdown" else "stagnated"
            else:
                self.status = None
            self.last_claim = norm


def info_of(o: Outcome, b_norm: float, least_squares: tuple[float, float] | None) -> SolveInfo:
    """What became of one column; of a least-squares one its ||b - A x|| and ||M^-T A^T b||."""
    norm, normal = o.norm, None
    if least_squares:
        norm, measure = least_squares
        normal = o.norm / measure if measure else o.norm
    relative = norm / b_norm if b_norm else norm
    info = SolveInfo(o.status or "max_iterations", o.iterations, norm, relative, o.history)
    info.normal_residual = normal
    return info


def unfinished(outcomes: Sequence[Outcome]) -> bool:
    """Whether any of them has no status."""
    return None in [outcome.status for outcome in outcomes]

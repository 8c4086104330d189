"""What every solve says about itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Status = Literal[
    "converged", "max_iterations", "breakdown", "stagnated", "indefinite", "not_finite"
]

MEANINGS: dict[Status, str] = {
    "converged": "the true residual meets the tolerance",
    "max_iterations": "the iteration limit was reached first",
    "breakdown": "a scalar the recurrence divides by became zero: the matrix may be singular",
    "stagnated": "the residual stopped falling: the tolerance is below what rounding allows, or "
    "the system is singular and inconsistent",
    "indefinite": "the matrix or the preconditioner is not positive definite",
    "not_finite": "a NaN or an infinity appeared",
}
"""What each status means, for messages."""


@dataclass
class SolveInfo:
    """The outcome of a solve, the same on every rank.

    Attributes
    ----------
    status : str
        `converged`, `max_iterations`, `breakdown`, `stagnated`, `indefinite` or `not_finite`;
        `MEANINGS` says what each means.
    iterations : int
    residual_norm : float
        ||b - A x||_2, computed from x at the end, not the recurrence's.
    relative_residual : float
        `residual_norm` / ||b||_2 (0 where both are 0).
    residual_history : list of float
        The method's own residual norm at each iteration, the first one included.
    seconds : float
        Wall time of the solve on this rank, set-up of the preconditioner included.
    method, precond : str
    """

    status: Status
    iterations: int
    residual_norm: float
    relative_residual: float
    residual_history: list[float] = field(repr=False)
    seconds: float = 0.0
    method: str = ""
    precond: str = ""

    @property
    def converged(self) -> bool:
        return self.status == "converged"

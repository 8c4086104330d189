"""What every solve says about itself."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from hpc_sla.linear.advice import advice

Status = Literal[
    "converged",
    "max_iterations",
    "breakdown",
    "stagnated",
    "indefinite",
    "not_finite",
    "diverged",
    "preempted",
]

MEANINGS: dict[Status, str] = {
    "converged": "the true residual meets the tolerance (of a rectangular system, the normal one), "
    "or is down to rounding where rtol was left open in float32",
    "max_iterations": "the iteration limit was reached first",
    "breakdown": "a scalar the recurrence divides by vanished: the matrix may be singular, or the "
    "method may not suit it",
    "stagnated": "the residual stopped falling: the tolerance is below what rounding allows, or "
    "the system is singular and inconsistent",
    "indefinite": "the matrix or the preconditioner is not positive definite",
    "not_finite": "a NaN or an infinity appeared",
    "diverged": "the residual grew beyond dtol times that of the right-hand side",
    "preempted": "it was told to stop: see `hpc_sla.Checkpoint`",
}
"""What each status means, for messages."""


@dataclass
class SolveInfo:
    """The outcome of a solve, the same on every rank.

    Attributes
    ----------
    status : str
        `converged`, `max_iterations`, `breakdown`, `stagnated`, `indefinite`, `not_finite`,
        `diverged` or `preempted`; `MEANINGS` says what each means.
    iterations : int
    residual_norm : float
        ||b - A x||_2, computed from x at the end, not the recurrence's.
    relative_residual : float
        `residual_norm` / ||b||_2; `residual_norm` itself where b is 0.
    residual_history : list of float
        The method's own residual norm at each iteration, the first one included; of a rectangular
        system, the norm of M^-T A^T (b - A x).
    seconds : float
        Wall time of the solve on this rank, set-up of the preconditioner included.
    method, precond : str
        What was used.
    reason : str
        Why, where the method was left to choose.
    normal_residual : float or None
        Of a rectangular system, ||M^-T A^T (b - A x)||_2 relative to ||M^-T A^T b||_2: what a
        least-squares solution makes small, and what `status` goes by. None for a square one.
    rtol : float or None
        The relative tolerance in effect.
    backward_error : float or None
        max_i |b - A x|_i / (|A||x| + |b|)_i: how well each row is solved beside its own size (W.
        Oettli and W. Prager, 1964; rows of numbers that are nothing beside the largest of x as in
        `hpc_sla.linear.accuracy.Accuracy`). Where rows differ much in scale it may be near 1 though
        `relative_residual` is tiny. None of a rectangular system, of an operator without entries,
        and of a solve for a derivative.
    hidden : bool
        Whether there are rows that are solved more than 10^4 times worse, beside their size, than
        `relative_residual` says, and worse than rtol.
    at_rounding : bool
        Whether the residual is what rounding in the dtype makes of A x: no better x can be had in
        it. True of a solve that did not converge means that too small a tolerance was asked.
    symmetric : bool or None
        Of a solve that failed by a method for symmetric matrices: whether A is symmetric, to all
        appearances.
    dtype : str
        `float64` or `float32`.
    columns : tuple of SolveInfo
        For several right-hand sides, one a column; the fields above then tell of the worst: the
        first status that is not `converged`, the most iterations, the largest norms.
    adjoint : SolveInfo or None
        Of the last solve for a derivative of this one's solution.
    tries : list of str or None
        Advice of what knows better than `hpc_sla.linear.advice`: of eigenpairs.
    """

    status: Status
    iterations: int
    residual_norm: float
    relative_residual: float
    residual_history: list[float] = field(repr=False)
    seconds: float = 0.0
    method: str = ""
    precond: str = ""
    reason: str = ""
    normal_residual: float | None = None
    rtol: float | None = None
    backward_error: float | None = None
    hidden: bool = False
    at_rounding: bool = False
    symmetric: bool | None = None
    dtype: str = ""
    columns: tuple[SolveInfo, ...] = field(default=(), repr=False)
    adjoint: SolveInfo | None = field(default=None, repr=False)
    tries: list[str] | None = field(default=None, repr=False)

    _warned = False  # of a derivative

    @property
    def converged(self) -> bool:
        return self.status == "converged"

    @property
    def advice(self) -> list[str]:
        """What to try, or to look at, the likeliest first; nothing where all is well."""
        if self.tries is not None:
            return self.tries
        return advice(self)


def root(square: float) -> float:
    """The norm that belongs to a square, NaN where rounding or worse made it negative."""
    return math.sqrt(square) if square >= 0 else math.nan


def worst(values: Iterable[float]) -> float:
    """The largest; NaN where there is one, which max() may drop."""
    return max(values, key=lambda value: math.inf if math.isnan(value) else value)


def summarise(columns: list[SolveInfo], single: bool) -> SolveInfo:
    """The one SolveInfo of a solve with these columns."""
    if single:
        return columns[0]
    longest = max(len(c.residual_history) for c in columns)
    history = [
        worst(c.residual_history[min(i, len(c.residual_history) - 1)] for c in columns)
        for i in range(longest)
    ]
    statuses = [c.status for c in columns if not c.converged] or [columns[0].status]
    if "preempted" in statuses:  # the others may still come to more
        statuses = ["preempted"]
    errors = [c.backward_error for c in columns if c.backward_error is not None]
    judged = [c for c in columns if not c.converged] or columns
    return SolveInfo(
        statuses[0],
        max(c.iterations for c in columns),
        worst(c.residual_norm for c in columns),
        worst(c.relative_residual for c in columns),
        history,
        normal_residual=max(c.normal_residual or 0.0 for c in columns)
        if columns[0].normal_residual is not None
        else None,
        rtol=columns[0].rtol,
        dtype=columns[0].dtype,
        backward_error=worst(errors) if errors else None,
        hidden=any(c.hidden for c in columns),
        at_rounding=all(c.at_rounding for c in judged),
        columns=tuple(columns),
    )

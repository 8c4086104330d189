"""What every nonlinear solve says about itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from hpc_sla.linear.info import SolveInfo

Status = Literal[
    "converged",
    "max_iterations",
    "breakdown",
    "stagnated",
    "indefinite",
    "not_finite",
    "line_search_failed",
    "diverged",
    "preempted",
]

MEANINGS: dict[Status, str] = {
    "converged": "||F(u)|| meets the tolerance",
    "max_iterations": "the iteration limit was reached first",
    "breakdown": "a linear solve found no descent direction: the Jacobian may be singular",
    "stagnated": "||F(u)|| stopped falling: the tolerance is below what rounding allows, or the "
    "iteration has come to a halt",
    "indefinite": "the linear method needs a positive definite Jacobian, which it is not",
    "not_finite": "a NaN or an infinity appeared",
    "line_search_failed": "no step along Newton's direction makes ||F(u)|| smaller: a singular "
    "Jacobian, a residual that is not smooth, or no root nearby",
    "diverged": "||F(u)|| grew far beyond its start",
    "preempted": "it was told to stop: see `hpc_sla.Checkpoint`",
}
"""What each status means, for messages."""


@dataclass
class NonlinearInfo:
    """The outcome of a nonlinear solve, the same on every rank.

    Attributes
    ----------
    status : str
        `MEANINGS` has them all.
    iterations : int
        Outer ones: steps that changed u.
    residual_norm : float
        ||F(u)||_2 at the u that is returned.
    relative_residual : float
        `residual_norm` / ||F(u0)||_2; `residual_norm` itself where F(u0) is 0.
    residual_history : list of float
        ||F(u)||_2 at each outer iteration, the first one included.
    inner_iterations : list of int
        Of newton: iterations of the linear method in each outer one.
    inner_history : list of list of float
        Of newton: the linear method's own residual norms in each outer iteration.
    step_lengths : list of float
        Of newton: what the line search accepted, 1 for a whole step.
    forcing : list of float
        Of newton: the relative tolerance of each linear solve.
    restarts : int
        Of anderson: how often its memory was emptied.
    residual_evaluations, jacobian_products : int
        Of F, and of dF/du with a vector; those of a coloured Jacobian and of a backward pass
        included.
    jacobians, preconditioners : int
        Assembled, and set up.
    seconds : float
        Wall time of the solve on this rank.
    method, linear_method, precond : str
        What was used.
    jvp : str
        How products with dF/du were found: see `PRODUCTS`. Empty where none was needed.
    reason : str
        Why not as was asked for, where so.
    adjoint : SolveInfo or None
        Of the last linear solve for a derivative of this solution.
    """

    status: Status
    iterations: int = 0
    residual_norm: float = 0.0
    relative_residual: float = 0.0
    residual_history: list[float] = field(default_factory=list, repr=False)
    inner_iterations: list[int] = field(default_factory=list)
    inner_history: list[list[float]] = field(default_factory=list, repr=False)
    step_lengths: list[float] = field(default_factory=list, repr=False)
    forcing: list[float] = field(default_factory=list, repr=False)
    restarts: int = 0
    residual_evaluations: int = 0
    jacobian_products: int = 0
    jacobians: int = 0
    preconditioners: int = 0
    seconds: float = 0.0
    method: str = ""
    linear_method: str = ""
    precond: str = ""
    jvp: str = ""
    reason: str = ""
    adjoint: SolveInfo | None = field(default=None, repr=False)

    _warned = False  # of a derivative

    @property
    def converged(self) -> bool:
        return self.status == "converged"

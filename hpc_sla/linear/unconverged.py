"""What is said where a solve did not reach its tolerance, or reached it in name only.

Every word is a warning of `hpc_sla.errors`, decided by what is the same on every rank: a filter
that makes an error of it raises on all of them, at the same place.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from hpc_sla.errors import (
    AccuracyWarning,
    AdjointSolveError,
    NotConvergedError,
    NotConvergedWarning,
    warn,
)
from hpc_sla.linear.info import MEANINGS, SolveInfo

GOOD_ENOUGH = 1e-3
"""The relative residual up to which one that rounding stops is accepted without a word. Beyond it
x may be so large, in the nullspace of a singular matrix, that rounding makes any residual."""


class HasStatus(Protocol):
    """What a solve, linear or not, says of itself."""

    @property
    def status(self) -> str: ...
    @property
    def converged(self) -> bool: ...

    iterations: int
    relative_residual: float


def warn_of_gradient(*infos: HasStatus, what: str = "solve") -> None:
    """Say, once for these solves, that a derivative is not that of a solution. Local.

    The derivative's formula holds at a solution; at another x it is the derivative of nothing.
    """
    failed = [i for i in infos if not (i.converged or _as_good_as_it_gets(i))]
    if not failed or any(getattr(info, "_warned", False) for info in failed):
        return
    info = failed[0]
    warn(
        f"a gradient (or a tangent) is taken of a {what} that did not converge: {info.status} "
        f"after {info.iterations} iterations, relative residual {info.relative_residual:.1e}. It "
        "may be as wrong as that; look at info.converged before you go back",
        NotConvergedWarning,
    )
    # After it: where it is an error, it is one each time.
    info._warned = True  # type: ignore[attr-defined]


def _as_good_as_it_gets(info: HasStatus) -> bool:
    """Whether rounding stopped it, and not in the nullspace of a singular matrix."""
    residual = getattr(info, "relative_residual", 0.0)
    return getattr(info, "at_rounding", False) and residual <= GOOD_ENOUGH


def settle(*infos: SolveInfo, usual: float = GOOD_ENOUGH, loosest: float = 0.0) -> None:
    """Whether what the solves for derivatives came to will do. Local, of what is replicated.

    Parameters
    ----------
    *infos : SolveInfo
        Of solves by every method there was to try.
    usual, loosest : float
        Relative residuals: up to the first without a word, up to the second with one.

    Warns
    -----
    NotConvergedWarning

    Raises
    ------
    AdjointSolveError
    """
    if failed := [info for info in infos if not info.relative_residual <= loosest]:
        raise AdjointSolveError(failed[0])
    worst = max(infos, key=lambda info: info.relative_residual)
    if worst.relative_residual > usual:
        why = " (what rounding allows)" if worst.at_rounding else ""
        warn(
            f"the solve for a gradient came to a relative residual of "
            f"{worst.relative_residual:.1e} and no further{why}; give adjoint_rtol to have that "
            "accepted, or refused",
            NotConvergedWarning,
        )


def warn_of_rows(info: SolveInfo) -> None:
    """Say where a solve has converged by its norm, and not by its rows. Local.

    Whoever looks at `info.converged` alone would never know.
    """
    if info.converged and info.hidden:
        # Without numbers: those who solve at each step are told once.
        warn(f"a solve converged by its norm alone: {info.advice[0]}", AccuracyWarning)


def raise_unconverged(what: str, info: Any, x: Any, meanings: Mapping[Any, str] = MEANINGS) -> None:
    """Raise NotConvergedError where it did not converge. Local, of what is replicated."""
    if not info.converged:
        raise NotConvergedError(what, info, meanings.get(info.status, ""), x)

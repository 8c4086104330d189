"""What shows in LOBPCG's sums that the user must mend: A, B or the preconditioner."""

from __future__ import annotations

import torch

from hpc_sla.eigen.problem import EigenProblem, magnitudes
from hpc_sla.errors import InputError

_EVIDENCE = 100.0
"""Units of rounding error beyond which v . B v < 0 says that B is not positive definite."""


def refuse_indefinite(problem: EigenProblem, v: torch.Tensor) -> None:
    """Raise InputError where B is to blame for a negative v . B v. **Collective.**

    Parameters
    ----------
    problem : EigenProblem
    v : torch.Tensor [n_owned, 1]
        Whose square came out negative.
    """
    if problem.B is None:
        return
    parts = [v.double() * problem.B_times(v), v.abs().double() * magnitudes(problem.B, v)]
    square, size = problem.all_sum(torch.stack([part.sum() for part in parts])).tolist()
    if square < -_EVIDENCE * problem.eps * size:
        raise InputError(
            "is not positive definite",
            field="B",
            remedy="Pass a matrix of which v . B v > 0 for every v",
        )


def refuse_not_finite(problem: EigenProblem, new: torch.Tensor, *grams: torch.Tensor) -> None:
    """Raise InputError where Gram matrices are not finite. **Collective** only there.

    Parameters
    ----------
    problem : EigenProblem
    new : torch.Tensor [n_owned, j]
        What the preconditioner gave.
    *grams : torch.Tensor
        Replicated.
    """
    if all(bool(gram.isfinite().all()) for gram in grams):
        return
    spoilt = problem.all_sum((~new.isfinite()).sum().double())
    if float(spoilt):
        raise InputError(
            f"{problem.precond.name} gave values that are not finite",
            field="precond",
            remedy="Choose another preconditioner, or none",
        )
    raise InputError("products with A or B are not finite", field="A", remedy="Look at its entries")

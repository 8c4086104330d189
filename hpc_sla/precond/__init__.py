"""Preconditioners: approximations of A^-1 that are cheap to apply."""

from __future__ import annotations

from typing import Any

import torch

from hpc_sla.errors import InputError
from hpc_sla.matrix import DSparseMatrix
from hpc_sla.precond.base import Identity, Preconditioner, Wrapped
from hpc_sla.precond.jacobi import Jacobi

__all__ = ["CHOICES", "Identity", "Jacobi", "Preconditioner", "make_preconditioner"]

CHOICES = {
    "none": "no preconditioner: for a matrix whose rows are already well scaled",
    "jacobi": "divide by the diagonal: cheap, exact in parallel, the safe default",
}
"""The names `solve` accepts, with when to use each."""


def make_preconditioner(precond: Any, A: DSparseMatrix) -> Preconditioner:
    """The preconditioner asked for, ready to apply. **Collective.**

    Parameters
    ----------
    precond : str, None, callable, object with `apply`, or Jacobi
        A name in `CHOICES`; None is "none". A callable (a torch module, say), or else an `apply`
        method, maps this rank's residual `[n_owned]` to its preconditioned residual.
    A : DSparseMatrix

    Raises
    ------
    InputError
        On every rank, for a name that is not known, or a Jacobi of another matrix.
    """
    if precond is None or precond == "none":
        return Identity()
    if precond == "jacobi":
        with torch.no_grad():
            return Jacobi(A.diagonal())
    if isinstance(precond, Jacobi):
        with A.world.agree():
            precond.check(A.layout.n_owned, A.values)
        return precond
    if isinstance(precond, Preconditioner):
        return precond
    if callable(precond):
        return Wrapped(getattr(precond, "__name__", type(precond).__name__), precond)
    if hasattr(precond, "apply") and not isinstance(precond, str):
        transpose = getattr(precond, "apply_transpose", None)
        return Wrapped(type(precond).__name__, precond.apply, transpose)
    with A.world.agree():
        raise InputError(
            f"unknown preconditioner {precond!r}",
            field="precond",
            remedy=f"Choose one of {', '.join(CHOICES)}, or pass a callable",
        )
    raise AssertionError("unreachable")

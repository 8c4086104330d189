"""What to take where the user leaves it open: the method, by the matrix; rtol, by the dtype."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from hpc_sla.errors import InputError
from hpc_sla.sparse.operator import Operator

GIVES_UP = ("indefinite", "breakdown", "stagnated", "diverged", "not_finite")
"""Statuses, short of rounding, after which the fallback has its turn."""


@dataclass(frozen=True)
class Choice:
    """A method, why it was chosen, and what to do where it fails.

    Attributes
    ----------
    method, why : str
    fallback : str
        The method to go on with; empty for none.
    """

    method: str
    why: str
    fallback: str = ""


def choose(A: Operator, dtype: torch.dtype, symmetric_precond: bool) -> Choice:
    """The method for A. **Collective**: at most two products and a reduction.

    =======================================  ========  ==========
    A                                        method    if it fails
    =======================================  ========  ==========
    not square                               lsqr
    symmetric, diagonal positive or unknown  cg        minres
    symmetric, any other diagonal            minres    gmres
    not symmetric (or the preconditioner)    bicgstab  gmres
    =======================================  ========  ==========
    """
    if not A.square:
        return Choice("lsqr", f"the matrix is {A.shape[0]} x {A.shape[1]}")
    if not A.symmetric(dtype):
        return Choice("bicgstab", "the matrix is not symmetric", "gmres")
    if not symmetric_precond:
        return Choice("bicgstab", "the preconditioner is not symmetric", "gmres")
    sign = _diagonal_sign(A)
    if sign < 0:
        return Choice("minres", "the matrix is symmetric, its diagonal not positive", "gmres")
    what = "symmetric, its diagonal positive" if sign else "symmetric"
    return Choice("cg", f"the matrix is {what}", "minres")


def _diagonal_sign(A: Operator) -> int:
    """1: all positive; -1: some are not; 0: it cannot be known. **Collective.**"""
    try:
        diagonal = A.diagonal()
    except InputError:
        return 0
    bad = float((diagonal <= 0).sum())
    return -1 if A.world.sum(bad) else 1


_SINGLE, _DOUBLE = 1e-5, 1e-8
"""What every method reaches, unless the matrix is very badly conditioned: in float32, some 100
units in the last place."""


def default_rtol(dtype: torch.dtype) -> float:
    """The relative tolerance of a solve, and of those for derivatives, where none is given.

    1e-8 in float64, 1e-5 in float32.
    """
    return _SINGLE if dtype == torch.float32 else _DOUBLE


def loosest_rtol(dtype: torch.dtype) -> float:
    """What a solve may make of `default_rtol` where rounding leaves no less: 1e-3 in float32.

    There the residual of the best x is some 1e-7 of |A||x|, which for a Laplacian on a thousand
    points is 1e-5 of b already, and grows with their number.
    """
    return 100 * _SINGLE if dtype == torch.float32 else _DOUBLE

"""What a linear solve is given, looked at before any time is spent on it."""

from __future__ import annotations

import math
from typing import Any

import torch

from hpc_sla.checkpoint.checkpoint import Checkpoint
from hpc_sla.distributed.arguments import check_count, check_flag, number_of, tensor_of
from hpc_sla.errors import InputError, InputTypeError
from hpc_sla.linear.iteration import SQUARES
from hpc_sla.precond import Preconditioner
from hpc_sla.precond.amg.amg import KEEP
from hpc_sla.sparse.operator import Operator


def check_options(
    rtol: float | None,
    atol: float,
    max_iterations: int,
    adjoint_rtol: float | None,
    dtol: float,
) -> None:
    """Raise InputError for tolerances and limits that are none. Local; replicated."""
    for name, tolerance in (("rtol", rtol), ("atol", atol), ("adjoint_rtol", adjoint_rtol)):
        if tolerance is None and name != "atol":
            continue
        tolerance = number_of(tolerance, name)
        if not (math.isfinite(tolerance) and tolerance >= 0):
            raise InputError(
                f"{tolerance} is not a tolerance", field=name, remedy="Give a number >= 0"
            )
    if rtol == 0 and atol == 0:
        raise InputError(
            "both tolerances are zero", field="rtol", remedy="Make rtol or atol positive"
        )
    if not number_of(dtol, "dtol") > 1:
        raise InputError(
            f"{dtol} is not above 1", field="dtol", remedy="Give a number such as 1e5, or math.inf"
        )
    check_count(max_iterations, "max_iterations")


def check_vectors(operator: Operator, b: torch.Tensor, x0: torch.Tensor | None) -> None:
    """Raise InputError for vectors that do not go with the matrix. Local."""
    for name, vector in (("b", b), ("x0", x0)):
        if vector is not None or name == "b":
            vector = tensor_of(vector, name)
            if vector.layout != torch.strided:
                raise InputTypeError(
                    f"a tensor of layout {vector.layout} is not a vector",
                    field=name,
                    remedy=f"Pass {name}.to_dense()",
                )
    n_owned = operator.layout.n_owned
    if b.dim() not in (1, 2) or b.shape[0] != n_owned:
        remedy = None
        if b.dim() in (1, 2) and b.shape[0] == operator.layout.n_global:
            remedy = "Pass each rank's entries: layout.scatter(b) of the whole b that rank 0 has, "
            remedy += "by the layout of the matrix's rows (A.layout)"
        raise InputError(
            f"shape {tuple(b.shape)} is not this rank's [{n_owned}] or [{n_owned}, k]",
            field="b",
            remedy=remedy,
        )
    expected = (operator.columns.n_owned, *b.shape[1:])
    if x0 is not None and x0.shape != expected:
        raise InputError(f"shape {tuple(x0.shape)} is not that of x, {expected}", field="x0")
    dtype = operator.dtype or b.dtype
    if dtype not in SQUARES:
        raise InputError(f"{dtype} is not supported", field="b", remedy="Pass float64 or float32")
    for name, vector in (("b", b), ("x0", x0)):
        if vector is not None and (vector.dtype != dtype or vector.device != operator.device):
            raise InputError(
                f"{vector.dtype} on {vector.device} does not go with a matrix of "
                f"{dtype} on {operator.device}",
                field=name,
                remedy=f"Pass {name}.to({str(operator.device)!r}, {dtype})",
            )


def check_told(callback: Any, checkpoint: Any, throw: Any) -> None:
    """Raise InputError for what cannot be told of iterations, or of their end. Local."""
    check_flag(throw, "throw")
    if callback is not None and not callable(callback):
        raise InputTypeError(
            f"a {type(callback).__name__} cannot be called",
            field="callback",
            remedy="Pass a callable(iteration, residual_norm), or None",
        )
    if checkpoint is not None and not isinstance(checkpoint, Checkpoint):
        raise InputTypeError(
            f"a {type(checkpoint).__name__} is not a Checkpoint",
            field="checkpoint",
            remedy="Pass hs.Checkpoint(path)",
        )


def check_keep(keep: str, M: Preconditioner | None) -> None:
    """Raise InputError where nothing of that name can be kept of M, if there is one. Local."""
    if keep not in KEEP:
        raise InputError(
            f"unknown part {keep!r}", field="keep", remedy=f"Choose one of {', '.join(KEEP)}"
        )
    if M is not None and not hasattr(M, "update"):
        raise InputError(
            f"{M.name} keeps nothing for another matrix",
            field="keep",
            remedy="Leave it out: the preconditioner is then set up again",
        )


def check_same_kind(operator: Operator, before: Operator) -> None:
    """Raise InputError where a matrix cannot take the place of another. Local."""
    if not (operator.layout.fits(before.layout) and operator.columns.fits(before.columns)):
        raise InputError(
            f"a {operator.shape[0]} x {operator.shape[1]} matrix does not have the layout of the "
            f"{before.shape[0]} x {before.shape[1]} one this solver was made for",
            field="A",
            remedy="Make another LinearSolver, or A with the same layout (layout= of from_scipy "
            "and from_coo, or with_values)",
        )
    if (operator.dtype, operator.device) != (before.dtype, before.device):
        raise InputError(
            f"{operator.dtype} on {operator.device} does not go with {before.dtype} on "
            f"{before.device}",
            field="A",
            remedy="Make another LinearSolver",
        )

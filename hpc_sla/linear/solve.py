"""solve: A x = b."""

from __future__ import annotations

import math
import time
from typing import Any

import torch

from hpc_sla.errors import HpcSlaError, InputError
from hpc_sla.linear.cg import Callback, cg
from hpc_sla.linear.info import SolveInfo
from hpc_sla.linear.scalars import scalars_for
from hpc_sla.matrix import DSparseMatrix
from hpc_sla.precond import Preconditioner, make_preconditioner

# b . b outside this range and its inverse would lose a residual's square to under- or overflow.
_SQUARES = {torch.float64: 1e-200, torch.float32: 1e-16}

METHODS = {
    "cg": "conjugate gradients: for symmetric positive definite matrices",
}
"""The methods `solve` accepts, with when to use each."""


def solve(
    A: DSparseMatrix,
    b: torch.Tensor,
    method: str = "cg",
    precond: Any = "jacobi",
    rtol: float = 1e-8,
    atol: float = 0.0,
    max_iterations: int | None = None,
    x0: torch.Tensor | None = None,
    callback: Callback | None = None,
) -> tuple[torch.Tensor, SolveInfo]:
    """Solve A x = b on all ranks together. **Collective.**

    Stops when ||b - A x||_2 <= max(rtol ||b||_2, atol), where the residual is recomputed from
    x before convergence is claimed.

    Parameters
    ----------
    A : DSparseMatrix
    b : torch.Tensor [n_owned]
        Per rank.
    method : str
        One of `METHODS`. `cg`: A symmetric positive definite (or semidefinite with b in its
        range).
    precond : str, callable or object with `apply`
        See `hpc_sla.precond.make_preconditioner`.
    rtol, atol : float
        Replicated. At least one positive.
    max_iterations : int, optional
        Replicated. Default: ten times the number of rows, at least 1000 and at most 100000.
    x0 : torch.Tensor [n_owned], optional
        Initial guess; default 0. Not modified.
    callback : callable(iteration, residual_norm), optional
        Called on every rank; with the method's own residual norm; on an accelerator in bursts.

    Returns
    -------
    x : torch.Tensor [n_owned]
        The best the method has, whatever the status.
    info : SolveInfo
        Replicated but for `seconds`. Look at `info.converged`: a solve that does not converge
        is not an exception.

    Raises
    ------
    InputError
        On every rank: an unknown method or preconditioner, tolerances that cannot be met,
        shapes or dtypes that do not fit.

    Examples
    --------
    >>> import hpc_sla as hs, numpy as np, scipy.sparse as sp, torch
    >>> world = hs.World(device="cpu")
    >>> A = hs.DSparseMatrix.from_scipy(sp.eye(8) * 2.0 if world.rank == 0 else None, world)
    >>> x, info = hs.solve(A, torch.ones(A.layout.n_owned, dtype=torch.float64))
    >>> info.converged, info.iterations
    (True, 1)
    """
    started = time.perf_counter()
    if max_iterations is None:
        max_iterations = min(max(10 * A.layout.n_global, 1000), 100_000)
    with A.world.agree():
        _check(A, b, method, rtol, atol, max_iterations, x0)
    with torch.no_grad():
        M = make_preconditioner(precond, A)
        x, info = _solve(A, b.contiguous(), M, rtol, atol, max_iterations, x0, callback)
    info.seconds = time.perf_counter() - started
    info.method, info.precond = method, M.name
    return x, info


def _solve(
    A: DSparseMatrix,
    b: torch.Tensor,
    M: Preconditioner,
    rtol: float,
    atol: float,
    max_iterations: int,
    x0: torch.Tensor | None,
    callback: Callback | None,
) -> tuple[torch.Tensor, SolveInfo]:
    """The solve proper. **Collective.**"""
    scalars = scalars_for(A.world, b)
    (bb,) = scalars.dots((b, b))
    square = float(bb)
    if not _SQUARES[b.dtype] < square < 1 / _SQUARES[b.dtype] and not math.isnan(square):
        # Squares of b under- or overflow, or b is zero.
        largest = A.world.max(float(b.abs().max()) if b.numel() else 0.0)
        if largest == 0:
            # Whatever the guess, the answer is known.
            return torch.zeros_like(b), SolveInfo("converged", 0, 0.0, 0.0, [0.0])
        if math.isfinite(largest) and not 0.5 <= largest <= 1:
            return _solve_scaled(
                2.0 ** math.frexp(largest)[1], A, b, M, rtol, atol, max_iterations, x0, callback
            )
    b_norm = math.sqrt(square) if square >= 0 else math.nan
    x = torch.zeros_like(b) if x0 is None else x0.clone(memory_format=torch.contiguous_format)

    def operator(v: torch.Tensor, out: torch.Tensor, dot: torch.Tensor | None = None) -> None:
        A.pattern.matmul(A.values, v, out, dot)

    status, iterations, norm, history = cg(
        A.layout,
        operator,
        M,
        b,
        x,
        x0 is None,
        max(rtol * b_norm, atol),
        max_iterations,
        scalars,
        callback,
    )
    return x, SolveInfo(status, iterations, norm, norm / b_norm, history)


def _solve_scaled(
    scale: float,
    A: DSparseMatrix,
    b: torch.Tensor,
    M: Preconditioner,
    rtol: float,
    atol: float,
    max_iterations: int,
    x0: torch.Tensor | None,
    callback: Callback | None,
) -> tuple[torch.Tensor, SolveInfo]:
    """Solve A (x / scale) = b / scale: the same iterates for a power of two. **Collective.**"""
    scaled = None if callback is None else lambda i, norm: callback(i, norm * scale)
    guess = None if x0 is None else x0 / scale
    x, info = _solve(A, b / scale, M, rtol, atol / scale, max_iterations, guess, scaled)
    info.residual_norm *= scale
    info.residual_history = [norm * scale for norm in info.residual_history]
    return x.mul_(scale), info


def _check(
    A: DSparseMatrix,
    b: torch.Tensor,
    method: str,
    rtol: float,
    atol: float,
    max_iterations: int,
    x0: torch.Tensor | None,
) -> None:
    if method not in METHODS:
        raise InputError(
            f"unknown method {method!r}",
            field="method",
            remedy=f"Choose one of {', '.join(METHODS)}",
        )
    for name, tolerance in (("rtol", rtol), ("atol", atol)):
        if not (math.isfinite(tolerance) and tolerance >= 0):
            raise InputError(
                f"{tolerance} is not a tolerance", field=name, remedy="Give a number >= 0"
            )
    if rtol == 0 and atol == 0:
        raise InputError(
            "both tolerances are zero", field="rtol", remedy="Make rtol or atol positive"
        )
    if max_iterations < 0:
        raise InputError(f"{max_iterations} is negative", field="max_iterations")
    for name, vector in (("b", b), ("x0", x0)):
        if vector is None:
            continue
        if vector.shape != (A.layout.n_owned,):
            raise InputError(
                f"shape {tuple(vector.shape)} is not this rank's [{A.layout.n_owned}]", field=name
            )
        if vector.dtype != A.dtype or vector.device != A.device:
            raise InputError(
                f"{vector.dtype} on {vector.device} does not go with a matrix of "
                f"{A.dtype} on {A.device}",
                field=name,
            )
    if torch.is_grad_enabled() and (
        A.values.requires_grad or b.requires_grad or (x0 is not None and x0.requires_grad)
    ):
        raise HpcSlaError(
            "solve does not compute gradients yet; call it under torch.no_grad(), "
            "or on detached tensors"
        )

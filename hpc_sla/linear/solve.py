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
from hpc_sla.precond import make_preconditioner

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
        b = b.contiguous()
        M = make_preconditioner(precond, A)
        scalars = scalars_for(A.world, b)
        (bb,) = scalars.dots((b, b))
        b_norm = math.sqrt(float(bb)) if float(bb) >= 0 else math.nan
        if b_norm == 0:
            # Whatever the guess, the answer is known.
            info = SolveInfo("converged", 0, 0.0, 0.0, [0.0])
            x = torch.zeros_like(b)
        else:
            x = (
                torch.zeros_like(b)
                if x0 is None
                else x0.clone(memory_format=torch.contiguous_format)
            )
            target = max(rtol * b_norm, atol)

            def operator(v: torch.Tensor, out: torch.Tensor) -> None:
                A.pattern.matmul(A.values, v, out)

            status, iterations, norm, history = cg(
                A.world, operator, M, b, x, x0 is None, target, max_iterations, scalars, callback
            )
            info = SolveInfo(status, iterations, norm, norm / b_norm, history)
    info.seconds = time.perf_counter() - started
    info.method, info.precond = method, M.name
    return x, info


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

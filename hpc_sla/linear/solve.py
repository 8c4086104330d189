"""solve: A x = b."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import torch

from hpc_sla.errors import HpcSlaError, InputError
from hpc_sla.linear.driver import Callback, Outcome, iterate
from hpc_sla.linear.info import SolveInfo, summarise
from hpc_sla.linear.method import Method, System
from hpc_sla.linear.methods import make_method
from hpc_sla.linear.scalars import scalars_for
from hpc_sla.matrix import DSparseMatrix
from hpc_sla.precond import Preconditioner, make_preconditioner

# b . b outside this range and its inverse would lose a residual's square to under- or overflow.
_SQUARES = {torch.float64: 1e-200, torch.float32: 1e-16}


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
    x before convergence is claimed; each column of b by itself.

    Parameters
    ----------
    A : DSparseMatrix
    b : torch.Tensor [n_owned] or [n_owned, k]
        Per rank. Several columns are solved for at once, with one halo exchange and one
        reduction for all of them; a column that is finished is frozen.
    method : str
        One of `METHODS`, options after a colon: `gmres:restart=50`.
    precond : str, callable or object with `apply`
        See `hpc_sla.precond.make_preconditioner`.
    rtol, atol : float
        Replicated. At least one positive.
    max_iterations : int, optional
        Replicated. Default: ten times the number of rows, at least 1000 and at most 100000.
    x0 : torch.Tensor like b, optional
        Initial guess; default 0. Not modified.
    callback : callable(iteration, residual_norm), optional
        Called on every rank; with the method's own residual norm (the largest, of several
        columns); on an accelerator in bursts.

    Returns
    -------
    x : torch.Tensor like b
        The best the method has, whatever the status.
    info : SolveInfo
        Replicated but for `seconds`. Look at `info.converged`: a solve that does not converge
        is not an exception. For b `[n_owned, k]`, `info.columns` has one SolveInfo a column.

    Raises
    ------
    InputError
        On every rank: an unknown method or preconditioner, one that needs a symmetric
        preconditioner with one that is not, tolerances that cannot be met, shapes or dtypes that
        do not fit.

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
        _check(A, b, rtol, atol, max_iterations, x0)
        make = make_method(method)
    with torch.no_grad():
        M = make_preconditioner(precond, A)
        with A.world.agree():
            make.check(M)
        run = _Run(A, make, M, rtol, atol, max_iterations, callback)
        x, info = run.solve(b.contiguous(), x0)
    info.seconds = time.perf_counter() - started
    for one in (info, *info.columns):
        one.method, one.precond = method, M.name
    return x, info


@dataclass
class _Run:
    """One call's choices."""

    A: DSparseMatrix
    make: Any
    precond: Preconditioner
    rtol: float
    atol: float
    max_iterations: int
    callback: Callback | None

    def solve(self, b: torch.Tensor, x0: torch.Tensor | None) -> tuple[torch.Tensor, SolveInfo]:
        """**Collective.**"""
        scalars = scalars_for(self.A.world, b)
        (square,) = scalars.dots((b, b))
        squares = [float(s) for s in torch.as_tensor(square).reshape(-1).tolist()]
        smallest = _SQUARES[b.dtype]
        if all(smallest < s < 1 / smallest or math.isnan(s) for s in squares):
            x = torch.zeros_like(b) if x0 is None else _copy(x0)
            outcomes = self._iterate(b, x, x0 is None, [math.sqrt(s) for s in squares], None)
        else:
            x, outcomes = self._solve_scaled(b, x0)
        return x, summarise(
            [
                SolveInfo(
                    o.status or "max_iterations",
                    o.iterations,
                    o.norm,
                    o.norm / norm if norm else o.norm,
                    o.history,
                )
                for o, norm in outcomes
            ],
            b.dim() == 1,
        )

    def _solve_scaled(
        self, b: torch.Tensor, x0: torch.Tensor | None
    ) -> tuple[torch.Tensor, list[tuple[Outcome, float]]]:
        """Where squares of b under- or overflow, or a column is zero. **Collective.**

        A (x / s) = b / s has the same iterates for s a power of two, one a column.
        """
        largest = self._largest(b)
        scales = [2.0 ** math.frexp(v)[1] if 0 < v < math.inf else 1.0 for v in largest]
        scale = torch.tensor(scales, dtype=b.dtype, device=b.device).reshape(b.shape[1:])
        b = b / scale
        x = torch.zeros_like(b) if x0 is None else _copy(x0) / scale
        # Whatever the guess, the answer for a column of zeros is known.
        nonzero = torch.tensor([v != 0 for v in largest], device=b.device).reshape(b.shape[1:])
        x = torch.where(nonzero, x, 0.0).contiguous()
        scalars = scalars_for(self.A.world, b)
        (square,) = scalars.dots((b, b))
        norms = [math.sqrt(s) for s in torch.as_tensor(square).reshape(-1).tolist()]
        outcomes = self._iterate(b, x, x0 is None, norms, scales)
        for (outcome, _), s in zip(outcomes, scales, strict=True):
            outcome.norm *= s
            outcome.history = [norm * s for norm in outcome.history]
        return x.mul_(scale), [(o, n * s) for (o, n), s in zip(outcomes, scales, strict=True)]

    def _largest(self, b: torch.Tensor) -> list[float]:
        """The largest absolute entry of each column. **Collective.**"""
        columns = b.reshape(b.shape[0], -1)
        mine = columns.abs().amax(dim=0).tolist() if b.shape[0] else [0.0] * columns.shape[1]
        return [self.A.world.max(value) for value in mine]

    def _iterate(
        self,
        b: torch.Tensor,
        x: torch.Tensor,
        x_is_zero: bool,
        b_norms: list[float],
        scales: list[float] | None,
    ) -> list[tuple[Outcome, float]]:
        """**Collective.**"""
        A, callback = self.A, self.callback
        if scales is not None and callback is not None:
            told, largest = callback, max(scales)
            callback = lambda i, norm: told(i, norm * largest)  # noqa: E731

        def operator(v: torch.Tensor, out: torch.Tensor, dot: torch.Tensor | None = None) -> None:
            A.pattern.matmul(A.values, v, out, dot)

        targets = [
            max(self.rtol * norm, self.atol / scale)
            for norm, scale in zip(b_norms, scales or [1.0] * len(b_norms), strict=True)
        ]
        scalars = scalars_for(A.world, b)
        r, n = torch.empty_like(b), A.layout.n_global
        system = System(operator, self.precond, b, x, r, targets, scalars, n)
        method: Method = self.make(system)
        outcomes = iterate(
            method,
            system,
            x_is_zero,
            self.max_iterations,
            A.world.size == 1,
            callback,
        )
        return list(zip(outcomes, b_norms, strict=True))


def _copy(x: torch.Tensor) -> torch.Tensor:
    return x.clone(memory_format=torch.contiguous_format)


def _check(
    A: DSparseMatrix,
    b: torch.Tensor,
    rtol: float,
    atol: float,
    max_iterations: int,
    x0: torch.Tensor | None,
) -> None:
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
    if b.dim() not in (1, 2) or b.shape[0] != A.layout.n_owned or 0 in b.shape[1:]:
        raise InputError(
            f"shape {tuple(b.shape)} is not this rank's [{A.layout.n_owned}] "
            f"or [{A.layout.n_owned}, k]",
            field="b",
        )
    if x0 is not None and x0.shape != b.shape:
        raise InputError(f"shape {tuple(x0.shape)} is not that of b", field="x0")
    for name, vector in (("b", b), ("x0", x0)):
        if vector is not None and (vector.dtype != A.dtype or vector.device != A.device):
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

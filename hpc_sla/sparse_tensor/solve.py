"""The solves behind SparseTensor.solve: by an iteration, or by a factorisation."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from hpc_sla import adjoint, direct
from hpc_sla.adjoint import MatrixForm, plainly
from hpc_sla.errors import NotConvergedWarning, warn
from hpc_sla.kernels.modes import ordinary
from hpc_sla.linear import MEANINGS, SolveInfo, solve
from hpc_sla.linear.accuracy import accuracy, judge
from hpc_sla.linear.choose import default_rtol, loosest_rtol
from hpc_sla.linear.info import Status
from hpc_sla.linear.method import Method
from hpc_sla.linear.unconverged import settle, warn_of_gradient
from hpc_sla.sparse.matrix import DSparseMatrix
from hpc_sla.sparse.operators import as_operator

_REFINEMENTS = 3


def by_iteration(
    A: DSparseMatrix,
    b: torch.Tensor,
    x0: torch.Tensor | None,
    method: str | Method,
    options: Mapping[str, Any],
) -> tuple[torch.Tensor, list[SolveInfo]]:
    """Solve for all columns of b [n, k] by `hpc_sla.solve`. Local, on a World of one process."""
    if b.shape[1] > 1:
        x, info = solve(A, b, method=method, x0=x0, **options)
        return x, list(info.columns)
    # One column without its dimension: the loops have faster passes for that.
    guess = None if x0 is None else x0[:, 0].contiguous()
    x, info = solve(A, b[:, 0].contiguous(), method=method, x0=guess, **options)
    return x.unsqueeze(1), [info]


def by_factorization(
    A: DSparseMatrix,
    b: torch.Tensor,
    backend: str,
    method: str,
    rtol: float | None,
    atol: float,
    adjoint_rtol: float | None,
) -> tuple[torch.Tensor, list[SolveInfo]]:
    """Solve for all columns of b [n, k] with one factorisation. Local.

    Where a residual does not meet the tolerance, x is refined with the same factors (N. J. Higham,
    Accuracy and Stability of Numerical Algorithms, 2nd ed., chapter 12) while that helps.
    """
    system = _RefinedSolve(A, backend, method, rtol, atol, adjoint_rtol)
    x = adjoint.Solve.apply(system, None, ordinary(b), None, ordinary(A.values))
    return x, system.info


class _RefinedSolve:
    """A factorisation and its refinement, for `hpc_sla.adjoint`."""

    info: list[SolveInfo]
    """One a column."""

    def __init__(
        self,
        A: DSparseMatrix,
        backend: str,
        method: str,
        rtol: float | None,
        atol: float,
        adjoint_rtol: float | None,
    ) -> None:
        self.form = MatrixForm(A.pattern)
        self._values, self._factors = plainly(
            lambda theta: (
                theta[0],
                direct.factorize(A.pattern.owned, theta[0], backend=backend, method=method),
            ),
            (A.values,),
        )
        self._matrix = A.with_values(self._values)
        self._loosest = loosest_rtol(A.dtype) if rtol is None else 0.0
        rtol = default_rtol(A.dtype) if rtol is None else rtol
        self._strict = adjoint_rtol is not None
        self._rtol, self._atol = rtol, atol
        self._adjoint_rtol = rtol if adjoint_rtol is None else adjoint_rtol

    def run(self, b: torch.Tensor, x0: torch.Tensor | None) -> tuple[torch.Tensor, list[SolveInfo]]:
        return self.refined(b, False, self._rtol, self._atol, self._loosest)

    def derivative(
        self, b: torch.Tensor, theta: tuple[torch.Tensor, ...], transposed: bool
    ) -> torch.Tensor:
        """A solve that must meet its tolerance."""
        warn_of_gradient(*self.info)
        x, infos = self.refined(b, transposed, self._adjoint_rtol, 0.0, 0.0)
        for mine, info in zip(self.info, infos, strict=True):
            mine.adjoint = info
        for info in infos:
            if not info.converged:
                rounded = info.at_rounding and not self._strict
                settle(info, loosest=1.0 if rounded else 0.0)
        return x

    def refined(
        self,
        b: torch.Tensor,
        transpose: bool,
        rtol: float,
        atol: float,
        loosest: float,
    ) -> tuple[torch.Tensor, list[SolveInfo]]:
        started = time.perf_counter()
        form, factors = self.form.T if transpose else self.form, self._factors
        # Each column scaled by a power of two, so that its squares neither over- nor underflow.
        scale = _scales(b)
        b, atol_scaled = b / scale, atol / scale
        x = factors.solve(b, transpose)
        b_norms = torch.linalg.vector_norm(b, dim=0)
        targets = torch.maximum(rtol * b_norms, atol_scaled)
        r = b - form.times((self._values,), x)
        norms = torch.linalg.vector_norm(r, dim=0)
        history = [norms]
        for _ in range(_REFINEMENTS):
            if bool((norms <= targets).all()) or not bool(norms.isfinite().all()):
                break
            better = x + factors.solve(r, transpose)
            r_new = b - form.times((self._values,), better)
            norms_new = torch.linalg.vector_norm(r_new, dim=0)
            gain = norms_new < norms
            if not bool(gain.any()):
                break
            x, r = torch.where(gain, better, x), torch.where(gain, r_new, r)
            norms = torch.where(gain, norms_new, norms)
            history.append(norms)
        columns = (torch.stack([*history, targets, b_norms]) * scale).t().tolist()
        infos = _infos(columns, f"{factors.backend} {factors.method}", started)
        if not all(info.converged for info in infos) or self._may_be_lost(x, b_norms):
            operator = as_operator(self._matrix)
            found = accuracy(operator.T if transpose else operator, b, x, r, rtol)
            judge(infos, found, (b_norms * scale).tolist(), loosest)
        return x * scale, infos

    def _may_be_lost(self, x: torch.Tensor, b_norms: torch.Tensor) -> bool:
        """Whether b may be lost in the rounding of A x, of a singular A: see `Accuracy.floor`."""
        if not self._values.numel():
            return False
        largest = self._values.detach().abs().max() * torch.finfo(x.dtype).eps
        return bool((largest * torch.linalg.vector_norm(x, dim=0) > 0.01 * b_norms).any())


def _infos(columns: list[list[float]], method: str, started: float) -> list[SolveInfo]:
    """The info of each system, from its residual norms, its target and the norm of b."""
    seconds = time.perf_counter() - started
    infos = []
    for *residuals, target, b_norm in columns:
        info = SolveInfo(
            _status(residuals[-1], target),
            len(residuals) - 1,
            residuals[-1],
            residuals[-1] / b_norm if b_norm else residuals[-1],
            residuals,
            seconds,
        )
        info.method, info.precond = method, "none"
        infos.append(info)
    return infos


def _scales(b: torch.Tensor) -> torch.Tensor:
    """A power of two for each column [k], 1 for one of zeros or not finite."""
    if not b.shape[0]:
        return b.new_ones(b.shape[1:])
    largest = b.abs().amax(dim=0)
    scales = torch.ldexp(torch.ones_like(largest), torch.frexp(largest).exponent - 1)
    return torch.where((largest > 0) & largest.isfinite(), scales, 1.0)


def _status(norm: float, target: float) -> Status:
    if norm <= target < math.inf:
        return "converged"
    return "stagnated" if math.isfinite(norm) else "not_finite"


def warn_unconverged(infos: Sequence[SolveInfo]) -> None:
    """Warn, once, of the systems that did not converge; by their status."""
    failed = [info for info in infos if not info.converged]
    if not failed:
        return
    statuses = list(dict.fromkeys(info.status for info in failed))
    meanings = "; ".join(f"{status} ({MEANINGS[status]})" for status in statuses)
    worst = max(info.relative_residual for info in failed)
    many = f"{len(failed)} of {len(infos)} systems" if len(infos) > 1 else "the solve"
    warn(
        f"{many} did not converge by {failed[0].method}: {meanings}; relative residual up to "
        f"{worst:.1e}. solve_with_info gives the residual history of each",
        NotConvergedWarning,
    )

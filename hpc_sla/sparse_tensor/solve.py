"""The solves behind SparseTensor.solve: by an iteration, or by a factorisation."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from hpc_sla import adjoint, direct
from hpc_sla.adjoint import MatrixForm
from hpc_sla.errors import NotConvergedWarning, warn
from hpc_sla.linear import MEANINGS, SolveInfo, solve
from hpc_sla.linear.accuracy import accuracy, judge
from hpc_sla.linear.info import Status
from hpc_sla.linear.method import Method
from hpc_sla.linear.tolerance import default_rtol, loosest_rtol
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
    system = _Refined(A, backend, method, rtol, atol, adjoint_rtol)
    x = adjoint.solve(system, b, None, (A.values,))
    return x, system.infos


class _Refined:
    """A factorisation and its refinement, for `hpc_sla.adjoint`."""

    infos: list[SolveInfo]
    _factors: direct.Factorization

    def __init__(
        self,
        A: DSparseMatrix,
        backend: str,
        method: str,
        rtol: float | None,
        atol: float,
        adjoint_rtol: float | None,
    ) -> None:
        self.form, self._matrix = MatrixForm(A.pattern), A.with_values(A.values.detach())
        self._loosest = loosest_rtol(A.dtype) if rtol is None else 0.0
        rtol = default_rtol(A.dtype) if rtol is None else rtol
        self._strict = adjoint_rtol is not None
        adjoint_rtol = rtol if adjoint_rtol is None else adjoint_rtol
        self._pattern, self._backend, self._method = A.pattern.owned, backend, method
        self._rtol, self._atol, self._adjoint_rtol = rtol, atol, adjoint_rtol

    def solve(
        self, b: torch.Tensor, x0: torch.Tensor | None, theta: tuple[torch.Tensor, ...]
    ) -> torch.Tensor:
        values = theta[0].detach()
        self._factors = direct.factorize(
            self._pattern, values, backend=self._backend, method=self._method
        )
        x, self.infos = self.refined(b, theta, False, self._rtol, self._atol, self._loosest)
        return x

    @property
    def T(self) -> _Derived:
        return _Derived(self, True)

    @property
    def again(self) -> _Derived:
        return _Derived(self, False)

    def derivative(
        self, b: torch.Tensor, theta: tuple[torch.Tensor, ...], transpose: bool
    ) -> torch.Tensor:
        """A solve that must meet its tolerance."""
        warn_of_gradient(*self.infos)
        x, infos = self.refined(b, theta, transpose, self._adjoint_rtol, 0.0, 0.0)
        for mine, info in zip(self.infos, infos, strict=True):
            mine.adjoint = info
        for info in infos:
            if not info.converged:
                rounded = info.at_rounding and not self._strict
                settle(info, loosest=1.0 if rounded else 0.0)
        return x

    def refined(
        self,
        b: torch.Tensor,
        theta: tuple[torch.Tensor, ...],
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
        r = b - form.times(theta, x)
        norms = torch.linalg.vector_norm(r, dim=0)
        history = [norms]
        for _ in range(_REFINEMENTS):
            if bool((norms <= targets).all()) or not bool(norms.isfinite().all()):
                break
            better = x + factors.solve(r, transpose)
            r_new = b - form.times(theta, better)
            norms_new = torch.linalg.vector_norm(r_new, dim=0)
            gain = norms_new < norms
            if not bool(gain.any()):
                break
            x, r = torch.where(gain, better, x), torch.where(gain, r_new, r)
            norms = torch.where(gain, norms_new, norms)
            history.append(norms)
        columns = (torch.stack([*history, targets, b_norms]) * scale).t().tolist()
        infos = _infos(columns, f"{factors.backend} {factors.method}", started)
        if not all(info.converged for info in infos):
            operator = as_operator(self._matrix)
            found = accuracy(operator.T if transpose else operator, b, x, r, rtol)
            judge(infos, found, loosest)
        return x * scale, infos


class _Derived:
    """A solve of `_Refined`'s matrix, or of its transpose, for a derivative."""

    def __init__(self, origin: _Refined, transpose: bool) -> None:
        self._origin, self._transpose = origin, transpose
        self.form = origin.form.T if transpose else origin.form

    def solve(
        self, b: torch.Tensor, x0: torch.Tensor | None, theta: tuple[torch.Tensor, ...]
    ) -> torch.Tensor:
        return self._origin.derivative(b, theta, self._transpose)

    @property
    def T(self) -> _Derived:
        return _Derived(self._origin, not self._transpose)

    @property
    def again(self) -> _Derived:
        return self


def _infos(columns: list[list[float]], method: str, started: float) -> list[SolveInfo]:
    """Of each column: its residual norms, its target and the norm of b."""
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
    told = "; ".join(f"{status} ({MEANINGS[status]})" for status in statuses)
    worst = max(info.relative_residual for info in failed)
    many = f"{len(failed)} of {len(infos)} systems" if len(infos) > 1 else "the solve"
    warn(
        f"{many} did not converge by {failed[0].method}: {told}; relative residual up to "
        f"{worst:.1e}. solve_with_info tells more",
        NotConvergedWarning,
    )

"""What derivatives of eigenvectors need: gaps that are there, and projected solves."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from hpc_sla.eigen.problem import EigenProblem, apply
from hpc_sla.eigen.scaling import number_times_power
from hpc_sla.eigen.space import inner
from hpc_sla.errors import DegenerateEigenvaluesError
from hpc_sla.linear.info import SolveInfo
from hpc_sla.linear.linear_solver import LinearSolver
from hpc_sla.linear.unconverged import settle
from hpc_sla.precond import Preconditioner
from hpc_sla.sparse.operator import Operator

_ONE_SPACE = 1e-5
"""How far, relative to its cotangents, a loss may tell the vectors of a cluster apart."""

_OF_VECTORS, _OF_VALUES = 100.0, 10.0
"""Gaps of so many times the errors of two values, and less, do not keep their pairs apart."""


class Derivative:
    """The derivative of the pairs that a problem was solved for. **Collective** in all it does.

    Parameters
    ----------
    problem : EigenProblem
    V : torch.Tensor [n_owned, k]
    values, norms : list of float
        Replicated: eigenvalues, and norms of their residuals.
    following : (float, float) or None
        What is known of the next eigenvalue, and the norm of its residual.
    look : callable() -> (float, float) or None
        **Collective.** The same, for good; None where there is no other.
    rtol : float
    strict : bool
        Whether it must be met even where rounding allows no less.
    """

    def __init__(
        self,
        problem: EigenProblem,
        V: torch.Tensor,
        values: list[float],
        norms: list[float],
        following: tuple[float, float] | None,
        look: Callable[[], tuple[float, float] | None],
        rtol: float,
        strict: bool,
    ) -> None:
        self._problem, self._rtol, self._strict = problem, rtol, strict
        self._V, self._B_V = V, problem.B_times(V)
        self._values, self._following, self._look = values, following, look
        self._looked = False
        B_norms = self._lengths(self._B_V)
        self._size = B_norms[0] or 1.0
        # How far each value may be from an eigenvalue.
        self._errors = [norm / (size or 1.0) for norm, size in zip(norms, B_norms, strict=True)]

    def _lengths(self, x: torch.Tensor) -> list[float]:
        squares = self._problem.all_sum(x.double().square().sum(dim=0))
        return [math.sqrt(s) for s in squares.tolist()]

    def _close(self, i: int, value: float, error: float, units: float) -> bool:
        """Whether rounding, or so many times the errors, leave the order of two values open."""
        size = max(abs(self._values[i]), abs(value))
        known = units * max(self._errors[i], error)
        return abs(self._values[i] - value) <= known + math.sqrt(self._problem.eps) * size

    def _cut_after(self, i: int, units: float) -> float | None:
        """The eigenvalue after those known, where it may be the i-th again. **Collective.**"""
        if not self._looked and (
            self._following is None
            # A guard that has not converged leaves it open.
            or (self._near(i, units, 1.0) and not self._near(i, units, 0.0))
        ):
            self._following, self._looked = self._look(), True
        return self._following[0] if self._following and self._near(i, units, 1.0) else None

    def _near(self, i: int, units: float, share: float) -> bool:
        assert self._following is not None
        value, norm = self._following
        return self._close(i, value, share * norm / self._size, units)

    def _degenerate(self, i: int, j: int, other: float) -> DegenerateEigenvaluesError:
        power = self._problem.units.values
        return DegenerateEigenvaluesError(
            i, j, *(number_times_power(value, power) for value in (self._values[i], other))
        )

    def refuse_parts(self, g: torch.Tensor) -> None:
        """Raise where cotangents [k] tell eigenvalues apart that coincide. **Collective.**

        Of such only symmetric functions of all of them have a derivative.
        """
        cotangents = self._problem.A.world.comm.bcast(g.tolist())
        eps = self._problem.eps
        slack = max(_ONE_SPACE, 10 * math.sqrt(eps)) * max(map(abs, cotangents), default=0.0)
        k = len(cotangents)
        for i in range(k):
            for j in range(i + 1, k):
                apart = abs(cotangents[i] - cotangents[j]) > slack
                if apart and self._close(i, self._values[j], self._errors[j], _OF_VALUES):
                    raise self._degenerate(i, j, self._values[j])
        for i in range(k):
            if abs(cotangents[i]) > slack:
                after = self._cut_after(i, _OF_VALUES)
                if after is not None:
                    raise self._degenerate(i, k, after)

    def within(self, C: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """V^T C and the weights of pairs of V: see `hpc_sla.adjoint.eigen.Pencil`."""
        V, k = self._V, len(self._values)
        packed = torch.cat(
            [inner(V, C).reshape(-1), *(x.double().square().sum(dim=0) for x in (V, C))]
        )
        host = self._problem.all_sum(packed).cpu()
        M = host[: k * k].view(k, k)
        v_norms, c_norms = host[k * k :].sqrt().split(k)
        K = torch.zeros_like(M)
        for i in range(k):
            for j in range(i):
                apart = float(M[j, i] - M[i, j])
                gap = self._values[i] - self._values[j]
                if self._close(i, self._values[j], self._errors[j], _OF_VECTORS):
                    size = float(c_norms[i] * v_norms[j] + c_norms[j] * v_norms[i])
                    if abs(apart) > _ONE_SPACE * size:
                        raise self._degenerate(j, i, self._values[i])
                    continue  # the loss is of the space they span: the pair cancels
                K[j, i] = K[i, j] = apart / (2 * gap)
        return M.to(V), K.to(V)

    def outside(self, C: torch.Tensor) -> tuple[torch.Tensor, SolveInfo | None]:
        """-(A - lambda_i B)^+ c_i outside the span of V."""
        c_norms = self._lengths(C)
        right = self._from_images(C)
        norms = self._lengths(right)
        nothing = 1e3 * self._problem.eps
        wanted = [i for i, norm in enumerate(norms) if norm > nothing * c_norms[i]]
        for i in wanted:
            if norms[i] > _ONE_SPACE * c_norms[i]:
                after = self._cut_after(i, _OF_VECTORS)
                if after is not None:
                    raise self._degenerate(i, len(norms), after)
        Y = torch.zeros_like(C)
        if not wanted:
            return Y, None
        which = torch.tensor(wanted, device=C.device)
        shifts = torch.tensor([self._values[i] for i in wanted], device="cpu").to(C)
        solver = LinearSolver(
            _Shifted(self, shifts),
            "minres",
            _Projected(self),
            self._rtol,
            max_iterations=max(self._problem.max_iterations, 10_000),
            agreed=True,
        )
        found, info = solver.set_up(C.dtype).run(-right.index_select(1, which))
        if not info.converged:
            settle(info, loosest=1.0 if info.at_rounding and not self._strict else 0.0)
        Y.index_copy_(1, which, self._from_vectors(found))
        return Y, info

    # The projections: Q = 1 - V (B V)^T of vectors, its transpose of images

    def _from_vectors(self, x: torch.Tensor) -> torch.Tensor:
        part = self._problem.all_sum(inner(self._B_V, x)).to(x.dtype)
        return torch.addmm(x, self._V, part, alpha=-1)

    def _from_images(self, y: torch.Tensor) -> torch.Tensor:
        part = self._problem.all_sum(inner(self._V, y)).to(y.dtype)
        return torch.addmm(y, self._B_V, part, alpha=-1)


class _Shifted(Operator):
    """Q^T (A - lambda_i B), column i of a block by its own value."""

    def __init__(self, of: Derivative, shifts: torch.Tensor) -> None:
        A = of._problem.A
        super().__init__(A.layout, A.columns, shifts.dtype, A.device)
        self._of, self._shifts = of, shifts

    def product(self, x: torch.Tensor, out: torch.Tensor) -> None:
        problem = self._of._problem
        problem.A(x, out)
        out.sub_(problem.B_times(x) * self._shifts)
        out.copy_(self._of._from_images(out))

    def adjoint(self, y: torch.Tensor, out: torch.Tensor) -> None:
        self(y, out)

    def diagonal(self) -> torch.Tensor:
        raise NotImplementedError


class _Projected(Preconditioner):
    """Q M^-1 Q^T: of residuals, which lie in the range of Q^T."""

    symmetric = True

    def __init__(self, of: Derivative) -> None:
        self._of = of
        self.name = of._problem.precond.name

    def apply(self, r: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        apply(self._of._problem.precond, r, out)
        out.copy_(self._of._from_vectors(out))
        return out

    apply_transpose = apply

"""Least squares: rectangular or badly conditioned matrices; uses the transpose."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from hpc_sla.kernels.vectors import axpy_, aypx_, copy_
from hpc_sla.linear.info import Status
from hpc_sla.linear.method import Method
from hpc_sla.linear.scalars import Flag


class LSQR(Method):
    """LSQR (Paige and Saunders, ACM TOMS 8, 1982), right-preconditioned. Two reductions a step.

    Minimises ||b - A x||_2 for A of any shape, by Golub-Kahan bidiagonalisation of A M^-1. Of the
    least-squares solutions of a rank-deficient system it gives the one whose M x is shortest, when
    it starts from zero.

    A square system is solved where b - A x meets the tolerance, as with every other method. A
    rectangular one is solved in the sense of least squares: where M^-T A^T (b - A x) does,
    relative to M^-T A^T b.
    """

    name = "lsqr"
    solves = "any"
    side = "right"
    petsc = "lsqr"
    transposes = True
    carried = ("alpha", "phi", "rho", "frobenius", "live")
    kept = ("u",)
    kept_like_x = ("v", "w", "y")
    capturable = True
    current = False

    def allocate(self) -> None:
        self.least_squares = self.system.least_squares
        rows, columns = self.r, self.x
        self.u, self.product = torch.empty_like(rows), torch.empty_like(rows)
        self.v, self.w, self.y, self.t, self.work = (torch.empty_like(columns) for _ in range(5))
        self.eps = torch.finfo(rows.dtype).eps

    def start(self, active: Flag) -> None:
        scalars = self.scalars
        copy_(self.u, self.r)
        (square,) = scalars.dots((self.u, self.u))
        self.phi = scalars.sqrt(square)
        one: Any = square * 0 + 1.0
        self._scale(self.u, self.phi)
        self._transposed_product(self.v)
        (square,) = scalars.dots((self.v, self.v))
        self.alpha = scalars.sqrt(square)
        self._scale(self.v, self.alpha)
        copy_(self.w, self.v)
        self.y.zero_()
        self.rho = self.alpha
        self.frobenius: Any = square
        normal = self.alpha * self.phi
        scalars.record(self.phi, normal, one * 0.0)
        self.live = active & self._unfinished(self.phi, normal)

    def step(self) -> None:
        scalars, good = self.scalars, self.live
        alpha: Any = self.alpha
        direction = self.system.precond.apply(self.v, self.work)
        self.operator(direction, self.product)
        aypx_(self.u, -alpha, self.product)
        (square,) = scalars.dots((self.u, self.u))
        beta: Any = scalars.sqrt(square)
        self._scale(self.u, beta)
        self._transposed_product(self.t)
        aypx_(self.v, -beta, self.t)
        (square,) = scalars.dots((self.v, self.v))
        new: Any = scalars.sqrt(square)
        self._scale(self.v, new)
        rho = scalars.sqrt(self.rho * self.rho + beta * beta)
        good = good & (rho > 0)
        c: Any = scalars.ratio(self.rho, rho, good)
        s: Any = scalars.ratio(beta, rho, good)
        axpy_(self.y, scalars.ratio(c * self.phi, rho, good), self.w)
        aypx_(self.w, -scalars.ratio(s * new, rho, good), self.v)
        self.phi = scalars.where(good, s * self.phi, self.phi)
        self.rho = -c * new
        self.alpha = new
        self.frobenius = self.frobenius + beta * beta + new * new
        normal = self.phi * new * abs(c)
        # How far the residual is from orthogonal to the range: rounding's share or less, and it
        # is the least there is.
        bound = self.eps * scalars.sqrt(self.frobenius) * self.phi
        exhausted = scalars.where(normal <= bound, normal * 0 + 1.0, normal * 0)
        scalars.record(self.phi, normal, exhausted)
        self.live = good & self._unfinished(self.phi, normal) & (exhausted == 0)

    def finish(self) -> None:
        update = self.system.precond.apply(self.y, self.work)
        axpy_(self.x, 1.0, update)
        self.y.zero_()

    def _transposed_product(self, out: torch.Tensor) -> None:
        """`out = M^-T A^T u`. **Collective.**"""
        self.system.transposed_product(self.u, out, self.work)

    def _scale(self, vector: torch.Tensor, norm: Any) -> None:
        vector.mul_(self.scalars.ratio(norm * 0 + 1.0, norm, norm > 0))

    def _unfinished(self, phi: Any, normal: Any) -> Any:
        measure = normal if self.least_squares else phi
        return (measure > self.target) & (phi < math.inf) & (normal > 0)

    def norm(self, row: Sequence[float]) -> float:
        return row[1] if self.least_squares else row[0]

    def classify(self, row: Sequence[float], target: float) -> Status | None:
        phi, normal, exhausted = row
        if not (math.isfinite(phi) and math.isfinite(normal)):
            return "not_finite"
        if self.norm(row) <= target:
            return "converged"
        return "stagnated" if exhausted or normal == 0 else None

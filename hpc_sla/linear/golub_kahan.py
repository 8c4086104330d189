"""Golub and Kahan's bidiagonalisation of A M^-1, on which lsqr and lsmr are built."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from hpc_sla.kernels.vectors import axpy_, aypx_, copy_
from hpc_sla.linear.info import Status
from hpc_sla.linear.method import Method


class GolubKahan(Method):
    """Right-preconditioned, from b - A x. Two reductions a step.

    Of each iterate it records ||b - A x||, ||M^-T A^T (b - A x)|| and whether rounding leaves no
    smaller one. A subclass makes the iterate, M x in `y`, of u and v, `alpha` and beta.

    Attributes
    ----------
    u : torch.Tensor [n_owned]
    v, y : torch.Tensor [columns.n_owned]
    alpha : number
        As of `Scalars`.
    frobenius : number
        The sum of squares of all alphas and betas: ||A M^-1||_F^2 from below.
    """

    solves = "any"
    side = "right"
    transposes = True
    kept = ("u",)
    capturable = True
    current = False

    def allocate(self) -> None:
        self.least_squares = self.system.least_squares
        rows, columns = self.r, self.x
        self.u, self.product = torch.empty_like(rows), torch.empty_like(rows)
        self.v, self.y, self.t, self.work = (torch.empty_like(columns) for _ in range(4))
        self.eps = torch.finfo(rows.dtype).eps

    def first_vectors(self) -> Any:
        """U and v of the residual, and its norm. **Collective.**"""
        scalars = self.scalars
        copy_(self.u, self.r)
        (square,) = scalars.dots((self.u, self.u))
        beta: Any = scalars.sqrt(square)
        self._scale(self.u, beta)
        self._transposed_product(self.v)
        (square,) = scalars.dots((self.v, self.v))
        self.alpha: Any = scalars.sqrt(square)
        self._scale(self.v, self.alpha)
        self.frobenius: Any = square
        self.y.zero_()
        return beta

    def next_vectors(self) -> Any:
        """The next u, v and alpha; and beta. **Collective.**"""
        scalars = self.scalars
        direction = self.system.precond.apply(self.v, self.work)
        self.operator(direction, self.product)
        aypx_(self.u, -self.alpha, self.product)
        (square,) = scalars.dots((self.u, self.u))
        beta: Any = scalars.sqrt(square)
        self._scale(self.u, beta)
        self._transposed_product(self.t)
        aypx_(self.v, -beta, self.t)
        (square,) = scalars.dots((self.v, self.v))
        self.alpha = scalars.sqrt(square)
        self._scale(self.v, self.alpha)
        self.frobenius = self.frobenius + beta * beta + square
        return beta

    def recorded(self, residual: Any, normal: Any) -> Any:
        """Record the iterate's norms; whether to go on. Local."""
        scalars = self.scalars
        # How far the residual is from orthogonal to the range: rounding's share or less, and it
        # is the least there is.
        bound = self.eps * scalars.sqrt(self.frobenius) * residual
        exhausted = scalars.where(normal <= bound, normal * 0 + 1.0, normal * 0)
        scalars.record(residual, normal, exhausted)
        return self.unfinished(residual, normal) & (exhausted == 0)

    def unfinished(self, residual: Any, normal: Any) -> Any:
        """Whether these norms are not yet small. Local."""
        measure = normal if self.least_squares else residual
        return (measure > self.target) & (residual < math.inf) & (normal > 0)

    def finish(self) -> None:
        update = self.system.precond.apply(self.y, self.work)
        axpy_(self.x, 1.0, update)
        self.y.zero_()

    def _transposed_product(self, out: torch.Tensor) -> None:
        """`out = M^-T A^T u`. **Collective.**"""
        self.system.transposed_product(self.u, out, self.work)

    def _scale(self, vector: torch.Tensor, norm: Any) -> None:
        vector.mul_(self.scalars.ratio(norm * 0 + 1.0, norm, norm > 0))

    def norm(self, row: Sequence[float]) -> float:
        return row[1] if self.least_squares else row[0]

    def classify(self, row: Sequence[float], target: float) -> Status | None:
        residual, normal, exhausted = row
        if not (math.isfinite(residual) and math.isfinite(normal)):
            return "not_finite"
        if self.norm(row) <= target:
            return "converged"
        return "stagnated" if exhausted or normal == 0 else None

"""Least squares that may be stopped early: A^T r falls at every step; uses the transpose."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from hpc_sla.kernels.vectors import axpy_, aypx_, copy_
from hpc_sla.linear.info import Status
from hpc_sla.linear.method import Method
from hpc_sla.linear.scalars import Flag


class LSMR(Method):
    """LSMR (Fong and Saunders, SISC 33, 2011), right-preconditioned. Two reductions a step.

    Minimises ||b - A x||_2 for A of any shape, as `LSQR` does and by the same bidiagonalisation:
    it is MINRES on the normal equations, where that is conjugate gradients. ||M^-T A^T (b - A x)||
    so never rises, and a tolerance for it is met no later; ||b - A x|| is a little larger on the
    way. Stops as `LSQR`.
    """

    name = "lsmr"
    solves = "any"
    side = "right"
    transposes = True
    carried = (
        "alpha", "alpha_bar", "zeta_bar", "rho", "rho_bar", "c_bar", "s_bar", "beta_dd",
        "beta_d", "rho_d", "tau_tilde", "theta_tilde", "zeta", "frobenius", "live",
    )  # fmt: skip
    kept = ("u",)
    kept_like_x = ("v", "h", "h_bar", "y")
    capturable = True
    current = False

    def allocate(self) -> None:
        self.least_squares = self.system.least_squares
        rows, columns = self.r, self.x
        self.u, self.product = torch.empty_like(rows), torch.empty_like(rows)
        self.v, self.h, self.h_bar, self.y, self.t, self.work = (
            torch.empty_like(columns) for _ in range(6)
        )
        self.eps = torch.finfo(rows.dtype).eps

    def start(self, active: Flag) -> None:
        scalars = self.scalars
        copy_(self.u, self.r)
        (square,) = scalars.dots((self.u, self.u))
        beta: Any = scalars.sqrt(square)
        zero: Any = square * 0
        one: Any = zero + 1.0
        self._scale(self.u, beta)
        self._transposed_product(self.v)
        (square,) = scalars.dots((self.v, self.v))
        self.alpha: Any = scalars.sqrt(square)
        self._scale(self.v, self.alpha)
        copy_(self.h, self.v)
        self.h_bar.zero_()
        self.y.zero_()
        self.alpha_bar, self.zeta_bar = self.alpha, self.alpha * beta
        self.rho = self.rho_bar = self.c_bar = self.rho_d = one
        self.s_bar = self.beta_d = self.tau_tilde = self.theta_tilde = self.zeta = zero
        self.beta_dd: Any = beta
        self.frobenius: Any = square
        scalars.record(beta, self.zeta_bar, zero)
        self.live = active & self._unfinished(beta, self.zeta_bar)

    def step(self) -> None:
        scalars, good = self.scalars, self.live
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
        # The first rotation makes the bidiagonal matrix upper, the second that one lower again.
        rho_old, rho_bar_old, zeta_old = self.rho, self.rho_bar, self.zeta
        rho = scalars.sqrt(self.alpha_bar * self.alpha_bar + beta * beta)
        good = good & (rho > 0)
        c: Any = scalars.ratio(self.alpha_bar, rho, good)
        s: Any = scalars.ratio(beta, rho, good)
        theta, theta_bar = s * self.alpha, self.s_bar * rho
        turned = self.c_bar * rho
        rho_bar = scalars.sqrt(turned * turned + theta * theta)
        good = good & (rho_bar > 0)
        c_bar: Any = scalars.ratio(turned, rho_bar, good)
        s_bar: Any = scalars.ratio(theta, rho_bar, good)
        zeta, zeta_bar = c_bar * self.zeta_bar, -s_bar * self.zeta_bar
        back = scalars.ratio(theta_bar * rho, rho_old * rho_bar_old, good)
        aypx_(self.h_bar, -back, self.h)
        axpy_(self.y, scalars.ratio(zeta, rho * rho_bar, good), self.h_bar)
        aypx_(self.h, -scalars.ratio(theta, rho, good), self.v)
        # The norm of the residual, by a third rotation that is not applied to vectors.
        beta_hat, beta_dd = c * self.beta_dd, -s * self.beta_dd
        theta_old = self.theta_tilde
        rho_tilde = scalars.sqrt(self.rho_d * self.rho_d + theta_bar * theta_bar)
        c_tilde: Any = scalars.ratio(self.rho_d, rho_tilde, good & (rho_tilde > 0))
        s_tilde: Any = scalars.ratio(theta_bar, rho_tilde, good & (rho_tilde > 0))
        theta_tilde, rho_d = s_tilde * rho_bar, c_tilde * rho_bar
        beta_d = c_tilde * beta_hat - s_tilde * self.beta_d
        tau_tilde = scalars.ratio(
            zeta_old - theta_old * self.tau_tilde, rho_tilde, good & (rho_tilde > 0)
        )
        tau: Any = scalars.ratio(zeta - theta_tilde * tau_tilde, rho_d, good & (rho_d != 0))
        residual: Any = scalars.sqrt((beta_d - tau) * (beta_d - tau) + beta_dd * beta_dd)
        self.rho, self.rho_bar, self.c_bar, self.s_bar = rho, rho_bar, c_bar, s_bar
        self.alpha_bar, self.zeta, self.zeta_bar = c * self.alpha, zeta, zeta_bar
        self.beta_dd, self.beta_d, self.rho_d = beta_dd, beta_d, rho_d
        self.tau_tilde, self.theta_tilde = tau_tilde, theta_tilde
        normal = abs(zeta_bar)
        # How far the residual is from orthogonal to the range: rounding's share or less, and it
        # is the least there is.
        bound = self.eps * scalars.sqrt(self.frobenius) * residual
        exhausted = scalars.where(normal <= bound, normal * 0 + 1.0, normal * 0)
        scalars.record(residual, normal, exhausted)
        self.live = good & self._unfinished(residual, normal) & (exhausted == 0)

    def finish(self) -> None:
        update = self.system.precond.apply(self.y, self.work)
        axpy_(self.x, 1.0, update)
        self.y.zero_()

    def _transposed_product(self, out: torch.Tensor) -> None:
        """`out = M^-T A^T u`. **Collective.**"""
        self.system.transposed_product(self.u, out, self.work)

    def _scale(self, vector: torch.Tensor, norm: Any) -> None:
        vector.mul_(self.scalars.ratio(norm * 0 + 1.0, norm, norm > 0))

    def _unfinished(self, residual: Any, normal: Any) -> Any:
        measure = normal if self.least_squares else residual
        return (measure > self.target) & (residual < math.inf) & (normal > 0)

    def norm(self, row: Sequence[float]) -> float:
        return row[1] if self.least_squares else row[0]

    def classify(self, row: Sequence[float], target: float) -> Status | None:
        residual, normal, exhausted = row
        if not (math.isfinite(residual) and math.isfinite(normal)):
            return "not_finite"
        if self.norm(row) <= target:
            return "converged"
        return "stagnated" if exhausted or normal == 0 else None

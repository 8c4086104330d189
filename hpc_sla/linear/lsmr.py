"""Least squares that may be stopped early: A^T r falls at every step; uses the transpose."""

from __future__ import annotations

from typing import Any

import torch

from hpc_sla.kernels.vectors import axpy_, aypx_, copy_
from hpc_sla.linear.golub_kahan import GolubKahan
from hpc_sla.linear.scalars import Flag


class LSMR(GolubKahan):
    """LSMR (Fong and Saunders, SISC 33, 2011), right-preconditioned. Two reductions a step.

    Minimises ||b - A x||_2 for A of any shape, as `LSQR` does and by the same bidiagonalisation:
    it is MINRES on the normal equations, where that is conjugate gradients. ||M^-T A^T (b - A x)||
    so never rises, and a tolerance for it is met no later; ||b - A x|| is a little larger on the
    way. Stops as `LSQR`.
    """

    name = "lsmr"
    carried = (
        "alpha", "alpha_bar", "zeta_bar", "rho", "rho_bar", "c_bar", "s_bar", "beta_dd",
        "beta_d", "rho_d", "tau_tilde", "theta_tilde", "zeta", "frobenius", "live",
    )  # fmt: skip
    kept_like_x = ("v", "h", "h_bar", "y")

    def allocate(self) -> None:
        super().allocate()
        self.h, self.h_bar = torch.empty_like(self.x), torch.empty_like(self.x)

    def start(self, active: Flag) -> None:
        beta = self.first_vectors()
        zero: Any = beta * 0
        one: Any = zero + 1.0
        copy_(self.h, self.v)
        self.h_bar.zero_()
        self.alpha_bar, self.zeta_bar = self.alpha, self.alpha * beta
        self.rho = self.rho_bar = self.c_bar = self.rho_d = one
        self.s_bar = self.beta_d = self.tau_tilde = self.theta_tilde = self.zeta = zero
        self.beta_dd: Any = beta
        self.scalars.record(beta, self.zeta_bar, zero)
        self.live = active & self.unfinished(beta, self.zeta_bar)

    def step(self) -> None:
        scalars, good = self.scalars, self.live
        beta = self.next_vectors()
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
        self.live = good & self.recorded(residual, abs(zeta_bar))

"""Least squares: rectangular or badly conditioned matrices; uses the transpose."""

from __future__ import annotations

from typing import Any

import torch

from hpc_sla.kernels.vectors import axpy_, aypx_, copy_
from hpc_sla.linear.golub_kahan import GolubKahan
from hpc_sla.linear.scalars import Flag


class LSQR(GolubKahan):
    """LSQR (Paige and Saunders, ACM TOMS 8, 1982), right-preconditioned. Two reductions a step.

    Minimises ||b - A x||_2 for A of any shape, by Golub-Kahan bidiagonalisation of A M^-1. Of the
    least-squares solutions of a rank-deficient system it gives the one whose M x is shortest, when
    it starts from zero.

    A square system is solved where b - A x meets the tolerance, as with every other method. A
    rectangular one is solved in the sense of least squares: where M^-T A^T (b - A x) does,
    relative to M^-T A^T b.
    """

    name = "lsqr"
    petsc = "lsqr"
    carried = ("alpha", "phi", "rho", "frobenius", "live")
    kept_like_x = ("v", "w", "y")

    def allocate(self) -> None:
        super().allocate()
        self.w = torch.empty_like(self.x)

    def start(self, active: Flag) -> None:
        self.phi = self.first_vectors()
        copy_(self.w, self.v)
        self.rho = self.alpha
        normal = self.alpha * self.phi
        self.scalars.record(self.phi, normal, self.phi * 0)
        self.live = active & self.unfinished(self.phi, normal)

    def step(self) -> None:
        scalars, good = self.scalars, self.live
        beta, new = self.next_vectors(), self.alpha
        rho = scalars.sqrt(self.rho * self.rho + beta * beta)
        good = good & (rho > 0)
        c: Any = scalars.ratio(self.rho, rho, good)
        s: Any = scalars.ratio(beta, rho, good)
        axpy_(self.y, scalars.ratio(c * self.phi, rho, good), self.w)
        aypx_(self.w, -scalars.ratio(s * new, rho, good), self.v)
        self.phi = scalars.where(good, s * self.phi, self.phi)
        self.rho = -c * new
        self.live = good & self.recorded(self.phi, self.phi * new * abs(c))

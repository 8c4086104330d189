"""Conjugate gradients: symmetric positive definite matrices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from hpc_sla.kernels import device_steps, fused
from hpc_sla.kernels.burst import StepKernel
from hpc_sla.kernels.vectors import axpy_, aypx_, copy_
from hpc_sla.linear.info import Status
from hpc_sla.linear.method import Method, TwoSets, root
from hpc_sla.linear.scalars import Flag


class CG(Method):
    """Preconditioned CG (Saad, Iterative Methods for Sparse Linear Systems, algorithm 9.1).

    For A and M symmetric positive definite (or semidefinite with b in the range). Two reductions
    an iteration. It differs from the textbook in two ways, neither of which changes an iterate in
    exact arithmetic: the two inner products that follow the residual update share one reduction,
    and x is updated after that reduction, in the same pass as the direction, which reads p once.
    """

    name = "cg"
    solves = "spd"
    side = "split"
    petsc = "cg"
    scale_free = True
    carried = ("rho", "rr", "live")
    kept = ("r", "p")
    spent = ("q", "p")
    capturable = True

    def allocate(self) -> None:
        # With a pointwise preconditioner two fused passes do it all, with another on the CPU three.
        self.fused, self.on_device = fused.serves(self.r), device_steps.serves(self.r, "cg")
        if self.on_device:
            self.two = TwoSets(self.r, 2)
        # Allocated once: a captured burst of steps knows these by address.
        self.p = torch.empty_like(self.r)
        self.q = torch.empty_like(self.r)

    def start(self, active: Flag) -> None:
        """Begin with the steepest descent direction of the present residual. **Collective.**"""
        z = self.precond.apply(self.r, self.p)
        if z is not self.p:
            copy_(self.p, z)
        self.rho, self.rr = self.scalars.burst_dots((self.r, self.p), (self.r, self.r))
        self.scalars.record(self.rho * 0 + 1.0, self.rho, self.rr)
        self.live = active & self._unfinished(self.rho, self.rr)

    def step(self) -> None:
        alpha: Any
        beta: Any
        partial = self.scalars.partial(1)
        self.operator(self.p, self.q, partial.select(0, 0))
        (curvature,) = self.scalars.reduce(partial)
        if self.on_device:
            self._step_on_device(curvature)
            return
        good = self.live & (curvature > 0)
        alpha = self.scalars.ratio(self.rho, curvature, good)
        if self.fused:
            partial = self.scalars.partial(2)
            inverse = self.precond.inverse
            fused.residual_pass(self.r, self.q, alpha, inverse, partial)
            z = self.r
            if not self.precond.pointwise:
                z = self._preconditioned()
                fused.dot_pass(self.r, z, partial.select(0, 0))
            rho, self.rr = self.scalars.reduce(partial)
            beta = self.scalars.ratio(rho, self.rho, good)
            fused.direction_pass(self.x, self.p, z, inverse, alpha, beta)
        else:
            axpy_(self.r, -alpha, self.q)
            # q is spent, so its memory can hold z.
            z = self.precond.apply(self.r, self.q)
            rho, self.rr = self.scalars.dots((self.r, z), (self.r, self.r))
            beta = self.scalars.ratio(rho, self.rho, good)
            axpy_(self.x, alpha, self.p)
            aypx_(self.p, beta, z)
        self.rho = rho
        self.scalars.record(curvature, rho, self.rr)
        self.live = good & self._unfinished(rho, self.rr)

    compiled = StepKernel(
        *("cg", step, ("x", "r", "p", "q"), 3),
        preconditioned=True,
        starts=True,
        lasting=True,
    )

    def _step_on_device(self, curvature: Any) -> None:
        """The rest of a step, where no scalar of it is to leave the device. **Collective.**"""
        rho: Any = self.rho
        target: Any = self.target
        inverse = precondition = None
        if self.precond.pointwise:
            inverse = self.precond.inverse
        else:
            precondition = self._preconditioned
        left = self.two.next(self.scalars.row(3))
        fused.device_step(
            *(self.x, self.r, self.p, self.q, inverse, curvature, rho, self.live, target),
            *(left, self.scalars.reduction, precondition),
        )
        (self.rho, self.rr), self.live = left.numbers.unbind(), left.live

    def resting(self) -> list[torch.Tensor]:
        return self.two.present if self.on_device else []

    def _preconditioned(self) -> torch.Tensor:
        """M^-1 r as compiled passes can read it, in q, which is spent, or elsewhere."""
        z = self.precond.apply(self.r, self.q)
        if z is not self.q and not (z.dtype == self.r.dtype and z.is_contiguous()):
            copy_(self.q, z)
            return self.q
        return z

    def _unfinished(self, rho: Any, rr: Any) -> Any:
        # False for NaN too: a comparison with NaN is False. An infinite rr is caught by rho.
        return (rr > self.target * self.target) & (rho > 0) & (rho < math.inf)

    def norm(self, row: Sequence[float]) -> float:
        return root(row[2])

    def classify(self, row: Sequence[float], target: float) -> Status | None:
        curvature, rho, rr = row
        if not (math.isfinite(curvature) and math.isfinite(rho) and math.isfinite(rr)):
            return "not_finite"
        if curvature <= 0:
            return "breakdown" if curvature == 0 else "indefinite"
        if rr <= target * target:
            return "converged"
        if rho <= 0:
            return "breakdown" if rho == 0 else "indefinite"
        return None

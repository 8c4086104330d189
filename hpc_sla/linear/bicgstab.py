"""Stabilised bi-conjugate gradients: any square matrix, in little memory."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from hpc_sla.kernels import device_bicgstab as device
from hpc_sla.kernels import device_steps, pages, passes
from hpc_sla.kernels.burst import StepKernel
from hpc_sla.kernels.vectors import copy_
from hpc_sla.linear.info import Status
from hpc_sla.linear.method import Method, TwoSets, root
from hpc_sla.linear.scalars import Flag


class BiCGStab(Method):
    """Right-preconditioned BiCGStab (van der Vorst 1992; Saad, 2nd ed., algorithm 7.7).

    For any nonsingular A. Two products and three reductions an iteration, short recurrences. The
    shadow residual is the initial residual. Where r becomes orthogonal to it, the driver starts
    again from the true residual as long as that helps.
    """

    name = "bicgstab"
    solves = "square"
    side = "right"
    petsc = "bcgs"
    scale_free = True
    carried = ("rho", "shadow_square", "live")
    kept = ("r", "shadow", "p")
    spent = ("shadow", "p")
    capturable = True

    def allocate(self) -> None:
        # M^-1 p is all that is needed of p where M acts by entries: it is kept in place of p.
        self.inverse = self.precond.inverse if self.precond.pointwise else None
        vectors = pages.empty((5 if self.precond.pointwise else 6, *self.r.shape), self.r).unbind()
        self.shadow, self.p, self.v, self.t, self.s_hat = vectors[:5]
        self.p_hat = vectors[-1]
        self.tiny = torch.finfo(self.r.dtype).eps ** 2
        self.on_device = device_steps.serves(self.r, "bicgstab")
        if self.on_device:
            self.two = TwoSets(self.r, 1)
            self.square_room = self.r.new_empty(())

    def start(self, active: Flag) -> None:
        copy_(self.shadow, self.r)
        if self.precond.pointwise:
            copy_(self.p, self.precond.apply(self.r, self.p))
        else:
            copy_(self.p, self.r)
        (self.rho,) = self.scalars.dots((self.r, self.r))
        self.shadow_square = self.rho
        one = self.rho * 0 + 1.0
        self.scalars.record(one, one, one, self.rho)
        self.live = active & self._unfinished(self.rho, self.rho)
        self._precondition()

    def _precondition(self) -> None:
        self.p_apply = self.p
        if not self.precond.pointwise:
            self.p_apply = self.p_hat  # in any case: a graph knows it by address
            z = self.precond.apply(self.p, self.p_hat)
            if z is not self.p_hat:
                copy_(self.p_hat, z)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._precondition()

    def step(self) -> None:
        scalars, precond = self.scalars, self.precond
        p_hat = self.p_apply
        partial = scalars.partial(1)
        self.operator(p_hat, self.v, partial.select(0, 0), self.shadow)
        (slope,) = scalars.reduce(partial)
        if self.on_device:
            self._step_on_device(slope)
            return
        good = self.live & (slope != 0)
        alpha: Any = scalars.ratio(self.rho, slope, good)
        # r becomes s
        s_hat = passes.bicgstab_half(self.r, alpha, self.v, self.inverse, self.s_hat)
        if not precond.pointwise:
            s_hat = precond.apply(self.r, self.s_hat)
        partial = scalars.partial(2)
        self.operator(s_hat, self.t, partial.select(0, 0), self.r, partial.select(0, 1))
        ts, tt = scalars.reduce(partial)
        omega: Any = scalars.ratio(ts, tt, good & (tt > 0))
        partial = scalars.partial(2)
        passes.bicgstab_full(
            self.x, self.r, alpha, omega, p_hat, s_hat, self.t, self.shadow, partial
        )
        rho, rr = scalars.reduce(partial)
        good = good & (omega != 0)
        beta: Any = scalars.ratio(rho, self.rho, good)
        beta = beta * scalars.ratio(alpha, omega, good)
        passes.bicgstab_turn(self.p, beta, omega, self.r, self.v, self.inverse)
        self._precondition()
        # The cosine of r and the shadow residual, squared; 1 for r = 0, which is no breakdown.
        cosine: Any = scalars.ratio(rho, self.shadow_square, good)
        cosine = scalars.where(rr > 0, cosine * scalars.ratio(rho, rr, rr > 0), rr * 0 + 1.0)
        self.rho = scalars.where(good, rho, self.rho)
        scalars.record(slope, omega, cosine, rr)
        self.live = good & self._unfinished(rho, rr) & (cosine > self.tiny)

    compiled = StepKernel("bicgstab", step, ("x", "r", "shadow", "p", "v", "t", "s_hat"), 4)

    def _step_on_device(self, slope: Any) -> None:
        """The rest of a step, where no scalar of it is to leave the device. **Collective.**"""
        scalars, inverse = self.scalars, self.inverse
        # Without a preconditioner s serves for its preconditioned form.
        s_hat = self.r if self.precond.pointwise and inverse is None else self.s_hat
        known = device.BiCGStabScalars(slope, *self._scalars, self.tiny)
        vectors = self._vectors(s_hat)
        device.half_step(vectors, known)
        if not self.precond.pointwise:
            s_hat = self.precond.apply(self.r, self.s_hat)
            vectors = self._vectors(s_hat)
        partial = scalars.partial(2)
        self.operator(s_hat, self.t, partial.select(0, 0), self.r, partial.select(0, 1))
        ts: Any
        tt: Any
        ts, tt = scalars.reduce(partial)
        left = self.two.next(scalars.row(4))
        device.full_step(vectors, known, ts, tt, left, scalars.reduction)
        (self.rho,), self.live = left.numbers.unbind(), left.live
        self._precondition()

    def resting(self) -> list[torch.Tensor]:
        if not self.on_device:
            return []
        rho, live = self.two.present
        return [rho, self.square_room, live]

    @property
    def _scalars(self) -> tuple[Any, Any, Any, Any]:
        return self.rho, self.shadow_square, self.live, self.target

    def _vectors(self, s_hat: torch.Tensor) -> device.BiCGStabVectors:
        others = self.v, self.t, self.p_apply, s_hat, self.shadow, self.inverse
        return device.BiCGStabVectors(self.x, self.r, self.p, *others)

    def _unfinished(self, rho: Any, rr: Any) -> Any:
        return (rr > self.target * self.target) & (rr < math.inf) & (rho != 0)

    def norm(self, row: Sequence[float]) -> float:
        return root(row[3])

    def classify(self, row: Sequence[float], target: float) -> Status | None:
        slope, omega, cosine, rr = row
        if not all(map(math.isfinite, row)):
            return "not_finite"
        if rr <= target * target:
            return "converged"
        if slope == 0 or omega == 0 or cosine <= self.tiny:
            return "breakdown"
        return None

"""Minimal residuals: symmetric matrices that are not definite."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from hpc_sla.kernels import device_minres as device
from hpc_sla.kernels import device_steps, passes
from hpc_sla.kernels.burst import StepKernel
from hpc_sla.kernels.vectors import copy_, dot_into
from hpc_sla.linear.info import Status
from hpc_sla.linear.method import Method, TwoSets, root
from hpc_sla.linear.scalars import Flag


class MINRES(Method):
    """Preconditioned MINRES (Paige and Saunders 1975; Elman, Silvester and Wathen, algorithm 4.1).

    For A symmetric, definite or not, and M symmetric positive definite. It minimises the residual
    in the norm of M^-1; its 2-norm, which the stopping test needs, is kept beside it through the
    recurrence of the residual itself (Paige and Saunders, section 6), whose inner products ride
    on a reduction that is made anyway. Two reductions an iteration.
    """

    name = "minres"
    solves = "symmetric"
    side = "split"
    petsc = "minres"
    scale_free = True
    carried = ("gamma", "gamma_old", "eta", "c", "c_old", "s", "s_old", "rr", "live")
    kept = ("r", "v", "v_old", "z", "w", "w_old")
    spent = ("q", "v")
    capturable = True

    def allocate(self) -> None:
        # v, v_old: Lanczos vectors of the residual space, unscaled; z = M^-1 v; w: directions.
        self.v, self.v_old, self.z, self.q = (torch.empty_like(self.r) for _ in range(4))
        self.w, self.w_old = (torch.empty_like(self.r) for _ in range(2))
        self.on_device = device_steps.serves(self.r, "minres")
        if self.on_device:
            self.two = TwoSets(self.r, 8)

    def start(self, active: Flag) -> None:
        scalars = self.scalars
        copy_(self.v, self.r)
        for vector in (self.v_old, self.w, self.w_old):
            vector.zero_()
        z = self.precond.apply(self.v, self.z)
        if z is not self.z:
            copy_(self.z, z)
        square, self.rr = scalars.dots((self.v, self.z), (self.r, self.r))
        zero = self.rr * 0
        self.gamma = self.eta = scalars.sqrt(scalars.where(square > 0, square, zero))
        self.gamma_old = self.c = self.c_old = zero + 1.0
        self.s = self.s_old = zero
        scalars.record(square, zero + 1.0, self.rr)
        self.live = active & self._unfinished(square, self.rr)

    def step(self) -> None:
        scalars = self.scalars
        delta: Any
        # q = A z / gamma: the scaling by gamma waits for the vectors it is folded into.
        partial = scalars.partial(1)
        self.operator(self.z, self.q, partial.select(0, 0))
        (zaz,) = scalars.reduce(partial)
        if self.on_device:
            self._step_on_device(zaz)
            return
        gamma, good = self.gamma, self.live
        inverse: Any = scalars.ratio(gamma * 0 + 1.0, gamma, good)
        delta = zaz * inverse * inverse
        # v_new = q / gamma - (delta / gamma) v - (gamma / gamma_old) v_old, in v_old's place
        back: Any = scalars.ratio(gamma, self.gamma_old, good)
        partial = scalars.partial(3)
        pointwise = self.precond.pointwise
        passes.minres_lanczos(
            self.q,
            self.v_old,
            self.v,
            self.r,
            back * gamma,
            delta,
            inverse,
            self.precond.inverse if pointwise else None,
            partial,
        )
        self.v, self.v_old = self.v_old, self.v
        z_new = self.q
        if not pointwise:
            z_new = self.precond.apply(self.v, self.q)
            dot_into(partial.select(0, 0), self.v, z_new)
        square, vr, vv = scalars.reduce(partial)
        gamma_new: Any = scalars.sqrt(scalars.where(square > 0, square, square * 0))
        a0 = self.c * delta - self.c_old * self.s * gamma
        a1 = scalars.sqrt(a0 * a0 + gamma_new * gamma_new)
        a2: Any = self.s * delta + self.c_old * self.c * gamma
        a3: Any = self.s_old * gamma
        good = good & (a1 > 0)
        over: Any = scalars.ratio(a1 * 0 + 1.0, a1, good)
        c, s = a0 * over, gamma_new * over
        eta: Any = -s * self.eta
        # r = s^2 r + (c eta / gamma_new) v_new; where gamma_new is 0 the residual is 0
        shrink: Any = scalars.where(good, s * s, s * 0 + 1.0)
        turn: Any = scalars.ratio(c * eta, gamma_new, good & (gamma_new > 0))
        self.rr = shrink * shrink * self.rr + 2 * shrink * turn * vr + turn * turn * vv
        # w_new = (z / gamma - a3 w_old - a2 w) / a1, in w_old's place
        passes.minres_direction(
            self.w_old,
            self.w,
            self.z,
            self.v,
            self.x,
            self.r,
            a3 * gamma,
            a2 * gamma,
            over * inverse,
            c * self.eta,
            shrink,
            turn,
        )
        self.w, self.w_old = self.w_old, self.w
        self._take(z_new)
        self.gamma_old, self.gamma, self.eta = gamma, gamma_new, eta
        self.c_old, self.c, self.s_old, self.s = self.c, c, self.s, s
        scalars.record(square, a1, self.rr)
        self.live = good & self._unfinished(square, self.rr)

    def _take(self, z: torch.Tensor) -> None:
        """Have the next step begin with z, which may be q. Local."""
        if z is not self.q:
            copy_(self.z, z)
        else:
            self.z, self.q = self.q, self.z

    def _step_on_device(self, zaz: Any) -> None:
        """The rest of a step, where no scalar of it is to leave the device. **Collective.**"""
        names = ("gamma", "gamma_old", "eta", "c", "c_old", "s", "s_old", "rr", "live", "target")
        known = device.MinresScalars(zaz, *(getattr(self, name) for name in names))
        pointwise = self.precond.pointwise
        directions = self.v, self.v_old, self.w, self.w_old, self.z, self.q
        inverse = self.precond.inverse if pointwise else None
        vectors = device.MinresVectors(self.x, self.r, *directions, inverse)
        precondition = None if pointwise else lambda: self.precond.apply(self.v_old, self.q)
        left = self.two.next(self.scalars.row(3))
        z = device.minres_step(vectors, known, left, self.scalars.reduction, precondition)
        for name, value in zip(self.carried, (*left.numbers.unbind(), left.live), strict=True):
            setattr(self, name, value)
        self.v, self.v_old, self.w, self.w_old = self.v_old, self.v, self.w_old, self.w
        self._take(z)

    def resting(self) -> list[torch.Tensor]:
        return self.two.present if self.on_device else []

    compiled = StepKernel(
        "minres",
        step,
        ("x", "r", "v", "v_old", "w", "w_old", "z", "q"),
        3,
        (("v", "v_old"), ("w", "w_old"), ("z", "q")),
        lasting=True,
    )

    def _unfinished(self, square: Any, rr: Any) -> Any:
        return (rr > self.target * self.target) & (square > 0) & (square < math.inf)

    def norm(self, row: Sequence[float]) -> float:
        return root(max(row[2], 0.0)) if row[2] == row[2] else math.nan

    def classify(self, row: Sequence[float], target: float) -> Status | None:
        square, pivot, rr = row
        if not all(map(math.isfinite, row)):
            return "not_finite"
        # An exhausted Krylov space ends it, too: a claim that the true residual will settle.
        if rr <= target * target or (square == 0 and pivot > 0):
            return "converged"
        if square < 0:
            return "indefinite"
        return "breakdown" if pivot == 0 or square == 0 else None

"""CG with one hidden reduction an iteration: many ranks with few rows each."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from hpc_sla.kernels import device_pipelined_cg as device
from hpc_sla.kernels import device_steps, fused, passes
from hpc_sla.kernels.burst import StepKernel
from hpc_sla.kernels.vectors import copy_
from hpc_sla.linear.info import Status
from hpc_sla.linear.method import Method, TwoSets, check_count, root
from hpc_sla.linear.scalars import Flag


class PipelinedCG(Method):
    """Pipelined CG (Ghysels and Vanroose, Parallel Computing 40, 2014, algorithm 4).

    One non-blocking reduction an iteration, which travels while the preconditioner and the product
    work. It pays where a reduction takes longer than the eight vector updates it adds to an
    iteration (three in `cg`): on many ranks with few rows each. On one node `cg` is faster.

    Rounding errors of the longer recurrences add up, so every `replacement` iterations r and the
    auxiliary vectors are computed anew from x and p (residual replacement, as in section 4.3
    there), which costs four products.

    Parameters
    ----------
    replacement : int
    """

    name = "pipelined_cg"
    solves = "spd"
    side = "split"
    petsc = "pipecg"
    scale_free = True
    carried = ("rho", "delta", "rr", "rho_old", "alpha_old", "live")
    kept = ("r", "u", "w", "m", "n", "z", "q", "s", "p")
    spent = ("u", "w")
    capturable = True

    def __init__(self, replacement: int = 50) -> None:
        check_count(self.name, "replacement", replacement)
        self.replacement = replacement

    def allocate(self) -> None:
        self.system.b = self.system.b.contiguous()  # which compiled steps read
        # Names as in the paper: u = M r, w = A u, m = M w, n = A m, z = A q, q = M s, s = A p.
        names = ("u", "w", "m", "n", "z", "q", "s", "p")
        for name in names:
            setattr(self, name, torch.zeros_like(self.r))
        self.on_device = device_steps.serves(self.r, "pipelined_cg")
        if self.on_device:
            self.two = TwoSets(self.r, 5)

    u: torch.Tensor
    w: torch.Tensor
    m: torch.Tensor
    n: torch.Tensor
    z: torch.Tensor
    q: torch.Tensor
    s: torch.Tensor
    p: torch.Tensor

    def start(self, active: Flag) -> None:
        for vector in (self.z, self.q, self.s, self.p):
            vector.zero_()
        self._precondition(self.r, self.u)
        self.operator(self.u, self.w)
        self._reduce(self._sums())
        one = self.rho * 0 + 1.0
        self.rho_old = self.alpha_old = one
        self.first = True
        self.since = 0
        self._mark_first()
        self.scalars.record(one, self.rho, self.rr, one + one)
        self.live = active & self._unfinished(self.rho, self.rr)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "turn": np.array([self.first, self.since])}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        first, since = state["turn"].tolist()
        self.first, self.since = bool(first), int(since)
        self._mark_first()

    def _mark_first(self) -> None:
        """For steps on a device, which know a first one, and that its beta is 0, by rho_old."""
        if self.on_device and self.first:
            self.rho_old = self.rho_old * 0 + math.inf

    def _sums(self) -> torch.Tensor:
        """This rank's parts of the three inner products; and m, where M acts by entries. Local."""
        partial = self.scalars.partial(3)
        vectors = (self.r, self.u, self.w, self.m)
        passes.pipelined_sums(*vectors, self.precond.inverse, partial)
        return partial

    def _reduce(self, partial: torch.Tensor) -> None:
        """Sum the inner products while m = M w and n = A m are made. **Collective.**"""
        finish = self.scalars.start_reduce(partial)
        if not self.precond.pointwise:
            self._precondition(self.w, self.m)
        self.operator(self.m, self.n)
        self.rho, self.delta, self.rr = finish()

    def step(self) -> None:
        if self.on_device:
            self._step_on_device()
            return
        scalars, good = self.scalars, self.live
        beta: Any = scalars.ratio(self.rho, self.rho_old, good)
        fresh = beta * 0 + float(self.first)
        if self.first:
            beta = beta * 0
            self.first = False
        correction = scalars.ratio(beta * self.rho, self.alpha_old, good)
        curvature: Any = self.delta - correction
        good = good & (curvature > 0)
        alpha: Any = scalars.ratio(self.rho, curvature, good)
        partial = scalars.partial(3)
        residuals = (self.r, self.u, self.w, self.m, self.n)
        directions = (self.z, self.q, self.s, self.p)
        passes.pipelined_step(
            self.x, *residuals, *directions, alpha, beta, self.precond.inverse, partial
        )
        self.rho_old = scalars.where(good, self.rho, self.rho_old)
        self.alpha_old = scalars.where(good, alpha, self.alpha_old)
        self.since += 1
        if self.since == self.replacement:
            self._replace()
            partial = self._sums()
        self._reduce(partial)
        scalars.record(curvature, self.rho, self.rr, fresh)
        self.live = good & self._unfinished(self.rho, self.rr)

    def _step_on_device(self) -> None:
        """A step no scalar of which is to leave the device. **Collective.**"""
        scalars, pointwise = self.scalars, self.precond.pointwise
        numbers: Any = (self.rho, self.delta, self.rho_old, self.alpha_old, self.live, self.target)
        known = device.PipelinedScalars(*numbers)
        names = ("x", "r", "u", "w", "m", "n", "z", "q", "s", "p")
        vectors = tuple(getattr(self, name) for name in names)
        inverse = self.precond.inverse if pointwise else None
        sums = device.pipelined_pass(vectors, inverse, known)
        self.first = False
        self.since += 1
        if self.since == self.replacement:
            self._replace()
            sums = self._sums().unsqueeze(1)
        wait = None
        if scalars.reduction is not None:
            pending: list[Callable[[], None]] = []
            sums = fused.totals(self.r, sums, lambda s: pending.append(scalars.start_sum(s)))
            (wait,) = pending
        if not pointwise:
            self._precondition(self.w, self.m)
        self.operator(self.m, self.n)
        if wait is not None:
            wait()
        left = self.two.next(scalars.row(4))
        device.pipelined_end(sums, known, left)
        for name, value in zip(self.carried, (*left.numbers.unbind(), left.live), strict=True):
            setattr(self, name, value)

    def resting(self) -> list[torch.Tensor]:
        return self.two.present if self.on_device else []

    def steady(self, count: int) -> bool:
        first = self.first and not self.on_device
        return not first and self.since + count < self.replacement

    def replayed(self, count: int) -> None:
        self.first, self.since = False, self.since + count

    compiled = StepKernel(
        "pipelined_cg",
        step,
        ("x", "r", "u", "w", "m", "n", "z", "q", "s", "p", "system.b"),
        4,
        numbers=("first", "since", "replacement"),
    )

    def _replace(self) -> None:
        """Compute what the recurrences carry from x and p. **Collective.**"""
        self.since = 0
        self.operator(self.x, self.r)
        torch.sub(self.system.b, self.r, out=self.r)
        self._precondition(self.r, self.u)
        self.operator(self.u, self.w)
        self.operator(self.p, self.s)
        self._precondition(self.s, self.q)
        self.operator(self.q, self.z)

    def _precondition(self, r: torch.Tensor, out: torch.Tensor) -> None:
        z = self.precond.apply(r, out)
        if z is not out:
            copy_(out, z)

    def _unfinished(self, rho: Any, rr: Any) -> Any:
        return (rr > self.target * self.target) & (rho > 0) & (rho < math.inf)

    def norm(self, row: Sequence[float]) -> float:
        return root(row[2])

    def classify(self, row: Sequence[float], target: float) -> Status | None:
        curvature, rho, rr, fresh = row
        if not all(map(math.isfinite, row)):
            return "not_finite"
        if curvature <= 0:
            # Only in a first step is it computed from A itself: later it may be all rounding.
            if not fresh:
                return "stagnated"
            return "breakdown" if curvature == 0 else "indefinite"
        if rr <= target * target:
            return "converged"
        if rho <= 0:
            # From M itself at the start only: a preconditioner in single precision is not quite
            # the linear map that the recurrences take it for.
            if fresh < 2:
                return "stagnated"
            return "breakdown" if rho == 0 else "indefinite"
        return None

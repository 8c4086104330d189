"""The preconditioner on its own: amg, or another that is strong enough."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from hpc_sla.kernels.vectors import axpy_
from hpc_sla.linear.info import Status
from hpc_sla.linear.method import Method, root
from hpc_sla.linear.scalars import Flag


class Richardson(Method):
    """`x += M^-1 (b - A x)` (Saad, Iterative Methods for Sparse Linear Systems, section 4.1).

    Converges where the spectral radius of I - M^-1 A is below 1: a multigrid cycle, or a strong
    preconditioner, as a solver by itself. One reduction an iteration, for the residual's norm.
    """

    name = "richardson"
    solves = "square"
    side = "left"
    petsc = "richardson"
    carried = ("rr", "live")
    capturable = True

    def allocate(self) -> None:
        self.z = torch.empty_like(self.r)
        self.q = torch.empty_like(self.r)

    def start(self, active: Flag) -> None:
        """Begin from x and its residual. **Collective.**"""
        (self.rr,) = self.scalars.dots((self.r, self.r))
        self.scalars.record(self.rr)
        self.live = active & self._unfinished()

    def step(self) -> None:
        z = self.precond.apply(self.r, self.z)
        self.operator(z, self.q)
        # A finished column stays as it is.
        one = self.rr * 0 + 1.0
        step = self.scalars.ratio(one, one, self.live)
        axpy_(self.x, step, z)
        axpy_(self.r, -step, self.q)
        (self.rr,) = self.scalars.dots((self.r, self.r))
        self.scalars.record(self.rr)
        self.live = self.live & self._unfinished()

    def _unfinished(self) -> Any:
        # False for NaN too.
        return (self.rr > self.target * self.target) & (self.rr < math.inf)

    def norm(self, row: Sequence[float]) -> float:
        return root(row[0])

    def classify(self, row: Sequence[float], target: float) -> Status | None:
        (rr,) = row
        if not math.isfinite(rr):
            return "not_finite"
        return "converged" if rr <= target * target else None

"""The conjugate gradient method."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol

import torch

from hpc_sla.kernels import fused
from hpc_sla.kernels.vectors import axpy_, aypx_, copy_
from hpc_sla.layout import RowLayout
from hpc_sla.linear.graphs import Bursts
from hpc_sla.linear.info import Status
from hpc_sla.linear.scalars import Scalars
from hpc_sla.precond import Preconditioner

Callback = Callable[[int, float], None]


class Operator(Protocol):
    """`out = A x` on distributed vectors; `dot`, where given, this rank's part of x . out."""

    def __call__(
        self, x: torch.Tensor, out: torch.Tensor, dot: torch.Tensor | None = None, /
    ) -> None: ...


class ConjugateGradient:
    """Preconditioned CG, as a state with a step (Saad, 2nd ed., algorithm 9.1).

    It differs from the textbook in three ways, none of which changes an iterate in exact
    arithmetic: the two inner products that follow the residual update share one reduction; x is
    updated after that reduction, in the same pass as the direction, which reads p once; and no
    step looks at a number, so that on an accelerator the host need not wait for one.

    Parameters
    ----------
    operator : Operator
        **Collective** when called.
    precond : Preconditioner
        Symmetric positive definite.
    x : torch.Tensor [n_owned]
        The initial guess, updated in place.
    r : torch.Tensor [n_owned]
        b - A x, overwritten.
    target : float
        Stop once ||r||_2 is no larger.
    scalars : Scalars
    """

    carried: tuple[str, ...] = ("rho", "rr", "live")

    def __init__(
        self,
        operator: Operator,
        precond: Preconditioner,
        x: torch.Tensor,
        r: torch.Tensor,
        target: float,
        scalars: Scalars,
    ) -> None:
        self.operator = operator
        self.precond = precond
        self.scalars = scalars
        self.x, self.r = x, r
        # One thread on the CPU and a pointwise preconditioner: two fused passes do it all.
        self.fused = fused.serves(r) and precond.pointwise
        self.inverse = precond.inverse
        # Allocated once: a captured burst of steps knows these by address.
        self.p = torch.empty_like(r)
        self.q = torch.empty_like(r)
        self.target = target
        self.start()

    def start(self) -> None:
        """Begin with the steepest descent direction of the present residual. **Collective.**"""
        z = self.precond.apply(self.r, self.p)
        if z is not self.p:
            copy_(self.p, z)
        self.rho, self.rr = self.scalars.dots((self.r, z), (self.r, self.r))
        self.live = self._unfinished(self.rho, self.rr)

    def step(self) -> None:
        """One iteration, or nothing at all once finished. **Collective.**"""
        alpha: Any
        beta: Any
        partial = self.scalars.partial(1)
        self.operator(self.p, self.q, partial.select(0, 0))
        (curvature,) = self.scalars.reduce(partial)
        good = self.live & (curvature > 0)
        alpha = self.scalars.ratio(self.rho, curvature, good)
        if self.fused:
            partial = self.scalars.partial(2)
            fused.residual_pass(self.r, self.q, alpha, self.inverse, partial)
            rho, self.rr = self.scalars.reduce(partial)
            beta = self.scalars.ratio(rho, self.rho, good)
            fused.direction_pass(self.x, self.p, self.r, self.inverse, alpha, beta)
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

    def _unfinished(self, rho: Any, rr: Any) -> Any:
        # False for NaN too: a comparison with NaN is False. An infinite rr is caught by rho.
        return (rr > self.target * self.target) & (rho > 0) & (rho < math.inf)

    def classify(self, curvature: float, rho: float, rr: float) -> Status | None:
        """What an iteration's scalars say: a status, or None to go on."""
        if not (math.isfinite(curvature) and math.isfinite(rho) and math.isfinite(rr)):
            return "not_finite"
        if curvature <= 0:
            return "breakdown" if curvature == 0 else "indefinite"
        if rr <= self.target * self.target:
            return "converged"
        if rho <= 0:
            return "breakdown" if rho == 0 else "indefinite"
        return None


def cg(
    layout: RowLayout,
    operator: Operator,
    precond: Preconditioner,
    b: torch.Tensor,
    x: torch.Tensor,
    x_is_zero: bool,
    target: float,
    max_iterations: int,
    scalars: Scalars,
    callback: Callback | None = None,
) -> tuple[Status, int, float, list[float]]:
    """Run CG on x, in place, until the *true* residual meets the target. **Collective.**

    Parameters
    ----------
    b, x : torch.Tensor [n_owned]
    x_is_zero : bool
        Saves a product.
    target : float
        On ||b - A x||_2.

    Returns
    -------
    status, iterations, true residual norm, residual history
    """

    def true_residual(out: torch.Tensor) -> float:
        operator(x, out)
        torch.sub(b, out, out=out)
        (square,) = scalars.dots((out, out))
        return math.sqrt(max(float(square), 0.0)) if math.isfinite(float(square)) else math.nan

    r = b.clone() if x_is_zero else torch.empty_like(b)
    if not x_is_zero:
        true_residual(r)
    state = ConjugateGradient(operator, precond, x, r, target, scalars)
    pointwise = precond.pointwise
    bursts = Bursts(state, scalars, captured=pointwise and layout.world.size == 1 and b.is_cuda)
    history = [math.sqrt(float(state.rr)) if float(state.rr) >= 0 else math.nan]
    if callback:
        callback(0, history[0])
    status: Status | None = state.classify(1.0, float(state.rho), float(state.rr))
    iterations, best, best_at = 0, history[0], 0
    last_claim = math.inf
    # The residual's 2-norm may rise for long while the error's A-norm falls, but hardly for more
    # iterations than CG needs in all without rounding.
    patience = max(1000, layout.n_global)
    while True:
        while status is None and iterations < max_iterations:
            bursts.run(min(scalars.check_every, max_iterations - iterations))
            for row in scalars.read():
                iterations += 1
                history.append(math.sqrt(row[2]) if row[2] >= 0 else math.nan)
                if callback:
                    callback(iterations, history[-1])
                status = state.classify(*row)
                if status is not None:
                    break
                if history[-1] < best:
                    best, best_at = history[-1], iterations
                elif iterations - best_at > patience:
                    status = "stagnated"
                    break
        norm = true_residual(state.q)
        if norm <= target:
            return "converged", iterations, norm, history
        if status != "converged":
            return status or "max_iterations", iterations, norm, history
        # The recurrence claims what the true residual denies: rounding has parted them. Go on
        # from the true one; when that no longer helps, this is all the precision there is.
        if iterations >= max_iterations:
            return "max_iterations", iterations, norm, history
        if norm > 0.5 * last_claim:
            return "stagnated", iterations, norm, history
        last_claim = norm
        state.r.copy_(state.q)
        state.start()
        status = None

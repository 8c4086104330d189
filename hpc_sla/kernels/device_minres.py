"""A MINRES step around its product where no scalar is to leave the device, and its oracle."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from hpc_sla.kernels.fused import Left, Reduce, sums_for, totals

Tensor = torch.Tensor
Again = Callable[[], Tensor]


@dataclass(frozen=True)
class MinresScalars:
    """What is known as a step begins, tensors []: names as in `MINRES`, and z . A z."""

    zaz: Tensor
    gamma: Tensor
    gamma_old: Tensor
    eta: Tensor
    c: Tensor
    c_old: Tensor
    s: Tensor
    s_old: Tensor
    rr: Tensor
    live: Tensor
    target: Tensor

    @property
    def numbers(self) -> tuple[Tensor, ...]:
        """In the order of the kernel."""
        lanczos = self.zaz, self.gamma, self.gamma_old
        return (*lanczos, self.eta, self.c, self.c_old, self.s, self.s_old, self.rr)


@dataclass(frozen=True)
class MinresVectors:
    """All [n]; `inverse` is the pointwise preconditioner, None for ones or for another."""

    x: Tensor
    r: Tensor
    v: Tensor
    v_old: Tensor
    w: Tensor
    w_old: Tensor
    z: Tensor
    q: Tensor
    inverse: Tensor | None


def minres_step(
    vectors: MinresVectors,
    known: MinresScalars,
    left: Left,
    reduce: Reduce | None,
    precondition: Again | None = None,
) -> Tensor:
    """What a step does once q = A z. **Collective** where `reduce` or `precondition` is.

    Two launches, and one more with `precondition`. v_old becomes the next v, w_old the next w, and
    q = M^-1 v_old.

    Parameters
    ----------
    vectors : MinresVectors
    known : MinresScalars
    left : Left
        Numbers: gamma, gamma_old, eta, c, c_old, s, s_old, rr. Row: v . M^-1 v of the next v, the
        pivot, and r . r as the step ends.
    reduce : callable, or None for one rank
        Sums a tensor over ranks, in place.
    precondition : callable, optional
        Gives M^-1 v_old, where M is not pointwise.

    Returns
    -------
    z : torch.Tensor [n]
        M^-1 v of the next v: q, or what `precondition` gave.
    """
    of, k, step = vectors, known, torch.ops.hpc_sla
    sums = sums_for(of.r, 3)
    lanczos = k.zaz, k.gamma, k.gamma_old, k.live
    step.minres_lanczos_step(of.q, of.v_old, of.v, of.r, of.inverse, *lanczos, sums)
    z = of.q
    if precondition is not None:
        z = precondition()
        step.dot_parts(of.v_old, z, sums.select(0, 0))
    sums = totals(of.r, sums, reduce)
    step.minres_direction_step(
        *(of.x, of.r, of.w_old, of.w, of.z, of.v_old, *k.numbers),
        *(k.live, k.target, sums, left.numbers, left.live, left.row),
    )
    return z


def minres_step_reference(
    vectors: MinresVectors,
    known: MinresScalars,
    left: Left,
    reduce: Reduce | None,
    precondition: Again | None = None,
) -> Tensor:
    """`minres_step` in torch operations: the oracle."""
    of, k = vectors, known
    zero = torch.zeros_like(k.rr)
    inverse = torch.where(k.live, 1 / k.gamma, zero)
    delta = k.zaz * inverse * inverse
    back = torch.where(k.live, k.gamma / k.gamma_old, zero) * k.gamma
    of.v_old.mul_(-back).add_(of.q).sub_(delta * of.v).mul_(inverse)
    if of.inverse is None:
        of.q.copy_(of.v_old)
    else:
        torch.mul(of.v_old, of.inverse, out=of.q)
    z = of.q if precondition is None else precondition()
    sums = torch.stack([(of.v_old * other).sum() for other in (z, of.r, of.v_old)])
    if reduce is not None:
        reduce(sums)
    square, vr, vv = sums.unbind()
    gamma = torch.where(square > 0, square, zero).sqrt()
    a0 = k.c * delta - k.c_old * k.s * k.gamma
    a1 = (a0 * a0 + gamma * gamma).sqrt()
    a2, a3 = k.s * delta + k.c_old * k.c * k.gamma, k.s_old * k.gamma
    good = k.live & (a1 > 0)
    over = torch.where(good, 1 / a1, zero)
    c, s = a0 * over, gamma * over
    shrink = torch.where(good, s * s, zero + 1.0)
    turn = torch.where(good & (gamma > 0), -c * s * k.eta / gamma, zero)
    rr = shrink * shrink * k.rr + 2 * shrink * turn * vr + turn * turn * vv
    of.w_old.mul_(-a3 * k.gamma).add_(of.z).sub_(a2 * k.gamma * of.w).mul_(over * inverse)
    of.x.add_(c * k.eta * of.w_old)
    of.r.mul_(shrink).add_(turn * of.v_old)
    live = good & (rr > k.target * k.target) & (square > 0) & (square < math.inf)
    left.put([gamma, k.gamma, -s * k.eta, c, k.c, s, k.s, rr], live, [square, a1, rr])
    return z

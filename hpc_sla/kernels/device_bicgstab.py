"""A BiCGStab step around its products where no scalar is to leave the device, and its oracle."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from hpc_sla.kernels.fused import Left, Reduce, sums_for, totals

Tensor = torch.Tensor


@dataclass(frozen=True)
class BiCGStabScalars:
    """What is known as a step begins, tensors [].

    Attributes
    ----------
    slope : shadow . A M^-1 p
    rho : shadow . r
    shadow_square : shadow . shadow
    live : bool
        Whether it has not ended.
    target
        The norm of r to stop at.
    tiny : float
        The cosine of r and the shadow residual, squared, that ends it.
    """

    slope: Tensor
    rho: Tensor
    shadow_square: Tensor
    live: Tensor
    target: Tensor
    tiny: float


@dataclass(frozen=True)
class BiCGStabVectors:
    """All [n]; `inverse` is the pointwise preconditioner, None for ones or for another."""

    x: Tensor
    r: Tensor
    p: Tensor
    v: Tensor
    t: Tensor
    p_hat: Tensor
    s_hat: Tensor
    shadow: Tensor
    inverse: Tensor | None


def half_step(vectors: BiCGStabVectors, known: BiCGStabScalars) -> None:
    """`r -= alpha v; s_hat = inverse r`, the latter where there is an inverse. Local. One launch.

    alpha is rho / slope, or 0 where it has ended.
    """
    of, k = vectors, known
    torch.ops.hpc_sla.bicgstab_half_step(of.r, of.v, of.inverse, of.s_hat, k.slope, k.rho, k.live)


def half_step_reference(vectors: BiCGStabVectors, known: BiCGStabScalars) -> None:
    """`half_step` in torch operations: the oracle."""
    of, k = vectors, known
    of.r.sub_(_alpha(k) * of.v)
    if of.inverse is not None:
        torch.mul(of.r, of.inverse, out=of.s_hat)


def full_step(
    vectors: BiCGStabVectors,
    known: BiCGStabScalars,
    ts: Tensor,
    tt: Tensor,
    left: Left,
    reduce: Reduce | None,
) -> None:
    """The rest of the step, after t = A s_hat. **Collective** where `reduce` is. Two launches.

    Parameters
    ----------
    ts, tt : torch.Tensor []
        t . r and t . t.
    left : Left
        Numbers: rho. Row: slope, omega, the cosine's square, and r . r as the step ends.
    reduce : callable, or None for one rank
        Sums a tensor over ranks, in place.
    """
    of, k, step = vectors, known, torch.ops.hpc_sla
    sums = sums_for(of.r, 2)
    step.bicgstab_full_step(
        *(of.x, of.r, of.p_hat, of.s_hat, of.t, of.shadow),
        *(k.slope, ts, tt, k.rho, k.live, sums),
    )
    sums = totals(of.r, sums, reduce)
    numbers = k.slope, ts, tt, k.rho, k.shadow_square, k.live, k.target
    found = left.numbers, left.live, left.row
    step.bicgstab_turn_step(of.p, of.r, of.v, of.inverse, *numbers, sums, *found, k.tiny)


def full_step_reference(
    vectors: BiCGStabVectors,
    known: BiCGStabScalars,
    ts: Tensor,
    tt: Tensor,
    left: Left,
    reduce: Reduce | None,
) -> None:
    """`full_step` in torch operations: the oracle."""
    of, k = vectors, known
    zero = torch.zeros_like(k.rho)
    good, alpha = k.live & (k.slope != 0), _alpha(k)
    omega = torch.where(good & (tt > 0), ts / tt, zero)
    of.x.add_(alpha * of.p_hat).add_(omega * of.s_hat)
    of.r.sub_(omega * of.t)
    sums = torch.stack([(of.shadow * of.r).sum(), (of.r * of.r).sum()])
    if reduce is not None:
        reduce(sums)
    new, rr = sums.unbind()
    good = good & (omega != 0)
    beta = torch.where(good, new / k.rho, zero) * torch.where(good, alpha / omega, zero)
    r, v = of.r, of.v
    if of.inverse is not None:
        r, v = r * of.inverse, v * of.inverse
    of.p.sub_(omega * v).mul_(beta).add_(r)
    cosine = torch.where(good, new / k.shadow_square, zero)
    cosine = torch.where(rr > 0, cosine * (new / rr), zero + 1.0)
    live = good & (rr > k.target * k.target) & (rr < math.inf) & (new != 0) & (cosine > k.tiny)
    left.put([torch.where(good, new, k.rho)], live, [k.slope, omega, cosine, rr])


def _alpha(known: BiCGStabScalars) -> Tensor:
    good = known.live & (known.slope != 0)
    return torch.where(good, known.rho / known.slope, torch.zeros_like(known.rho))

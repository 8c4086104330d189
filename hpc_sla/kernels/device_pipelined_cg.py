"""A step of pipelined CG around its product where no scalar is to leave the device; its oracle."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from hpc_sla.kernels.fused import Left, sums_for

Tensor = torch.Tensor


@dataclass(frozen=True)
class PipelinedScalars:
    """What is known as a step begins, tensors []: names as in `PipelinedCG`.

    rho_old is infinite in a first step, whose beta then is 0.
    """

    rho: Tensor
    delta: Tensor
    rho_old: Tensor
    alpha_old: Tensor
    live: Tensor
    target: Tensor


def pipelined_pass(
    vectors: tuple[Tensor, ...], inverse: Tensor | None, known: PipelinedScalars
) -> Tensor:
    """All vector updates of a step. Local. One launch.

    Parameters
    ----------
    vectors : x, r, u, w, m, n, z, q, s, p, torch.Tensor [n] each
        As of `kernels.passes.pipelined_step`, which says what becomes of them.
    inverse : torch.Tensor [n] or None
        The pointwise preconditioner, None for ones or for another.
    known : PipelinedScalars

    Returns
    -------
    torch.Tensor [3, m]
        This rank's parts of r . u, w . u and r . r, in float64, to be summed over m.
    """
    sums, k = sums_for(vectors[1], 3), known
    numbers = k.rho, k.delta, k.rho_old, k.alpha_old, k.live
    torch.ops.hpc_sla.pipelined_pass(*vectors, inverse, *numbers, sums)
    return sums


def pipelined_pass_reference(
    vectors: tuple[Tensor, ...], inverse: Tensor | None, known: PipelinedScalars
) -> Tensor:
    """`pipelined_pass` in torch operations: the oracle."""
    x, r, u, w, m, n, z, q, s, p = vectors
    _, alpha, beta, _ = _coefficients(known)
    for one, other in ((z, n), (q, m), (s, w), (p, u)):
        one.mul_(beta).add_(other)
    x.add_(alpha * p)
    for one, other in ((r, s), (u, q), (w, z)):
        one.sub_(alpha * other)
    if inverse is None:
        m.copy_(w)
    else:
        torch.mul(w, inverse, out=m)
    sums = [(one * other).sum() for one, other in ((r, u), (w, u), (r, r))]
    return torch.stack(sums).double().unsqueeze(1)


def pipelined_end(sums: Tensor, known: PipelinedScalars, left: Left) -> None:
    """The scalars of the next step. Local. One launch, of one program.

    Parameters
    ----------
    sums : torch.Tensor [3, m]
        r . u, w . u and r . r of all ranks, to be summed over m.
    known : PipelinedScalars
        As the step began.
    left : Left
        Numbers: rho, delta, rr, rho_old, alpha_old. Row: the curvature, r . u, r . r, and 1 for a
        first step, else 0.
    """
    k = known
    numbers = k.rho, k.delta, k.rho_old, k.alpha_old, k.live, k.target
    torch.ops.hpc_sla.pipelined_end(sums, *numbers, left.numbers, left.live, left.row)


def pipelined_end_reference(sums: Tensor, known: PipelinedScalars, left: Left) -> None:
    """`pipelined_end` in torch operations: the oracle."""
    k = known
    curvature, alpha, _, good = _coefficients(k)
    rho, delta, rr = sums.sum(1).to(k.rho.dtype).unbind()
    live = good & (rr > k.target * k.target) & (rho > 0) & (rho < math.inf)
    rho_old, alpha_old = torch.where(good, k.rho, k.rho_old), torch.where(good, alpha, k.alpha_old)
    row = [curvature, rho, rr, torch.isinf(k.rho_old).to(rho.dtype)]
    left.put([rho, delta, rr, rho_old, alpha_old], live, row)


def _coefficients(k: PipelinedScalars) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The curvature, alpha and beta, and whether the step is one."""
    zero = torch.zeros_like(k.rho)
    beta = torch.where(k.live, k.rho / k.rho_old, zero)
    curvature = k.delta - torch.where(k.live, beta * k.rho / k.alpha_old, zero)
    good = k.live & (curvature > 0)
    return curvature, torch.where(good, k.rho / curvature, zero), beta, good

"""The vector work of a CG iteration in two passes over memory.

CG is bound by memory traffic. With a pointwise preconditioner, torch operations read and write
about 136 bytes a row (float64) in their seven passes; these two need 80. On the CPU they are C
(`native.c`). On a GPU they are Triton (`triton_passes.py`), and do what there is to do with a
step's scalars besides: a step is its product and two launches. `device_steps.py` says where.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from hpc_sla.kernels import native
from hpc_sla.kernels.vectors import Scalar, across

Tensors = list[torch.Tensor]
Reduce = Callable[[torch.Tensor], object]
"""Sums a contiguous tensor over ranks, in place. **Collective.**"""


@dataclass(frozen=True)
class Left:
    """Where a step on a device leaves its scalars: not those that it reads, which all of its
    programs do while one of them writes.

    Attributes
    ----------
    numbers : torch.Tensor [m]
        What the next step begins with.
    live : bool tensor []
        Whether it goes on.
    row : torch.Tensor [k]
        What is recorded.
    """

    numbers: torch.Tensor
    live: torch.Tensor
    row: torch.Tensor

    def put(self, numbers: Tensors, live: torch.Tensor, row: Tensors) -> None:
        """Set all of it, by torch operations. Local."""
        torch.stack(numbers, out=self.numbers)
        torch.logical_and(live, live, out=self.live)
        torch.stack(row, out=self.row)


def serves(r: torch.Tensor) -> bool:
    """Whether there are fused passes on the CPU for vectors like `r`."""
    return native.serves(r)


def sums_for(r: torch.Tensor, count: int) -> torch.Tensor:
    """Room for so many sums over vectors like `r`, a part for each program. Local."""
    from hpc_sla.kernels.triton_launch import programs_for  # Triton is optional

    return torch.empty((count, programs_for(r.numel())), dtype=torch.float64, device=r.device)


def totals(r: torch.Tensor, sums: torch.Tensor, reduce: Reduce | None) -> torch.Tensor:
    """The sums over ranks of such parts, as parts again: [count, 1] in r's dtype. **Collective.**

    Without `reduce` there is one rank, and they are summed where they are used.
    """
    if reduce is None:
        return sums
    total = r.new_empty((len(sums), 1))
    torch.ops.hpc_sla.cg_total(sums, total)
    reduce(total)
    return total


def device_step(
    x: torch.Tensor,
    r: torch.Tensor,
    p: torch.Tensor,
    q: torch.Tensor,
    inverse: torch.Tensor | None,
    curvature: torch.Tensor,
    rho: torch.Tensor,
    live: torch.Tensor,
    target: torch.Tensor,
    left: Left,
    reduce: Reduce | None,
    precondition: Callable[[], torch.Tensor] | None = None,
) -> None:
    """What a step of CG does once q = A p, on a GPU. **Collective** where what it calls is.

    Two launches, and one more with `precondition`.

    Parameters
    ----------
    x, r, p : torch.Tensor [n]
        Updated in place; q [n] is read.
    inverse : torch.Tensor [n] or None
        Pointwise preconditioner; None for ones, or for another.
    curvature, rho, target : torch.Tensor []
        p . A p, r . M^-1 r as the step begins, and the norm of r to stop at.
    live : bool tensor []
        Whether it has not ended.
    left : Left
        Numbers: r . M^-1 r and r . r as the step ends. Row: curvature, and these two.
    reduce : callable, or None for one rank
        Sums a tensor over ranks, in place.
    precondition : callable, optional
        Gives M^-1 r, where M is not pointwise; q is spent then.
    """
    step = torch.ops.hpc_sla
    sums = sums_for(r, 2)
    step.cg_residual_step(r, q, inverse, curvature, rho, live, sums)
    z = r
    if precondition is not None:
        z = precondition()
        step.dot_parts(r, z, sums.select(0, 0))
    sums = totals(r, sums, reduce)
    numbers = curvature, rho, live, target, sums, left.numbers, left.live, left.row
    step.cg_direction_step(x, p, z, inverse, *numbers)


def device_step_reference(
    x: torch.Tensor,
    r: torch.Tensor,
    p: torch.Tensor,
    q: torch.Tensor,
    inverse: torch.Tensor | None,
    curvature: torch.Tensor,
    rho: torch.Tensor,
    live: torch.Tensor,
    target: torch.Tensor,
    left: Left,
    reduce: Reduce | None,
    precondition: Callable[[], torch.Tensor] | None = None,
) -> None:
    """`device_step` in torch operations: the oracle."""
    good, zero = live & (curvature > 0), torch.zeros_like(rho)
    alpha = torch.where(good, rho / curvature, zero)
    sums = r.new_empty(2)
    residual_reference(r, q, alpha, inverse, sums)
    z = r
    if precondition is not None:
        z = precondition()
        sums.select(0, 0).copy_((r * z).sum())
    if reduce is not None:
        reduce(sums)
    new_rho, rr = sums.unbind()
    beta = torch.where(good, new_rho / rho, zero)
    direction_reference(x, p, z, inverse, alpha, beta)
    live = good & (rr > target * target) & (new_rho > 0) & (new_rho < math.inf)
    left.put([new_rho, rr], live, [curvature, new_rho, rr])


def residual_pass(
    r: torch.Tensor,
    q: torch.Tensor,
    alpha: Scalar,
    inverse: torch.Tensor | None,
    out: torch.Tensor,
) -> None:
    """`r -= alpha q; out = [r . (inverse r), r . r]` of this rank, in one pass. On the CPU.

    Parameters
    ----------
    r, q : torch.Tensor [n] or [n, k], contiguous
    alpha : float for [n]; otherwise tensor [k]
    inverse : torch.Tensor [n] or None
        Pointwise preconditioner; None for ones.
    out : torch.Tensor [2] or [2, k]
        Summed in float64 whatever the dtype.
    """
    native.call("residual", r, r.shape[0], *native.coefficients(r, alpha), q, inverse, r, out)


def direction_pass(
    x: torch.Tensor,
    p: torch.Tensor,
    r: torch.Tensor,
    inverse: torch.Tensor | None,
    alpha: Scalar,
    beta: Scalar,
) -> None:
    """`x += alpha p; p = inverse r + beta p`, in one pass. Arguments as in `residual_pass`."""
    coefficients = native.coefficients(r, alpha, beta)
    native.call("direction", r, r.shape[0], *coefficients, r, inverse, x, p)


def dot_pass(x: torch.Tensor, y: torch.Tensor, out: torch.Tensor) -> None:
    """`out` ([] or [k]) = x . y of this rank, as compiled loops sum it. On the CPU."""
    native.call("dot", x, x.shape[0], x, y, out)


def residual_reference(
    r: torch.Tensor,
    q: torch.Tensor,
    alpha: Scalar,
    inverse: torch.Tensor | None,
    out: torch.Tensor,
) -> None:
    """`residual_pass` in torch operations: the oracle."""
    r.sub_(alpha * q)
    z = _scaled(r, inverse)
    out.copy_(torch.stack([(r * z).sum(0), (r * r).sum(0)]))


def direction_reference(
    x: torch.Tensor,
    p: torch.Tensor,
    r: torch.Tensor,
    inverse: torch.Tensor | None,
    alpha: Scalar,
    beta: Scalar,
) -> None:
    """`direction_pass` in torch operations: the oracle."""
    x.add_(alpha * p)
    p.mul_(beta).add_(_scaled(r, inverse))


def _scaled(r: torch.Tensor, inverse: torch.Tensor | None) -> torch.Tensor:
    if inverse is None:
        return r
    return r * across(inverse, r)

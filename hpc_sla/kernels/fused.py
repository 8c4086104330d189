"""The vector work of a CG iteration in two passes over memory.

CG is bound by memory traffic. With a pointwise preconditioner, torch operations read and write
about 136 bytes a row (float64) in their seven passes; these two need 80. On the CPU they are C
(`native.c`). On a GPU they are Triton (`triton_passes.py`), and do what there is to do with a
step's scalars besides: a step is its product and two launches.
"""

from __future__ import annotations

import importlib.util
import math
import os
from collections.abc import Callable
from functools import cache

import torch

from hpc_sla.errors import warn
from hpc_sla.kernels import native
from hpc_sla.kernels.vectors import Scalar, across


@cache
def _load_triton(device: torch.device) -> bool:
    """Register the Triton operators, where there is Triton (CUDA builds of torch bring it).

    It compiles a kernel where it is first launched, which takes a C compiler and a driver that it
    knows: they are tried on each device once, and where that fails torch does the work.
    """
    if os.environ.get("HPC_SLA_NATIVE") == "0" or importlib.util.find_spec("triton") is None:
        return False
    try:
        import hpc_sla.kernels.triton_passes  # noqa: F401 - registers them; Triton is optional

        x, p, r, q = (torch.ones(1, device=device) for _ in range(4))
        one, live = torch.ones((), device=device), torch.ones((), dtype=torch.bool, device=device)
        state = one, live, one
        device_step(x, r, p, q, x, one, *state, torch.empty(3, device=device), lambda sums: sums)
    except Exception as error:  # of Triton, its compiler, its driver: whatever they raise
        warn(
            f"Triton does not work on {device} ({type(error).__name__}: {error}): torch's own "
            "operations take its place, more slowly. HPC_SLA_NATIVE=0 asks for them in silence",
            RuntimeWarning,
        )
        return False
    return True


def serves(r: torch.Tensor) -> bool:
    """Whether there are fused passes for vectors like `r`; on a GPU, those of `device_step`."""
    if r.device.type == "cuda":
        return r.dim() == 1 and r.dtype in native.DTYPES and _load_triton(r.device)
    return native.serves(r)


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
    row: torch.Tensor,
    reduce: Callable[[torch.Tensor], object] | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What a step of CG does once q = A p, on a GPU. **Collective** where `reduce` is.

    Parameters
    ----------
    x, r, p : torch.Tensor [n]
        Updated in place; q [n] is read.
    inverse : torch.Tensor [n] or None
        Pointwise preconditioner; None for ones.
    curvature, rho, target : torch.Tensor []
        p . A p, r . M^-1 r as the step begins, and the norm of r to stop at.
    live : bool tensor []
        Whether it has not ended.
    row : torch.Tensor [3]
        Overwritten with curvature, and r . M^-1 r and r . r as the step ends.
    reduce : callable, or None for one rank
        Sums a tensor over ranks, in place.

    Returns
    -------
    rho, rr : torch.Tensor []
        The latter two.
    live : bool tensor []
        Whether it goes on.
    """
    from hpc_sla.kernels.triton_passes import programs_for  # Triton is optional

    step = torch.ops.hpc_sla
    sums = torch.empty((2, programs_for(r.numel())), dtype=torch.float64, device=r.device)
    step.cg_residual_step(r, q, inverse, curvature, rho, live, sums)
    if reduce is not None:
        total = r.new_empty((2, 1))
        step.cg_total(sums, total)
        reduce(total)
        sums = total
    # Not those of this step, which its programs read while one of them writes.
    new, new_live = r.new_empty(2), torch.empty_like(live)
    numbers = curvature, rho, live, target, sums, new, new_live, row
    step.cg_direction_step(x, p, r, inverse, *numbers)
    return new.select(0, 0), new.select(0, 1), new_live


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
    row: torch.Tensor,
    reduce: Callable[[torch.Tensor], object] | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """`device_step` in torch operations: the oracle."""
    good, zero = live & (curvature > 0), torch.zeros_like(rho)
    alpha = torch.where(good, rho / curvature, zero)
    sums = r.new_empty(2)
    residual_reference(r, q, alpha, inverse, sums)
    if reduce is not None:
        reduce(sums)
    new_rho, rr = sums.unbind()
    beta = torch.where(good, new_rho / rho, zero)
    direction_reference(x, p, r, inverse, alpha, beta)
    torch.stack([curvature, new_rho, rr], out=row)
    live = good & (rr > target * target) & (new_rho > 0) & (new_rho < math.inf)
    return new_rho, rr, live


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

"""The vector work of a CG iteration in two passes over memory.

CG is bound by memory traffic. With a pointwise preconditioner, torch operations read and write
about 136 bytes a row (float64) in their seven passes; these two need 80. On the CPU they are C
(`native.c`), on a GPU Triton (`triton_passes.py`), each where it is to be had.
"""

from __future__ import annotations

import importlib.util
import os
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

        x, p, r, inverse = (torch.ones(1, device=device) for _ in range(4))
        alpha = torch.ones((), device=device)
        residual_pass(r, p, alpha, inverse, torch.empty(2, device=device))
        direction_pass(x, p, r, inverse, alpha, alpha)
    except Exception as error:  # of Triton, its compiler, its driver: whatever they raise
        warn(
            f"Triton does not work on {device} ({type(error).__name__}: {error}): torch's own "
            "operations take its place, more slowly. HPC_SLA_NATIVE=0 asks for them in silence",
            RuntimeWarning,
        )
        return False
    return True


def serves(r: torch.Tensor) -> bool:
    """Whether the fused passes can be used for vectors like `r`.

    Those in C run on one thread, as a rank of an MPI program mostly does; with more, torch's own
    operations are the faster ones.
    """
    if r.device.type == "cuda":
        return r.dim() == 1 and r.dtype in native.DTYPES and _load_triton(r.device)
    return native.serves(r)


def residual_pass(
    r: torch.Tensor,
    q: torch.Tensor,
    alpha: Scalar,
    inverse: torch.Tensor | None,
    out: torch.Tensor,
) -> None:
    """`r -= alpha q; out = [r . (inverse r), r . r]` of this rank, in one pass.

    Parameters
    ----------
    r, q : torch.Tensor [n] or, on the CPU, [n, k], contiguous
    alpha : float on the CPU for [n]; otherwise tensor [] or [k]
    inverse : torch.Tensor [n] or None
        Pointwise preconditioner; None for ones.
    out : torch.Tensor [2] or [2, k]
        Summed in float64 whatever the dtype.
    """
    if r.device.type != "cpu":
        torch.ops.hpc_sla.cg_residual_pass(r, q, alpha, inverse, out)
        return
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
    if r.device.type != "cpu":
        torch.ops.hpc_sla.cg_direction_pass(x, p, r, inverse, alpha, beta)
        return
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

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

from hpc_sla.kernels.native import DTYPES, LIBRARY, serves_native
from hpc_sla.kernels.vectors import Scalar


@cache
def _load_triton() -> bool:
    """Register the Triton operators, where there is Triton (CUDA builds of torch bring it)."""
    if os.environ.get("HPC_SLA_NATIVE") == "0" or importlib.util.find_spec("triton") is None:
        return False
    import hpc_sla.kernels.triton_passes  # noqa: F401

    return True


def serves(r: torch.Tensor) -> bool:
    """Whether the fused passes can be used for vectors like `r`.

    Those in C run on one thread, as a rank of an MPI program mostly does; with more, torch's own
    operations are the faster ones.
    """
    if r.dim() != 1 or r.dtype not in DTYPES:
        return False
    if r.device.type == "cuda":
        return _load_triton()
    return serves_native(r)


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
    r, q : torch.Tensor [n], contiguous
    alpha : float on the CPU, tensor [] on a GPU
    inverse : torch.Tensor [n] or None
        Pointwise preconditioner; None for ones.
    out : torch.Tensor [2]
        Summed in float64 whatever the dtype.
    """
    if isinstance(alpha, torch.Tensor):
        torch.ops.hpc_sla.cg_residual_pass(r, q, alpha, inverse, out)
        return
    assert LIBRARY is not None
    getattr(LIBRARY, f"hpc_sla_residual_{DTYPES[r.dtype]}")(
        r.numel(), alpha, q.data_ptr(), _address(inverse), r.data_ptr(), out.data_ptr()
    )


def direction_pass(
    x: torch.Tensor,
    p: torch.Tensor,
    r: torch.Tensor,
    inverse: torch.Tensor | None,
    alpha: Scalar,
    beta: Scalar,
) -> None:
    """`x += alpha p; p = inverse r + beta p`, in one pass. Arguments as in `residual_pass`."""
    if isinstance(alpha, torch.Tensor):
        torch.ops.hpc_sla.cg_direction_pass(x, p, r, inverse, alpha, beta)
        return
    assert LIBRARY is not None
    getattr(LIBRARY, f"hpc_sla_direction_{DTYPES[r.dtype]}")(
        r.numel(), alpha, beta, r.data_ptr(), _address(inverse), x.data_ptr(), p.data_ptr()
    )


def residual_reference(
    r: torch.Tensor,
    q: torch.Tensor,
    alpha: float,
    inverse: torch.Tensor | None,
    out: torch.Tensor,
) -> None:
    """`residual_pass` in torch operations: the oracle."""
    r.sub_(q, alpha=alpha)
    z = r if inverse is None else inverse * r
    out.copy_(torch.stack([torch.dot(r, z), torch.dot(r, r)]))


def direction_reference(
    x: torch.Tensor,
    p: torch.Tensor,
    r: torch.Tensor,
    inverse: torch.Tensor | None,
    alpha: float,
    beta: float,
) -> None:
    """`direction_pass` in torch operations: the oracle."""
    x.add_(p, alpha=alpha)
    p.mul_(beta).add_(r if inverse is None else inverse * r)


def _address(tensor: torch.Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()

# mypy: disable-error-code="no-untyped-def"
"""The fused CG passes on a GPU, in Triton: the same two as in `native.c`.

They are torch operators of our own, so that FakeTensorMode knows their shapes. Coefficients are
read from device memory, since the host never learns them. Sums are made in a fixed order (a
program's own blocks one after another, then one tree over programs), so a run is repeatable bit
for bit.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
import triton
import triton.language as tl

_LIBRARY = torch.library.Library("hpc_sla", "FRAGMENT")
_LIBRARY.define(
    "cg_residual_pass(Tensor(a!) r, Tensor q, Tensor alpha, Tensor? inverse, Tensor(b!) out) -> ()"
)
_LIBRARY.define(
    "cg_direction_pass(Tensor(a!) x, Tensor(b!) p, Tensor r, Tensor? inverse, Tensor alpha, "
    "Tensor beta) -> ()"
)

_BLOCK = 1024
"""Rows that a program does at a time. For 4096 there are not registers enough."""

_PROGRAMS = 1024
"""That sum at most, each over blocks so far apart: their sums are summed by one program."""


@triton.jit
def _residual_kernel(r_ptr, q_ptr, inverse_ptr, alpha_ptr, sums_ptr, n, BLOCK: tl.constexpr):
    program, programs = tl.program_id(0), tl.num_programs(0)
    alpha = tl.load(alpha_ptr)
    squares = tl.zeros((BLOCK,), tl.float64)
    products = tl.zeros((BLOCK,), tl.float64)
    for block in range(program, tl.cdiv(n, BLOCK), programs):
        # 64 bits: the last block may reach past 2**31 rows.
        at = tl.cast(block, tl.int64) * BLOCK + tl.arange(0, BLOCK)
        inside = at < n
        r = tl.load(r_ptr + at, mask=inside, other=0.0)
        r -= alpha * tl.load(q_ptr + at, mask=inside, other=0.0)
        tl.store(r_ptr + at, r, mask=inside)
        square = r.to(tl.float64) * r.to(tl.float64)
        squares += square
        if inverse_ptr is not None:
            inverse = tl.load(inverse_ptr + at, mask=inside, other=0.0)
            products += square * inverse.to(tl.float64)
    if inverse_ptr is None:
        products = squares
    tl.store(sums_ptr + program, tl.sum(products))
    tl.store(sums_ptr + programs + program, tl.sum(squares))


@triton.jit
def _total_kernel(sums_ptr, out_ptr, programs, PROGRAMS: tl.constexpr):
    which = tl.program_id(0)
    at = tl.arange(0, PROGRAMS)
    sums = tl.load(sums_ptr + which * programs + at, mask=at < programs, other=0.0)
    tl.store(out_ptr + which, tl.sum(sums))


@triton.jit
def _direction_kernel(
    x_ptr, p_ptr, r_ptr, inverse_ptr, alpha_ptr, beta_ptr, n, BLOCK: tl.constexpr
):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < n
    p = tl.load(p_ptr + at, mask=inside, other=0.0)
    x = tl.load(x_ptr + at, mask=inside, other=0.0) + tl.load(alpha_ptr) * p
    tl.store(x_ptr + at, x, mask=inside)
    z = tl.load(r_ptr + at, mask=inside, other=0.0)
    if inverse_ptr is not None:
        z *= tl.load(inverse_ptr + at, mask=inside, other=0.0)
    tl.store(p_ptr + at, z + tl.load(beta_ptr) * p, mask=inside)


def _device_of(x: torch.Tensor) -> AbstractContextManager[object]:
    """Triton launches on the current device, which need not be that of its arguments."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()


def _residual_pass(
    r: torch.Tensor,
    q: torch.Tensor,
    alpha: torch.Tensor,
    inverse: torch.Tensor | None,
    out: torch.Tensor,
) -> None:
    programs = min(max(triton.cdiv(r.numel(), _BLOCK), 1), _PROGRAMS)
    sums = torch.empty((2, programs), dtype=torch.float64, device=r.device)
    with _device_of(r):
        _residual_kernel[(programs,)](r, q, inverse, alpha, sums, r.numel(), BLOCK=_BLOCK)
        _total_kernel[(2,)](sums, out, programs, PROGRAMS=_PROGRAMS)


def _direction_pass(
    x: torch.Tensor,
    p: torch.Tensor,
    r: torch.Tensor,
    inverse: torch.Tensor | None,
    alpha: torch.Tensor,
    beta: torch.Tensor,
) -> None:
    blocks = triton.cdiv(r.numel(), _BLOCK)
    if not blocks:
        return
    with _device_of(x):
        _direction_kernel[(blocks,)](x, p, r, inverse, alpha, beta, r.numel(), BLOCK=_BLOCK)


for _key in ("CUDA", "CPU"):  # on the CPU only under TRITON_INTERPRET=1, for the tests
    _LIBRARY.impl("cg_residual_pass", _residual_pass, _key)
    _LIBRARY.impl("cg_direction_pass", _direction_pass, _key)


@torch.library.register_fake("hpc_sla::cg_residual_pass", lib=_LIBRARY)
def _fake_residual(
    r: torch.Tensor,
    q: torch.Tensor,
    alpha: torch.Tensor,
    inverse: torch.Tensor | None,
    out: torch.Tensor,
) -> None:
    _check_one_device(r, q, alpha, inverse, out)


@torch.library.register_fake("hpc_sla::cg_direction_pass", lib=_LIBRARY)
def _fake_direction(
    x: torch.Tensor,
    p: torch.Tensor,
    r: torch.Tensor,
    inverse: torch.Tensor | None,
    alpha: torch.Tensor,
    beta: torch.Tensor,
) -> None:
    _check_one_device(x, p, r, inverse, alpha, beta)


def _check_one_device(*tensors: torch.Tensor | None) -> None:
    devices = {t.device for t in tensors if t is not None}
    torch._check(len(devices) == 1, lambda: f"tensors on {devices}")

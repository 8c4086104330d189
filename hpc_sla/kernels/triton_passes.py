# mypy: disable-error-code="no-untyped-def"
"""What a CG step does after its product, on a GPU in two launches, in Triton.

Scalars stay on the device: each program works out alpha and beta for itself, from numbers that the
launch before has left, and the last launch leaves those that the next step begins with. A column
that has ended keeps what it has, its alpha and beta being 0.

They are torch operators of our own, so that FakeTensorMode knows their shapes. Sums are made in a
fixed order (a program's own blocks one after another, then one tree over programs), so a run is
repeatable bit for bit.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
import triton
import triton.language as tl

_LIBRARY = torch.library.Library("hpc_sla", "FRAGMENT")
_LIBRARY.define(
    "cg_residual_step(Tensor(a!) r, Tensor q, Tensor? inverse, Tensor curvature, Tensor rho, "
    "Tensor live, Tensor(b!) sums) -> ()"
)
_LIBRARY.define("cg_total(Tensor sums, Tensor(a!) out) -> ()")
_LIBRARY.define(
    "cg_direction_step(Tensor(a!) x, Tensor(b!) p, Tensor r, Tensor? inverse, Tensor curvature, "
    "Tensor rho, Tensor live, Tensor target, Tensor sums, Tensor(c!) new, Tensor(d!) new_live, "
    "Tensor(e!) row) -> ()"
)

_BLOCK = 1024
"""Rows that a program does at a time. For 4096 there are not registers enough."""

PROGRAMS = 1024
"""Programs at most, each with blocks so far apart: what they sum, one program can sum."""


@triton.jit
def _residual_kernel(
    r_ptr,
    q_ptr,
    inverse_ptr,
    curvature_ptr,
    rho_ptr,
    live_ptr,
    sums_ptr,
    n,
    BLOCK: tl.constexpr,
):
    program, programs = tl.program_id(0), tl.num_programs(0)
    curvature, rho = tl.load(curvature_ptr), tl.load(rho_ptr)
    good = (tl.load(live_ptr) != 0) & (curvature > 0)
    alpha = tl.where(good, rho / curvature, 0.0)
    squares = tl.zeros((BLOCK,), tl.float64)
    products = tl.zeros((BLOCK,), tl.float64)
    for block in range(program, tl.cdiv(n, BLOCK), programs):
        # 64 bits: the last block may reach past 2**31 rows.
        at = tl.cast(block, tl.int64) * BLOCK + tl.arange(0, BLOCK)
        inside = at < n
        r = tl.load(r_ptr + at, mask=inside, other=0.0)
        r -= alpha * tl.load(q_ptr + at, mask=inside, other=0.0)
        tl.store(r_ptr + at, r, mask=inside)
        r = tl.where(inside, r, 0.0)  # an infinite alpha times nothing is NaN
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
    x_ptr,
    p_ptr,
    r_ptr,
    inverse_ptr,
    curvature_ptr,
    rho_ptr,
    live_ptr,
    target_ptr,
    sums_ptr,
    new_ptr,
    new_live_ptr,
    row_ptr,
    n,
    parts,
    BLOCK: tl.constexpr,
    PROGRAMS: tl.constexpr,
):
    program, programs = tl.program_id(0), tl.num_programs(0)
    curvature, rho = tl.load(curvature_ptr), tl.load(rho_ptr)
    good = (tl.load(live_ptr) != 0) & (curvature > 0)
    alpha = tl.where(good, rho / curvature, 0.0)
    each = tl.arange(0, PROGRAMS)
    there = each < parts
    new_rho = tl.sum(tl.load(sums_ptr + each, mask=there, other=0.0)).to(rho.dtype)
    rr = tl.sum(tl.load(sums_ptr + parts + each, mask=there, other=0.0)).to(rho.dtype)
    beta = tl.where(good, new_rho / rho, 0.0)
    for block in range(program, tl.cdiv(n, BLOCK), programs):
        at = tl.cast(block, tl.int64) * BLOCK + tl.arange(0, BLOCK)
        inside = at < n
        p = tl.load(p_ptr + at, mask=inside, other=0.0)
        x = tl.load(x_ptr + at, mask=inside, other=0.0) + alpha * p
        tl.store(x_ptr + at, x, mask=inside)
        z = tl.load(r_ptr + at, mask=inside, other=0.0)
        if inverse_ptr is not None:
            z *= tl.load(inverse_ptr + at, mask=inside, other=0.0)
        tl.store(p_ptr + at, z + beta * p, mask=inside)
    if program == 0:
        target = tl.load(target_ptr)
        # False for NaN, too; an infinite rr is caught by rho.
        live = good & (rr > target * target) & (new_rho > 0) & (new_rho < float("inf"))
        tl.store(new_ptr, new_rho)
        tl.store(new_ptr + 1, rr)
        tl.store(new_live_ptr, live)
        tl.store(row_ptr, curvature)
        tl.store(row_ptr + 1, new_rho)
        tl.store(row_ptr + 2, rr)


def programs_for(n: int) -> int:
    """How many programs go over n rows: at least one, which has sums to tell. Local."""
    return min(max(triton.cdiv(n, _BLOCK), 1), PROGRAMS)


def _device_of(x: torch.Tensor) -> AbstractContextManager[object]:
    """Triton launches on the current device, which need not be that of its arguments."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()


def _residual_step(r, q, inverse, curvature, rho, live, sums) -> None:
    numbers = curvature, rho, live
    with _device_of(r):
        grid = (programs_for(r.numel()),)
        _residual_kernel[grid](r, q, inverse, *numbers, sums, r.numel(), BLOCK=_BLOCK)


def _total(sums, out) -> None:
    with _device_of(out):
        _total_kernel[(sums.shape[0],)](sums, out, sums.shape[1], PROGRAMS=PROGRAMS)


def _direction_step(
    x, p, r, inverse, curvature, rho, live, target, sums, new, new_live, row
) -> None:
    numbers = curvature, rho, live, target, sums, new, new_live, row
    sizes = x.numel(), sums.shape[1]
    with _device_of(x):
        _direction_kernel[(programs_for(x.numel()),)](
            x, p, r, inverse, *numbers, *sizes, BLOCK=_BLOCK, PROGRAMS=PROGRAMS
        )


def _check_one_device(*tensors: torch.Tensor | None) -> None:
    devices = {t.device for t in tensors if t is not None}
    torch._check(len(devices) == 1, lambda: f"tensors on {devices}")


_OPERATORS = {
    "cg_residual_step": _residual_step,
    "cg_total": _total,
    "cg_direction_step": _direction_step,
}

for _name, _function in _OPERATORS.items():
    for _key in ("CUDA", "CPU"):  # on the CPU only under TRITON_INTERPRET=1, for the tests
        _LIBRARY.impl(_name, _function, _key)
    torch.library.register_fake(f"hpc_sla::{_name}", _check_one_device, lib=_LIBRARY)

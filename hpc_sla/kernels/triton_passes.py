# mypy: disable-error-code="no-untyped-def"
"""What a CG step does after its product, on a GPU in two launches, in Triton.

Scalars stay on the device: each program works out alpha and beta for itself, from numbers that the
launch before has left, and the last launch leaves those that the next step begins with. A column
that has ended keeps what it has, its alpha and beta being 0.

With a preconditioner that is not pointwise the preconditioned residual is there only between the
two, and its inner product with the residual is a third launch (`dot_parts`).
"""

from __future__ import annotations

import triton
import triton.language as tl

from hpc_sla.kernels import triton_launch as launch


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
def _dot_kernel(x_ptr, y_ptr, out_ptr, n, BLOCK: tl.constexpr):
    program, programs = tl.program_id(0), tl.num_programs(0)
    products = tl.zeros((BLOCK,), tl.float64)
    for block in range(program, tl.cdiv(n, BLOCK), programs):
        at = tl.cast(block, tl.int64) * BLOCK + tl.arange(0, BLOCK)
        inside = at < n
        x = tl.load(x_ptr + at, mask=inside, other=0.0).to(tl.float64)
        products += x * tl.load(y_ptr + at, mask=inside, other=0.0).to(tl.float64)
    tl.store(out_ptr + program, tl.sum(products))


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


def _residual_step(r, q, inverse, curvature, rho, live, sums) -> None:
    numbers = curvature, rho, live
    with launch.on_device_of(r):
        grid = (launch.programs_for(r.numel()),)
        _residual_kernel[grid](r, q, inverse, *numbers, sums, r.numel(), BLOCK=launch.BLOCK)


def _total(sums, out) -> None:
    with launch.on_device_of(out):
        _total_kernel[(sums.shape[0],)](sums, out, sums.shape[1], PROGRAMS=launch.PROGRAMS)


def _dot_parts(x, y, out) -> None:
    with launch.on_device_of(x):
        grid = (launch.programs_for(x.numel()),)
        _dot_kernel[grid](x, y, out, x.numel(), BLOCK=launch.BLOCK)


def _direction_step(
    x, p, r, inverse, curvature, rho, live, target, sums, new, new_live, row
) -> None:
    numbers = curvature, rho, live, target, sums, new, new_live, row
    sizes = x.numel(), sums.shape[1]
    with launch.on_device_of(x):
        _direction_kernel[(launch.programs_for(x.numel()),)](
            x, p, r, inverse, *numbers, *sizes, BLOCK=launch.BLOCK, PROGRAMS=launch.PROGRAMS
        )


launch.register(
    "cg_residual_step",
    "Tensor(a!) r, Tensor q, Tensor? inverse, Tensor curvature, Tensor rho, Tensor live, "
    "Tensor(b!) sums",
    _residual_step,
)
launch.register("cg_total", "Tensor sums, Tensor(a!) out", _total)
launch.register("dot_parts", "Tensor x, Tensor y, Tensor(a!) out", _dot_parts)
launch.register(
    "cg_direction_step",
    "Tensor(a!) x, Tensor(b!) p, Tensor r, Tensor? inverse, Tensor curvature, Tensor rho, "
    "Tensor live, Tensor target, Tensor sums, Tensor(c!) new, Tensor(d!) new_live, Tensor(e!) row",
    _direction_step,
)

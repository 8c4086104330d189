# mypy: disable-error-code="no-untyped-def"
"""What a BiCGStab step does beside its two products, on a GPU in three launches, in Triton.

Half a step after the first product (s and its preconditioned form), the updates of x and r with the
sums of the next coefficients after the second, then the direction. Each needs a number that the one
before has summed over all rows, so that there are no fewer. Scalars stay on the device as in
`triton_passes.py`; what each computes is in `device_bicgstab.py`.
"""

from __future__ import annotations

import triton.language as tl

from hpc_sla.kernels import triton_launch as launch


@launch.of_numbers
def _half_kernel(
    r_ptr,
    v_ptr,
    inverse_ptr,
    s_hat_ptr,
    slope_ptr,
    rho_ptr,
    live_ptr,
    n,
    BLOCK: tl.constexpr,
):
    program, programs = tl.program_id(0), tl.num_programs(0)
    slope, rho = tl.load(slope_ptr), tl.load(rho_ptr)
    good = (tl.load(live_ptr) != 0) & (slope != 0)
    alpha = tl.where(good, rho / slope, 0.0)
    for block in range(program, tl.cdiv(n, BLOCK), programs):
        at = tl.cast(block, tl.int64) * BLOCK + tl.arange(0, BLOCK)
        inside = at < n
        r = tl.load(r_ptr + at, mask=inside, other=0.0)
        r -= alpha * tl.load(v_ptr + at, mask=inside, other=0.0)
        tl.store(r_ptr + at, r, mask=inside)
        if inverse_ptr is not None:
            r *= tl.load(inverse_ptr + at, mask=inside, other=0.0)
            tl.store(s_hat_ptr + at, r, mask=inside)


@launch.of_numbers
def _full_kernel(
    x_ptr,
    r_ptr,
    p_hat_ptr,
    s_hat_ptr,
    t_ptr,
    shadow_ptr,
    slope_ptr,
    ts_ptr,
    tt_ptr,
    rho_ptr,
    live_ptr,
    sums_ptr,
    n,
    BLOCK: tl.constexpr,
):
    program, programs = tl.program_id(0), tl.num_programs(0)
    slope, rho = tl.load(slope_ptr), tl.load(rho_ptr)
    ts, tt = tl.load(ts_ptr), tl.load(tt_ptr)
    good = (tl.load(live_ptr) != 0) & (slope != 0)
    alpha = tl.where(good, rho / slope, 0.0)
    omega = tl.where(good & (tt > 0), ts / tt, 0.0)
    products = tl.zeros((BLOCK,), tl.float64)
    squares = tl.zeros((BLOCK,), tl.float64)
    for block in range(program, tl.cdiv(n, BLOCK), programs):
        at = tl.cast(block, tl.int64) * BLOCK + tl.arange(0, BLOCK)
        inside = at < n
        x = tl.load(x_ptr + at, mask=inside, other=0.0)
        x += alpha * tl.load(p_hat_ptr + at, mask=inside, other=0.0)
        x += omega * tl.load(s_hat_ptr + at, mask=inside, other=0.0)
        tl.store(x_ptr + at, x, mask=inside)
        r = tl.load(r_ptr + at, mask=inside, other=0.0)
        r -= omega * tl.load(t_ptr + at, mask=inside, other=0.0)
        tl.store(r_ptr + at, r, mask=inside)
        r = tl.where(inside, r, 0.0).to(tl.float64)  # an infinite omega times nothing is NaN
        shadow = tl.load(shadow_ptr + at, mask=inside, other=0.0)
        products += r * shadow.to(tl.float64)
        squares += r * r
    tl.store(sums_ptr + program, tl.sum(products))
    tl.store(sums_ptr + programs + program, tl.sum(squares))


@launch.of_numbers
def _turn_kernel(
    p_ptr,
    r_ptr,
    v_ptr,
    inverse_ptr,
    slope_ptr,
    ts_ptr,
    tt_ptr,
    rho_ptr,
    shadow_square_ptr,
    live_ptr,
    target_ptr,
    sums_ptr,
    new_ptr,
    new_live_ptr,
    row_ptr,
    tiny,
    n,
    parts,
    BLOCK: tl.constexpr,
    PROGRAMS: tl.constexpr,
):
    program, programs = tl.program_id(0), tl.num_programs(0)
    slope, rho = tl.load(slope_ptr), tl.load(rho_ptr)
    ts, tt = tl.load(ts_ptr), tl.load(tt_ptr)
    good = (tl.load(live_ptr) != 0) & (slope != 0)
    alpha = tl.where(good, rho / slope, 0.0)
    omega = tl.where(good & (tt > 0), ts / tt, 0.0)
    each = tl.arange(0, PROGRAMS)
    there = each < parts
    new_rho = tl.sum(tl.load(sums_ptr + each, mask=there, other=0.0)).to(rho.dtype)
    rr = tl.sum(tl.load(sums_ptr + parts + each, mask=there, other=0.0)).to(rho.dtype)
    good = good & (omega != 0)
    beta = tl.where(good, new_rho / rho, 0.0) * tl.where(good, alpha / omega, 0.0)
    for block in range(program, tl.cdiv(n, BLOCK), programs):
        at = tl.cast(block, tl.int64) * BLOCK + tl.arange(0, BLOCK)
        inside = at < n
        r = tl.load(r_ptr + at, mask=inside, other=0.0)
        v = tl.load(v_ptr + at, mask=inside, other=0.0)
        if inverse_ptr is not None:
            inverse = tl.load(inverse_ptr + at, mask=inside, other=0.0)
            r *= inverse
            v *= inverse
        p = tl.load(p_ptr + at, mask=inside, other=0.0)
        tl.store(p_ptr + at, r + beta * (p - omega * v), mask=inside)
    if program == 0:
        target = tl.load(target_ptr)
        cosine = tl.where(good, new_rho / tl.load(shadow_square_ptr), 0.0)
        cosine = tl.where(rr > 0, cosine * (new_rho / rr), 1.0)
        # False for NaN, too.
        live = good & (rr > target * target) & (rr < float("inf"))
        live = live & (new_rho != 0) & (cosine > tiny)
        tl.store(new_ptr, tl.where(good, new_rho, rho))
        tl.store(new_live_ptr, live)
        tl.store(row_ptr, slope)
        tl.store(row_ptr + 1, omega)
        tl.store(row_ptr + 2, cosine)
        tl.store(row_ptr + 3, rr)


def _half_step(r, v, inverse, s_hat, slope, rho, live) -> None:
    with launch.on_device_of(r):
        _half_kernel[(launch.programs_for(r.numel()),)](
            r, v, inverse, s_hat, slope, rho, live, r.numel(), BLOCK=launch.BLOCK
        )


def _full_step(x, r, p_hat, s_hat, t, shadow, slope, ts, tt, rho, live, sums) -> None:
    vectors, numbers = (x, r, p_hat, s_hat, t, shadow), (slope, ts, tt, rho, live, sums)
    with launch.on_device_of(r):
        grid = (launch.programs_for(r.numel()),)
        _full_kernel[grid](*vectors, *numbers, r.numel(), BLOCK=launch.BLOCK)


def _turn_step(
    p,
    r,
    v,
    inverse,
    slope,
    ts,
    tt,
    rho,
    shadow_square,
    live,
    target,
    sums,
    new,
    new_live,
    row,
    tiny,
) -> None:
    numbers = slope, ts, tt, rho, shadow_square, live, target, sums, new, new_live, row, tiny
    sizes = r.numel(), sums.shape[1]
    with launch.on_device_of(r):
        _turn_kernel[(launch.programs_for(r.numel()),)](
            p, r, v, inverse, *numbers, *sizes, BLOCK=launch.BLOCK, PROGRAMS=launch.PROGRAMS
        )


launch.register(
    "bicgstab_half_step",
    "Tensor(a!) r, Tensor v, Tensor? inverse, Tensor(b!) s_hat, Tensor slope, Tensor rho, "
    "Tensor live",
    _half_step,
)
launch.register(
    "bicgstab_full_step",
    "Tensor(a!) x, Tensor(b!) r, Tensor p_hat, Tensor s_hat, Tensor t, Tensor shadow, "
    "Tensor slope, Tensor ts, Tensor tt, Tensor rho, Tensor live, Tensor(c!) sums",
    _full_step,
)
launch.register(
    "bicgstab_turn_step",
    "Tensor(a!) p, Tensor r, Tensor v, Tensor? inverse, Tensor slope, Tensor ts, Tensor tt, "
    "Tensor rho, Tensor shadow_square, Tensor live, Tensor target, Tensor sums, Tensor(b!) new, "
    "Tensor(c!) new_live, Tensor(d!) row, float tiny",
    _turn_step,
)

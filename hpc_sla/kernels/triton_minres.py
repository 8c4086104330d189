# mypy: disable-error-code="no-untyped-def"
"""What a MINRES step does after its product, on a GPU in two launches, in Triton.

The Lanczos vector with the three sums that the rotation needs, then the direction, x and r. Each
program works the rotation out for itself, as in `triton_passes.py`; what is computed is in
`device_minres.py`.
"""

from __future__ import annotations

import triton.language as tl

from hpc_sla.kernels import triton_launch as launch

WARPS = 8
"""Five vectors and three sums at a time: with fewer threads they have not registers enough."""


@launch.of_numbers
def _lanczos_kernel(
    q_ptr,
    v_old_ptr,
    v_ptr,
    r_ptr,
    inverse_ptr,
    zaz_ptr,
    gamma_ptr,
    gamma_old_ptr,
    live_ptr,
    sums_ptr,
    n,
    BLOCK: tl.constexpr,
):
    program, programs = tl.program_id(0), tl.num_programs(0)
    gamma, live = tl.load(gamma_ptr), tl.load(live_ptr) != 0
    scale = tl.where(live, 1.0 / gamma, 0.0)
    delta = tl.load(zaz_ptr) * scale * scale
    back = tl.where(live, gamma / tl.load(gamma_old_ptr), 0.0) * gamma
    products = tl.zeros((BLOCK,), tl.float64)
    across = tl.zeros((BLOCK,), tl.float64)
    squares = tl.zeros((BLOCK,), tl.float64)
    for block in range(program, tl.cdiv(n, BLOCK), programs):
        at = tl.cast(block, tl.int64) * BLOCK + tl.arange(0, BLOCK)
        inside = at < n
        u = tl.load(q_ptr + at, mask=inside, other=0.0)
        u -= back * tl.load(v_old_ptr + at, mask=inside, other=0.0)
        u -= delta * tl.load(v_ptr + at, mask=inside, other=0.0)
        u *= scale
        tl.store(v_old_ptr + at, u, mask=inside)
        z = u
        if inverse_ptr is not None:
            z = u * tl.load(inverse_ptr + at, mask=inside, other=0.0)
        tl.store(q_ptr + at, z, mask=inside)
        # An infinite coefficient times nothing is NaN.
        u = tl.where(inside, u, 0.0).to(tl.float64)
        products += u * tl.where(inside, z, 0.0).to(tl.float64)
        across += u * tl.load(r_ptr + at, mask=inside, other=0.0).to(tl.float64)
        squares += u * u
    tl.store(sums_ptr + program, tl.sum(products))
    tl.store(sums_ptr + programs + program, tl.sum(across))
    tl.store(sums_ptr + 2 * programs + program, tl.sum(squares))


@launch.of_numbers
def _direction_kernel(
    x_ptr,
    r_ptr,
    w_old_ptr,
    w_ptr,
    z_ptr,
    v_ptr,
    zaz_ptr,
    gamma_ptr,
    gamma_old_ptr,
    eta_ptr,
    c_ptr,
    c_old_ptr,
    s_ptr,
    s_old_ptr,
    rr_ptr,
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
    gamma, eta, live = tl.load(gamma_ptr), tl.load(eta_ptr), tl.load(live_ptr) != 0
    scale = tl.where(live, 1.0 / gamma, 0.0)
    delta = tl.load(zaz_ptr) * scale * scale
    each = tl.arange(0, PROGRAMS)
    there = each < parts
    square = tl.sum(tl.load(sums_ptr + each, mask=there, other=0.0)).to(gamma.dtype)
    vr = tl.sum(tl.load(sums_ptr + parts + each, mask=there, other=0.0)).to(gamma.dtype)
    vv = tl.sum(tl.load(sums_ptr + 2 * parts + each, mask=there, other=0.0)).to(gamma.dtype)
    new_gamma = tl.sqrt(tl.where(square > 0, square, 0.0))
    c_old, s_old = tl.load(c_old_ptr), tl.load(s_old_ptr)
    c_now, s_now = tl.load(c_ptr), tl.load(s_ptr)
    a0 = c_now * delta - c_old * s_now * gamma
    a1 = tl.sqrt(a0 * a0 + new_gamma * new_gamma)
    older = s_old * gamma * gamma
    old = (s_now * delta + c_old * c_now * gamma) * gamma
    good = live & (a1 > 0)
    over = tl.where(good, 1.0 / a1, 0.0)
    c, s = a0 * over, new_gamma * over
    shrink = tl.where(good, s * s, 1.0)
    turn = tl.where(good & (new_gamma > 0), -c * s * eta / new_gamma, 0.0)
    step = c * eta
    scale *= over
    for block in range(program, tl.cdiv(n, BLOCK), programs):
        at = tl.cast(block, tl.int64) * BLOCK + tl.arange(0, BLOCK)
        inside = at < n
        w = tl.load(z_ptr + at, mask=inside, other=0.0)
        w -= older * tl.load(w_old_ptr + at, mask=inside, other=0.0)
        w -= old * tl.load(w_ptr + at, mask=inside, other=0.0)
        w *= scale
        tl.store(w_old_ptr + at, w, mask=inside)
        x = tl.load(x_ptr + at, mask=inside, other=0.0) + step * w
        tl.store(x_ptr + at, x, mask=inside)
        r = shrink * tl.load(r_ptr + at, mask=inside, other=0.0)
        r += turn * tl.load(v_ptr + at, mask=inside, other=0.0)
        tl.store(r_ptr + at, r, mask=inside)
    if program == 0:
        rr = shrink * shrink * tl.load(rr_ptr) + 2 * shrink * turn * vr + turn * turn * vv
        target = tl.load(target_ptr)
        # False for NaN, too.
        going = good & (rr > target * target) & (square > 0) & (square < float("inf"))
        tl.store(new_ptr, new_gamma)
        tl.store(new_ptr + 1, gamma)
        tl.store(new_ptr + 2, -s * eta)
        tl.store(new_ptr + 3, c)
        tl.store(new_ptr + 4, c_now)
        tl.store(new_ptr + 5, s)
        tl.store(new_ptr + 6, s_now)
        tl.store(new_ptr + 7, rr)
        tl.store(new_live_ptr, going)
        tl.store(row_ptr, square)
        tl.store(row_ptr + 1, a1)
        tl.store(row_ptr + 2, rr)


def _lanczos_step(q, v_old, v, r, inverse, zaz, gamma, gamma_old, live, sums) -> None:
    numbers = zaz, gamma, gamma_old, live, sums
    with launch.on_device_of(r):
        grid = (launch.programs_for(r.numel()),)
        _lanczos_kernel[grid](
            q, v_old, v, r, inverse, *numbers, r.numel(), BLOCK=launch.BLOCK, num_warps=WARPS
        )


def _direction_step(x, r, w_old, w, z, v, *numbers) -> None:
    sums = numbers[-4]
    sizes = r.numel(), sums.shape[1]
    with launch.on_device_of(r):
        _direction_kernel[(launch.programs_for(r.numel()),)](
            *(x, r, w_old, w, z, v, *numbers, *sizes),
            BLOCK=launch.BLOCK,
            PROGRAMS=launch.PROGRAMS,
            num_warps=WARPS,
        )


launch.register(
    "minres_lanczos_step",
    "Tensor(a!) q, Tensor(b!) v_old, Tensor v, Tensor r, Tensor? inverse, Tensor zaz, "
    "Tensor gamma, Tensor gamma_old, Tensor live, Tensor(c!) sums",
    _lanczos_step,
)
launch.register(
    "minres_direction_step",
    "Tensor(a!) x, Tensor(b!) r, Tensor(c!) w_old, Tensor w, Tensor z, Tensor v, Tensor zaz, "
    "Tensor gamma, Tensor gamma_old, Tensor eta, Tensor c, Tensor c_old, Tensor s, "
    "Tensor s_old, Tensor rr, Tensor live, Tensor target, Tensor sums, Tensor(d!) new, "
    "Tensor(e!) new_live, Tensor(f!) row",
    _direction_step,
)

# mypy: disable-error-code="no-untyped-def"
"""What a step of pipelined CG does beside its product, on a GPU in two launches, in Triton.

All vector updates before the product, with the sums of the reduction that travels meanwhile; after
it one program that makes scalars of these. Scalars stay on the device as in `triton_passes.py`;
what is computed is in `device_pipelined_cg.py`.
"""

from __future__ import annotations

import triton
import triton.language as tl

from hpc_sla.kernels import triton_launch as launch

WARPS = 8
"""Ten vectors at a time: with fewer threads they have not registers enough."""


@triton.jit
def _coefficients(rho_ptr, delta_ptr, rho_old_ptr, alpha_old_ptr, live_ptr):
    rho, live = tl.load(rho_ptr), tl.load(live_ptr) != 0
    beta = tl.where(live, rho / tl.load(rho_old_ptr), 0.0)
    curvature = tl.load(delta_ptr)
    curvature -= tl.where(live, beta * rho / tl.load(alpha_old_ptr), 0.0)
    good = live & (curvature > 0)
    return curvature, tl.where(good, rho / curvature, 0.0), beta, good


@launch.of_numbers
def _pass_kernel(
    x_ptr,
    r_ptr,
    u_ptr,
    w_ptr,
    m_ptr,
    n_ptr,
    z_ptr,
    q_ptr,
    s_vector_ptr,
    p_ptr,
    inverse_ptr,
    rho_ptr,
    delta_ptr,
    rho_old_ptr,
    alpha_old_ptr,
    live_ptr,
    sums_ptr,
    rows,
    BLOCK: tl.constexpr,
):
    program, programs = tl.program_id(0), tl.num_programs(0)
    _, alpha, beta, _ = _coefficients(rho_ptr, delta_ptr, rho_old_ptr, alpha_old_ptr, live_ptr)
    products = tl.zeros((BLOCK,), tl.float64)
    across = tl.zeros((BLOCK,), tl.float64)
    squares = tl.zeros((BLOCK,), tl.float64)
    for block in range(program, tl.cdiv(rows, BLOCK), programs):
        at = tl.cast(block, tl.int64) * BLOCK + tl.arange(0, BLOCK)
        inside = at < rows
        old_u = tl.load(u_ptr + at, mask=inside, other=0.0)
        p = old_u + beta * tl.load(p_ptr + at, mask=inside, other=0.0)
        tl.store(p_ptr + at, p, mask=inside)
        x = tl.load(x_ptr + at, mask=inside, other=0.0) + alpha * p
        tl.store(x_ptr + at, x, mask=inside)
        old_w = tl.load(w_ptr + at, mask=inside, other=0.0)
        s = old_w + beta * tl.load(s_vector_ptr + at, mask=inside, other=0.0)
        tl.store(s_vector_ptr + at, s, mask=inside)
        r = tl.load(r_ptr + at, mask=inside, other=0.0) - alpha * s
        tl.store(r_ptr + at, r, mask=inside)
        q = tl.load(m_ptr + at, mask=inside, other=0.0)
        q += beta * tl.load(q_ptr + at, mask=inside, other=0.0)
        tl.store(q_ptr + at, q, mask=inside)
        u = old_u - alpha * q
        tl.store(u_ptr + at, u, mask=inside)
        z = tl.load(n_ptr + at, mask=inside, other=0.0)
        z += beta * tl.load(z_ptr + at, mask=inside, other=0.0)
        tl.store(z_ptr + at, z, mask=inside)
        w = old_w - alpha * z
        tl.store(w_ptr + at, w, mask=inside)
        m = w
        if inverse_ptr is not None:
            m = w * tl.load(inverse_ptr + at, mask=inside, other=0.0)
        tl.store(m_ptr + at, m, mask=inside)
        # An infinite coefficient times nothing is NaN.
        r = tl.where(inside, r, 0.0)
        u = tl.where(inside, u, 0.0)
        w = tl.where(inside, w, 0.0)
        products += r.to(tl.float64) * u.to(tl.float64)
        across += w.to(tl.float64) * u.to(tl.float64)
        squares += r.to(tl.float64) * r.to(tl.float64)
    tl.store(sums_ptr + program, tl.sum(products))
    tl.store(sums_ptr + programs + program, tl.sum(across))
    tl.store(sums_ptr + 2 * programs + program, tl.sum(squares))


@launch.of_numbers
def _end_kernel(
    sums_ptr,
    rho_ptr,
    delta_ptr,
    rho_old_ptr,
    alpha_old_ptr,
    live_ptr,
    target_ptr,
    new_ptr,
    new_live_ptr,
    row_ptr,
    parts,
    PROGRAMS: tl.constexpr,
):
    curvature, alpha, _, good = _coefficients(
        rho_ptr, delta_ptr, rho_old_ptr, alpha_old_ptr, live_ptr
    )
    before, rho_old, target = tl.load(rho_ptr), tl.load(rho_old_ptr), tl.load(target_ptr)
    each = tl.arange(0, PROGRAMS)
    there = each < parts
    rho = tl.sum(tl.load(sums_ptr + each, mask=there, other=0.0)).to(before.dtype)
    delta = tl.sum(tl.load(sums_ptr + parts + each, mask=there, other=0.0)).to(before.dtype)
    rr = tl.sum(tl.load(sums_ptr + 2 * parts + each, mask=there, other=0.0)).to(before.dtype)
    # False for NaN, too; an infinite rr is caught by rho.
    live = good & (rr > target * target) & (rho > 0) & (rho < float("inf"))
    tl.store(new_ptr, rho)
    tl.store(new_ptr + 1, delta)
    tl.store(new_ptr + 2, rr)
    tl.store(new_ptr + 3, tl.where(good, before, rho_old))
    tl.store(new_ptr + 4, tl.where(good, alpha, tl.load(alpha_old_ptr)))
    tl.store(new_live_ptr, live)
    tl.store(row_ptr, curvature)
    tl.store(row_ptr + 1, rho)
    tl.store(row_ptr + 2, rr)
    tl.store(row_ptr + 3, tl.where(rho_old == float("inf"), 1.0, 0.0))


def _pass(*arguments) -> None:
    r = arguments[1]
    with launch.on_device_of(r):
        _pass_kernel[(launch.programs_for(r.numel()),)](
            *arguments, r.numel(), BLOCK=launch.BLOCK, num_warps=WARPS
        )


def _end(sums, *numbers) -> None:
    with launch.on_device_of(sums):
        _end_kernel[(1,)](sums, *numbers, sums.shape[1], PROGRAMS=launch.PROGRAMS)


launch.register(
    "pipelined_pass",
    "Tensor(a!) x, Tensor(b!) r, Tensor(c!) u, Tensor(d!) w, Tensor(e!) m, Tensor n, "
    "Tensor(f!) z, Tensor(g!) q, Tensor(h!) s, Tensor(i!) p, Tensor? inverse, Tensor rho, "
    "Tensor delta, Tensor rho_old, Tensor alpha_old, Tensor live, Tensor(j!) sums",
    _pass,
)
launch.register(
    "pipelined_end",
    "Tensor sums, Tensor rho, Tensor delta, Tensor rho_old, Tensor alpha_old, Tensor live, "
    "Tensor target, Tensor(a!) new, Tensor(b!) new_live, Tensor(c!) row",
    _end,
)

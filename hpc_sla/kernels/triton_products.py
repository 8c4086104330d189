# mypy: disable-error-code="no-untyped-def"
"""Sparse products on a GPU in one launch each, and what goes with them, in Triton.

Two kernels, one a form of matrix: rows as they lie in CSR, several lanes a row; and slices of
`HEIGHT` rows side by side, one row a lane (`slices.py`). What becomes of a row's sum is common to
both (`_finish`): a product, `b + scale A x`, a step of a smoother, on all rows or on some.

Inner products are summed in a fixed order: a program's own blocks one after another, its lanes by
one tree, and programs by the last of them to end, which one that is making no difference. So a run
is repeatable bit for bit, and the sum is there without another launch.

The operators have fakes, so that FakeTensorMode knows them.
"""

from __future__ import annotations

import struct

import torch
import triton
import triton.language as tl

from hpc_sla.kernels import triton_launch as launch
from hpc_sla.kernels.slices import HEIGHT, PAD, WINDOW

_END = (
    "Tensor x, Tensor(a!) out, Tensor? rows, Tensor? b, Tensor? inverse, Tensor? before, "
    "Tensor(b!)? after, Tensor? weights, Tensor(c!)? dot, Tensor(d!)? square, "
    "Tensor(e!)? scratch, float scale, float beta"
)
_CSR = f"Tensor indptr, Tensor indices, Tensor values, int lanes, {_END}"
_SLICED = (
    "Tensor starts, Tensor? places, Tensor? near, Tensor? bases, Tensor? far, Tensor? order, "
    f"Tensor codes, Tensor? dictionary, {_END}"
)

PROGRAMS = 4096
"""Programs at most where they sum, each with blocks so far apart: the last of them sums theirs."""

TILE = 512
"""Entries that a program looks at together in CSR: rows times lanes."""

BLOCK = 128
"""Rows that a program does together in slices, a lane each."""

WARPS = 4


@triton.jit
def _number(bits):
    """The float64 of these bits: Triton would pass a Python number in single precision."""
    return tl.cast(bits, tl.int64).to(tl.float64, bitcast=True)


@triton.jit
def _finish(
    found,
    row,
    inside,
    x_ptr,
    out_ptr,
    rows_ptr,
    b_ptr,
    inverse_ptr,
    before_ptr,
    after_ptr,
    weights_ptr,
    scale,
    beta,
    products,
    squares,
):
    """Write what becomes of (A x) at some rows; the inner products, raised."""
    at = row
    if rows_ptr is not None:
        at = tl.load(rows_ptr + row, mask=inside, other=0)
    if inverse_ptr is not None:
        # A smoother's step: q = beta before + alpha inverse (b - A x), or of its -A x alone.
        inverse = tl.load(inverse_ptr + at, mask=inside, other=0.0)
        if rows_ptr is not None:
            change = scale * (inverse * found)
            value = tl.load(out_ptr + at, mask=inside, other=0.0) + change
            if after_ptr is not None:
                kept = tl.load(after_ptr + at, mask=inside, other=0.0)
                tl.store(after_ptr + at, kept + change, mask=inside)
        else:
            change = scale * (inverse * (tl.load(b_ptr + at, mask=inside, other=0.0) - found))
            if before_ptr is not None:
                change += beta * tl.load(before_ptr + at, mask=inside, other=0.0)
            value = tl.load(x_ptr + at, mask=inside, other=0.0) + change
            if after_ptr is not None:
                tl.store(after_ptr + at, change, mask=inside)
    else:
        found *= scale
        value = found
        old = tl.zeros_like(found)
        if rows_ptr is not None:
            old = tl.load(out_ptr + at, mask=inside, other=0.0)
            value = old + found
        elif b_ptr is not None:
            value = tl.load(b_ptr + at, mask=inside, other=0.0) + found
        if weights_ptr is not None:
            weight = tl.load(weights_ptr + at, mask=inside, other=0.0).to(tl.float64)
            products += tl.where(inside, weight * found.to(tl.float64), 0.0)
        square = value.to(tl.float64) * value.to(tl.float64)
        if rows_ptr is not None:
            square -= old.to(tl.float64) * old.to(tl.float64)
        squares += tl.where(inside, square, 0.0)
    tl.store(out_ptr + at, value, mask=inside)
    return products, squares


@triton.jit
def _sum(
    products, squares, dot_ptr, square_ptr, sums_ptr, ADD: tl.constexpr, PROGRAMS: tl.constexpr
):
    """The sums of all programs, by the last of them."""
    program, programs = tl.program_id(0), tl.num_programs(0)
    if dot_ptr is not None:
        tl.store(sums_ptr + program, tl.sum(products))
    if square_ptr is not None:
        tl.store(sums_ptr + PROGRAMS + program, tl.sum(squares))
    tl.debug_barrier()  # the count is to say that all of this program's are there
    count_ptr = (sums_ptr + 2 * PROGRAMS).to(tl.pointer_type(tl.int32))
    if tl.atomic_add(count_ptr, 1, sem="acq_rel") == programs - 1:
        if dot_ptr is not None:
            _total(dot_ptr, sums_ptr, programs, ADD)
        if square_ptr is not None:
            _total(square_ptr, sums_ptr + PROGRAMS, programs, ADD)
        tl.store(count_ptr, 0)  # as the next launch is to find it


@triton.jit
def _total(to_ptr, sums_ptr, programs, ADD: tl.constexpr):
    each = tl.arange(0, 1024)
    sums = tl.zeros((1024,), tl.float64)
    for first in range(0, programs, 1024):
        there = first + each < programs
        # Past the first cache, which other processors' sums do not reach.
        sums += tl.load(sums_ptr + first + each, mask=there, other=0.0, cache_modifier=".cg")
    total = tl.sum(sums)
    if ADD:
        total += tl.load(to_ptr).to(tl.float64)
    tl.store(to_ptr, total.to(to_ptr.dtype.element_ty))


@triton.jit(do_not_specialize=["scale_bits", "beta_bits"])
def _csr_kernel(
    indptr_ptr,
    indices_ptr,
    values_ptr,
    x_ptr,
    out_ptr,
    rows_ptr,
    b_ptr,
    inverse_ptr,
    before_ptr,
    after_ptr,
    weights_ptr,
    dot_ptr,
    square_ptr,
    sums_ptr,
    scale_bits,
    beta_bits,
    n,
    ROWS: tl.constexpr,
    LANES: tl.constexpr,
    PROGRAMS: tl.constexpr,
):
    dtype: tl.constexpr = out_ptr.dtype.element_ty
    scale, beta = _number(scale_bits).to(dtype), _number(beta_bits).to(dtype)
    products, squares = tl.zeros((ROWS,), tl.float64), tl.zeros((ROWS,), tl.float64)
    lane = tl.arange(0, LANES)[None, :]
    for block in range(tl.program_id(0), tl.cdiv(n, ROWS), tl.num_programs(0)):
        # 64 bits: the last block may reach past 2**31 rows, and the last lanes past 2**31 entries.
        row = tl.cast(block, tl.int64) * ROWS + tl.arange(0, ROWS)
        inside = row < n
        start = tl.load(indptr_ptr + row, mask=inside, other=0).to(tl.int64)
        length = (tl.load(indptr_ptr + row + 1, mask=inside, other=0) - start).to(tl.int32)
        sums = tl.zeros((ROWS, LANES), dtype)
        for k in range(0, tl.max(length), LANES):
            there = k + lane < length[:, None]
            at = start[:, None] + k + lane
            column = tl.load(indices_ptr + at, mask=there, other=0)
            value = tl.load(values_ptr + at, mask=there, other=0.0)
            sums += value * tl.load(x_ptr + column, mask=there, other=0.0)
        products, squares = _finish(
            tl.sum(sums, 1),
            row,
            inside,
            x_ptr,
            out_ptr,
            rows_ptr,
            b_ptr,
            inverse_ptr,
            before_ptr,
            after_ptr,
            weights_ptr,
            scale,
            beta,
            products,
            squares,
        )
    if sums_ptr is not None:
        _sum(products, squares, dot_ptr, square_ptr, sums_ptr, rows_ptr is not None, PROGRAMS)


@triton.jit
def _column(near_ptr, bases_ptr, far_ptr, place, here, skip, there, PAD: tl.constexpr):
    """The column of an entry of each row, and whether there is one."""
    if far_ptr is None:
        offset = tl.load(near_ptr + skip, mask=there, other=PAD)
        column = tl.load(bases_ptr + here, mask=there, other=0) + offset.to(tl.int32)
        there = offset != PAD
    elif near_ptr is None:
        column = tl.load(far_ptr + skip, mask=there, other=-1)
        there = column >= 0
    else:
        close, away = there & (place >= 0), there & (place < 0)
        offset = tl.load(near_ptr + skip, mask=close, other=PAD)
        base = tl.load(bases_ptr + here, mask=close, other=0)
        distant = tl.load(far_ptr + skip, mask=away, other=-1)
        column = tl.where(close, base + offset.to(tl.int32), distant)
        there = (offset != PAD) | (distant >= 0)
    return column, there


@triton.jit(do_not_specialize=["scale_bits", "beta_bits"])
def _sliced_kernel(
    starts_ptr,
    places_ptr,
    near_ptr,
    bases_ptr,
    far_ptr,
    order_ptr,
    codes_ptr,
    dictionary_ptr,
    x_ptr,
    out_ptr,
    rows_ptr,
    b_ptr,
    inverse_ptr,
    before_ptr,
    after_ptr,
    weights_ptr,
    dot_ptr,
    square_ptr,
    sums_ptr,
    scale_bits,
    beta_bits,
    n,
    BLOCK: tl.constexpr,
    HEIGHT: tl.constexpr,
    WINDOW: tl.constexpr,
    PAD: tl.constexpr,
    PROGRAMS: tl.constexpr,
):
    dtype: tl.constexpr = out_ptr.dtype.element_ty
    scale, beta = _number(scale_bits).to(dtype), _number(beta_bits).to(dtype)
    products, squares = tl.zeros((BLOCK,), tl.float64), tl.zeros((BLOCK,), tl.float64)
    for block in range(tl.program_id(0), tl.cdiv(n, BLOCK), tl.num_programs(0)):
        row = tl.cast(block, tl.int64) * BLOCK + tl.arange(0, BLOCK)
        inside = row < n
        slice_ = row // HEIGHT
        start = tl.load(starts_ptr + slice_, mask=inside, other=0)
        width = tl.load(starts_ptr + slice_ + 1, mask=inside, other=0) - start
        place = start
        if places_ptr is not None:
            place = tl.load(places_ptr + slice_, mask=inside, other=0)
        lane = row % HEIGHT
        here = tl.where(place < 0, ~place, place)
        skip = here.to(tl.int64) * HEIGHT + lane
        codes = codes_ptr + start.to(tl.int64) * HEIGHT + lane
        sums = tl.zeros((BLOCK,), dtype)
        for k in range(0, tl.max(width), 4):
            # Four entries at once: loads of the same kind, which do not wait for one another.
            t0, t1, t2, t3 = k < width, k + 1 < width, k + 2 < width, k + 3 < width
            c0, m0 = _column(near_ptr, bases_ptr, far_ptr, place, here, skip, t0, PAD)
            c1, m1 = _column(near_ptr, bases_ptr, far_ptr, place, here + 1, skip + HEIGHT, t1, PAD)
            c2, m2 = _column(
                near_ptr, bases_ptr, far_ptr, place, here + 2, skip + 2 * HEIGHT, t2, PAD
            )
            c3, m3 = _column(
                near_ptr, bases_ptr, far_ptr, place, here + 3, skip + 3 * HEIGHT, t3, PAD
            )
            # What is there to fill a slice is no entry: 0 times 0, and not times an entry of x.
            v0 = tl.load(codes, mask=m0, other=0)
            v1 = tl.load(codes + HEIGHT, mask=m1, other=0)
            v2 = tl.load(codes + 2 * HEIGHT, mask=m2, other=0)
            v3 = tl.load(codes + 3 * HEIGHT, mask=m3, other=0)
            if dictionary_ptr is not None:
                v0 = tl.load(dictionary_ptr + v0.to(tl.int32), mask=m0, other=0.0)
                v1 = tl.load(dictionary_ptr + v1.to(tl.int32), mask=m1, other=0.0)
                v2 = tl.load(dictionary_ptr + v2.to(tl.int32), mask=m2, other=0.0)
                v3 = tl.load(dictionary_ptr + v3.to(tl.int32), mask=m3, other=0.0)
            x0 = tl.load(x_ptr + c0, mask=m0, other=0.0)
            x1 = tl.load(x_ptr + c1, mask=m1, other=0.0)
            x2 = tl.load(x_ptr + c2, mask=m2, other=0.0)
            x3 = tl.load(x_ptr + c3, mask=m3, other=0.0)
            sums += v0 * x0
            sums += v1 * x1
            sums += v2 * x2
            sums += v3 * x3
            here += 4
            skip += 4 * HEIGHT
            codes += 4 * HEIGHT
        if order_ptr is not None:
            shift = tl.load(order_ptr + row, mask=inside, other=0).to(tl.int64)
            row = row // WINDOW * WINDOW + shift
        products, squares = _finish(
            sums,
            row,
            inside,
            x_ptr,
            out_ptr,
            rows_ptr,
            b_ptr,
            inverse_ptr,
            before_ptr,
            after_ptr,
            weights_ptr,
            scale,
            beta,
            products,
            squares,
        )
    if sums_ptr is not None:
        _sum(products, squares, dot_ptr, square_ptr, sums_ptr, rows_ptr is not None, PROGRAMS)


def _bits(number: float) -> int:
    return int.from_bytes(struct.pack("<d", number), "little", signed=True)


def _programs(n: int, rows: int, sums: torch.Tensor | None) -> int:
    """At least one, which has sums to tell; and as many as there are blocks, without any."""
    blocks = max(triton.cdiv(n, rows), 1)
    return blocks if sums is None else min(blocks, PROGRAMS)


def scratch(device: torch.device) -> torch.Tensor:
    """Room for the sums of one launch at a time, and a count of programs, which is 0. Local."""
    return torch.zeros(2 * PROGRAMS + 1, dtype=torch.float64, device=device)


def _csr_rows(
    indptr, indices, values, lanes, x, out, rows, b, inverse, before, after, weights, dot, square,
    sums, scale, beta,
) -> None:  # fmt: skip
    end = (x, out, rows, b, inverse, before, after, weights, dot, square, sums)
    n, height = indptr.numel() - 1, TILE // lanes
    numbers = _bits(scale), _bits(beta), n
    with launch.on_device_of(out):
        _csr_kernel[(_programs(n, height, sums),)](
            *(indptr, indices, values, *end, *numbers),
            ROWS=height,
            LANES=lanes,
            PROGRAMS=PROGRAMS,
            num_warps=WARPS,
        )


def _sliced_rows(
    starts, places, near, bases, far, order, codes, dictionary, x, out, rows, b, inverse, before,
    after, weights, dot, square, sums, scale, beta,
) -> None:  # fmt: skip
    matrix = (starts, places, near, bases, far, order, codes, dictionary)
    end = (x, out, rows, b, inverse, before, after, weights, dot, square, sums)
    n = out.numel() if rows is None else rows.numel()
    sizes = {"BLOCK": BLOCK, "HEIGHT": HEIGHT, "WINDOW": WINDOW, "PAD": PAD}
    sizes |= {"PROGRAMS": PROGRAMS, "num_warps": WARPS}
    with launch.on_device_of(out):
        _sliced_kernel[(_programs(n, BLOCK, sums),)](
            *(*matrix, *end, _bits(scale), _bits(beta), n), **sizes
        )


def _check(*arguments: torch.Tensor | float | None) -> None:
    launch.check_one_device(*arguments)
    tensors = [a for a in arguments if isinstance(a, torch.Tensor)]
    kinds = {t.dtype for t in tensors if t.is_floating_point()} - {torch.float64}
    torch._check(len(kinds) <= 1, lambda: f"tensors of {kinds}")


launch.register("csr_rows", _CSR, _csr_rows, _check)
launch.register("sliced_rows", _SLICED, _sliced_rows, _check)

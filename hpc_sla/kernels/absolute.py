"""Products with |A|, entry by entry: |A| |x|, and |A| 1. Rank-local; not differentiable."""

from __future__ import annotations

import torch

from hpc_sla.kernels import native
from hpc_sla.kernels.csr import CsrPattern
from hpc_sla.kernels.packed import Packed

CHUNK = 1 << 15
"""Rows done at a time where nothing is compiled: they stay in the cache, and no second set of
values is held."""


def packed_matmul(A: Packed, x: torch.Tensor | None, out: torch.Tensor) -> None:
    """`out = |A| |x|`, for x `[n_columns]` or `[n_columns, k]`, contiguous.

    With None for x, which is of ones then, out is `[n_rows]`.
    """
    if not native.call("absolute", out, A.longest, A.matrix.address, x, None, out):
        raise MemoryError(f"no room for a row of {A.longest} entries")


def matmul(
    A: CsrPattern,
    values: torch.Tensor,
    x: torch.Tensor,
    out: torch.Tensor,
    rows: torch.Tensor | None = None,
    chunk: int = CHUNK,
) -> None:
    """`out = |A| |x|`, or `out[rows] += |A| |x|`, for A with values [nnz]."""
    if A.compiled(x):
        matrix = A.matrix(values)
        native.call("absolute", x, 0, matrix.address, x, rows, out)
        return
    if rows is not None:
        part = x.new_empty((A.n_rows, *x.shape[1:]))
        matmul(A, values, x, part, None, chunk)
        out.index_add_(0, rows, part)
        return
    x = x.abs()
    if A.indptr.device.type != "cpu" or A.n_rows <= chunk:
        A.matmul(values.abs(), x, out)
        return
    for first in range(0, A.n_rows, chunk):
        last = min(first + chunk, A.n_rows)
        begin, end = A.indptr[[first, last]].tolist()
        ends = A.indptr[first : last + 1] - begin
        piece = CsrPattern(ends, A.indices[begin:end], A.n_columns)
        piece.matmul(values[begin:end].abs(), x, out[first:last])


def row_sums(
    A: CsrPattern, values: torch.Tensor, out: torch.Tensor, rows: torch.Tensor | None = None
) -> None:
    """`out = |A| 1`, or `out[rows] += |A| 1`, for A with values [nnz]."""
    if not A.compiled(out):
        matmul(A, values, out.new_ones(A.n_columns), out, rows)
        return
    matrix = A.matrix(values)
    native.call("absolute", out, 0, matrix.address, None, rows, out)

"""The Galerkin product of one rank, on the host: in C (`galerkin.c`), else by SciPy.

Matrices in parts are as in `multigrid.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from hpc_sla.errors import InputError
from hpc_sla.kernels import native
from hpc_sla.kernels.matrix import PATTERNS, ROWS
from hpc_sla.kernels.multigrid import (
    Local,
    as_csr,
    call,
    compiled,
    fitted,
    local_matrix,
    plain,
    room_for,
    rooms,
)
from hpc_sla.kernels.tiles import Tiles

_RUN_ROWS = 64
"""RUN_ROWS of sparse_rows.h."""

_MOST_ENTRIES = 2**31 - 1
"""That 32-bit row pointers count."""


@dataclass(frozen=True)
class TwoParts:
    """A matrix whose last columns are apart from the first; both parts have all rows.

    Attributes
    ----------
    indptr, indices : int32 array [n + 1], int32 array
        Of the first columns.
    far_indptr, far_indices : int32 array [n + 1], int32 array
        Of the others; these, too, are numbered from the first column of all.
    values : array
        Of the first part, and behind them of the second.
    """

    indptr: np.ndarray
    indices: np.ndarray
    far_indptr: np.ndarray
    far_indices: np.ndarray
    values: np.ndarray

    def whole(self, columns: int) -> sp.csr_matrix:
        """In one. Local."""
        near, far = len(self.indices), len(self.far_indices)
        first = plain(self.values[:near], self.indices, self.indptr, columns)
        if far == 0:
            return first
        second = plain(self.values[near:], self.far_indices, self.far_indptr, columns)
        return second if near == 0 else first + second


def triple_product(
    transposed: Tiles,
    A: Local,
    there: sp.csr_matrix | None,
    P: Tiles,
    P_there: Tiles,
    owned: int,
    columns: int,
    more: sp.csr_matrix | None = None,
    known: TwoParts | None = None,
) -> TwoParts:
    """`P^T A P + more`, columns ascending in each row. Local.

    Parameters
    ----------
    transposed : Tiles
        Rows of P^T.
    A, there : Matrix or csr_matrix, csr_matrix or None
    P, P_there : Tiles
        P's rows at A's owned and halo columns; the latter in tiles of one row.
    owned, columns : int
        Columns of tiles: those of the first part, and all.
    more : csr_matrix, optional
        float64, in single entries.
    known : TwoParts, optional
        With all entries that there can be: its values are overwritten. Compiled only.

    Raises
    ------
    InputError
        The product has more entries than 32 bits count.
    """
    high, wide = P.size
    if native.LIBRARY is None:
        A = as_csr(A)
        inner = _widened(A @ P.csr(), columns)
        if there is not None:
            inner = inner + _widened(there @ P_there.csr(), columns)
        total = transposed.csr() @ inner
        return _parted(sp.csr_matrix(total if more is None else total + more), owned, A.dtype)
    matrix, dtype = compiled(A)
    nodes, fine = transposed.rows, P.rows + (0 if there is None else there.shape[1])
    row = _row_room(columns, wide * wide)
    order = np.empty(columns, np.int32)
    readable = len(matrix.tensors[3]) if matrix.form == ROWS else matrix.entries
    in_runs = matrix.form in (ROWS, PATTERNS)
    runs = np.empty(matrix.rows // _RUN_ROWS + 1, np.int32) if in_runs else None
    work = (*_row_room(fine, high * wide), *row, order, runs, *rooms(matrix, dtype))
    others = [None if part is None else local_matrix(part) for part in (there, more)]
    inputs = (matrix, others[0], *(t.matrix() for t in (transposed, P, P_there)), others[1])

    def step(begin: int, capacity: int, *out: np.ndarray) -> int:
        sizes = (begin, capacity, owned, columns, high, wide, int(known is not None), readable)
        name = f"triple_{P.values.dtype}"
        return call(name, dtype, nodes, *sizes, *inputs, *work, *out)

    if known is not None:
        parts = np.split(known.values, [len(known.indices)])
        first, second = (known.indptr, known.indices), (known.far_indptr, known.far_indices)
        step(0, 0, *first, parts[0], *second, parts[1])
        return known
    ends, far_ends = np.zeros((2, nodes * wide + 1), dtype=np.int32)
    capacity = min(matrix.entries + (0 if there is None else there.nnz) + 64, _MOST_ENTRIES)
    # The second part is next to nothing, and memory that is never written to is never there.
    kinds, done = [((), np.dtype(np.int32)), ((), dtype)] * 2, 0
    parts = [room_for(capacity, *kind) for kind in kinds]
    while (done := step(done, capacity, ends, *parts[:2], far_ends, *parts[2:])) < nodes:
        if capacity == _MOST_ENTRIES:
            raise _too_many()
        parts = [np.concatenate([a, np.empty_like(a)]) for a in parts]
        capacity = min(2 * capacity, _MOST_ENTRIES)
    indices, values, far_indices, far_values = parts
    near, far = int(ends[-1]), int(far_ends[-1])
    if near + far > _MOST_ENTRIES:
        raise _too_many()
    if near + far <= capacity:
        values[near : near + far] = far_values[:far]
        values = fitted(values, near + far)
    else:
        values = np.concatenate([values[:near], far_values[:far]])
    return TwoParts(ends, fitted(indices, near), far_ends, far_indices[:far].copy(), values)


def _too_many() -> InputError:
    return InputError(
        f"a coarse level's matrix has more than {_MOST_ENTRIES} entries on one rank, which do not "
        "fit 32-bit local indices",
        remedy="Use more ranks",
    )


def _row_room(columns: int, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Room to sum up a row of tiles in: `row_sum` of sparse_rows.h."""
    # Memory that is never written to is never there, so that there is room for any row.
    sums = np.empty(columns, np.int32), np.empty(columns * size)
    return np.zeros(columns + 1, np.uint32), *sums


def _parted(matrix: sp.csr_matrix, owned: int, dtype: np.dtype) -> TwoParts:
    if matrix.nnz > _MOST_ENTRIES:
        raise _too_many()
    matrix.sort_indices()
    rows, near = (
        np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr)),
        matrix.indices < owned,
    )
    indptrs = [
        np.concatenate([[0], np.cumsum(np.bincount(rows[side], minlength=matrix.shape[0]))])
        for side in (near, ~near)
    ]
    first, second = (ends.astype(np.int32) for ends in indptrs)
    indices = [matrix.indices[side].astype(np.int32) for side in (near, ~near)]
    values = np.concatenate([matrix.data[near], matrix.data[~near]]).astype(dtype)
    return TwoParts(first, indices[0], second, indices[1], values)


def _widened(matrix: sp.csr_matrix, columns: int) -> sp.csr_matrix:
    return plain(matrix.data, matrix.indices, matrix.indptr, columns)

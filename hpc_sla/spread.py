"""From a matrix on rank 0 to rows on every rank."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp

from hpc_sla.errors import InputError
from hpc_sla.layout import RowLayout
from hpc_sla.partition import order_by_part, partition, reorder
from hpc_sla.world import World


def spread_rows(
    matrix: Any, world: World, method: str | np.ndarray, coordinates: np.ndarray | None
) -> tuple[RowLayout, np.ndarray, np.ndarray, np.ndarray]:
    """Partition rank 0's matrix and send each rank its rows. **Collective.**

    Returns
    -------
    RowLayout
    (indptr int64 [n_owned + 1], columns int64 [nnz], data [nnz])
        Per rank: its rows, with stored column numbers.

    Raises
    ------
    InputError
        On every rank, where rank 0's matrix cannot be used.
    """
    comm = world.comm
    whole: sp.csr_matrix | None = None
    offsets = permutation = None
    with world.agree():
        if world.rank == 0:
            whole = _usable(matrix)
            part = _parts(whole, world.size, method, coordinates)
            permutation, offsets = order_by_part(part, world.size, whole)
            whole = reorder(whole, permutation)
    offsets = comm.bcast(offsets)
    dtype = comm.bcast(None if whole is None else whole.dtype)
    if world.rank == 0:
        assert whole is not None and permutation is not None
        for rank in range(1, world.size):
            for array in _slab(whole, permutation, offsets[rank], offsets[rank + 1]):
                comm.Send(array, dest=rank)
        indptr, columns, data, rows = _slab(whole, permutation, 0, offsets[1])
    else:
        n_owned = int(offsets[world.rank + 1] - offsets[world.rank])
        indptr = np.empty(n_owned + 1, dtype=np.int64)
        comm.Recv(indptr, source=0)
        columns = np.empty(int(indptr[-1]), dtype=np.int64)
        comm.Recv(columns, source=0)
        data = np.empty(int(indptr[-1]), dtype=dtype)
        comm.Recv(data, source=0)
        rows = np.empty(n_owned, dtype=np.int64)
        comm.Recv(rows, source=0)
    return RowLayout(world, offsets, rows), indptr, columns, data


def _slab(
    whole: sp.csr_matrix, permutation: np.ndarray, start: int, stop: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    first, last = int(whole.indptr[start]), int(whole.indptr[stop])
    return (
        whole.indptr[start : stop + 1].astype(np.int64) - first,
        whole.indices[first:last].astype(np.int64),
        whole.data[first:last].copy(),
        np.ascontiguousarray(permutation[start:stop], dtype=np.int64),
    )


def _usable(matrix: Any) -> sp.csr_matrix:
    if not sp.issparse(matrix):
        raise InputError(
            f"from_scipy needs a SciPy sparse matrix on rank 0 and got {type(matrix).__name__}",
            field="matrix",
        )
    if matrix.shape[0] != matrix.shape[1]:
        raise InputError(
            f"the matrix is {matrix.shape[0]} x {matrix.shape[1]}, not square", field="matrix"
        )
    if matrix.dtype.kind == "c":
        raise InputError("complex matrices are not supported", field="matrix")
    dtype = matrix.dtype if matrix.dtype in (np.float32, np.float64) else np.float64
    whole = sp.csr_matrix(matrix, dtype=dtype, copy=True)
    whole.sum_duplicates()
    if not np.isfinite(whole.data).all():
        raise InputError("the matrix has entries that are NaN or infinite", field="matrix")
    return whole


def _parts(
    whole: sp.csr_matrix, size: int, method: str | np.ndarray, coordinates: np.ndarray | None
) -> np.ndarray:
    if isinstance(method, str):
        return partition(whole, size, method, coordinates)
    part = np.asarray(method)
    if part.shape != (whole.shape[0],) or part.dtype.kind not in "iu":
        raise InputError(
            f"the partition has shape {part.shape} and type {part.dtype}; "
            f"it needs {whole.shape[0]} integers",
            field="partition",
        )
    if part.size and (part.min() < 0 or part.max() >= size):
        raise InputError(
            f"the partition names ranks {part.min()} to {part.max()} of {size}", field="partition"
        )
    return part.astype(np.int32)

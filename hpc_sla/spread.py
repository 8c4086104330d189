"""From a matrix on rank 0 to rows on every rank."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp

from hpc_sla.errors import InputError
from hpc_sla.layout import RowLayout
from hpc_sla.partition import StoredOrder, check_block_size, partition, reorder, stored_order
from hpc_sla.partition.contiguous import contiguous
from hpc_sla.storage.scipy_matrix import as_csr
from hpc_sla.world import World


def spread_rows(
    matrix: Any,
    world: World,
    method: str | np.ndarray | None,
    coordinates: np.ndarray | None,
    column_method: str | np.ndarray | None,
    block_size: int = 1,
) -> tuple[RowLayout, RowLayout, np.ndarray, np.ndarray, np.ndarray]:
    """Partition rank 0's matrix and send each rank its rows. **Collective.**

    Returns
    -------
    layout, columns : RowLayout
        Of rows and columns; one object where the matrix is square.
    (indptr int64 [n_owned + 1], indices int64 [nnz], data [nnz])
        Per rank: its rows, with stored column numbers.

    Raises
    ------
    InputError
        On every rank, where rank 0's matrix cannot be used.
    """
    comm = world.comm
    whole: sp.csr_matrix | None = None
    order: StoredOrder | None = None
    offsets = None
    with world.agree("from_scipy", block_size=block_size):
        if world.rank == 0:
            whole = _usable(matrix)
            part = _parts(whole, world.size, method, coordinates, block_size)
            column_part = _column_parts(whole, world.size, column_method)
            order = stored_order(whole, part, world.size, column_part, block_size)
            whole = reorder(whole, order.permutation, order.column_permutation)
            offsets = order.part_offsets, order.column_part_offsets
    offsets, column_offsets = comm.bcast(offsets)
    dtype = comm.bcast(None if whole is None else whole.dtype)
    if world.rank == 0:
        assert whole is not None and order is not None
        for rank in range(1, world.size):
            for array in _slab(whole, order.permutation, offsets[rank], offsets[rank + 1]):
                comm.Send(array, dest=rank)
        indptr, indices, data, rows = _slab(whole, order.permutation, 0, offsets[1])
    else:
        n_owned = int(offsets[world.rank + 1] - offsets[world.rank])
        indptr = np.empty(n_owned + 1, dtype=np.int64)
        comm.Recv(indptr, source=0)
        indices = np.empty(int(indptr[-1]), dtype=np.int64)
        comm.Recv(indices, source=0)
        data = np.empty(int(indptr[-1]), dtype=dtype)
        comm.Recv(data, source=0)
        rows = np.empty(n_owned, dtype=np.int64)
        comm.Recv(rows, source=0)
    layout = RowLayout(world, offsets, rows)
    columns = layout
    if column_offsets is not None:
        user_columns = None if order is None else order.column_permutation
        columns = RowLayout(world, column_offsets, _spread(user_columns, column_offsets, world))
    return layout, columns, indptr, indices, data


def _spread(array: np.ndarray | None, offsets: np.ndarray, world: World) -> np.ndarray:
    """Each rank's run of rank 0's int64 array. **Collective.**"""
    if world.rank == 0:
        assert array is not None
        for rank in range(1, world.size):
            world.comm.Send(
                np.ascontiguousarray(array[offsets[rank] : offsets[rank + 1]]), dest=rank
            )
        return array[: offsets[1]].copy()
    mine = np.empty(int(offsets[world.rank + 1] - offsets[world.rank]), dtype=np.int64)
    world.comm.Recv(mine, source=0)
    return mine


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
    whole = as_csr(matrix)
    if not np.isfinite(whole.data).all():
        raise InputError("the matrix has entries that are NaN or infinite", field="matrix")
    return whole


def _parts(
    whole: sp.csr_matrix,
    size: int,
    method: str | np.ndarray | None,
    coordinates: np.ndarray | None,
    block_size: int,
) -> np.ndarray:
    check_block_size(whole.shape, block_size)
    if method is None:
        method = "metis" if whole.shape[0] == whole.shape[1] else "contiguous"
    if isinstance(method, str):
        return partition(whole, size, method, coordinates, block_size)
    part = _given_parts(method, whole.shape[0], size, "partition")
    if block_size > 1 and (part != np.repeat(part[::block_size], block_size)).any():
        raise InputError(
            f"divides nodes of {block_size} rows between ranks",
            field="partition",
            remedy="Give all rows of a node the same rank, or leave block_size out.",
        )
    return part


def _column_parts(
    whole: sp.csr_matrix, size: int, method: str | np.ndarray | None
) -> np.ndarray | None:
    """Parts of a rectangular matrix's columns; None for what goes without saying."""
    if method is None:
        return None
    if whole.shape[0] == whole.shape[1]:
        raise InputError(
            "the columns of a square matrix are owned as its rows are",
            field="column_partition",
            remedy="Leave it out",
        )
    if not isinstance(method, str):
        return _given_parts(method, whole.shape[1], size, "column_partition")
    if method not in ("majority", "contiguous"):
        raise InputError(
            f"there is no column partition {method!r}",
            field="column_partition",
            remedy="Choose majority or contiguous, or pass the rank of each column",
        )
    return contiguous(whole.shape[1], size) if method == "contiguous" else None


def _given_parts(given: np.ndarray, n: int, size: int, field: str) -> np.ndarray:
    part = np.asarray(given)
    if part.shape != (n,) or part.dtype.kind not in "iu":
        raise InputError(
            f"the partition has shape {part.shape} and type {part.dtype}; it needs {n} integers",
            field=field,
        )
    if part.size and (part.min() < 0 or part.max() >= size):
        raise InputError(
            f"the partition names ranks {part.min()} to {part.max()} of {size}", field=field
        )
    return part.astype(np.int32)

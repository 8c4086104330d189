"""A matrix file written by all ranks, each its own rows."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hpc_sla.messages.peers import Peers
from hpc_sla.messages.records import send_records
from hpc_sla.storage import attributes as attrs
from hpc_sla.storage import checks
from hpc_sla.storage.block_sums import block_rows
from hpc_sla.storage.digest import block_digest, digest_of_blocks
from hpc_sla.storage.hdf5_write import Output
from hpc_sla.storage.matrix_writer import of_rows, root_attributes, vectors_of
from hpc_sla.storage.parallel_output import ParallelOutput


@dataclass(frozen=True)
class Slab:
    """This rank's run of a dataset's rows; ranks have theirs one after another.

    Attributes
    ----------
    shape : tuple of int
        Of the whole dataset.
    start : int
        The number of the first row.
    values : array
    """

    shape: tuple[int, ...]
    start: int
    values: np.ndarray


@dataclass(frozen=True)
class StoredColumns:
    """The columns of a rectangular matrix, as this rank has them.

    Attributes
    ----------
    offsets : int64 array [size + 1]
        Of the stored columns that ranks own. Replicated.
    part_offsets : int64 array [parts + 1]
        Replicated.
    permutation : int64 array [n_owned]
        The user's number of each owned column. Per rank.
    """

    offsets: np.ndarray
    part_offsets: np.ndarray
    permutation: np.ndarray


def write_matrix_slabs(
    peers: Peers,
    path: str | os.PathLike[str],
    offsets: np.ndarray,
    matrix: Any,
    part_offsets: np.ndarray,
    permutation: np.ndarray,
    rhs: Mapping[str, np.ndarray],
    coordinates: np.ndarray | None = None,
    attributes: Mapping[str, Any] | None = None,
    solutions: Mapping[str, np.ndarray] | None = None,
    near_nullspace: np.ndarray | None = None,
    columns: StoredColumns | None = None,
) -> None:
    """Write what `write_matrix` writes, of which each rank has some rows. **Collective.**

    The same digest, and bytes that read the same.

    Parameters
    ----------
    peers : Peers
    path : path
        Replicated.
    offsets : int64 array [size + 1]
        Replicated: this rank has the stored rows ``offsets[rank]:offsets[rank+1]``.
    matrix : SciPy CSR array [n_local, n_cols]
        Per rank: canonical, columns in stored order.
    part_offsets : int64 array [parts + 1]
        Replicated.
    permutation : int64 array [n_local]
        Per rank: the user's row of each.
    rhs, solutions, coordinates, near_nullspace
        Per rank: of its rows (of its columns, solutions of a rectangular matrix).
    attributes : dict
        Replicated.
    columns : StoredColumns, optional
        For a rectangular matrix.

    Raises
    ------
    InputError
        On every rank.
    """
    file = os.fspath(path)
    n_rows, n_cols = int(offsets[-1]), int(matrix.shape[1])
    first, owned = int(offsets[peers.rank]), matrix.shape[0]
    column_first, owned_columns = first, owned
    if columns is not None:
        column_first = int(columns.offsets[peers.rank])
        owned_columns = len(columns.permutation)
    counts = peers.allgather(np.array([matrix.nnz], dtype=np.int64))
    before, nnz = int(counts[: peers.rank].sum()), int(counts.sum())
    with peers.agree():
        vectors = vectors_of(file, (owned, owned_columns), matrix.dtype, rhs, solutions or {})
        vectors |= of_rows(file, owned, coordinates, near_nullspace)
        checks.check_part_offsets(part_offsets, n_rows, file)
        for name, array in {"data": matrix.data, **vectors}.items():
            checks.check_finite(array, file, f"/{name}")
    last = peers.rank == peers.size - 1
    ends = matrix.indptr[: owned + last].astype(np.int64) + before
    index_dtype = np.int32 if n_cols < 2**31 else np.int64
    slabs = {
        "indptr": Slab((n_rows + 1,), first, ends),
        "indices": Slab((nnz,), before, matrix.indices.astype(index_dtype, copy=False)),
        "data": Slab((nnz,), before, matrix.data),
        "part_offsets": _of_root(peers, part_offsets),
        "permutation": Slab((n_rows,), first, permutation.astype(np.int64, copy=False)),
    }
    if columns is not None:
        slabs["column_part_offsets"] = _of_root(peers, columns.part_offsets)
        slabs["column_permutation"] = Slab((n_cols,), column_first, columns.permutation)
    for name, array in vectors.items():
        of_columns = name.startswith("solution/")
        length, start = (n_cols, column_first) if of_columns else (n_rows, first)
        slabs[name] = Slab((length, *array.shape[1:]), start, array)
    digest = slab_digest(peers, n_rows, n_cols, slabs)
    version = 1 if columns is None else 2
    root = root_attributes((n_rows, n_cols), version, digest, attributes or {})

    def complete(output: Output) -> None:
        attrs.set_attributes(output.file, root)

    kinds = {name: (slab.shape, slab.values.dtype) for name, slab in slabs.items()}
    with ParallelOutput(path, peers.comm, kinds) as output:
        for name, slab in slabs.items():
            output.write(name, slab.start, slab.values)
            output.flush()  # what others write for this rank waits no longer than that
        output.finish(complete)


def _of_root(peers: Peers, array: np.ndarray) -> Slab:
    """What every rank has, written by the first."""
    values = np.asarray(array, dtype=np.int64)
    mine = values if peers.rank == 0 else values[:0]
    return Slab(values.shape, 0 if peers.rank == 0 else len(values), mine)


def slab_digest(peers: Peers, n_rows: int, n_cols: int, slabs: Mapping[str, Slab]) -> str:
    """The content's digest, on every rank. **Collective.**

    Each rank takes the blocks that begin in its slabs, and is sent what of the last of them lies
    on ranks behind it.
    """
    mine = {name: _blocks(peers, slab) for name, slab in slabs.items()}
    every = peers.comm.gather(mine)
    digest = ""
    if every is not None:
        found: list[tuple[Any, Sequence[bytes]]] = []
        for name, slab in slabs.items():
            about = name, slab.shape, slab.values.dtype
            found.append((about, [block for blocks in every for block in blocks[name]]))
        digest = digest_of_blocks(n_rows, n_cols, found)
    told: str = peers.comm.bcast(digest)
    return told


def _blocks(peers: Peers, slab: Slab) -> list[bytes]:
    """Digests of the blocks that begin in this rank's slab. **Collective.**"""
    n, dtype, values = slab.shape[0], slab.values.dtype, slab.values
    rows = block_rows(slab.shape, dtype) if n else 1
    start, stop = slab.start, slab.start + len(values)
    starts = peers.allgather(np.array([start], dtype=np.int64))
    head = min(-(-start // rows) * rows, stop)
    # The last rank that begins at or before the block's first row: those before it are empty.
    owner = int(np.searchsorted(starts, start // rows * rows, side="right")) - 1
    (behind,) = send_records(peers, np.full(head - start, owner), [values[: head - start]])
    found = []
    for first in range(head, stop, rows):
        parts = [values[first - start : first - start + rows]]
        if first + rows > stop:
            parts.append(behind)
        found.append(block_digest(parts, dtype))
    return found

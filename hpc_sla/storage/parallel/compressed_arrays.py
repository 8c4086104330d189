"""Matrices stored as pointers, indices and values, of which each rank reads a run."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from hpc_sla.messages.peers import Peers
from hpc_sla.storage.importers import importing
from hpc_sla.storage.parallel.local_rows import LocalRows, csr, even_runs, from_triplets

Run = tuple[np.ndarray, np.ndarray, np.ndarray]


class StoredArray(Protocol):
    """A one-dimensional array in a file."""

    @property
    def length(self) -> int: ...

    def part(self, cuts: np.ndarray) -> np.ndarray:
        """Items ``cuts[rank]:cuts[rank+1]``, in this machine's byte order. **Collective.**"""
        ...


def compressed_rows(
    peers: Peers,
    path: str,
    arrays: tuple[StoredArray, StoredArray, StoredArray],
    n_cols: int,
    offsets: np.ndarray,
) -> LocalRows:
    """Rows of CSR arrays (pointers, indices, values). **Collective.**"""
    pointers, indices, values = compressed_run(peers, path, arrays, offsets, n_cols)
    with peers.agree(), importing(path):
        matrix = csr(values, indices, pointers, (len(pointers) - 1, n_cols))
        matrix.sum_duplicates()
    return LocalRows(offsets, matrix)


def compressed_columns(
    peers: Peers,
    path: str,
    arrays: tuple[StoredArray, StoredArray, StoredArray],
    n_cols: int,
    offsets: np.ndarray,
) -> LocalRows:
    """Rows of CSC arrays: each rank reads a run of columns first. **Collective.**"""
    cuts = even_runs(peers, n_cols)
    pointers, rows, values = compressed_run(peers, path, arrays, cuts, int(offsets[-1]))
    first = int(cuts[peers.rank])
    columns = np.repeat(np.arange(first, first + len(pointers) - 1), np.diff(pointers))
    return from_triplets(peers, offsets, n_cols, [(rows.astype(np.int64), columns, values)])


def compressed_run(
    peers: Peers,
    path: str,
    arrays: tuple[StoredArray, StoredArray, StoredArray],
    cuts: np.ndarray,
    bound: int,
) -> Run:
    """Rows (or columns) ``cuts[rank]:cuts[rank+1]``, checked; pointers from 0. **Collective.**

    What `check_format` of SciPy finds in the whole is found, in its words.
    """
    pointers, indices, values = arrays
    with peers.agree(), importing(path):
        if pointers.length != int(cuts[-1]) + 1:
            raise ValueError(f"index pointer size {pointers.length} should be {int(cuts[-1]) + 1}")
        if indices.length != values.length:
            raise ValueError("indices and data should have the same size")
    items = cuts.copy()
    items[-1] += 1
    mine = pointers.part(items).astype(np.int64)
    starts = peers.allgather(mine[:1])
    # Ranks without a row begin where the next one does.
    filled = np.flatnonzero(np.diff(items))
    heads = starts[np.searchsorted(filled, np.arange(peers.size))]
    final = int(peers.max(np.array([mine[-1] if peers.rank == peers.size - 1 else -(2**62)]))[0])
    ends = np.append(heads, final)
    with peers.agree(), importing(path):
        if heads[0] != 0:
            raise ValueError("index pointer should start with 0")
        if final > indices.length:
            raise ValueError(
                "Last value of index pointer should be less than the size of index and data arrays"
            )
        if (np.diff(ends) < 0).any() or (np.diff(np.append(mine, ends[peers.rank + 1])) < 0).any():
            raise ValueError("index pointer values must form a non-decreasing sequence")
    found, data = indices.part(ends), values.part(ends)
    with peers.agree(), importing(path):
        if len(found) and (int(found.min()) < 0 or int(found.max()) >= bound):
            raise ValueError(f"indices must be >= 0 and < {bound}")
        found = found.astype(np.int32 if bound < 2**31 else np.int64, copy=False)
    if peers.rank < peers.size - 1:
        mine = np.append(mine, ends[peers.rank + 1])
    return mine - ends[peers.rank], found, data


def entries_before(peers: Peers, matrix: Any) -> int:
    """How many stored entries the ranks before this one have. **Collective.**"""
    return int(peers.before(np.array([matrix.nnz], dtype=np.int64))[0])

"""A distributed matrix's rows gathered to rank 0 in the user's order, a slab at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
import torch

from hpc_sla.distributed.world import World
from hpc_sla.partition.offsets import even_offsets

Slab = tuple[np.ndarray, np.ndarray, np.ndarray]


class Numbered(Protocol):
    """A DSparseMatrix, for what is asked of it here."""

    shape: tuple[int, int]
    world: World

    def entries(self) -> tuple[np.ndarray, np.ndarray]:
        """The user's row and column of each entry. **Collective.**"""


def gather_rows(A: Numbered, values: torch.Tensor) -> Iterator[Slab]:
    """Rows of `values` on A's pattern, in the user's order, on rank 0. **Collective.**

    What `RowLayout.user_blocks` is for a vector. The rows go to even blocks of the user's order
    first, so that no rank ever holds more than two of them; other ranks yield nothing, but must
    run the loop too.

    Parameters
    ----------
    A : DSparseMatrix
    values : torch.Tensor [nnz_owned]
        Per rank, in the order of `A.values`.

    Yields
    ------
    (counts, columns, values)
        On rank 0: how many entries each row of the slab has (int64), their columns in the user's
        numbering (int64, ascending within a row) and their values.
    """
    comm = A.world.comm
    slab = _home_slab(A, values)
    if comm.rank != 0:
        for array in slab:
            comm.Send(array, dest=0)
        return
    received = 1
    try:
        yield slab
        for rank in range(1, comm.size):
            slab = _receive(A, rank, slab[2].dtype)
            received += 1
            yield slab
    finally:
        # A caller that stops early must not leave the senders waiting.
        for rank in range(received, comm.size):
            _receive(A, rank, slab[2].dtype)


def _receive(A: Numbered, rank: int, dtype: np.dtype) -> Slab:
    homes = even_offsets(A.shape[0], A.world.size)
    counts = np.empty(int(homes[rank + 1] - homes[rank]), dtype=np.int64)
    A.world.comm.Recv(counts, source=rank)
    columns = np.empty(int(counts.sum()), dtype=np.int64)
    values = np.empty(len(columns), dtype=dtype)
    for array in (columns, values):
        A.world.comm.Recv(array, source=rank)
    return counts, columns, values


def _home_slab(A: Numbered, values: torch.Tensor) -> Slab:
    """This rank's even block of the user's rows. **Collective.**"""
    world = A.world
    homes = even_offsets(A.shape[0], world.size)
    rows, columns = A.entries()
    data = values.detach().cpu().numpy()
    home = np.searchsorted(homes, rows, side="right") - 1
    packed = {
        int(rank): _pack(rows[home == rank], columns[home == rank], data[home == rank])
        for rank in np.unique(home)
    }
    own = [packed.pop(world.rank)] if world.rank in packed else []
    arrived = [_unpack(p) for p in (*own, *world.sparse_exchange(packed).values())]
    none = np.empty(0, dtype=np.int64)
    rows, columns = (np.concatenate([none, *(part[i] for part in arrived)]) for i in (0, 1))
    wide = np.concatenate([none.view(np.float64), *(part[2] for part in arrived)])
    order = np.lexsort((columns, rows))
    first = int(homes[world.rank])
    counts = np.bincount(rows - first, minlength=int(homes[world.rank + 1]) - first)
    return counts.astype(np.int64), columns[order], wide[order].astype(data.dtype)


def _pack(rows: np.ndarray, columns: np.ndarray, values: np.ndarray) -> np.ndarray:
    return np.concatenate([rows, columns, values.astype(np.float64).view(np.int64)])


def _unpack(packed: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rows, columns, values = packed.reshape(3, -1)
    return rows, columns, values.view(np.float64)

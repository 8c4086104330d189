"""A distributed matrix's rows in even blocks of the user's order."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch

from hpc_sla.distributed.world import World
from hpc_sla.partition.offsets import even_offsets

Slab = tuple[int, np.ndarray, np.ndarray, np.ndarray]


class Numbered(Protocol):
    """A DSparseMatrix, for what is asked of it here."""

    shape: tuple[int, int]
    world: World

    def entries(self) -> tuple[np.ndarray, np.ndarray]:
        """The user's row and column of each entry. **Collective.**"""


def home_rows(A: Numbered, values: torch.Tensor) -> Slab:
    """Rows of `values` on A's pattern: this rank's even block of the user's. **Collective.**

    What `RowLayout.user_blocks` is for a vector, all at once.

    Parameters
    ----------
    A : DSparseMatrix
    values : torch.Tensor [nnz_owned]
        Per rank, in the order of `A.values`.

    Returns
    -------
    first : int
        The first row.
    counts : int64 array [rows]
        How many entries each has.
    columns, values : int64 array, array
        Of the entries; columns are in the user's numbering, and ascend within a row.
    """
    world = A.world
    homes = even_offsets(A.shape[0], world.size)
    rows, columns = A.entries()
    data = values.detach().cpu().numpy()
    order = np.argsort(rows, kind="stable")
    edges = np.searchsorted(rows, homes, sorter=order)
    packed = {}
    for rank in np.flatnonzero(np.diff(edges)):
        run = order[edges[rank] : edges[rank + 1]]
        packed[int(rank)] = _pack(rows[run], columns[run], data[run])
    own = [packed.pop(world.rank)] if world.rank in packed else []
    arrived = [_unpack(p) for p in (*own, *world.sparse_exchange(packed).values())]
    none = np.empty(0, dtype=np.int64)
    rows, columns = (np.concatenate([none, *(part[i] for part in arrived)]) for i in (0, 1))
    wide = np.concatenate([none.view(np.float64), *(part[2] for part in arrived)])
    order = np.lexsort((columns, rows))
    first = int(homes[world.rank])
    counts = np.bincount(rows - first, minlength=int(homes[world.rank + 1]) - first)
    return first, counts.astype(np.int64), columns[order], wide[order].astype(data.dtype)


def _pack(rows: np.ndarray, columns: np.ndarray, values: np.ndarray) -> np.ndarray:
    return np.concatenate([rows, columns, values.astype(np.float64).view(np.int64)])


def _unpack(packed: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rows, columns, values = packed.reshape(3, -1)
    return rows, columns, values.view(np.float64)

"""A rank's rows and those around them: the overlapping block of an additive Schwarz method."""

from __future__ import annotations

import numpy as np

from hpc_sla.distributed.world import World
from hpc_sla.kernels.incomplete import Block
from hpc_sla.sparse.matrix import DSparseMatrix


class _CsrRows:
    """Some rows of the matrix as CSR with stored column numbers."""

    def __init__(self, indptr: np.ndarray, columns: np.ndarray, values: np.ndarray) -> None:
        self.indptr, self.columns, self.values = indptr, columns, values

    @classmethod
    def owned(cls, A: DSparseMatrix) -> _CsrRows:
        rows = A.pattern.local_rows().cpu().numpy()
        order = np.argsort(rows, kind="stable")
        indptr = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=A.layout.n_owned))])
        columns = A.pattern.stored_columns().cpu().numpy()
        return cls(indptr, columns[order], A.values.detach().cpu().numpy()[order])

    def packed(self, rows: np.ndarray) -> np.ndarray:
        """Lengths, columns and values of these rows, one after the other, as int64."""
        counts = np.diff(self.indptr)[rows]
        ends = np.cumsum(counts)
        total = int(ends[-1]) if len(ends) else 0
        entries = np.arange(total) + np.repeat(self.indptr[rows] - (ends - counts), counts)
        values = self.values[entries].astype(np.float64)
        return np.concatenate([counts, self.columns[entries], values.view(np.int64)])


def overlapping_block(A: DSparseMatrix, overlap: int) -> tuple[np.ndarray, Block]:
    """The rows that `overlap` steps along the matrix graph add, and the block. **Collective.**

    A step goes from the rows one has to the columns of their entries, as in PETSc's
    MatIncreaseOverlap; the rows it reaches are fetched from their owners.

    Parameters
    ----------
    A : DSparseMatrix
    overlap : int
        Replicated; at least 0. Steps end where none of them would add a row.

    Returns
    -------
    rows : int64 array
        Per rank: the stored rows of others that overlap, ascending.
    block : Block
        A at this rank's rows and those, in ascending stored row.
    """
    layout = A.layout
    own = _CsrRows.owned(A)
    start, stop = layout.start, layout.start + layout.n_owned
    rows = [np.repeat(np.arange(start, stop), np.diff(own.indptr))]
    columns, values = [own.columns], [own.values]
    reached = np.empty(0, dtype=np.int64)
    for _ in range(overlap):
        seen = columns[-1]
        seen = np.unique(seen[(seen < start) | (seen >= stop)])
        new = np.setdiff1d(seen, reached, assume_unique=True)
        if not A.world.sum(len(new)):
            break  # further steps reach nothing either
        reached = np.union1d(reached, new)
        counts, more, data = _fetch(A.world, layout.offsets, start, own, new)
        rows.append(np.repeat(new, counts))
        columns.append(more)
        values.append(data.astype(own.values.dtype))
    row, column = (_numbered(np.concatenate(n), start, stop, reached) for n in (rows, columns))
    keep = column >= 0
    value = np.concatenate(values)[keep]
    block = Block.from_entries(layout.n_owned + len(reached), row[keep], column[keep], value)
    return reached, block


def _numbered(stored: np.ndarray, start: int, stop: int, reached: np.ndarray) -> np.ndarray:
    """Stored rows as rows of the block, in which its own lie between others; -1 of no row of it."""
    numbers = stored + (int((reached < start).sum()) - start)
    away = np.flatnonzero((stored < start) | (stored >= stop))
    if len(away):
        others = stored[away]
        where = np.searchsorted(reached, others)
        found = np.isin(others, reached)
        numbers[away] = np.where(found, where + np.where(others < start, 0, stop - start), -1)
    return numbers


def _fetch(
    world: World, offsets: np.ndarray, start: int, own: _CsrRows, wanted: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lengths, columns and values of rows of other ranks, ascending. **Collective.**"""
    owner = np.searchsorted(offsets, wanted, side="right") - 1
    asked = world.sparse_exchange(
        {int(rank): wanted[owner == rank].astype(np.int64) for rank in np.unique(owner)}
    )
    answers = world.sparse_exchange(
        {rank: own.packed(rows - start) for rank, rows in asked.items()}
    )
    counts, columns, values = [], [], []
    for rank, answer in answers.items():
        n_rows = int(np.count_nonzero(owner == rank))
        counts.append(answer[:n_rows])
        total = int(counts[-1].sum())
        columns.append(answer[n_rows : n_rows + total])
        values.append(answer[n_rows + total :].view(np.float64))
    none = np.empty(0, dtype=np.int64)
    return (
        np.concatenate([none, *counts]),
        np.concatenate([none, *columns]),
        np.concatenate([none.view(np.float64), *values]),
    )

"""A rank's rows as set-up on a device sees them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

import torch

from hpc_sla.precond.amg.device.arrays import pieces, written_out
from hpc_sla.sparse.matrix import DSparseMatrix

Tensor = torch.Tensor
Range: TypeAlias = tuple[int, int]


@dataclass(frozen=True)
class Piece:
    """Rows `first` to `last` of a rank, by entries: those of owned columns, then the halo's.

    Attributes
    ----------
    rows : int64 tensor [t]
        From `first` on.
    columns : int64 tensor [t]
        Halo columns come after the owned ones.
    values : tensor [t]
    """

    first: int
    last: int
    rows: Tensor
    columns: Tensor
    values: Tensor


class RankRows:
    """The rows of this rank: a block of owned columns, and one of the halo's boundary rows.

    Parameters
    ----------
    A : DSparseMatrix

    Attributes
    ----------
    n : int
        Rows.
    columns : int
        Owned, and behind them the halo's.
    dtype : torch.dtype
    device : torch.device
    """

    def __init__(self, A: DSparseMatrix) -> None:
        pattern, held = A.pattern, A.held
        owned = pattern.owned.at_hand()
        self.n, self._n_owned = owned.n_rows, owned.n_columns
        self.columns = self._n_owned + pattern.plan.n_halo
        self.dtype, self.device = held.dtype, held.device
        self._distinct: Tensor | None = None
        if held.sliced is not None:
            near, self._distinct = held.sliced.listed()
            far = held.halo
        else:
            values = held.plain
            near, far = pattern.owned_values(values), pattern.halo_values(values)
        self._near = owned.indptr, owned.indices, near
        self._far = pattern.halo.indptr, pattern.halo.indices, far
        self._boundary = pattern.boundary

    def counts(self) -> Tensor:
        """The entries of each row: int64 [n]. Local."""
        counts = self._near[0].diff().long()
        return counts.index_add_(0, self._boundary, self._far[0].diff().long())

    def pieces(self, cost: int = 1, high: int = 1) -> Iterator[Piece]:
        """All rows, in pieces that cost what is allowed at a time. Local.

        Parameters
        ----------
        cost : int
            Of each row, and of each entry.
        high : int
            Pieces have whole groups of so many rows.
        """
        edges = pieces((self.counts() + 1).cumsum(0)[high - 1 :: high] * cost)
        if len(edges) < 2:
            return
        marks = torch.tensor(edges, device=self._boundary.device) * high
        boundary = torch.searchsorted(self._boundary, marks.to(self._boundary.dtype))
        ends = self._near[0].index_select(0, marks), self._far[0].index_select(0, boundary)
        cuts = torch.stack([marks, boundary, *(end.long() for end in ends)], dim=1).tolist()
        for before, after in pairwise(cuts):
            yield self._piece(*zip(before, after, strict=True))

    def _piece(self, rows: Range, boundary: Range, near: Range, far: Range) -> Piece:
        first, last = rows
        indptr, indices, values = self._near
        parts = [
            (
                _rows(indptr[first : last + 1], near),
                indices[slice(*near)].long(),
                self._found(values[slice(*near)]),
            )
        ]
        if far[0] < far[1]:
            indptr, indices, values = self._far
            begin, end = boundary
            of = _rows(indptr[begin : end + 1], far)
            row = self._boundary[begin:end].long().index_select(0, of) - first
            column = indices[slice(*far)].long() + self._n_owned
            parts.append((row, column, values[slice(*far)]))
        return Piece(first, last, *(torch.cat(part) for part in zip(*parts, strict=True)))

    def of_rows(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The entries of some rows: which of the rows each is of, its column and its value.

        Local. The host waits.

        Parameters
        ----------
        rows : int32 tensor [k]
        """
        indptr, indices, values = self._near
        starts = indptr.index_select(0, rows)
        counts = indptr.index_select(0, rows + 1) - starts
        parts = [(starts, counts, indices, values, False)]
        indptr, indices, values = self._far
        if len(indices):
            place = torch.searchsorted(self._boundary, rows).clamp_(max=len(self._boundary) - 1)
            there = self._boundary.index_select(0, place) == rows
            starts = indptr.index_select(0, place)
            counts = torch.where(there, indptr.index_select(0, place + 1) - starts, 0)
            parts.append((starts, counts, indices, values, True))
        totals = torch.stack([counts.sum() for _, counts, *_ in parts]).tolist()
        found = []
        for (starts, counts, indices, values, far), total in zip(parts, totals, strict=True):
            run, entry = written_out(starts, counts, total)
            column, value = indices.index_select(0, entry).long(), values.index_select(0, entry)
            whole = (column + self._n_owned, value) if far else (column, self._found(value))
            found.append((run, *whole))
        run, column, value = (torch.cat(part) for part in zip(*found, strict=True))
        return run, column, value

    def _found(self, near: Tensor) -> Tensor:
        """Values, of some that may be places in a list."""
        return near if self._distinct is None else self._distinct.index_select(0, near.long())


def _rows(indptr: Tensor, entries: Range) -> Tensor:
    runs = torch.arange(len(indptr) - 1, device=indptr.device)
    total = entries[1] - entries[0]
    return torch.repeat_interleave(runs, indptr.diff().long(), output_size=total)

"""A rank's rows split by who owns their columns, whole or as they come."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch

from hpc_sla.kernels import native
from hpc_sla.kernels.csr import COUNTED, CsrPattern
from hpc_sla.kernels.packed import Packed, Packer
from hpc_sla.sparse.values import Values

Rows = tuple[np.ndarray, np.ndarray, np.ndarray]
"""indptr, columns (stored numbers) and what goes with the entries, of some rows."""

FEWEST_ROWS = 2048
"""With fewer on a rank, packing costs more time than the bytes it saves are worth."""

BLOCK = 1 << 16
"""Rows that come at a time: little beside those of a rank, and many beside what a call costs."""


class SplitRows:
    """The rows of a rank, the entries in its own columns apart from others. Local.

    Attributes
    ----------
    indptr, indices : int32 array [n_rows + 1], int32 array
        Of the entries in owned columns, counted from the first of these; `indptr` is int64 where
        32 bits cannot count them.
    values : array [entries] or [entries, m]
        Those in owned columns, in order, and those in others behind.
    packed : Packed or None
        In place of the former two and the owned part of `values`, where it takes less.
    away_rows, away_columns : int64 arrays
        Of the entries in other columns, in order: local rows and stored column numbers.
    entries : int
        All of them.
    """

    packed: Packed | None = None
    indptr: np.ndarray
    indices: np.ndarray
    values: np.ndarray
    away_rows: np.ndarray
    away_columns: np.ndarray
    entries: int

    @classmethod
    def of(
        cls, indptr: np.ndarray, columns: np.ndarray, values: np.ndarray, start: int, stop: int
    ) -> SplitRows:
        """Split rows that are there, in place where that can be: this is where memory peaks.

        Parameters
        ----------
        indptr, columns, values
            As of `DistributedPattern.from_rows`.
        start, stop : int
            The owned columns.
        """
        made = cls()
        own = (columns >= start) & (columns < stop)
        away = np.flatnonzero(~own)
        made.away_columns, away_values = columns[away].astype(np.int64), values[away]
        made.away_rows = np.searchsorted(indptr, away, side="right") - 1
        n_own = len(columns) - len(away)
        if len(away):
            _compact(columns, own)
            _compact(values, own)
            values[n_own:] = away_values
        del own
        owned_columns = columns[:n_own]
        owned_columns -= start
        lost = np.bincount(made.away_rows + 1, minlength=len(indptr))
        made.indptr = counted(indptr - np.cumsum(lost))
        made.indices = owned_columns.astype(np.int32, copy=False)
        made.values, made.entries = values, len(columns)
        return made

    @classmethod
    def coming(
        cls, blocks: Iterable[Rows], n_rows: int, start: int, stop: int, dtype: torch.dtype
    ) -> SplitRows:
        """Split rows that come block by block, packed where that takes less. On the CPU.

        Parameters
        ----------
        blocks : iterable of (indptr, columns, values)
            From the first row to the last; `indptr` begins with 0.
        n_rows : int
            Of all blocks.
        start, stop : int
            The owned columns.
        dtype : torch.dtype
            To store values in.
        """
        made = cls()
        packer = Packer(n_rows, stop - start, dtype)
        rows, columns = ([np.empty(0, dtype=np.int64)] for _ in range(2))
        values: list[np.ndarray] = [np.empty(0, dtype=_NUMPY[dtype])]
        before = made.entries = 0
        for indptr, indices, data in blocks:
            made.entries += len(indices)
            data = data.astype(_NUMPY[dtype], copy=False)
            if len(indices) and (indices.min() < start or indices.max() >= stop):
                away = np.flatnonzero((indices < start) | (indices >= stop))
                rows.append(np.searchsorted(indptr, away, side="right") - 1 + before)
                columns.append(indices[away].astype(np.int64))
                values.append(data[away])
                indptr = indptr - np.searchsorted(away, indptr)
                indices, data = np.delete(indices, away), np.delete(data, away)
            packer.add(indptr, (indices - start).astype(np.int32, copy=False), data)
            before += len(indptr) - 1
        made.away_rows, made.away_columns = np.concatenate(rows), np.concatenate(columns)
        made.values = np.concatenate(values)
        if not n_rows:
            made.indptr, made.indices = np.zeros(1, dtype=np.int32), np.empty(0, dtype=np.int32)
            return made
        made.packed = packer.finish()
        if made.packed is None:
            indptr, made.indices, owned = packer.csr()
            made.indptr = counted(indptr)
            made.values = np.concatenate([owned, made.values]) if len(made.values) else owned
        return made

    def pack(self, n_columns: int, device: torch.device) -> SplitRows:
        """These, packed where that takes less: on the CPU, where products can do with it. Local."""
        values = torch.from_numpy(self.values)
        too_many = self.entries >= COUNTED  # which is refused where all ranks hear of it
        if too_many or self.n_rows < FEWEST_ROWS or not _served(device, values.dtype):
            return self
        packer = Packer(self.n_rows, n_columns, values.dtype)
        for first in range(0, self.n_rows, BLOCK):
            ends = self.indptr[first : first + BLOCK + 1]
            part = slice(ends[0], ends[-1])
            packer.add(ends, self.indices[part], self.values[part])
        self.packed = packer.finish()
        if self.packed is not None:
            self.values = self.values[self.packed.nnz :].copy()
            del self.indptr, self.indices
        return self

    @property
    def n_rows(self) -> int:
        """How many there are, as long as they are not packed."""
        return len(self.indptr) - 1

    def held(self, device: torch.device) -> Values:
        """The values, for a matrix."""
        values = torch.from_numpy(self.values).to(device)
        return Values(values) if self.packed is None else Values.of_packed(self.packed, values)

    def owned(self, n_columns: int, device: torch.device) -> CsrPattern:
        """The pattern of the entries in owned columns."""
        if self.packed is not None:
            return CsrPattern.of_rows(self.packed)
        indptr, indices = (torch.from_numpy(a).to(device) for a in (self.indptr, self.indices))
        return CsrPattern(indptr, indices, n_columns)


def counted(ends: np.ndarray) -> np.ndarray:
    """Where rows end, in 32 bits if these are enough for all entries. Local."""
    return ends.astype(np.int32 if ends[-1] < COUNTED else np.int64, copy=False)


def read_split(
    read: Callable[[int, int], Rows],
    rows: slice,
    columns: slice,
    dtype: torch.dtype,
    device: torch.device,
    multiple: int = 1,
) -> SplitRows:
    """This rank's rows of what can be read by rows: block by block where that may pay. Local.

    Parameters
    ----------
    read : callable(first, last) -> (indptr, columns, values)
        Stored rows, whose `indptr` begins with 0, in arrays to be overwritten.
    rows, columns : slice
        Of stored numbers: the owned ones.
    dtype : torch.dtype
        To store values in.
    device : torch.device
        Where products are to be made.
    multiple : int
        Read so many rows together.
    """
    start, stop = rows.start, rows.stop
    ends = columns.start, columns.stop
    if stop - start < FEWEST_ROWS or not _served(device, dtype):
        indptr, indices, values = read(start, stop)
        values = values.astype(_NUMPY[dtype], copy=False)
        return SplitRows.of(indptr.astype(np.int64), indices, values, *ends)
    step = max(BLOCK // multiple, 1) * multiple
    blocks = (read(first, min(first + step, stop)) for first in range(start, stop, step))
    return SplitRows.coming(blocks, stop - start, *ends, dtype)


def _served(device: torch.device, dtype: torch.dtype) -> bool:
    return native.serves(torch.empty(0, dtype=dtype, device=device))


_NUMPY = {torch.float64: np.float64, torch.float32: np.float32}


def _compact(array: np.ndarray, keep: np.ndarray, chunk: int = 1 << 18) -> None:
    """Move the entries to keep to the front, in order, in place and in small pieces."""
    end = 0
    for begin in range(0, len(array), chunk):
        kept = array[begin : begin + chunk][keep[begin : begin + chunk]]
        array[end : end + len(kept)] = kept
        end += len(kept)

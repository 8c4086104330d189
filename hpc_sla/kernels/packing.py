"""How a matrix is brought into one of the forms of `matrix.h`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch

from hpc_sla.kernels import native, pages
from hpc_sla.kernels.csr import CsrPattern
from hpc_sla.kernels.matrix import (
    CODED_8,
    CODED_16,
    NODES,
    PATTERNS,
    ROWS,
    SHORT,
    SLICED,
    SLICED_8,
    SLICED_16,
    Matrix,
)

NUMPY = {torch.float64: np.float64, torch.float32: np.float32}
_LARGEST_NODE = 6
# Kinds that a dictionary may have, and rows that are looked at to find nodes.
_KINDS = 1 << 20
_LOOK = 240
# Rows of a window and of a slice: SHORT_ROWS and SLICE of matrix.h.
WINDOW, SLICE = 256, 8
# With more entries that are not there, slices are not the better.
_PADDED = 1.1
# Values that a dictionary of values may have: as many as the first cache holds.
_VALUES = 4096

Csr = tuple[np.ndarray, np.ndarray, np.ndarray]
"""indptr, indices (int32) and values."""
Columns = tuple[int, tuple[torch.Tensor, ...], int]
"""A form, its parts without the values, and the rows of a node."""


def function(name: str, dtype: torch.dtype) -> Any:
    """A compiled loop. Local."""
    return getattr(native.LIBRARY, f"hpc_sla_{name}_{native.DTYPES[dtype]}")


class Dictionary:
    """Kinds of rows, or of nodes of `node` rows, and which runs of rows are of which. Local.

    Parameters
    ----------
    n_rows : int
    dtype : torch.dtype
    node : int
    with_values : bool
        Whether the rows of a kind have their values in common, too.
    """

    def __init__(
        self, n_rows: int, dtype: torch.dtype, node: int = 1, with_values: bool = True
    ) -> None:
        self.node, self.dtype, self._done, self._nnz = node, dtype, 0, 0
        # As much as may pay; what is not used is not touched, and takes no memory.
        runs = n_rows // (4 * node) + 1026
        kinds, entries = min(runs, _KINDS), 4 * n_rows + 4096
        self._counts = np.zeros(3, dtype=np.int64)
        self._limits = np.array([runs, kinds, entries])
        self._starts, self._kinds = np.empty(runs + 1, np.int32), np.empty(runs, np.int32)
        self._ends, self._offsets = np.zeros(kinds + 1, np.int32), np.empty(entries, np.int32)
        self._lanes = 1 if node == 1 else 4 if node <= 4 else 8
        self._values = np.empty(entries * self._lanes, NUMPY[dtype]) if with_values else None
        self._table = np.full(1 << (2 * kinds - 1).bit_length(), -1, np.int32)

    def add(self, rows: Csr) -> int:
        """Take the next rows, whole nodes of them; how many could be."""
        indptr, indices, values = rows
        values_or_none = None if self._values is None else values
        here = (indptr.astype(np.int32, copy=False), indices, values_or_none)
        counts = (self._counts, self._limits)
        kept = (self._starts, self._kinds, self._ends, self._offsets, self._values, self._table)
        numbers = (len(indptr) - 1, self._done, self.node, len(self._table))
        pointers = (None if a is None else a.ctypes.data for a in (*here, *counts, *kept))
        taken: int = function("pack", self.dtype)(*numbers, *pointers)
        self._done += taken
        self._nnz += int(indptr[taken] - indptr[0])
        return taken

    def parts(self) -> list[torch.Tensor]:
        """starts, kinds, ends and offsets of what was taken; copies."""
        runs, kinds, entries = self._counts.tolist()
        arrays = (
            np.append(self._starts[:runs], np.int32(self._done)),
            self._kinds[:runs].copy(),
            self._ends[: kinds + 1].copy(),
            self._offsets[:entries].copy(),
        )
        return [torch.from_numpy(array) for array in arrays]

    def matrix(self, n_columns: int) -> Matrix:
        """What was taken, as a matrix of its own arrays."""
        assert self._values is not None
        values = self._values[: int(self._counts[2]) * self._lanes].copy()
        parts = [*self.parts(), torch.from_numpy(values)]
        return Matrix(ROWS, self._done, n_columns, self._nnz, parts, self.node)


def node_of(block: Csr, n_rows: int) -> int:
    """How many rows a node has: the most that have their columns in common. Local."""
    indptr, indices, _ = block
    lengths = np.diff(indptr[: _LOOK + 1])
    for node in range(_LARGEST_NODE, 1, -1):
        here = len(lengths) - len(lengths) % node
        if n_rows % node or not here:
            continue
        by_node = lengths[:here].reshape(-1, node)
        if (by_node != by_node[:, :1]).any():
            continue
        rows = [indices[indptr[i] : indptr[i + 1]] for i in range(here)]
        if all(np.array_equal(rows[i], rows[i - i % node]) for i in range(here)):
            return node
    return 1


def dictionary_of(pattern: CsrPattern, values: torch.Tensor) -> Matrix | None:
    """As a dictionary of rows; None where they do not repeat. Local."""
    if pattern._cache.get("rows repeat") is False:
        return None
    rows = (pattern.indptr.numpy(), pattern.indices.numpy(), values.numpy())
    dictionary = Dictionary(pattern.n_rows, values.dtype, node_of(rows, pattern.n_rows))
    if dictionary.add(rows) < pattern.n_rows:
        return None
    return dictionary.matrix(pattern.n_columns)


def coded(pattern: CsrPattern, values: torch.Tensor) -> Matrix | None:
    """With 16-bit columns, and values by a dictionary; None where there are too many. Local."""
    shape = pattern.n_rows, pattern.n_columns, pattern.nnz
    found = _codes(values)
    if found is None:
        return None
    slices = _slices(pattern)
    if slices is not None:
        found = _codes(in_slices(values, slices)) or found  # what is not there is a value, too
    wide, codes, kept = found
    if slices is not None and len(codes) == slices[0][-1]:
        form, parts = (SLICED_16 if wide else SLICED_8), (slices[0], codes, *slices[1:], kept)
        return Matrix(form, *shape, parts, WINDOW)
    return _coded_rows(pattern, *found)


def _coded_rows(pattern: CsrPattern, wide: int, codes: torch.Tensor, kept: torch.Tensor) -> Matrix:
    shape = pattern.n_rows, pattern.n_columns, pattern.nnz
    parts = (pattern.indptr, codes, *_short(pattern), kept)
    return Matrix(CODED_16 if wide else CODED_8, *shape, parts)


def _codes(values: torch.Tensor) -> tuple[int, torch.Tensor, torch.Tensor] | None:
    """Whether in 16 bits, the code of each value, and what codes stand for; None of too many."""
    count, dtype = values.numel(), values.dtype
    for wide, limit in ((0, 256), (1, _VALUES)):
        codes = np.empty(count, np.uint16 if wide else np.uint8)
        kept, table = np.empty(limit, NUMPY[dtype]), np.full(4 * limit, -1, np.int32)
        pointers = (a.ctypes.data for a in (values.numpy(), codes, kept, table))
        found = function("pack_codes", dtype)(count, limit, len(table), wide, *pointers)
        if found:
            return wide, torch.from_numpy(codes), torch.from_numpy(kept[:found].copy())
    return None


def compressed(pattern: CsrPattern, values: torch.Tensor) -> Matrix:
    """Row by row with 16-bit columns, and where it pays coded values; of any shape and order.

    Local.
    """
    n = pattern.nnz
    found = _codes(values) if n else None
    if found is not None and found[2].numel() * 8 < n:
        return _coded_rows(pattern, *found)
    parts = (pattern.indptr, values, *_short(pattern))
    return Matrix(SHORT, pattern.n_rows, pattern.n_columns, n, parts)


def plainly(pattern: CsrPattern, values: torch.Tensor) -> Matrix:
    """With these very values, its columns in the form that suits them. Local.

    What it takes of the pattern is made once and kept with it.
    """
    if "columns" not in pattern._cache:
        pattern._cache["columns"] = _columns(pattern)
    form, parts, node = cast(Columns, pattern._cache["columns"])
    if form == SLICED:
        values = in_slices(values, parts)
    place = 1 if form in (SHORT, SLICED) else len(parts)
    parts = (*parts[:place], values, *parts[place:])
    return Matrix(form, pattern.n_rows, pattern.n_columns, pattern.nnz, parts, node)


def _columns(pattern: CsrPattern) -> Columns:
    indptr, indices = pattern.indptr.numpy(), pattern.indices.numpy()
    node = node_of((indptr, indices, indices), pattern.n_rows)
    if node > 1:
        starts = np.empty(pattern.n_rows // node + 1, np.int32)
        nodes = np.empty(pattern.nnz // node + 1, np.int32)
        numbers = (pattern.n_rows, node)
        if native.call_of_pattern("pack_nodes", *numbers, indptr, indices, starts, nodes):
            nodes = nodes[: starts[-1]].copy()
            return NODES, (torch.from_numpy(starts), torch.from_numpy(nodes)), node
    dictionary = Dictionary(pattern.n_rows, torch.float64, with_values=False)
    if dictionary.add((indptr, indices, indices)) == pattern.n_rows:
        parts = dictionary.parts()
        return PATTERNS, (*parts, pattern.indptr[parts[0][:-1].long()]), 1
    pattern._cache["rows repeat"] = node > 1
    slices = _slices(pattern)
    if slices is not None:
        return SLICED, slices, WINDOW
    return SHORT, (pattern.indptr, *_short(pattern)), 1


def in_slices(values: torch.Tensor, slices: Sequence[torch.Tensor]) -> torch.Tensor:
    """Values [nnz] where `SLICED` has them; `slices` are its parts but for these. Local."""
    made = pages.empty((int(slices[0][-1]),), values).zero_()
    _slice_entries(False, values, made, slices)
    return made


def same_slices(values: torch.Tensor, matrix: Matrix) -> bool:
    """Whether these [nnz] are a `SLICED` matrix's values, to the bit. Local."""
    starts, mine, *rest = matrix.tensors
    return bool(_slice_entries(True, values, mine, (starts, *rest)))


def _slice_entries(
    compare: bool, values: torch.Tensor, mine: torch.Tensor, slices: Sequence[torch.Tensor]
) -> int | None:
    starts, _, _, _, _, places, lengths = slices
    arrays = (t.numpy() for t in (places, lengths, starts, values, mine))
    numbers = (len(places), values.element_size(), int(compare))
    return native.call_of_pattern("slice_entries", *numbers, *arrays)


def _slices(pattern: CsrPattern) -> tuple[torch.Tensor, ...] | None:
    """The parts of `SLICED` but for the values; None where rows are too uneven. Made once."""
    if "slices" not in pattern._cache:
        pattern._cache["slices"] = _sliced(pattern)
    return cast("tuple[torch.Tensor, ...] | None", pattern._cache["slices"])


def _sliced(pattern: CsrPattern) -> tuple[torch.Tensor, ...] | None:
    n, indptr, indices = pattern.n_rows, pattern.indptr.numpy(), pattern.indices.numpy()
    places, lengths = np.empty(n, np.uint8), np.empty(n, np.uint8)
    starts = np.empty(-(-n // SLICE) + 1, np.int32)
    count = native.call_of_pattern("slice_rows", n, indptr, places, lengths, starts)
    assert count is not None
    if not 0 <= count <= _PADDED * pattern.nnz:
        return None
    arrays = (indptr, indices, places, starts)
    columns = _in_windows("slice_columns", n, count, arrays)
    return tuple(torch.from_numpy(array) for array in (starts, *columns, places, lengths))


def _short(pattern: CsrPattern) -> tuple[torch.Tensor, ...]:
    """The parts of `SHORT` behind the values. Made once."""
    if "short" not in pattern._cache:
        arrays = pattern.indptr.numpy(), pattern.indices.numpy()
        columns = _in_windows("pack_short", pattern.n_rows, pattern.nnz, arrays)
        pattern._cache["short"] = tuple(torch.from_numpy(array) for array in columns)
    return cast(tuple[torch.Tensor, ...], pattern._cache["short"])


def _in_windows(
    call: str, n: int, entries: int, arrays: Sequence[np.ndarray]
) -> tuple[np.ndarray, ...]:
    """Bases, places, near and far columns."""
    windows = -(-n // WINDOW)
    bases, places = np.empty(windows, np.int32), np.empty(windows, np.int32)
    near, far = np.empty(entries, np.uint16), np.empty(entries, np.int32)
    counts = np.zeros(2, dtype=np.int64)
    native.call_of_pattern(call, n, *arrays, bases, places, near, far, counts)
    return bases, places, near[: counts[0]].copy(), far[: counts[1]].copy()

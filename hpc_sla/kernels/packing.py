"""How a matrix is brought into one of the forms of `matrix.h`."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch

from hpc_sla.kernels import native
from hpc_sla.kernels.csr import CsrPattern
from hpc_sla.kernels.matrix import (
    CODED_8,
    CODED_16,
    NODES,
    PATTERNS,
    ROWS,
    SHORT,
    Matrix,
)

NUMPY = {torch.float64: np.float64, torch.float32: np.float32}
_LARGEST_NODE = 6
# Kinds that a dictionary may have, and rows that are looked at to find nodes.
_KINDS = 1 << 20
_LOOK = 240
# Rows that share a base: SHORT_ROWS of matrix.h.
_SHORT_ROWS = 256
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
    nnz, dtype = pattern.nnz, values.dtype
    for form, wide, limit in ((CODED_8, 0, 256), (CODED_16, 1, _VALUES)):
        codes = np.empty(nnz, np.uint16 if wide else np.uint8)
        kept, table = np.empty(limit, NUMPY[dtype]), np.full(4 * limit, -1, np.int32)
        pointers = (a.ctypes.data for a in (values.numpy(), codes, kept, table))
        count = function("pack_codes", dtype)(nnz, limit, len(table), wide, *pointers)
        if count:
            plain = (pattern.indptr, torch.from_numpy(codes), *_short(pattern))
            parts = (*plain, torch.from_numpy(kept[:count].copy()))
            return Matrix(form, pattern.n_rows, pattern.n_columns, nnz, parts)
    return None


def compressed(pattern: CsrPattern, values: torch.Tensor) -> Matrix:
    """With 16-bit columns, and where it pays coded values; of any shape and order. Local."""
    n = pattern.nnz
    matrix = coded(pattern, values) if n else None
    if matrix is not None and matrix.tensors[-1].numel() * 8 < n:
        return matrix
    parts = (pattern.indptr, values, *_short(pattern))
    return Matrix(SHORT, pattern.n_rows, pattern.n_columns, n, parts)


def plainly(pattern: CsrPattern, values: torch.Tensor) -> Matrix:
    """With these very values, its columns in the form that suits them. Local.

    What it takes of the pattern is made once and kept with it.
    """
    if "columns" not in pattern._cache:
        pattern._cache["columns"] = _columns(pattern)
    form, parts, node = cast(Columns, pattern._cache["columns"])
    place = 1 if form == SHORT else len(parts)
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
    return SHORT, (pattern.indptr, *_short(pattern)), 1


def _short(pattern: CsrPattern) -> tuple[torch.Tensor, ...]:
    """The parts of `SHORT` behind the values."""
    if "short" not in pattern._cache:
        indptr, indices = pattern.indptr.numpy(), pattern.indices.numpy()
        blocks = -(-pattern.n_rows // _SHORT_ROWS)
        bases, places = np.empty(blocks, np.int32), np.empty(blocks, np.int32)
        near, far = np.empty(pattern.nnz, np.uint16), np.empty(pattern.nnz, np.int32)
        counts = np.zeros(2, dtype=np.int64)
        arrays = (indptr, indices, bases, places, near, far, counts)
        native.call_of_pattern("pack_short", pattern.n_rows, *arrays)
        kept = (bases, places, near[: counts[0]].copy(), far[: counts[1]].copy())
        pattern._cache["short"] = tuple(torch.from_numpy(array) for array in kept)
    return cast(tuple[torch.Tensor, ...], pattern._cache["short"])

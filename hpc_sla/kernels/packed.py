"""A rank-local matrix in fewer bytes: nothing is lost, and products read less.

`Packed.of` takes a matrix that is there, `Packer` one that comes by blocks of rows. Kinds of rows
are told apart by the bits of their values, so that -0.0 and NaN stay what they are.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from hpc_sla.kernels import native
from hpc_sla.kernels.csr import CsrPattern, csr_matmul_reference
from hpc_sla.kernels.matrix import ROWS, Matrix

_NUMPY = {torch.float64: np.float64, torch.float32: np.float32}
_LARGEST_NODE = 6
# Of the bytes of plain CSR: with more there is little to gain.
_WORTH = 0.9
# Kinds that a dictionary may have, and rows that are looked at to find nodes.
_KINDS = 1 << 20
_LOOK = 240
_CHUNK = 1 << 16
_FORMS = {ROWS: "rows"}

Csr = tuple[np.ndarray, np.ndarray, np.ndarray]
"""indptr (int64), indices (int32) and values."""


class Packed:
    """A rank-local matrix [n_rows, n_columns] in one of the forms of `matrix.h`. Local.

    Sums are added up in the order of plain CSR's compiled product, row by row, but for matrices in
    nodes of several rows; whether the bits are those of plain CSR then depends on what the compiler
    fuses. They are the same each time.

    Attributes
    ----------
    matrix : Matrix
        For compiled loops that take any form.
    form : str
    bytes : int
        What it takes, values included.
    n_rows, n_columns, nnz : int
    dtype : torch.dtype
    """

    def __init__(self, matrix: Matrix, dtype: torch.dtype, longest: int) -> None:
        self.matrix, self.dtype, self._longest = matrix, dtype, longest
        self.form = _FORMS[matrix.form]
        self.n_rows, self.n_columns = matrix.rows, matrix.columns
        self.nnz = matrix.entries
        self.bytes = sum(t.numel() * t.element_size() for t in matrix.tensors)

    @classmethod
    def of(cls, pattern: CsrPattern, values: torch.Tensor) -> Packed | None:
        """The matrix in the form that suits it, or None where none pays."""
        if not native.can_take(values) or pattern.indptr.dtype != torch.int32:
            return None
        indptr, indices = pattern.indptr.numpy(), pattern.indices.numpy()
        rows = (indptr, indices, values.detach().numpy())
        node = _node(rows, pattern.n_rows)
        dictionary = Dictionary(pattern.n_rows, values.dtype, node)
        if dictionary.add(rows) < pattern.n_rows:
            return None
        return dictionary.worth(pattern.n_columns)

    @property
    def longest(self) -> int:
        """Entries of the longest row: the room that compiled loops over rows need."""
        return self._longest

    def to(self, dtype: torch.dtype) -> Packed | None:
        """The same with values of another dtype; None of a form that refers to the matrix's."""
        if dtype == self.dtype:
            return self
        if self.matrix.form != ROWS:
            return None
        *rows, values = self.matrix.tensors
        m = self.matrix
        matrix = Matrix(ROWS, m.rows, m.columns, m.entries, (*rows, values.to(dtype)), m.block)
        return Packed(matrix, dtype, self._longest)

    def matmul(
        self,
        x: torch.Tensor,
        out: torch.Tensor,
        rows: torch.Tensor | None = None,
        dot: torch.Tensor | None = None,
        weights: torch.Tensor | None = None,
        square: torch.Tensor | None = None,
    ) -> None:
        """As `CsrPattern.fused_matmul`, but for the values, which it has. Compiled loops only."""
        columns = 1 if x.dim() == 1 else x.shape[1]
        tensors = (x, rows, out, weights, dot, square)
        pointers = (None if t is None else t.data_ptr() for t in tensors)
        _function("product", self.dtype)(columns, self.matrix.address, *pointers)

    def holds(self, values: torch.Tensor) -> bool:
        """Whether these [nnz], in the order of the rows, are its values to the bit. Local."""
        pointers = (self.matrix.address, values.data_ptr())
        return bool(_function("pack_same", self.dtype)(*pointers))

    def reference(self, x: torch.Tensor, out: torch.Tensor) -> None:
        """`out = A x` in plain torch operations: the oracle."""
        indptr, indices, values = (torch.from_numpy(part) for part in self.expanded())
        csr_matmul_reference(indptr.int(), indices, values, x, out)

    def csr(self, first: int = 0, last: int | None = None) -> Csr:
        """Rows `first` to `last` (default: all) as they were added. Local."""
        last = self.n_rows if last is None else last
        lengths = np.empty(last - first, dtype=np.int64)
        rooms = np.empty(self._longest, np.int32), np.empty(self._longest, _NUMPY[self.dtype])
        self._rows(first, lengths, None, None, rooms)
        indptr = np.concatenate([[0], np.cumsum(lengths)])
        indices = np.empty(indptr[-1], dtype=np.int32)
        values = np.empty(indptr[-1], dtype=_NUMPY[self.dtype])
        self._rows(first, lengths, indices, values, rooms)
        return indptr, indices, values

    def _rows(
        self,
        first: int,
        lengths: np.ndarray,
        indices: np.ndarray | None,
        values: np.ndarray | None,
        rooms: tuple[np.ndarray, np.ndarray],
    ) -> None:
        arrays = (None if a is None else a.ctypes.data for a in (lengths, indices, values, *rooms))
        call = _function("matrix_rows", self.dtype)
        call(first, len(lengths), self.matrix.address, *arrays)

    def expanded(self) -> Csr:
        """What `csr` gives, by NumPy from the parts: the oracle of the compiled rows."""
        starts, kinds, ends, offsets, kept = (t.numpy() for t in self.matrix.tensors)
        b = self.matrix.block
        # Of each node, then of each row, then of each entry.
        kind = np.repeat(kinds, np.diff(starts) // b)
        kind = np.repeat(kind, b)
        part = np.tile(np.arange(b), self.n_rows // b)
        lengths = np.diff(ends)[kind]
        indptr = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        row = np.repeat(np.arange(self.n_rows), lengths)
        entry = np.arange(indptr[-1]) - indptr[:-1].repeat(lengths) + ends[:-1][kind[row]]
        indices = offsets[entry] + row - part[row]
        values = kept.reshape(len(offsets), -1)[entry, part[row]]
        return indptr, indices.astype(np.int32), values

    def diagonal(self) -> torch.Tensor:
        """The diagonal, 0 where none is stored: [n_rows]. A copy."""
        found = torch.zeros(self.n_rows, dtype=self.dtype)
        for first in range(0, self.n_rows, _CHUNK):
            last = min(first + _CHUNK, self.n_rows)
            indptr, indices, values = self.csr(first, last)
            rows = np.repeat(np.arange(first, last), np.diff(indptr))
            here = np.flatnonzero(rows == indices)
            found[torch.from_numpy(rows[here])] = torch.from_numpy(values[here])
        return found


class Packer:
    """Packs a matrix that comes by blocks of rows, from the first row to the last. Local.

    Where rows turn out not to repeat, what came is kept as it is, and looked at as a whole in the
    end.

    Parameters
    ----------
    n_rows, n_columns : int
        Of the whole.
    dtype : torch.float64 or torch.float32
    """

    def __init__(self, n_rows: int, n_columns: int, dtype: torch.dtype) -> None:
        self.n_rows, self.n_columns, self.dtype = n_rows, n_columns, dtype
        self._dictionary: Dictionary | None = None
        self._plain: list[Csr] = []
        self._repeats = native.LIBRARY is not None

    def add(self, indptr: np.ndarray, indices: np.ndarray, values: np.ndarray) -> None:
        """Take the next rows.

        Parameters
        ----------
        indptr : integer array [m + 1]
            From any number on; `indices` and `values` lie between its first and its last.
        indices : integer array
            Local columns, ascending in each row.
        values : array
        """
        block: Csr = (
            (indptr - indptr[0]).astype(np.int64),
            np.ascontiguousarray(indices, dtype=np.int32),
            np.ascontiguousarray(values, dtype=_NUMPY[self.dtype]),
        )
        if not self._repeats:
            self._plain.append(block)
            return
        block = _joined([*self._plain, block])  # with rows of a node that was not whole
        if self._dictionary is None:
            self._dictionary = Dictionary(self.n_rows, self.dtype, _node(block, self.n_rows))
        here = len(block[0]) - 1
        whole = here - here % self._dictionary.node
        taken = self._dictionary.add(_rows_of(block, 0, whole))
        self._plain = [_rows_of(block, taken, here)] if taken < here else []
        if taken < whole:
            self._plain = [self._dictionary.packed(self.n_columns).csr(), *self._plain]
            self._dictionary, self._repeats = None, False

    def finish(self) -> Packed | None:
        """The matrix, or None where no form pays: `csr` then has it."""
        if self._dictionary is None:
            return None
        return self._dictionary.worth(self.n_columns)

    def csr(self) -> Csr:
        """What was added. Local."""
        if self._dictionary is None:
            return _joined(self._plain)
        return _joined([self._dictionary.packed(self.n_columns).csr(), *self._plain])


class Dictionary:
    """Kinds of rows, or of nodes of `node` rows, and which runs of rows are of which. Local."""

    def __init__(self, n_rows: int, dtype: torch.dtype, node: int) -> None:
        self.node, self._dtype, self._done, self._nnz = node, dtype, 0, 0
        # As much as may pay; what is not used is not touched, and takes no memory.
        runs = n_rows // (4 * node) + 1026
        kinds, entries = min(runs, _KINDS), 4 * n_rows + 4096
        lanes = 1 if node == 1 else 4 if node <= 4 else 8
        self._counts = np.zeros(3, dtype=np.int64)
        self._limits = np.array([runs, kinds, entries])
        self._starts, self._kinds = np.empty(runs + 1, np.int32), np.empty(runs, np.int32)
        self._ends, self._offsets = np.zeros(kinds + 1, np.int32), np.empty(entries, np.int32)
        self._values = np.empty(entries * lanes, _NUMPY[dtype])
        self._table = np.full(1 << (2 * kinds - 1).bit_length(), -1, np.int32)

    def add(self, rows: Csr) -> int:
        """Take the next rows, whole nodes of them; how many could be."""
        indptr, indices, values = rows
        here = (indptr.astype(np.int32, copy=False), indices, values, self._counts, self._limits)
        kept = (self._starts, self._kinds, self._ends, self._offsets, self._values, self._table)
        numbers = (len(indptr) - 1, self._done, self.node, len(self._table))
        pointers = (a.ctypes.data for a in (*here, *kept))
        taken: int = _function("pack", self._dtype)(*numbers, *pointers)
        self._done += taken
        self._nnz += int(indptr[taken])
        return taken

    def worth(self, n_columns: int) -> Packed | None:
        """What was taken, where it takes fewer bytes than plain CSR."""
        packed = self.packed(n_columns)
        plain = (12 if self._dtype == torch.float64 else 8) * packed.nnz + 4 * packed.n_rows
        return packed if packed.bytes < _WORTH * plain else None

    def packed(self, n_columns: int) -> Packed:
        """What was taken, as a matrix of its own arrays."""
        runs, kinds, entries = self._counts.tolist()
        lanes = len(self._values) // len(self._offsets)
        arrays = (
            np.append(self._starts[:runs], np.int32(self._done)),
            self._kinds[:runs].copy(),
            self._ends[: kinds + 1].copy(),
            self._offsets[:entries].copy(),
            self._values[: entries * lanes].copy(),
        )
        parts = [torch.from_numpy(array) for array in arrays]
        matrix = Matrix(ROWS, self._done, n_columns, self._nnz, parts, self.node)
        return Packed(matrix, self._dtype, int(np.diff(arrays[2]).max(initial=0)))


def _function(name: str, dtype: torch.dtype) -> Any:
    return getattr(native.LIBRARY, f"hpc_sla_{name}_{native.DTYPES[dtype]}")


def _node(block: Csr, n_rows: int) -> int:
    """How many rows a node has: the most that have their columns in common."""
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


def _rows_of(block: Csr, first: int, last: int) -> Csr:
    indptr, indices, values = block
    begin, end = indptr[first], indptr[last]
    return indptr[first : last + 1] - begin, indices[begin:end], values[begin:end]


def _joined(blocks: list[Csr]) -> Csr:
    if len(blocks) == 1:
        return blocks[0]
    lengths = np.concatenate([np.diff(indptr) for indptr, _, _ in blocks])
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    return (
        indptr,
        np.concatenate([indices for _, indices, _ in blocks]),
        np.concatenate([values for _, _, values in blocks]),
    )

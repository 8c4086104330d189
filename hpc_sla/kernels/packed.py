"""A rank-local matrix in fewer bytes: nothing is lost, and products read less.

`Packed.of` takes a matrix that is there, `Packer` one that comes by blocks of rows. Kinds of rows
are told apart by the bits of their values, so that -0.0 and NaN stay what they are.
"""

from __future__ import annotations

import numpy as np
import torch

from hpc_sla.kernels import native
from hpc_sla.kernels.csr import CsrPattern
from hpc_sla.kernels.csr_operator import csr_matmul_reference
from hpc_sla.kernels.matrix import (
    CODED_8,
    CODED_16,
    IN_SLICES,
    NODES,
    PATTERNS,
    ROWS,
    SHORT,
    SLICED,
    SLICED_8,
    SLICED_16,
    Matrix,
)
from hpc_sla.kernels.packing import (
    NUMPY,
    SLICE,
    WINDOW,
    Csr,
    Dictionary,
    coded,
    dictionary_of,
    function,
    node_of,
    plainly,
    same_slices,
)

# Of the bytes of plain CSR: with more there is little to gain.
_WORTH = 0.9
_CHUNK = 1 << 16
# Rows to look at: with a number of its own in each they do not repeat.
_GLANCE = 16
_BITS = {torch.float64: np.int64, torch.float32: np.int32}
_FORMS = {
    ROWS: "rows",
    PATTERNS: "patterns",
    NODES: "nodes",
    SHORT: "short",
    CODED_8: "coded 8",
    CODED_16: "coded 16",
    SLICED: "sliced",
    SLICED_8: "sliced 8",
    SLICED_16: "sliced 16",
}


class Packed:
    """A rank-local matrix [n_rows, n_columns] in one of the forms of `matrix.h`. Local.

    Sums are added up row by row: in slices and nodes of several rows one entry after another,
    else in the order of plain CSR's compiled product; whether the bits are those of plain CSR then
    depends on what the compiler fuses. They are the same each time. In slices a row that is shorter
    than its neighbours adds zero times an entry of x, which is NaN where that is infinite.

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

    def __init__(self, matrix: Matrix, dtype: torch.dtype) -> None:
        self.matrix, self.dtype = matrix, dtype
        self.form = _FORMS[matrix.form]
        self.n_rows, self.n_columns = matrix.rows, matrix.columns
        self.nnz = matrix.entries
        self.bytes = sum(t.numel() * t.element_size() for t in matrix.tensors)

    @classmethod
    def of(cls, pattern: CsrPattern, values: torch.Tensor) -> Packed | None:
        """The matrix in the form that suits it, or None where none pays.

        Its values may be those very ones.
        """
        if not native.can_take(values) or pattern.indptr.dtype != torch.int32:
            return None
        values = values.detach()
        matrix = dictionary_of(pattern, values)
        if matrix is not None and cls(matrix, values.dtype).pays():
            return cls(matrix, values.dtype)
        packed = cls(plainly(pattern, values), values.dtype)
        matrix = coded(pattern, values) if values.numel() else None
        if matrix is not None and cls(matrix, values.dtype).bytes < _WORTH * packed.bytes:
            packed = cls(matrix, values.dtype)
        return packed if packed.pays() else None

    @classmethod
    def of_rows(cls, pattern: CsrPattern, values: torch.Tensor) -> Packed | None:
        """As a dictionary of rows, or None where that does not pay or, at a glance, would not."""
        if not native.can_take(values) or pattern.indptr.dtype != torch.int32:
            return None
        first = values.detach()[: int(pattern.indptr[_GLANCE])].tolist()
        matrix = dictionary_of(pattern, values.detach()) if len(set(first)) < _GLANCE else None
        packed = None if matrix is None else cls(matrix, values.dtype)
        return packed if packed is not None and packed.pays() else None

    @classmethod
    def with_values(cls, pattern: CsrPattern, values: torch.Tensor) -> Packed:
        """With these very values, after `of` has found that form the best for such ones."""
        return cls(plainly(pattern, values), values.dtype)

    @property
    def refers(self) -> bool:
        """Whether its values are those that it was made of, and not a copy."""
        return self.matrix.form in (PATTERNS, NODES, SHORT)

    def pays(self) -> bool:
        """Whether it takes fewer bytes than plain CSR."""
        plain = (12 if self.dtype == torch.float64 else 8) * self.nnz + 4 * self.n_rows
        return self.bytes < _WORTH * plain

    @property
    def longest(self) -> int:
        """Entries of the longest row: the room that compiled loops over rows need."""
        return self._longest

    def to(self, dtype: torch.dtype) -> Packed:
        """The same with values of another dtype. Local."""
        if dtype == self.dtype:
            return self
        old, parts = self.matrix, list(self.matrix.tensors)
        place = 1 if old.form in (SHORT, SLICED) else -1
        parts[place] = parts[place].to(dtype)
        matrix = Matrix(old.form, old.rows, old.columns, old.entries, parts, old.block)
        return Packed(matrix, dtype)

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
        function("product", self.dtype)(columns, self.matrix.address, *pointers)

    def holds(self, values: torch.Tensor) -> bool:
        """Whether these [nnz], in the order of the rows, are its values to the bit. Local."""
        if values.dtype != self.dtype:
            return False
        if self.matrix.form != ROWS:
            mine = self.matrix.tensors
            if self.matrix.form == SLICED:
                return same_slices(values, self.matrix)
            if self.refers:
                place = 1 if self.matrix.form == SHORT else -1
                return mine[place].data_ptr() == values.data_ptr()
            whole, bits = _BITS[self.dtype], mine[-1].numpy()
            if self.matrix.form in IN_SLICES:
                return np.array_equal(self.csr()[2].view(whole), values.numpy().view(whole))
            found = bits.view(whole)[mine[1].numpy()]
            return bool(np.array_equal(found, values.numpy().view(whole)))
        pointers = (self.matrix.address, values.data_ptr())
        return bool(function("pack_same", self.dtype)(*pointers))

    def reference(self, x: torch.Tensor, out: torch.Tensor) -> None:
        """`out = A x` in plain torch operations: the oracle."""
        indptr, indices, values = (torch.from_numpy(part) for part in self.expanded())
        csr_matmul_reference(indptr.int(), indices, values, x, out)

    def csr(self, first: int = 0, last: int | None = None) -> Csr:
        """Rows `first` to `last` (default: all) as they were added. Local."""
        last = self.n_rows if last is None else last
        lengths = np.empty(last - first, dtype=np.int64)
        rooms = np.empty(self._longest, np.int32), np.empty(self._longest, NUMPY[self.dtype])
        self._rows(first, lengths, None, None, rooms)
        indptr = np.concatenate([[0], np.cumsum(lengths)])
        indices = np.empty(indptr[-1], dtype=np.int32)
        values = np.empty(indptr[-1], dtype=NUMPY[self.dtype])
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
        call = function("matrix_rows", self.dtype)
        call(first, len(lengths), self.matrix.address, *arrays)

    def expanded(self) -> Csr:
        """What `csr` gives, by NumPy from the parts: the oracle of the compiled rows."""
        form, b, parts = self.matrix.form, self.matrix.block, self._arrays()
        if form in (SHORT, CODED_8, CODED_16):
            indptr, values, bases, places, near, far, *dictionary = parts
            row = np.repeat(np.arange(self.n_rows), np.diff(indptr))
            close = places[row // 256] >= 0
            indices = np.empty(self.nnz, np.int32)
            indices[close], indices[~close] = near + bases[row[close] // 256], far
            return indptr, indices, dictionary[0][values] if dictionary else values
        if form in IN_SLICES:
            return self._from_slices()
        if form == NODES:
            starts, nodes, values = parts
            lengths = np.diff(starts)
            entry = np.concatenate(
                [np.tile(np.arange(s, e), b) for s, e in zip(starts[:-1], starts[1:], strict=True)]
            )
            indices = (nodes[entry, None] * b + np.arange(b)).ravel()
            indptr = np.concatenate([[0], np.cumsum(np.repeat(lengths * b, b))])
            return indptr, indices.astype(np.int32), values
        starts, kinds, ends, offsets, *kept = parts
        # Of each node, then of each row, then of each entry.
        kind = np.repeat(kinds, np.diff(starts) // b)
        kind = np.repeat(kind, b)
        part = np.tile(np.arange(b), self.n_rows // b)
        lengths = np.diff(ends)[kind]
        indptr = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        row = np.repeat(np.arange(self.n_rows), lengths)
        entry = np.arange(indptr[-1]) - indptr[:-1].repeat(lengths) + ends[:-1][kind[row]]
        indices = offsets[entry] + row - part[row]
        if form == PATTERNS:
            return indptr, indices.astype(np.int32), kept[1]
        values = kept[0].reshape(len(offsets), -1)[entry, part[row]]
        return indptr, indices.astype(np.int32), values

    def _from_slices(self) -> Csr:
        starts, values, bases, places, near, far, order, lengths, *dictionary = self._arrays()
        row = np.arange(self.n_rows)
        window, place = row // WINDOW, order.astype(np.int64)
        length = lengths[window * WINDOW + place].astype(np.int64)
        indptr = np.concatenate([[0], np.cumsum(length)])
        slice_ = window * (WINDOW // SLICE) + place // SLICE
        e = np.arange(indptr[-1]) - np.repeat(indptr[:-1], length)
        at = np.repeat(starts[slice_] + place % SLICE, length) + e * SLICE
        window = np.repeat(window, length)
        skip, close = at - starts[window * (WINDOW // SLICE)], places[window] >= 0
        indices = np.empty(len(at), np.int32)
        indices[close] = near[(places[window] + skip)[close]] + bases[window[close]]
        indices[~close] = far[(~places[window] + skip)[~close]]
        return indptr, indices, dictionary[0][values[at]] if dictionary else values[at]

    def _arrays(self) -> list[np.ndarray]:
        return [tensor.numpy() for tensor in self.matrix.tensors]

    @property
    def _longest(self) -> int:
        """At least as many entries as any row has."""
        form, parts = self.matrix.form, self._arrays()
        if form in IN_SLICES:
            return int(parts[7].max(initial=0))
        edges = parts[2] if form in (ROWS, PATTERNS) else parts[0]
        return int(np.diff(edges).max(initial=0)) * (self.matrix.block if form == NODES else 1)

    def diagonal(self) -> torch.Tensor:
        """The diagonal, 0 where none is stored: [n_rows]. A copy."""
        found = torch.zeros(self.n_rows, dtype=self.dtype, device="cpu")
        for first in range(0, self.n_rows, _CHUNK):
            last = min(first + _CHUNK, self.n_rows)
            indptr, indices, values = self.csr(first, last)
            rows = np.repeat(np.arange(first, last), np.diff(indptr))
            here = np.flatnonzero(rows == indices)
            found[torch.from_numpy(rows[here])] = torch.from_numpy(values[here])
        return found


class Packer:
    """Packs a matrix that comes by blocks of rows, from the first row to the last. Local.

    Where rows turn out not to repeat, what came is kept as it is.

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
            np.ascontiguousarray(values, dtype=NUMPY[self.dtype]),
        )
        if not self._repeats:
            self._plain.append(block)
            return
        block = _joined([*self._plain, block])  # with rows of a node that was not whole
        if self._dictionary is None:
            self._dictionary = Dictionary(self.n_rows, self.dtype, node_of(block, self.n_rows))
        here = len(block[0]) - 1
        whole = here - here % self._dictionary.node
        taken = self._dictionary.add(_rows_of(block, 0, whole))
        self._plain = [_rows_of(block, taken, here)] if taken < here else []
        if taken < whole:
            self._plain = [self._taken().csr(), *self._plain]
            self._dictionary, self._repeats = None, False

    def finish(self) -> Packed | None:
        """The matrix in the form that suits it, or None where none pays: `csr` has it.

        Forms that need the values to be there anyway are left to `Packed.of`.
        """
        if self._dictionary is not None:
            packed = self._taken()
            if packed.pays():
                return packed
        if not self._repeats and native.LIBRARY is not None:
            self._plain = [_joined(self._plain)]
            indptr, indices, values = self._plain[0]
            if indptr[-1] >= 1 << 31:
                return None
            tensors = torch.from_numpy(indptr.astype(np.int32)), torch.from_numpy(indices)
            pattern = CsrPattern(*tensors, self.n_columns)
            pattern._cache["rows repeat"] = False
            found = Packed.of(pattern, torch.from_numpy(values))
            if found is not None and not found.refers:
                return found
        return None

    def csr(self) -> Csr:
        """What was added. Local."""
        taken = [] if self._dictionary is None else [self._taken().csr()]
        return _joined([*taken, *self._plain])

    def _taken(self) -> Packed:
        assert self._dictionary is not None
        return Packed(self._dictionary.matrix(self.n_columns), self.dtype)


def _rows_of(block: Csr, first: int, last: int) -> Csr:
    indptr, indices, values = block
    begin, end = indptr[first], indptr[last]
    return indptr[first : last + 1] - begin, indices[begin:end], values[begin:end]


def _joined(blocks: list[Csr]) -> Csr:
    """One block of them all."""
    if len(blocks) == 1:
        return blocks[0]
    lengths = np.concatenate([np.diff(indptr) for indptr, _, _ in blocks])
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    return (
        indptr,
        np.concatenate([indices for _, indices, _ in blocks]),
        np.concatenate([values for _, _, values in blocks]),
    )

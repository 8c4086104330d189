"""A sparsity pattern in compressed rows, and a matrix as it is stored plainly."""

from __future__ import annotations

from itertools import pairwise
from typing import Protocol

import numpy as np
import torch

from hpc_sla.errors import InputError
from hpc_sla.kernels import device_products, native
from hpc_sla.kernels.csr_operator import expand_rows
from hpc_sla.kernels.device_products import DeviceRows
from hpc_sla.kernels.matrix import CSR, Matrix
from hpc_sla.kernels.modes import lasting
from hpc_sla.kernels.slices import Slices

COUNTED = 2**31
"""Entries from which on 32 bits do not count them."""

_SORTED = 1 << 27
"""Entries that are sorted at a time: each takes some 40 bytes meanwhile, and none sorts 2^31."""

_CHUNK = 64
"""Pieces of rows that are looked at together."""


class Rows(Protocol):
    """A rank-local matrix that can write out its rows: a `Packed`."""

    n_rows: int
    n_columns: int
    nnz: int

    def csr(
        self, first: int = 0, last: int | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """indptr, indices and values of rows `first` to `last`."""


class CsrPattern:
    """The sparsity pattern of a rank-local matrix in compressed rows (per rank).

    That of a matrix in fewer bytes has no arrays of its own, on a GPU no `indices`, until somebody
    asks for them.

    Parameters
    ----------
    indptr, indices : int32 tensor [n_rows + 1], int32 tensor [nnz]
        `indptr` is int64 where there are 2^31 entries and more, which takes a GPU: the compiled
        loops of the CPU count entries in 32 bits.
    n_columns : int

    Attributes
    ----------
    n_rows, n_columns, nnz : int
    crowded : bool
        Whether 32 bits do not count the entries: of a `DistributedPattern`'s, those of some rank.
    """

    crowded = False
    _ends: torch.Tensor | None = None
    """Row pointers that stay while there are no other arrays."""

    def __init__(self, indptr: torch.Tensor, indices: torch.Tensor, n_columns: int) -> None:
        self._plain: tuple[torch.Tensor, torch.Tensor] | None = (indptr, indices)
        self._source: Rows | None = None
        self.n_rows, self.n_columns, self.nnz = indptr.numel() - 1, n_columns, indices.numel()
        self.crowded = self.nnz >= COUNTED
        self._cache: dict[str, object] = {}

    @classmethod
    def of_rows(cls, source: Rows) -> CsrPattern:
        """That of a matrix in fewer bytes, on the CPU."""
        made = cls.__new__(cls)
        made._plain, made._source, made._cache = None, source, {}
        made.n_rows, made.n_columns, made.nnz = source.n_rows, source.n_columns, source.nnz
        return made

    @property
    def indptr(self) -> torch.Tensor:
        """Where rows begin and end: int32 [n_rows + 1], or int64."""
        return self._arrays()[0] if self._ends is None else self._ends

    @property
    def indices(self) -> torch.Tensor:
        """The column of each entry: int32 [nnz]."""
        return self._arrays()[1]

    @property
    def written(self) -> bool:
        """Whether the arrays are there."""
        return self._plain is not None

    def shed(self) -> None:
        """Let go of `indices`, which slices of this pattern can write out again. Local."""
        if self._plain is not None:
            self._ends, self._plain = self._plain[0], None

    def at_hand(self) -> CsrPattern:
        """The same with its arrays, which this one does not keep if it had none. Local."""
        if self._plain is not None:
            return self
        made = CsrPattern(*self._write(), self.n_columns)
        made.crowded = self.crowded
        return made

    def _arrays(self) -> tuple[torch.Tensor, torch.Tensor]:
        if self._plain is None:
            self._plain, self._source = self._write(), None
        return self._plain

    def _write(self) -> tuple[torch.Tensor, torch.Tensor]:
        if self._ends is not None:
            slices = self._cache["slices"]
            assert isinstance(slices, Slices)
            with lasting():
                return self._ends, slices.columns(self._ends)
        assert self._source is not None
        with lasting():
            indptr, indices, _ = self._source.csr()
            return torch.from_numpy(indptr.astype(np.int32)), torch.from_numpy(indices)

    def host_arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """`indptr` and `indices` for loops of the CPU. Local.

        Raises
        ------
        InputError
            Where these count entries in 32 bits, which are not enough: on every rank alike, of a
            distributed matrix.
        """
        if self.crowded:
            raise InputError(
                f"{COUNTED} entries and more on one rank: what is set up on the CPU counts them in "
                "32 bits",
                remedy="Use more ranks, or on a GPU a preconditioner without set-up on the CPU "
                "(jacobi, chebyshev, polynomial)",
            )
        whole = self.at_hand()
        return whole.indptr.cpu().numpy(), whole.indices.cpu().numpy()

    def rows(self) -> torch.Tensor:
        """The row of each stored entry: int32 [nnz]. Local."""
        return expand_rows(self.indptr, self.nnz)

    def matmul(self, values: torch.Tensor, x: torch.Tensor, out: torch.Tensor) -> None:
        """`out = A x`, without allocating. Local; not differentiable."""
        rows = self.device_rows(values, x)
        if rows is None:
            torch.ops.hpc_sla.csr_matmul_out(self.indptr, self.indices, values, x, out)
        else:
            rows(x, out)

    def device_rows(self, values: torch.Tensor, x: torch.Tensor) -> DeviceRows | None:
        """It with values [nnz], as a GPU multiplies vectors like x; None elsewhere. Local."""
        if not device_products.serves(x) or values.dtype != x.dtype:
            return None
        if "lanes" not in self._cache:
            self._cache["lanes"] = device_products.lanes_of(self.indptr, self.nnz)
        lanes = self._cache["lanes"]
        if not lanes:
            return None
        return DeviceRows("csr_rows", (self.indptr, self.indices, values, lanes), self._cache)

    def compiled(self, x: torch.Tensor) -> bool:
        """Whether `fused_matmul` can be used for vectors like x. Local."""
        wide = self._plain is not None and self._plain[0].dtype != torch.int32
        return native.serves(x) and not wide and x.is_contiguous()

    def matrix(self, values: torch.Tensor) -> Matrix:
        """It with values [nnz], as compiled loops take it, on the CPU. Local."""
        assert self.nnz < COUNTED  # there, more have been refused when the matrix was made
        parts = (self.indptr, self.indices, values)
        return Matrix(CSR, self.n_rows, self.n_columns, self.nnz, parts)

    def fused_matmul(
        self,
        values: torch.Tensor,
        x: torch.Tensor,
        out: torch.Tensor,
        rows: torch.Tensor | None = None,
        dot: torch.Tensor | None = None,
        weights: torch.Tensor | None = None,
        square: torch.Tensor | None = None,
    ) -> None:
        """`out = A x`, or `out[rows] += A x`, and inner products, in one pass. Local.

        Parameters
        ----------
        values : torch.Tensor [nnz]
        x : torch.Tensor [n_columns] or [n_columns, k]
        out : torch.Tensor [n_rows] or, with `rows`, longer; or [., k]
        rows : int32 tensor [n_rows], optional
            No row twice.
        dot : torch.Tensor [] or [k], optional
            Raised by weights . (A x), at `rows`, by columns.
        weights : torch.Tensor like out, optional
            Goes with `dot`.
        square : torch.Tensor [] or [k], optional
            Raised by what out . out rises by (from nothing, without `rows`).
        """
        matrix = (self.n_rows, self.indptr, self.indices, values)
        native.call("csr_matmul", x, *matrix, x, rows, out, weights, dot, square)

    def rmatmul(
        self, values: torch.Tensor, x: torch.Tensor, out: torch.Tensor, transposed: bool = False
    ) -> None:
        """`out = A^T x`. Local; not differentiable.

        Goes through the transposed pattern (made once, kept) rather than a scattered sum, which
        on a GPU would add in a different order each time. With `transposed`, `values` are in the
        order of `transpose_values` already.
        """
        pattern, _ = self.transposed
        pattern.matmul(values if transposed else self.transpose_values(values), x, out)

    def transpose_values(
        self, values: torch.Tensor, out: torch.Tensor | None = None
    ) -> torch.Tensor:
        """`values` in the order of the transpose's entries, a copy. Local; [nnz]."""
        if out is None:
            return values.index_select(0, self.transposed[1])
        return torch.index_select(values, 0, self.transposed[1], out=out)

    def sample(
        self, g: torch.Tensor, x: torch.Tensor, out: torch.Tensor | None = None
    ) -> torch.Tensor:
        """`g_i . x_j` at each stored entry (i, j), summed over columns. Local; [nnz].

        Parameters
        ----------
        g : torch.Tensor [n_rows] or [n_rows, k]
        x : torch.Tensor [n_columns] or [n_columns, k]
        out : torch.Tensor [nnz], optional
            Where to.
        """
        if out is None:
            out = g.new_empty(self.nnz)
        if self.compiled(x) and native.can_take(g) and g.is_contiguous():
            native.call("csr_sample", x, self.n_rows, self.indptr, self.indices, g, x, out)
            return out
        left, right = g.index_select(0, self.rows()), x.index_select(0, self.indices)
        if x.dim() == 1:
            return torch.mul(left, right, out=out)
        return torch.sum(left.mul_(right), dim=1, out=out)

    @property
    def diagonal(self) -> torch.Tensor:
        """What `diagonal_entries` gives, made once and kept: int32 [n_rows]."""
        if "diagonal" not in self._cache:
            with lasting():
                self._cache["diagonal"] = self.diagonal_entries()
        return self._cache["diagonal"]  # type: ignore[return-value]

    def diagonal_entries(self, chunk: int | None = None) -> torch.Tensor:
        """Which entry is each row's diagonal one, -1 where none is stored: int32 [n_rows]. Local.

        In pieces of `chunk` rows: it is needed while memory is at its fullest. On a GPU, where
        each piece means a wait, the pieces are larger.
        """
        if chunk is None:
            chunk = 1 << (16 if self.indptr.device.type == "cpu" else 22)
        where = torch.full_like(self.indptr[1:], -1)
        for first in range(0, self.n_rows, chunk):
            last = min(first + chunk, self.n_rows)
            begin, end = self.indptr[[first, last]].tolist()
            rows = expand_rows(self.indptr[first : last + 1] - begin, end - begin) + first
            (found,) = torch.nonzero(rows == self.indices[begin:end], as_tuple=True)
            where[rows[found].long()] = (found + begin).to(where.dtype)
        return where

    def _reach(self, first: int, last: int, size: int) -> list[int]:
        """The furthest of each piece of rows `first` to `last`, written out for the moment."""
        if self._plain is not None:
            begin, end = self.indptr[[first, last]].tolist()
            indptr, indices = self.indptr[first : last + 1] - begin, self.indices[begin:end]
        else:
            assert self._source is not None
            rows = self._source.csr(first, last)
            indptr, indices = torch.from_numpy(rows[0]), torch.from_numpy(rows[1])
        edges = [*indptr[:-1:size].tolist(), len(indices)]
        return [int(indices[i:j].max()) // size + 1 if j > i else 0 for i, j in pairwise(edges)]

    def reach(self, size: int) -> torch.Tensor:
        """How far products of `size` rows each reach into x, for a sweep that makes x on the way.

        Local; made once and kept: int32 [pieces]. Of x, in pieces of `size` too, so many must be
        there before a piece can be multiplied: no fewer than end with itself, and all for the last.
        """
        name = f"reach {size}"
        if name not in self._cache:
            furthest: list[int] = []
            for first in range(0, self.n_rows, _CHUNK * size):
                furthest += self._reach(first, min(first + _CHUNK * size, self.n_rows), size)
            found = [max(far, i + 1) for i, far in enumerate(furthest)]
            found[-1:] = [len(found)] * bool(found)
            with lasting():
                self._cache[name] = torch.tensor(found, dtype=torch.int32, device="cpu")
        return self._cache[name]  # type: ignore[return-value]

    @property
    def transposed(self) -> tuple[CsrPattern, torch.Tensor]:
        """The transpose's pattern, and the entry of ours that each of its entries is."""
        if "transposed" not in self._cache:
            with lasting():
                self._cache["transposed"] = self._transpose()
        return self._cache["transposed"]  # type: ignore[return-value]

    def _transpose(self) -> tuple[CsrPattern, torch.Tensor]:
        # A stable sort by column keeps rows ascending, so the result is canonical CSR. More than
        # can be sorted at once are sorted in pieces, and of each column one goes behind the other.
        whole = self.at_hand()
        indptr, indices = whole.indptr, whole.indices
        kind, device = indptr.dtype, indptr.device
        edges = torch.arange(self.n_columns + 1, dtype=indices.dtype, device=device)
        cuts = [*range(0, self.nnz, _SORTED), self.nnz]
        if len(cuts) <= 2:
            columns, order = torch.sort(indices, stable=True)
            rows = self.rows().index_select(0, order)
            ends = torch.searchsorted(columns, edges).to(kind)
            return CsrPattern(ends, rows, self.n_rows), order.to(kind)
        counts = torch.zeros(self.n_columns, dtype=torch.int64, device=device)
        for first, last in pairwise(cuts):
            columns = torch.sort(indices[first:last]).values
            counts += torch.searchsorted(columns, edges).diff()
        ends = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        following = ends[:-1].clone()
        rows, entries = torch.empty_like(indices), torch.empty(self.nnz, dtype=kind, device=device)
        for first, last in pairwise(cuts):
            columns, order = torch.sort(indices[first:last], stable=True)
            begins = torch.searchsorted(columns, edges)
            within = torch.arange(last - first, device=device)
            place = within + (following - begins[:-1]).index_select(0, columns)
            following += begins.diff()
            order += first
            entries[place] = order.to(kind)
            rows[place] = (torch.searchsorted(indptr, order, right=True) - 1).to(rows.dtype)
        return CsrPattern(ends.to(kind), rows, self.n_rows), entries


class CsrMatrix:
    """A rank-local matrix as it is stored plainly: a pattern and its values.

    Parameters
    ----------
    pattern : CsrPattern
    values : torch.Tensor [nnz]
    """

    def __init__(self, pattern: CsrPattern, values: torch.Tensor) -> None:
        self.pattern, self.values = pattern, values
        self.n_rows = pattern.n_rows
        self._matrix: Matrix | None = None

    @property
    def matrix(self) -> Matrix | None:
        """As compiled loops take it, made once; None where they cannot. Local."""
        pattern = self.pattern
        if (
            self._matrix is None
            and native.can_take(self.values)
            and pattern.indptr.dtype == torch.int32
        ):
            self._matrix = pattern.matrix(self.values)
        return self._matrix

    @property
    def bytes(self) -> int:
        """What is held, indices included."""
        parts = (self.pattern.indptr, self.pattern.indices, self.values)
        return sum(t.numel() * t.element_size() for t in parts)

    def matmul(self, x: torch.Tensor, out: torch.Tensor) -> None:
        """`out = A x`, without allocating. Local; not differentiable."""
        self.pattern.matmul(self.values, x, out)

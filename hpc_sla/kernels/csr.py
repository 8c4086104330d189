"""The rank-local sparse product, as one torch operator on plain tensors.

`torch.ops.hpc_sla.csr_matmul_out` is an operator of our own, and not a method of a sparse CSR
tensor, so that FakeTensorMode and torch.compile understand it and so that one pattern serves
many sets of values.
"""

from __future__ import annotations

import warnings
from itertools import pairwise
from typing import Protocol

import numpy as np
import torch

from hpc_sla.kernels import native
from hpc_sla.kernels.matrix import CSR, Matrix
from hpc_sla.kernels.modes import lasting

_LIBRARY = torch.library.Library("hpc_sla", "DEF")
_LIBRARY.define(
    "csr_matmul_out(Tensor indptr, Tensor indices, Tensor values, Tensor x, Tensor(a!) y) -> ()"
)

# torch says once a process that sparse CSR is in beta, and (some versions) that the invariant
# checks we turn off are off; the reader of a solver's log need not be told.
warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
warnings.filterwarnings("ignore", message="Sparse invariant checks are implicitly disabled")


_CHUNK = 64
"""Pieces of rows that are looked at together."""


def csr_matmul_reference(
    indptr: torch.Tensor,
    indices: torch.Tensor,
    values: torch.Tensor,
    x: torch.Tensor,
    y: torch.Tensor,
) -> None:
    """`y = A x` in plain torch operations, on any device: the oracle."""
    rows = expand_rows(indptr, indices.numel())
    weights = values if x.dim() == 1 else values.unsqueeze(1)
    y.zero_().index_add_(0, rows, weights * x.index_select(0, indices))


def _csr_matmul_library(
    indptr: torch.Tensor,
    indices: torch.Tensor,
    values: torch.Tensor,
    x: torch.Tensor,
    y: torch.Tensor,
) -> None:
    """`y = A x` in C or through MKL on the CPU, and through cuSPARSE on CUDA."""
    if values.numel() == 0 or x.numel() == 0:
        y.zero_()
        return
    if native.serves(x) and indptr.dtype == torch.int32 and x.is_contiguous():
        # Half of MKL's time, whose analysis of the matrix cannot be kept here.
        entries = (indptr, indices, values)
        native.call("csr_matmul", x, y.shape[0], *entries, x, None, y, None, None, None)
        return
    matrix = torch.sparse_csr_tensor(
        indptr, indices, values, (y.shape[0], x.shape[0]), check_invariants=False
    )
    product = torch.addmv if x.dim() == 1 else torch.addmm
    # beta=0 is documented not to read y; mv(out=) spends half as long again on this machine type.
    product(y, matrix, x, beta=0.0, out=y)


_HAS_MKL = torch.backends.mkl.is_available()
_LIBRARY.impl("csr_matmul_out", _csr_matmul_library if _HAS_MKL else csr_matmul_reference, "CPU")
_LIBRARY.impl("csr_matmul_out", _csr_matmul_library, "CUDA")


@torch.library.register_fake("hpc_sla::csr_matmul_out", lib=_LIBRARY)
def _csr_matmul_fake(*tensors: torch.Tensor) -> None:
    devices = {tensor.device for tensor in tensors}
    torch._check(len(devices) == 1, lambda: f"csr_matmul_out: tensors on {devices}")
    dtypes = {tensor.dtype for tensor in tensors[2:]}  # values, x and y
    torch._check(len(dtypes) == 1, lambda: f"csr_matmul_out: dtypes {dtypes}")


def expand_rows(indptr: torch.Tensor, nnz: int) -> torch.Tensor:
    """The row of each stored entry: int32 [nnz] (int64 where `indptr` is).

    `nnz` is known to the caller; reading it off `indptr` would make the host wait for a GPU.
    """
    n_rows = indptr.numel() - 1
    rows = torch.arange(n_rows, dtype=indptr.dtype, device=indptr.device)
    return torch.repeat_interleave(rows, torch.diff(indptr).long(), output_size=nnz)


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

    That of a matrix in fewer bytes has no arrays of its own until somebody asks for them.

    Parameters
    ----------
    indptr, indices : int32 tensor [n_rows + 1], int32 tensor [nnz]
    n_columns : int

    Attributes
    ----------
    n_rows, n_columns, nnz : int
    """

    def __init__(self, indptr: torch.Tensor, indices: torch.Tensor, n_columns: int) -> None:
        self._plain: tuple[torch.Tensor, torch.Tensor] | None = (indptr, indices)
        self._source: Rows | None = None
        self.n_rows, self.n_columns, self.nnz = indptr.numel() - 1, n_columns, indices.numel()
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
        """Where rows begin and end: int32 [n_rows + 1]."""
        return self._arrays()[0]

    @property
    def indices(self) -> torch.Tensor:
        """The column of each entry: int32 [nnz]."""
        return self._arrays()[1]

    @property
    def written(self) -> bool:
        """Whether the arrays are there."""
        return self._plain is not None

    def at_hand(self) -> CsrPattern:
        """The same with its arrays, which this one does not keep if it had none. Local."""
        return self if self._plain is not None else CsrPattern(*self._write(), self.n_columns)

    def _arrays(self) -> tuple[torch.Tensor, torch.Tensor]:
        if self._plain is None:
            self._plain, self._source = self._write(), None
        return self._plain

    def _write(self) -> tuple[torch.Tensor, torch.Tensor]:
        assert self._source is not None
        with lasting():
            indptr, indices, _ = self._source.csr()
            return torch.from_numpy(indptr.astype(np.int32)), torch.from_numpy(indices)

    def rows(self) -> torch.Tensor:
        """The row of each stored entry: int32 [nnz]. Local."""
        return expand_rows(self.indptr, self.nnz)

    def matmul(self, values: torch.Tensor, x: torch.Tensor, out: torch.Tensor) -> None:
        """`out = A x`, without allocating. Local; not differentiable."""
        torch.ops.hpc_sla.csr_matmul_out(self.indptr, self.indices, values, x, out)

    def compiled(self, x: torch.Tensor) -> bool:
        """Whether `fused_matmul` can be used for vectors like x. Local."""
        wide = self._plain is not None and self._plain[0].dtype != torch.int32
        return native.serves(x) and not wide and x.is_contiguous()

    def matrix(self, values: torch.Tensor) -> Matrix:
        """It with values [nnz], as compiled loops take it. Local."""
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

    def absolute_matmul(
        self,
        values: torch.Tensor,
        x: torch.Tensor,
        out: torch.Tensor,
        rows: torch.Tensor | None = None,
        chunk: int = 1 << 15,
    ) -> None:
        """`out = |A| |x|`, or `out[rows] += |A| |x|`. Local; not differentiable.

        Where it is not compiled, on the CPU in pieces of `chunk` rows that stay in the cache, so
        that no second set of values is held.
        """
        if self.compiled(x):
            entries = (self.indptr, self.indices, values)
            matrix = Matrix(CSR, self.n_rows, self.n_columns, self.nnz, entries)
            native.call("absolute", x, 0, matrix.address, x, rows, out)
            return
        if rows is not None:
            part = x.new_empty((self.n_rows, *x.shape[1:]))
            self.absolute_matmul(values, x, part, None, chunk)
            out.index_add_(0, rows, part)
            return
        x = x.abs()
        if self.indptr.device.type != "cpu" or self.n_rows <= chunk:
            self.matmul(values.abs(), x, out)
            return
        for first in range(0, self.n_rows, chunk):
            last = min(first + chunk, self.n_rows)
            begin, end = self.indptr[[first, last]].tolist()
            ends = self.indptr[first : last + 1] - begin
            piece = CsrPattern(ends, self.indices[begin:end], self.n_columns)
            piece.matmul(values[begin:end].abs(), x, out[first:last])

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

    def transpose_values(self, values: torch.Tensor) -> torch.Tensor:
        """`values` in the order of the transpose's entries, a copy. Local; [nnz]."""
        return values.index_select(0, self.transposed[1])

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
        # A stable sort by column keeps rows ascending, so the result is canonical CSR.
        columns, order = torch.sort(self.indices, stable=True)
        rows = self.rows().index_select(0, order)
        edges = torch.arange(self.n_columns + 1, dtype=columns.dtype, device=columns.device)
        indptr = torch.searchsorted(columns, edges, out_int32=True).to(self.indptr.dtype)
        return CsrPattern(indptr, rows, self.n_rows), order.to(self.indptr.dtype)


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

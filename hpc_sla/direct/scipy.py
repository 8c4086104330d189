"""SciPy's SuperLU; and, under its name, UMFPACK where cvxopt is installed. On the host."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch

from hpc_sla.direct import umfpack
from hpc_sla.direct.base import Factorization, LocalMatrix
from hpc_sla.direct.fill import Elimination, elimination
from hpc_sla.errors import SingularMatrixError

_CPU = torch.device("cpu")
_THRESHOLD = 1e-3
"""The diagonal is the pivot if it is no smaller than this part of the largest in its column."""
_WIDE = 1e3
"""Rows whose largest entries differ by more are scaled first: what is small in a column of
unlike units says nothing."""
_ACCURATE = 1e3
"""A residual of so many units in the last place is that of good factors."""


def make(matrix: LocalMatrix, method: str) -> Factorization:
    """Factorise by `lu` (SuperLU) or `umfpack`."""
    return umfpack.Umfpack(matrix) if method == "umfpack" else SuperLU(matrix)


def why_not(method: str | None) -> str | None:
    """Why it cannot be used here; None where it can."""
    return umfpack.why_not() if method == "umfpack" else None


class SuperLU(Factorization):
    """LU with threshold pivoting (J. W. Demmel et al., SIMAX 20, 1999); see `superlu`."""

    backend = "scipy"

    def __init__(self, matrix: LocalMatrix) -> None:
        super().__init__(matrix, "lu", matrix.values.dtype, _CPU)
        self._lu = superlu(matrix, self.backend)
        self.ordering, self.entries = self._lu.ordering, int(self._lu.lu.nnz)

    def _solve(self, b: torch.Tensor, transpose: bool) -> torch.Tensor:
        return torch.from_numpy(self._lu.solve(b.numpy(), transpose))


@dataclass(frozen=True, eq=False)
class OrderedLU:
    """SuperLU's factors of `(R A C)[order][:, order]`, for R and C diagonal.

    Attributes
    ----------
    lu : scipy.sparse.linalg.SuperLU
    ordering : str
        What found `order`, or the columns' order within `lu`.
    order : int32 array [n] or None
        None for the given order.
    rows, columns : array [n] or None
        R and C, powers of two; None for ones.
    """

    lu: Any
    ordering: str
    order: np.ndarray | None = None
    rows: np.ndarray | None = None
    columns: np.ndarray | None = None

    def solve(self, b: np.ndarray, transpose: bool) -> np.ndarray:
        """The solution of `A x = b`, or of the transposed system, for b [n, k]."""
        first, last = (self.columns, self.rows) if transpose else (self.rows, self.columns)
        b = b if first is None else b * first[:, None]
        b = b if self.order is None else b[self.order]
        found = self.lu.solve(b, trans="T" if transpose else "N")
        if self.order is not None:
            x = np.empty_like(b)
            x[self.order] = found
            found = x
        return found if last is None else found * last[:, None]


def superlu(matrix: LocalMatrix, backend: str) -> OrderedLU:
    """SuperLU's factors, made for `backend`. Local.

    Rows and columns are scaled where they differ widely, and eliminated in the order of
    `elimination`; the diagonal serves as pivot unless it is small in its column. Where that does
    not give good factors, or the pattern is far from symmetric, SuperLU orders columns itself
    (COLAMD) and pivots fully.

    Raises
    ------
    SingularMatrixError
        A pivot is zero.
    """
    how = elimination(matrix)
    if how.on_diagonal:
        made = _on_the_diagonal(matrix, how, backend)
        if made is not None:
            return made
    return OrderedLU(_splu(matrix.to_csc(), backend), "column minimum degree")


def _splu(csc: sp.csc_matrix, backend: str, **options: Any) -> Any:
    from scipy.sparse.linalg import splu  # slow to load

    try:
        return splu(csc, **options)
    except RuntimeError as error:
        if "singular" not in str(error):
            raise
        raise SingularMatrixError(
            f"{backend} lu: the matrix is singular: a pivot is zero"
        ) from error


def _on_the_diagonal(matrix: LocalMatrix, how: Elimination, backend: str) -> OrderedLU | None:
    """Factors with pivots near the diagonal; None where they are no good."""
    csc = matrix.to_csc()
    if not csc.data.all():
        csc = csc.copy()  # its pattern is the matrix's own
        csc.eliminate_zeros()
    rows, columns = _scales(csc)
    if rows is not None and columns is not None:
        per_column = np.repeat(columns, np.diff(csc.indptr))
        csc = sp.csc_matrix(
            (csc.data * rows[csc.indices] * per_column, csc.indices, csc.indptr), shape=csc.shape
        )
    csc = csc[:, how.order]
    place = np.empty_like(how.order)
    place[how.order] = np.arange(len(place), dtype=place.dtype)
    csc = sp.csc_matrix((csc.data, place[csc.indices], csc.indptr), shape=csc.shape)
    csc.sort_indices()
    try:
        lu = _splu(
            csc,
            backend,
            permc_spec="NATURAL",
            diag_pivot_thresh=_THRESHOLD,
            options={"SymmetricMode": True},
        )
    except SingularMatrixError:
        return None
    made = OrderedLU(lu, how.kind, how.order, rows, columns)
    return made if _good(csc, lu) else None


def _scales(csc: sp.csc_matrix) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Powers of two that bring the largest of each row, then of each column, near 1; if needed."""
    size, csr = np.abs(csc.data), csc.tocsr()
    if not (np.diff(csr.indptr).all() and np.diff(csc.indptr).all()):
        return None, None
    largest = np.maximum.reduceat(np.abs(csr.data), csr.indptr[:-1])
    if largest.max() <= _WIDE * largest.min():
        return None, None
    rows = _inverse_power(largest)
    columns = _inverse_power(np.maximum.reduceat(size * rows[csc.indices], csc.indptr[:-1]))
    return rows, columns


def _inverse_power(size: np.ndarray) -> np.ndarray:
    _, exponents = np.frexp(size)
    most = np.finfo(size.dtype).maxexp - 1  # a denormal number's inverse is beyond the largest
    return np.ldexp(np.ones_like(size), np.minimum(1 - exponents, most))


def _good(csc: sp.csc_matrix, lu: Any) -> bool:
    """Whether the factors solve a system about as well as any could, by its residual."""
    b = csc @ np.cos(np.arange(csc.shape[0], dtype=csc.dtype))
    x = lu.solve(b)
    if not np.isfinite(x).all():
        return False
    sums = np.bincount(csc.indices, np.abs(csc.data), csc.shape[0])
    allowed = sums.max() * np.abs(x).max() + np.abs(b).max()
    return bool(np.abs(b - csc @ x).max() <= _ACCURATE * np.finfo(csc.dtype).eps * allowed)

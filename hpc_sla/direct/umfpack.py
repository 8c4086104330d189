"""UMFPACK, as cvxopt carries it. On the host, in double precision."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp
import torch

from hpc_sla.direct.base import Factorization, LocalMatrix
from hpc_sla.errors import InputError, SingularMatrixError

_MOST = 2**31 - 1
"""Entries that cvxopt can count: of more it takes the number modulo 2^32, and says nothing."""
_PIECE = 256
"""Entries of a column that cvxopt compares pair by pair, looking for repeated ones."""


def why_not() -> str | None:
    """Why it cannot be used here; None where it can."""
    try:
        import cvxopt.umfpack  # noqa: F401 - optional
    except ImportError:
        return "cvxopt is not installed (pip install 'hpc_sla[umfpack]')"
    return None


class Umfpack(Factorization):
    """Multifrontal LU (T. A. Davis, ACM TOMS 30, 2004), each solution refined."""

    backend = "scipy"

    def __init__(self, matrix: LocalMatrix) -> None:
        from cvxopt import umfpack

        super().__init__(matrix, "umfpack", torch.float64, torch.device("cpu"))
        if matrix.pattern.nnz > _MOST:
            raise InputError(
                f"{matrix.pattern.nnz} entries are more than cvxopt's UMFPACK takes, {_MOST}",
                field="method",
                remedy="Use an iterative method, or more ranks",
            )
        self._matrix = _of_cvxopt(matrix.to_csc(np.float64))
        try:
            self._factors = umfpack.numeric(self._matrix, umfpack.symbolic(self._matrix))
        except ArithmeticError as error:
            raise SingularMatrixError(
                "scipy umfpack: the matrix is singular: a pivot is zero"
            ) from error

    def _solve(self, b: torch.Tensor, transpose: bool) -> torch.Tensor:
        from cvxopt import matrix, umfpack

        x, columns = np.empty(tuple(b.shape)), b.numpy()
        # A column at a time, as UMFPACK solves: cvxopt counts rows times columns in an int.
        column = matrix(0.0, (self.n, 1))
        inside = np.asarray(column)[:, 0]
        for j in range(x.shape[1]):
            inside[:] = columns[:, j]
            umfpack.solve(self._matrix, self._factors, column, trans="T" if transpose else "N")
            x[:, j] = inside
        return torch.from_numpy(x)


def _of_cvxopt(csc: sp.csc_matrix) -> Any:
    """The matrix as cvxopt's, which is made of triplets only."""
    lengths = np.diff(csc.indptr)
    n = len(lengths)
    if not csc.nnz or lengths.max() <= _PIECE:
        return _triplets(csc.data, csc.indices, np.repeat(np.arange(n), lengths), (n, n))
    # Its time goes with the square of the longest column. So long columns are cut into pieces, a
    # column each, which a product with ones puts together, exactly.
    pieces = -(-lengths // _PIECE)
    first = np.cumsum(pieces) - pieces
    within = np.arange(csc.nnz) - np.repeat(csc.indptr[:-1], lengths)
    places, count = np.repeat(first, lengths) + within // _PIECE, int(pieces.sum())
    owners = np.repeat(np.arange(n), pieces)
    cut = _triplets(csc.data, csc.indices, places, (n, count))
    return cut * _triplets(np.ones(count), np.arange(count), owners, (count, n))


def _triplets(
    values: np.ndarray, rows: np.ndarray, columns: np.ndarray, shape: tuple[int, int]
) -> Any:
    from cvxopt import spmatrix

    # It takes integers of this width alone, everywhere.
    places = (numbers.astype(np.intp, copy=False) for numbers in (rows, columns))
    return spmatrix(values, *places, shape, "d")

"""Incomplete factorisations of a rank's own matrix, and the solves with them.

ILU(0) and IC(0) are sequential by nature: they run on the CPU, in C (`incomplete.c`), or row by
row in NumPy where nothing was compiled. The solves run in C on the CPU, elsewhere by levels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch

from hpc_sla.errors import InputError
from hpc_sla.kernels import native
from hpc_sla.kernels.levels import LevelSchedule

# A pivot this close to nothing, beside its row's diagonal, is what rounding leaves of a zero.
_PIVOT = 10.0
# Manteuffel's shifts: the first, and where to give up. Long before, the diagonal dominates.
_FIRST_SHIFT, _LAST_SHIFT = 1e-3, 1e9

_MOST_LEVELS = 512
"""In a CUDA graph, each of them being two launches."""


@dataclass(frozen=True, eq=False)
class Block:
    """A square matrix of one rank in CSR, every diagonal entry stored, columns ascending.

    Attributes
    ----------
    indptr, indices : int32 arrays [n + 1], [nnz]
    values : float64 or float32 array [nnz]
    diagonal : int32 array [n]
        Which entry is each row's diagonal one.
    """

    indptr: np.ndarray
    indices: np.ndarray
    values: np.ndarray
    diagonal: np.ndarray

    @classmethod
    def from_entries(
        cls, n: int, rows: np.ndarray, columns: np.ndarray, values: np.ndarray
    ) -> Block:
        """From triplets, in any order; those of one place are summed. Local.

        A diagonal entry that is not among them is stored as 0, and as 1 in a row that has only
        zeros: such a row is then left as it is, as by Jacobi.
        """
        stored = np.zeros(n, dtype=bool)
        stored[rows[rows == columns]] = True
        missing = np.flatnonzero(~stored)
        rows, columns = np.concatenate([rows, missing]), np.concatenate([columns, missing])
        values = np.concatenate([values, np.zeros(len(missing), dtype=values.dtype)])
        csr = sp.coo_matrix((values, (rows, columns)), shape=(n, n)).tocsr()
        indptr, indices = (a.astype(np.int32, copy=False) for a in (csr.indptr, csr.indices))
        rows, values = np.repeat(np.arange(n), np.diff(indptr)), csr.data
        diagonal = np.flatnonzero(indices == rows)
        filled = np.bincount(rows[values != 0], minlength=n) > 0
        values[diagonal[~filled]] = 1.0
        return cls(indptr, indices, values, diagonal.astype(np.int32))

    @classmethod
    def from_csr(cls, indptr: np.ndarray, indices: np.ndarray, values: np.ndarray) -> Block:
        """From int32 CSR arrays. Local.

        As `from_entries`, but the arrays are shared where nothing has to be sorted or added.
        """
        n = len(indptr) - 1
        rows = np.repeat(np.arange(n, dtype=np.int32), np.diff(indptr))
        diagonal = np.flatnonzero(indices == rows)
        sorted_once = sp.csr_matrix((values, indices, indptr), shape=(n, n)).has_canonical_format
        if not sorted_once or len(diagonal) < n or not values[diagonal].all():
            return cls.from_entries(n, rows, indices, values)
        return cls(indptr, indices, values, diagonal.astype(np.int32))

    @property
    def n(self) -> int:
        return len(self.indptr) - 1

    def reordered(self, order: np.ndarray) -> Block:
        """The same matrix with row and column `order[i]` in place i. Local.

        Parameters
        ----------
        order : int64 array [n]
            A permutation.
        """
        place = np.empty(self.n, dtype=np.int64)
        place[order] = np.arange(self.n)
        return Block.from_entries(self.n, place[self.rows()], place[self.indices], self.values)

    def rows(self) -> np.ndarray:
        """The row of each entry: int64 [nnz]."""
        return np.repeat(np.arange(self.n), np.diff(self.indptr))

    def row_maxima(self) -> np.ndarray:
        """The largest absolute value of each row: [n]."""
        if self.n == 0:
            return np.empty(0, dtype=self.values.dtype)
        return np.maximum.reduceat(np.abs(self.values), self.indptr[:-1])

    def lower(self) -> Block:
        """The lower triangle with the diagonal."""
        rows = self.rows()
        keep = self.indices <= rows
        indptr = np.concatenate([[0], np.cumsum(self.diagonal - self.indptr[:-1] + 1)])
        indptr = indptr.astype(np.int32)
        return Block(indptr, self.indices[keep], self.values[keep], indptr[1:] - np.int32(1))

    def is_symmetric(self) -> bool:
        """Whether the matrix equals its transpose but for rounding; NaN equals anything."""
        other = transpose(self.indptr, self.indices, self.values)
        if not np.array_equal(self.indptr, other[0]) or not np.array_equal(self.indices, other[1]):
            return False
        if np.array_equal(self.values, other[2]):
            return True
        rows, columns, size = self.rows(), self.indices, self.row_maxima()
        allowed = 100 * np.finfo(self.values.dtype).eps * np.minimum(size[rows], size[columns])
        # A NaN is for the solver to see: it takes nothing from the symmetry of the rest.
        with np.errstate(invalid="ignore"):
            return not np.any(np.abs(self.values - other[2]) > allowed)


def transpose(
    indptr: np.ndarray, indices: np.ndarray, values: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The transpose of a square CSR matrix: its three arrays, columns ascending. Local."""
    n = len(indptr) - 1
    other = sp.csr_matrix((values, indices, indptr), shape=(n, n)).tocsc()
    return other.indptr, other.indices, other.data


@dataclass(frozen=True, eq=False)
class Triangle:
    """A triangular matrix in CSR whose diagonal is 1 and not stored, columns ascending.

    Attributes
    ----------
    indptr, indices : int32 arrays [n + 1], [nnz]
    values : float64 or float32 array [nnz]
    """

    indptr: np.ndarray
    indices: np.ndarray
    values: np.ndarray

    def transposed(self) -> Triangle:
        return Triangle(*transpose(self.indptr, self.indices, self.values))

    def tensors(self) -> list[torch.Tensor]:
        """The three arrays, without a copy."""
        return [torch.from_numpy(a) for a in (self.indptr, self.indices, self.values)]


class TriangularFactor:
    """`L D U`, ready to solve with.

    Parameters
    ----------
    lower, upper : Triangle
        L and U, or L alone where U is its transpose.
    inverse : array [n]
        The diagonal of `D^-1`.
    device : torch.device
        Where the vectors are.
    shift : float
        What was added to the diagonal, as a multiple of it, for the factorisation to exist.
    """

    def __init__(
        self,
        lower: Triangle,
        upper: Triangle | None,
        inverse: np.ndarray,
        device: torch.device,
        shift: float = 0.0,
    ) -> None:
        self.shift = shift
        self.symmetric = upper is None
        self.device = device
        self._triangles = {False: (lower, lower.transposed() if upper is None else upper)}
        self.inverse = torch.from_numpy(inverse).to(device)
        self._tensors: dict[bool, list[torch.Tensor]] = {}
        self._schedules: dict[bool, tuple[LevelSchedule, LevelSchedule]] = {}
        if device.type != "cpu" or not native.can_take(self.inverse):
            self._levels(False)

    @property
    def capturable(self) -> bool:
        """Whether solving is a few launches, and so worth a CUDA graph. Local."""
        return sum(len(levels.levels) for levels in self._levels(False)) <= _MOST_LEVELS

    def solve(self, b: torch.Tensor, out: torch.Tensor, transpose: bool = False) -> torch.Tensor:
        """Solve for b `[n]` or `[n, k]`, into `out` or a new tensor. Local.

        `out` may not overlap b; both are of the factor's dtype.
        """
        b = b.contiguous()
        out = out if out.is_contiguous() else torch.empty_like(b)
        transpose = transpose and not self.symmetric
        if native.can_take(b):
            if transpose not in self._tensors:
                lower, upper = self._of(transpose)
                self._tensors[transpose] = [*lower.tensors(), *upper.tensors()]
            arrays = self._tensors[transpose]
            native.call("ldu_solve", b, b.shape[0], *arrays, self.inverse, b, out)
        else:
            lower_levels, upper_levels = self._levels(transpose)
            lower_levels.solve(b, None, out)
            upper_levels.solve(out, self.inverse, out)
        return out

    def _of(self, transpose: bool) -> tuple[Triangle, Triangle]:
        """L and U, or those of `(L D U)^T = U^T D L^T`. Made once, kept."""
        if transpose not in self._triangles:
            lower, upper = self._triangles[False]
            self._triangles[True] = (upper.transposed(), lower.transposed())
        return self._triangles[transpose]

    def _levels(self, transpose: bool) -> tuple[LevelSchedule, LevelSchedule]:
        if transpose not in self._schedules:
            lower, upper = (
                LevelSchedule(t.indptr, t.indices, t.values, self.device)
                for t in self._of(transpose)
            )
            self._schedules[transpose] = (lower, upper)
        return self._schedules[transpose]


def ilu0(matrix: Block, device: torch.device) -> TriangularFactor:
    """ILU(0): L U that equals the matrix on its own pattern. Local.

    Saad, Iterative Methods for Sparse Linear Systems, 2nd ed., algorithm 10.4, in the given order
    and without pivoting. Where a pivot is zero to rounding, the diagonal is shifted, see `ic0`;
    away from zero, by its own sign. Of a symmetric matrix it is symmetric (U = D L^T).

    Raises
    ------
    InputError
        No shift helps. **Local**: callers agree.
    """
    return _factorise(matrix, "ilu0", ilu0_reference, device)


def ic0(matrix: Block, device: torch.device) -> TriangularFactor:
    """IC(0), as L D L^T with D > 0, of a symmetric matrix's lower triangle. Local.

    Where a pivot is not positive, the factorisation is of the matrix plus `shift` times its
    absolute diagonal, with the first of 0.001, 0.002, 0.004, ... that exists (Manteuffel, "An
    incomplete factorization technique for positive definite linear systems", Math. Comp. 34,
    1980). Otherwise as `ilu0`; the upper triangle is not looked at.
    """
    return _factorise(matrix.lower(), "ic0", ic0_reference, device)


Reference = Callable[[Block, np.ndarray, np.ndarray, np.ndarray], int]


def _factorise(
    matrix: Block, kind: str, reference: Reference, device: torch.device
) -> TriangularFactor:
    symmetric = kind == "ic0"
    dtype = matrix.values.dtype
    eps = float(np.finfo(dtype).eps)
    diagonal = matrix.values[matrix.diagonal]
    # What a row's diagonal is measured by: itself, as that does not change with the scaling of a
    # symmetric matrix, unless it is next to nothing.
    size = np.abs(diagonal)
    if not (size.min(initial=np.inf) > eps * np.abs(matrix.values).max(initial=0)):
        largest = matrix.row_maxima()
        size = np.where(size > eps * largest, size, largest)
        size[size == 0] = 1  # an overlapping row whose entries lie above the diagonal
    sign = np.where((diagonal < 0) & (not symmetric), -1, 1).astype(dtype)
    least = (_PIVOT * eps * size).astype(dtype)
    inverse = np.empty(matrix.n, dtype=dtype)
    if not np.isfinite(matrix.values).all():
        # Nothing to factor; the solver is to see it and say so.
        inverse[:] = np.nan
        return _ready(matrix, inverse, symmetric, device, 0.0)
    shift = 0.0
    while shift <= _LAST_SHIFT:
        trial = Block(matrix.indptr, matrix.indices, matrix.values.copy(), matrix.diagonal)
        trial.values[matrix.diagonal] += (shift * size * sign).astype(dtype)
        if _attempt(trial, kind, reference, inverse, least):
            return _ready(trial, inverse, symmetric, device, shift)
        shift = 2 * shift or _FIRST_SHIFT
    raise InputError(
        f"{kind} of a block of {matrix.n} rows breaks down even with its diagonal shifted",
        field="precond",
        remedy="Scale the matrix, or use factor=lu",
    )


def _ready(
    factor: Block, inverse: np.ndarray, symmetric: bool, device: torch.device, shift: float
) -> TriangularFactor:
    """Take the factor apart into its triangles."""
    rows = factor.rows()
    lower = _triangle(factor, factor.indices < rows, factor.diagonal - factor.indptr[:-1])
    upper = None
    if not symmetric:
        upper = _triangle(factor, factor.indices > rows, factor.indptr[1:] - factor.diagonal - 1)
    return TriangularFactor(lower, upper, inverse, device, shift)


def _triangle(factor: Block, keep: np.ndarray, counts: np.ndarray) -> Triangle:
    indptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    return Triangle(indptr, factor.indices[keep], factor.values[keep])


def _attempt(
    trial: Block, kind: str, reference: Reference, inverse: np.ndarray, least: np.ndarray
) -> bool:
    """Factor in place. Whether it worked."""
    like = torch.from_numpy(inverse)
    if native.can_take(like):
        where = np.full(trial.n, -1, dtype=np.int32)
        arrays = (
            trial.indptr, trial.diagonal, trial.indices, trial.values, inverse, least, where,
        )  # fmt: skip
        row = native.call(kind, like, trial.n, *map(torch.from_numpy, arrays))
    else:
        with np.errstate(all="ignore"):
            row = reference(trial, trial.values, inverse, least)
    return row == -1 and bool(np.isfinite(inverse).all() and np.isfinite(trial.values).all())


def ilu0_reference(
    pattern: Block, values: np.ndarray, inverse: np.ndarray, least: np.ndarray
) -> int:
    """What `ilu0` in incomplete.c does, in NumPy: the oracle, and used where nothing is compiled.

    Parameters
    ----------
    pattern : Block
    values : array [nnz]
        Overwritten by the factor.
    inverse : array [n]
        Overwritten by the inverse pivots.
    least : array [n]
        What each pivot has to exceed in size.

    Returns
    -------
    int
        -1, or the row whose pivot does not.
    """
    indptr, indices, diagonal = pattern.indptr, pattern.indices, pattern.diagonal
    for i in range(pattern.n):
        mine = slice(indptr[i], indptr[i + 1])
        row, columns = values[mine], indices[mine]
        for p in range(diagonal[i] - indptr[i]):
            k = columns[p]
            upper = slice(diagonal[k] + 1, indptr[k + 1])
            _, here, there = np.intersect1d(
                columns, indices[upper], assume_unique=True, return_indices=True
            )
            row[here] -= row[p] * values[upper][there]
            row[p] *= inverse[k]
        pivot = values[diagonal[i]]
        if not abs(pivot) > least[i]:
            return i
        inverse[i] = 1 / pivot
        row[diagonal[i] - indptr[i] + 1 :] *= inverse[i]
    return -1


def ic0_reference(
    pattern: Block, values: np.ndarray, inverse: np.ndarray, least: np.ndarray
) -> int:
    """What `ic0` in incomplete.c does, in NumPy: `L D L^T`. Arguments as of `ilu0_reference`."""
    indptr, indices, diagonal = pattern.indptr, pattern.indices, pattern.diagonal
    for i in range(pattern.n):
        below = slice(indptr[i], diagonal[i])
        row, columns = values[below], indices[below]
        for p, k in enumerate(columns):
            theirs = slice(indptr[k], diagonal[k])
            _, here, there = np.intersect1d(
                columns, indices[theirs], assume_unique=True, return_indices=True
            )
            row[p] -= row[here] @ values[theirs][there]
        factor = row * inverse[columns]
        pivot = values[diagonal[i]] - row @ factor
        row[:] = factor
        values[diagonal[i]] = pivot
        if not pivot > least[i]:
            return i
        inverse[i] = 1 / pivot
    return -1

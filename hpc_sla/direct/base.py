"""What a factorisation is given, and what it can do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch

from hpc_sla import adjoint
from hpc_sla.adjoint import LocalPattern, MatrixForm
from hpc_sla.distributed.arguments import tensor_of
from hpc_sla.distributed.shared import Shared, refuse_pickling
from hpc_sla.errors import InputError, SingularMatrixError
from hpc_sla.kernels.csr import CsrPattern
from hpc_sla.kernels.modes import entry, ordinary
from hpc_sla.storage.scipy_matrix import as_csr

_DTYPES = (torch.float64, torch.float32)


@dataclass(frozen=True, eq=False)
class LocalMatrix:
    """A square matrix in compressed rows, on one device.

    Attributes
    ----------
    pattern : CsrPattern
        Columns ascending and distinct within a row.
    values : torch.Tensor [nnz]
        float64 or float32; finite; detached.
    source : torch.Tensor [nnz] or None
        What the values were detached from, where that requires a gradient.
    """

    pattern: CsrPattern
    values: torch.Tensor
    source: torch.Tensor | None = None

    @classmethod
    def of(cls, matrix: Any, values: torch.Tensor | None) -> LocalMatrix:
        """From a CsrPattern and values, or from a SciPy matrix; checked.

        Raises
        ------
        InputError
            Not square, not float32 or float64, not finite, values that do not fit the pattern.
        """
        if isinstance(matrix, CsrPattern):
            if values is None or values.shape != (matrix.nnz,):
                got = "none" if values is None else f"values of shape {tuple(values.shape)}"
                raise InputError(
                    f"the pattern has {matrix.nnz} entries and got {got}",
                    field="values",
                    remedy="Pass one value for each entry of the pattern",
                )
            pattern = _checked_pattern(matrix)
        else:
            if values is not None:
                raise InputError(
                    "a SciPy matrix has values of its own, and others were passed",
                    field="values",
                    remedy="Leave them out, or pass a CsrPattern",
                )
            pattern, values = _from_scipy(matrix)
        if pattern.n_rows != pattern.n_columns:
            raise InputError(
                f"a {pattern.n_rows} x {pattern.n_columns} matrix is not square", field="matrix"
            )
        if values.dtype not in _DTYPES:
            raise InputError(
                f"values of dtype {values.dtype} are not supported",
                field="values",
                remedy="Pass float64 or float32",
            )
        if not bool(torch.isfinite(values).all()):
            raise InputError("the matrix has entries that are NaN or infinite", field="values")
        return cls(pattern, values.detach(), values if values.requires_grad else None)

    @property
    def n(self) -> int:
        return self.pattern.n_rows

    @property
    def transposed(self) -> LocalMatrix:
        """The transpose, in compressed rows of its own."""
        pattern, order = self.pattern.transposed
        return LocalMatrix(pattern, self.values.index_select(0, order))

    def to_csc(self, dtype: type[np.floating[Any]] | None = None) -> sp.csc_matrix:
        """On the host, in compressed columns with sorted rows, as SciPy."""
        # The transpose's rows are the columns: no conversion on the host.
        other = self.transposed
        arrays = [t.cpu().numpy() for t in (other.values, other.pattern.indices)]
        data = arrays[0].astype(dtype or arrays[0].dtype, copy=False)
        indptr = other.pattern.indptr.cpu().numpy()
        return sp.csc_matrix((data, arrays[1], indptr), shape=(self.n, self.n))

    @cached_property
    def symmetric(self) -> bool:
        """Whether a_ij and a_ji agree to rounding, entry by entry; what is not stored is 0."""
        pattern, order = self.pattern.transposed
        same = torch.equal(pattern.indptr, self.pattern.indptr)
        if not (same and torch.equal(pattern.indices, self.pattern.indices)):
            apart = self.without_zeros
            return apart is not self and apart.symmetric
        other = self.values.index_select(0, order)
        # Relative to the two entries themselves: one measure for the whole matrix would call a
        # badly scaled non-symmetric one symmetric.
        bound = 1000 * torch.finfo(self.values.dtype).eps
        difference = (self.values - other).abs()
        return bool((difference <= bound * (self.values.abs() + other.abs())).all())

    @property
    def without_zeros(self) -> LocalMatrix:
        """The same without the zeros that it stores; itself where there are none."""
        kept = self.values != 0
        if bool(kept.all()):
            return self
        indptr, indices = self.pattern.indptr, self.pattern.indices
        ends = torch.cat([kept.new_zeros(1), kept]).cumsum(0).to(indptr.dtype)
        ends = ends.index_select(0, indptr.long())
        pattern = CsrPattern(ends, indices[kept], self.pattern.n_columns)
        return LocalMatrix(pattern, self.values[kept])

    @cached_property
    def positive_diagonal(self) -> bool:
        """Whether every diagonal entry is stored and positive, as Cholesky needs."""
        where = self.pattern.diagonal
        if not self.n or bool((where < 0).any()):
            return not self.n
        return bool((self.values.index_select(0, where) > 0).all())


class Factorization(Shared, ABC):
    """A factorised matrix: solve with it as often as you like. Local.

    Solutions are differentiable in b and in the values that were factorised, any number of times
    and in forward mode: see `hpc_sla.adjoint`. The factors serve the transposed systems too.

    Attributes
    ----------
    backend, method : str
        Which made it, and how: `lu`, `umfpack`, `llt`, `ldlt` or `qr`.
    n : int
    dtype : torch.dtype
        In which it was computed; double where a backend has no single precision.
    device : torch.device
        Where it was computed.
    """

    backend: str

    def __init__(
        self, matrix: LocalMatrix, method: str, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.method = method
        self.n = matrix.n
        self.dtype = dtype
        self.device = device
        self._theta = (matrix.values if matrix.source is None else matrix.source,)
        self._form = MatrixForm(LocalPattern(matrix.pattern))

    def __reduce_ex__(self, protocol: Any) -> Any:
        refuse_pickling(self, "Save the matrix, and factorise it again")

    @property
    def capturable(self) -> bool:
        """Whether a CUDA graph can be made of `apply`, and is worth it. Local."""
        return False

    @entry
    def solve(self, b: torch.Tensor, transpose: bool = False) -> torch.Tensor:
        """Find x with A x = b, or A^T x = b. Local; waits for the device.

        Parameters
        ----------
        b : torch.Tensor [n] or [n, k]
            float64 or float32, on any device.
        transpose : bool

        Returns
        -------
        torch.Tensor like b
            On b's device and of its dtype.

        Raises
        ------
        InputError
            b has another length or dtype, or is not finite.
        SingularMatrixError
            The solution is not finite, though b is.
        """
        b = tensor_of(b, "b", self._theta[0].dtype)
        if b.dim() not in (1, 2) or b.shape[0] != self.n:
            raise InputError(
                f"shape {tuple(b.shape)} does not go with {self.n} equations", field="b"
            )
        if b.dtype not in _DTYPES:
            raise InputError(f"dtype {b.dtype} is neither float64 nor float32", field="b")
        system = _FactorizedSystem(self, transpose)
        x: torch.Tensor = adjoint.Solve.apply(
            system, None, ordinary(b), None, *map(ordinary, self._theta)
        )
        return x

    def _solve_checked(self, b: torch.Tensor, transpose: bool) -> torch.Tensor:
        if b.numel() == 0:
            return torch.empty_like(b)
        columns = b.detach().to(self.device, self.dtype).reshape(self.n, -1)
        x = self._solve(columns, transpose)
        if not bool(torch.isfinite(x).all()):
            if not bool(torch.isfinite(b).all()):
                raise InputError("the right-hand side has NaN or infinite entries", field="b")
            raise SingularMatrixError(
                f"{self.backend} {self.method}: the solution is not finite; the matrix is "
                "singular, or so nearly that its solution overflows"
            )
        self._check(x, columns, transpose)
        return x.to(b.device, b.dtype).reshape(b.shape)

    def apply(self, b: torch.Tensor, transpose: bool = False) -> torch.Tensor:
        """`solve` for the inside of a loop that ranks run together. Local.

        It raises nothing and, where the backend computes on b's device, does not wait for it: what
        is not finite in b, and what a singular matrix makes of it, is so in the result.

        Parameters
        ----------
        b : torch.Tensor [n] or [n, k]
            float64 or float32; trusted to fit.
        transpose : bool

        Returns
        -------
        torch.Tensor like b
            A new one, contiguous.
        """
        if b.numel() == 0:
            return torch.empty_like(b)
        columns = b.detach().to(self.device, self.dtype).reshape(self.n, -1)
        try:
            x = self._solve(columns, transpose)
        except SingularMatrixError:
            # One rank's alone: were it raised, the others would wait for this one for ever.
            x = torch.full_like(columns, torch.nan)
        return x.to(b.device, b.dtype).reshape(b.shape).contiguous()

    def _check(self, x: torch.Tensor, b: torch.Tensor, transpose: bool) -> None:
        """Raise SingularMatrixError where a backend knows that x is no solution, though finite."""

    @abstractmethod
    def _solve(self, b: torch.Tensor, transpose: bool) -> torch.Tensor:
        """Solve for b [n, k] of the factorisation's dtype and device; neither is empty."""

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.n} x {self.n}, {self.backend} {self.method}, "
            f"{self.dtype}, {self.device})"
        )


class Empty(Factorization):
    """The factorisation of a 0 x 0 matrix, which some libraries do not survive."""

    def __init__(self, matrix: LocalMatrix, method: str, backend: str) -> None:
        super().__init__(matrix, method, matrix.values.dtype, matrix.values.device)
        self.backend = backend

    def _solve(self, b: torch.Tensor, transpose: bool) -> torch.Tensor:
        raise AssertionError("b is empty")


class _FactorizedSystem:
    """A factorisation, for `hpc_sla.adjoint`."""

    info = None

    def __init__(self, factors: Factorization, transpose: bool) -> None:
        self._factors, self._transpose = factors, transpose
        self.form = factors._form.T if transpose else factors._form

    def run(self, b: torch.Tensor, x0: torch.Tensor | None) -> tuple[torch.Tensor, None]:
        return self._factors._solve_checked(b, self._transpose), None

    def derivative(
        self, b: torch.Tensor, theta: tuple[torch.Tensor, ...], transposed: bool
    ) -> torch.Tensor:
        return self._factors._solve_checked(b, self._transpose != transposed)


def _checked_pattern(pattern: CsrPattern) -> CsrPattern:
    """The pattern itself, looked at once: compiled code that trusts it comes next."""
    if "checked" in pattern._cache:
        return pattern
    indptr, indices, n = pattern.indptr, pattern.indices, pattern.n_columns
    kinds = {(t.dtype, t.dim(), t.device) for t in (indptr, indices)}
    if kinds not in ({(kind, 1, indptr.device)} for kind in (torch.int32, torch.int64)):
        raise InputError(
            "indptr and indices are not one-dimensional, of one integer dtype, and on one device",
            field="matrix",
        )
    ends = indptr.tolist()[:1] + indptr.tolist()[-1:]
    if ends != [0, len(indices)] or bool((indptr.diff() < 0).any()):
        raise InputError(
            f"indptr does not rise from 0 to the number of entries, {len(indices)}", field="matrix"
        )
    if len(indices):
        low, high = (int(end) for end in indices.aminmax())
        if low < 0 or high >= n:
            wrong = low if low < 0 else high
            raise InputError(f"column {wrong} is outside 0 to {n - 1}", field="matrix")
        key = pattern.rows().long() * n + indices
        if bool((key.diff() <= 0).any()):
            raise InputError("columns do not ascend within each row", field="matrix")
    pattern._cache["checked"] = True
    return pattern


def _from_scipy(matrix: Any) -> tuple[CsrPattern, torch.Tensor]:
    if not sp.issparse(matrix):
        raise InputError(
            f"a {type(matrix).__name__} is neither a CsrPattern nor a SciPy sparse matrix",
            field="matrix",
        )
    csr = as_csr(matrix)
    if csr.nnz >= 2**31 or max(csr.shape) >= 2**31:
        raise InputError(f"{csr.nnz} entries do not fit 32-bit indices", field="matrix")
    pattern = CsrPattern(
        torch.from_numpy(csr.indptr.astype(np.int32)),
        torch.from_numpy(csr.indices.astype(np.int32)),
        csr.shape[1],
    )
    return pattern, torch.from_numpy(csr.data)

"""SparseTensor: a sparse matrix, or a batch of them on one pattern, on one process."""

from __future__ import annotations

import copy
import numbers
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hpc_sla import direct
from hpc_sla.distributed.arguments import empty_result, tensor_of
from hpc_sla.errors import InputError
from hpc_sla.kernels.modes import entry
from hpc_sla.linear import SolveInfo
from hpc_sla.linear.method import Method
from hpc_sla.sparse.matrix import DSparseMatrix
from hpc_sla.sparse_tensor import files
from hpc_sla.sparse_tensor.backends import choose_backend
from hpc_sla.sparse_tensor.nonlinear import NonlinearSolves
from hpc_sla.sparse_tensor.shapes import for_each_system, take_apart
from hpc_sla.sparse_tensor.solve import by_factorization, by_iteration, warn_unconverged
from hpc_sla.sparse_tensor.sparsity import Sparsity
from hpc_sla.storage.checks import native
from hpc_sla.storage.scipy_matrix import as_csr

if TYPE_CHECKING:
    import scipy.sparse as sp

_DTYPES = (torch.float64, torch.float32)


class SparseTensor(NonlinearSolves):
    """A sparse matrix [m, n], or a batch of B that share their pattern, on one device.

    For one process: no launcher, no World, no MPI. Underneath each matrix is a `DSparseMatrix` of
    one rank (`matrix`), so what works on one works on many.

    Parameters
    ----------
    values : torch.Tensor or array [nnz], or [B, nnz] for a batch
        float64 or float32, on any device; may require grad.
    row, col : integer tensor or array [nnz]
        0-based, in any order. Entries given twice are summed, differentiably.
    shape : (int, int)
        m and n.

    Attributes
    ----------
    values : torch.Tensor [nnz] or [B, nnz]
        In row-major order, one for each distinct (row, column); an explicit zero stays.
    row, col : int64 tensor [nnz]
    shape : (int, int)
        Of one matrix.

    Raises
    ------
    InputError
        Lengths that differ, an index out of range, another dtype.

    Examples
    --------
    >>> import hpc_sla as hs, torch
    >>> values = torch.tensor([2.0, -1.0, -1.0, 2.0], dtype=torch.float64)
    >>> S = hs.SparseTensor(values, [0, 0, 1, 1], [0, 1, 0, 1], (2, 2))
    >>> S.solve(torch.tensor([1.0, 0.0], dtype=torch.float64))
    tensor([0.6667, 0.3333], dtype=torch.float64)
    """

    @entry
    def __init__(self, values: Any, row: Any, col: Any, shape: Sequence[int]) -> None:
        values = _floats(values, "values")
        sparsity, slots = Sparsity.of(row, col, shape, values.device)
        _check_values(values, sparsity.nnz if slots is None else len(slots))
        if slots is not None and len(slots) > sparsity.nnz:
            zeros = values.new_zeros((*values.shape[:-1], sparsity.nnz))
            values = zeros.index_add(-1, slots, values)
        elif slots is not None:
            values = values.index_select(-1, torch.argsort(slots))
        self._set(values, sparsity)

    def _set(self, values: torch.Tensor, sparsity: Sparsity) -> None:
        self.values = values
        self._sparsity = sparsity
        self.row, self.col, self.shape = sparsity.row, sparsity.col, sparsity.shape

    @classmethod
    def _of(cls, values: torch.Tensor, sparsity: Sparsity) -> SparseTensor:
        made = cls.__new__(cls)
        made._set(values, sparsity)
        return made

    def __deepcopy__(self, memo: dict[int, Any]) -> SparseTensor:
        """Values of its own on the same pattern."""
        return self._of(copy.deepcopy(self.values, memo), self._sparsity)

    def __reduce__(self) -> Any:
        return SparseTensor._of, (self.values, self._sparsity)

    # From and to other forms

    @classmethod
    @entry
    def from_dense(cls, dense: torch.Tensor) -> SparseTensor:
        """The entries of `[m, n]` or `[B, m, n]` that are not zero (in some of the batch).

        Differentiable.
        """
        dense = _floats(dense, "dense")
        if dense.dim() not in (2, 3):
            raise InputError(f"shape {tuple(dense.shape)} is neither [m, n] nor [B, m, n]")
        there = dense.detach() != 0
        row, col = torch.nonzero(there if dense.dim() == 2 else there.any(dim=0), as_tuple=True)
        m, n = dense.shape[-2:]
        values = dense.flatten(-2).index_select(-1, row * n + col)
        return cls._of(values, Sparsity(row, col, (m, n)))

    @entry
    def to_dense(self) -> torch.Tensor:
        """[m, n] or [B, m, n]. Differentiable."""
        m, n = self.shape
        flat = self.values.new_zeros((*self.values.shape[:-1], m * n))
        return flat.index_add(-1, self._sparsity.key, self.values).unflatten(-1, (m, n))

    @classmethod
    @entry
    def from_scipy(cls, matrix: Any, device: str | torch.device = "cpu") -> SparseTensor:
        """From a SciPy sparse matrix or array; real types other than float32 become float64."""
        coo = as_csr(matrix).tocoo()
        values = torch.from_numpy(coo.data).to(device)
        return cls(values, coo.row.astype(np.int64), coo.col.astype(np.int64), matrix.shape)

    @entry
    def to_scipy(self) -> sp.csr_array:
        """One matrix as a SciPy CSR array; detached."""
        self._one("to_scipy")
        import scipy.sparse as sp

        data, row, col = (t.detach().cpu().numpy() for t in (self.values, self.row, self.col))
        return sp.coo_array((data, (row, col)), shape=self.shape).tocsr()

    @entry
    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one file. Detached; on failure what stood there before is untouched.

        One matrix becomes a matrix file (HDF5, partitions/README.md) of one part, which
        `python -m hpc_sla partition` and `solve` read; a batch becomes a NumPy archive of
        `values`, `row`, `col`, `shape` and `format`, whatever the path's suffix.
        """
        if self.batch_size is None:
            files.save_matrix(path, self.to_scipy())
            return
        arrays = [t.detach().cpu().numpy() for t in (self.values, self.row, self.col)]
        files.save_batch(path, (arrays[0], arrays[1], arrays[2], self.shape))

    @classmethod
    @entry
    def load(cls, path: str | os.PathLike[str], device: str | torch.device = "cpu") -> SparseTensor:
        """Read what `save` wrote, or any matrix file, in the user's row order."""
        values, row, col, shape = files.load(path)
        return cls(torch.from_numpy(np.ascontiguousarray(values)).to(device), row, col, shape)

    @entry
    def to(self, *args: Any, **kwargs: Any) -> SparseTensor:
        """Another device, dtype or both, as `torch.Tensor.to`. Differentiable."""
        values = _floats(self.values.to(*args, **kwargs), "dtype")
        return self._of(values, self._sparsity.to(values.device))

    @entry
    def with_values(self, values: torch.Tensor) -> SparseTensor:
        """The same pattern with other values, `[nnz]` or `[B, nnz]`, in the order of `values`."""
        values = _floats(values, "values")
        _check_values(values, self.nnz)
        return self._of(values, self._sparsity.to(values.device))

    @entry
    def detach(self) -> SparseTensor:
        """The same without a gradient."""
        return self._of(self.values.detach(), self._sparsity)

    # What it is

    @property
    def nnz(self) -> int:
        """Stored entries of one matrix."""
        return self._sparsity.nnz

    @property
    def batch_size(self) -> int | None:
        """B; None for one matrix."""
        return None if self.values.dim() == 1 else self.values.shape[0]

    @property
    def dtype(self) -> torch.dtype:
        return self.values.dtype

    @property
    def device(self) -> torch.device:
        return self.values.device

    @entry
    def __getitem__(self, index: int) -> SparseTensor:
        """One matrix of a batch. Differentiable."""
        if self.batch_size is None:
            raise InputError("one matrix, not a batch, has no members")
        return self._of(self.values[index], self._sparsity)

    @property
    @entry
    def matrix(self) -> DSparseMatrix:
        """One matrix as a DSparseMatrix of a World of one process; the same values."""
        self._one("matrix")
        return self._matrices()[0]

    def __repr__(self) -> str:
        batch = "" if self.batch_size is None else f"batch={self.batch_size}, "
        grad = ", requires_grad=True" if self.values.requires_grad else ""
        return (
            f"SparseTensor({batch}shape={self.shape}, nnz={self.nnz}, {self.dtype}, "
            f"{self.device}{grad})"
        )

    # Algebra

    @property
    @entry
    def T(self) -> SparseTensor:
        """The transpose. Differentiable."""
        sparsity, order = self._sparsity.transposed
        return self._of(self.values.index_select(-1, order), sparsity)

    @entry
    def __matmul__(self, x: torch.Tensor) -> torch.Tensor:
        """The product with one vector or several. Differentiable in both.

        Parameters
        ----------
        x : torch.Tensor [n], [n, k] or [B, n, k]; for a batch [n], [B, n] or [B, n, k]
            Two dimensions are columns for one matrix, and a batch for a batch.

        Returns
        -------
        torch.Tensor
            [m], [m, k] or [B, m, k]; for a batch [B, m] or [B, m, k].
        """
        if isinstance(x, numbers.Number):
            return NotImplemented  # a product with a vector, not a multiple
        x = self._given(x, "x")
        parts = take_apart(x, self.batch_size, self.shape[1], "x")
        with torch.cuda.device_of(self.values):
            result = for_each_system(
                _product,
                self._matrices(),
                self.shape[0],
                parts.batch,
                parts.columns,
                values=self.values,
            )
        return parts.join(result)

    @entry
    def norm(self) -> torch.Tensor:
        """The Frobenius norm: [] or [B]. Differentiable; at zero the gradient is 0."""
        return torch.linalg.vector_norm(self.values, dim=-1)

    @entry
    def factorize(self, backend: str = "auto", method: str = "auto") -> direct.Factorization:
        """Factors of one matrix, to solve with many times: see `hpc_sla.direct.factorize`."""
        matrix = self.matrix
        return direct.factorize(matrix.pattern.owned, matrix.values, backend=backend, method=method)

    @entry
    def solve(self, b: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Find x with A x = b. As `solve_with_info`, whose parameters it takes, without the info.

        Warns
        -----
        NotConvergedWarning
            Where a system did not converge; it names the status. x is the best there is.
        """
        x, infos = self.solve_with_info(b, *args, **kwargs)
        warn_unconverged(infos)
        return x

    @entry
    def solve_with_info(
        self,
        b: torch.Tensor,
        backend: str = "auto",
        method: str | Method = "auto",
        precond: Any = "auto",
        rtol: float | None = None,
        atol: float = 0.0,
        max_iterations: int | None = None,
        x0: torch.Tensor | None = None,
        adjoint_rtol: float | None = None,
    ) -> tuple[torch.Tensor, list[SolveInfo]]:
        """Solve A x = b, and say how it went. Differentiable in b and the values, as `hs.solve`.

        Parameters
        ----------
        b : torch.Tensor [m], [m, k] or [B, m, k]; for a batch [m], [B, m] or [B, m, k]
            As for `@`; of the matrix's dtype and on its device.
        backend : str
            One of `hpc_sla.sparse_tensor.backends.BACKENDS`: `torch` is `hpc_sla.solve`, the others
            factorise.
            `auto` factorises a square matrix on the CPU with up to `DIRECT_ROWS` (20 000) rows,
            and iterates otherwise, or where `method` or an option of an iteration says so.
        method : str or Method
            Of that backend: `lu`, `llt`, `ldlt` ..., or a Krylov method. With `auto` as the
            backend it also decides which kind. `auto`: what suits the matrix.
        precond : str, callable or object with `apply`
            Of an iteration; `auto` is the default of `hpc_sla.solve`.
        rtol, atol : float
            Each system has converged where ||b - A x||_2 <= max(rtol ||b||_2, atol), the residual
            computed from x. rtol is 1e-8 unless given, 1e-5 in float32. A direct solution that
            misses it is refined with the same factors.
        max_iterations : int, optional
            Of an iteration.
        x0 : torch.Tensor like b, optional
            Initial guess of an iteration.
        adjoint_rtol : float, optional
            What the solves for derivatives must reach. Default: rtol, or what rounding leaves.

        Returns
        -------
        x : torch.Tensor
            [n], [n, k] or [B, n, k]; for a batch [B, n] or [B, n, k].
        infos : list of SolveInfo
            One for each system: those of the first member of the batch by columns, and so on.

        Raises
        ------
        InputError
            Shapes, dtypes or devices that do not fit, unknown names, an iteration's options for a
            direct backend.
        SingularMatrixError
            From a direct backend.
        AdjointSolveError
            In backward or forward mode: the solve for a derivative did not converge.
        """
        b = self._given(b, "b")
        limits = {"max_iterations": max_iterations, "x0": x0}
        given = [] if isinstance(precond, str) and precond == "auto" else ["precond"]
        given += [name for name, value in limits.items() if value is not None]
        chosen = choose_backend(backend, method, self.shape, self.device, tuple(given))
        rhs = take_apart(b, self.batch_size, self.shape[0], "b")
        columns = [rhs.columns]
        if x0 is not None:
            x0 = self._given(x0, "x0")
            columns.append(take_apart(x0, self.batch_size, self.shape[1], "x0").columns)
            if x0.dim() != b.dim() or len(columns[1]) not in (
                1,
                1 if rhs.batch is None else rhs.batch,
            ):
                raise InputError(
                    f"shape {tuple(x0.shape)} does not go with b's {tuple(b.shape)}", field="x0"
                )
        options: dict[str, Any] = {"rtol": rtol, "atol": atol, "max_iterations": max_iterations}
        options["adjoint_rtol"] = adjoint_rtol
        if "precond" in given:
            options["precond"] = precond
        infos: list[SolveInfo] = []

        def solve_one(A: DSparseMatrix, b: torch.Tensor, *guess: torch.Tensor) -> torch.Tensor:
            if chosen == "torch":
                x, told = by_iteration(A, b, guess[0] if guess else None, method, options)
            else:
                x, told = by_factorization(A, b, chosen, str(method), rtol, atol, adjoint_rtol)
            infos.extend(told)
            return x

        with torch.cuda.device_of(self.values):
            x = for_each_system(
                solve_one,
                self._matrices(),
                self.shape[1],
                rhs.batch,
                *columns,
                values=self.values,
            )
        return rhs.join(x), infos

    @entry
    def eigsh(
        self, k: int = 6, which: str = "smallest", **options: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The k smallest or largest eigenpairs of a symmetric matrix, or of each of a batch.

        As `hpc_sla.eigsh`, differentiable likewise.

        Parameters
        ----------
        k : int
        which : {"smallest", "largest"}
        **options
            Of `hpc_sla.eigsh`: `precond`, `tol`, `max_iterations`, `guard`, `adjoint_rtol`; for one
            matrix also `x0` and `deflate` [n, m]. `B` is a SparseTensor of any pattern, of one
            matrix or a batch where this is one, or an operator on one matrix's layout.

        Returns
        -------
        w : torch.Tensor [k] or [B, k]
        V : torch.Tensor [n, k] or [B, n, k]

        Raises
        ------
        InputError
            Not square, not symmetric, options out of range.

        Warns
        -----
        NotConvergedWarning
            Where a pair did not converge. w and V are the best there are.
        """
        from hpc_sla.eigen import eigsh

        B = options.pop("B", None)
        masses: list[Any] = [B] * (1 if self.batch_size is None else self.batch_size)
        if isinstance(B, SparseTensor):
            masses = self._masses(B)
        found = []
        with torch.cuda.device_of(self.values):
            for A, mass in zip(self._matrices(), masses, strict=True):
                found.append(eigsh(A, k, which, B=mass, **options))
        warn_unconverged([one for _, _, info in found for one in info.columns])
        if self.batch_size is None:
            w, V, _ = found[0]
            return w, V
        if not found:
            nothing = [(0, k), (0, self.shape[0], k)]
            w, V = (empty_result(shape, self.values) for shape in nothing)
            return w, V
        return torch.stack([w for w, _, _ in found]), torch.stack([V for _, V, _ in found])

    def _masses(self, B: SparseTensor) -> list[DSparseMatrix]:
        """One for each of `_matrices`."""
        if B.shape != self.shape or B.batch_size not in (None, self.batch_size):
            raise InputError(
                f"of shape {B.shape} and batch {B.batch_size} does not go with shape {self.shape} "
                f"and batch {self.batch_size}",
                field="B",
                remedy="Pass one matrix, or a batch of as many, of the same shape",
            )
        found = B._matrices()
        return found * (self.batch_size or 1) if B.batch_size is None else found

    def _matrices(self) -> list[DSparseMatrix]:
        """A DSparseMatrix for each member of the batch; one without a batch."""
        pattern = self._sparsity.matrix
        each = [self.values] if self.batch_size is None else list(self.values.unbind())
        return [pattern.with_values(values) for values in each]

    def _one(self, what: str) -> None:
        if self.batch_size is not None:
            raise InputError(f"{what} is of one matrix", remedy="Take a member of the batch: S[0]")

    def _given(self, x: Any, field: str) -> torch.Tensor:
        """A tensor that goes with the matrix, made of an array or a list where that is given."""
        x = tensor_of(x, field, self.dtype, self.device)
        if x.dtype != self.dtype or x.device != self.device:
            raise InputError(
                f"{x.dtype} on {x.device} does not go with a matrix of {self.dtype} on "
                f"{self.device}",
                field=field,
                remedy=f"Pass {field}.to({str(self.device)!r}, {self.dtype})",
            )
        return x


def _product(A: DSparseMatrix, x: torch.Tensor) -> torch.Tensor:
    return (A @ x[:, 0]).unsqueeze(1) if x.shape[1] == 1 else A @ x


def _floats(values: Any, field: str) -> torch.Tensor:
    if isinstance(values, np.ndarray):
        values = native(values)
    try:
        # A tensor stays where it is, whatever the default device.
        tensor = values if isinstance(values, torch.Tensor) else torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError):
        tensor = tensor_of(values, field)  # says what it is
    if tensor.dtype not in _DTYPES:
        raise InputError(
            f"{tensor.dtype} is not supported", field=field, remedy="Use float64 or float32"
        )
    return tensor


def _check_values(values: torch.Tensor, nnz: int) -> None:
    if values.dim() not in (1, 2) or values.shape[-1] != nnz:
        raise InputError(
            f"shape {tuple(values.shape)} is neither [{nnz}] nor [B, {nnz}]", field="values"
        )

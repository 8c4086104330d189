"""A sparse matrix, or a batch of them on one pattern: other forms of it, files, products."""

from __future__ import annotations

import copy
import math
import numbers
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp
import torch

from hpc_sla.distributed.arguments import by_dlpack, tensor_of
from hpc_sla.errors import InputError
from hpc_sla.kernels.modes import entry
from hpc_sla.sparse.matrix import DSparseMatrix
from hpc_sla.sparse_tensor import files
from hpc_sla.sparse_tensor.shapes import for_each_system, take_apart
from hpc_sla.sparse_tensor.sparsity import Sparsity
from hpc_sla.storage.checks import native
from hpc_sla.storage.scipy_matrix import as_csr

if TYPE_CHECKING:
    from typing_extensions import Self

_DTYPES = (torch.float64, torch.float32)


class SparseMatrices:
    """A sparse matrix [m, n], or a batch that shares its pattern, on one device.

    What `SparseTensor` inherits, and its attributes: the values, other forms of them, products.
    """

    @entry
    def __init__(self, values: Any, row: Any, col: Any, shape: Sequence[int]) -> None:
        values = as_floats(values, "values")
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
    def _of(cls, values: torch.Tensor, sparsity: Sparsity) -> Self:
        matrices = cls.__new__(cls)
        matrices._set(values, sparsity)
        return matrices

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Values of its own on the same pattern."""
        return self._of(copy.deepcopy(self.values, memo), self._sparsity)

    def __reduce__(self) -> Any:
        return type(self)._of, (self.values, self._sparsity)

    # From and to other forms

    @classmethod
    @entry
    def from_dense(cls, dense: torch.Tensor) -> Self:
        """The entries of `[m, n]` or `[*batch, m, n]` that are not zero (in some of the batch).

        Differentiable.
        """
        dense = as_floats(dense, "dense")
        if dense.dim() < 2:
            raise InputError(f"shape {tuple(dense.shape)} is neither [m, n] nor [*batch, m, n]")
        there = dense.detach() != 0
        row, col = torch.nonzero(there.flatten(0, -3).any(0) if dense.dim() > 2 else there).T
        m, n = dense.shape[-2:]
        values = dense.flatten(-2).index_select(-1, row * n + col)
        return cls._of(values, Sparsity(row, col, (m, n)))

    @entry
    def to_dense(self) -> torch.Tensor:
        """[m, n] or [*batch, m, n]. Differentiable."""
        m, n = self.shape
        flat = self.values.new_zeros((*self.values.shape[:-1], m * n))
        return flat.index_add(-1, self._sparsity.key, self.values).unflatten(-1, (m, n))

    @classmethod
    @entry
    def from_scipy(cls, matrix: Any, device: str | torch.device = "cpu") -> Self:
        """From a SciPy sparse matrix or array; real types other than float32 become float64."""
        coo = as_csr(matrix).tocoo()
        values = torch.from_numpy(coo.data).to(device)
        return cls(values, coo.row.astype(np.int64), coo.col.astype(np.int64), matrix.shape)

    @entry
    def to_scipy(self) -> sp.csr_array:
        """One matrix as a SciPy CSR array; detached."""
        self._require_one("to_scipy")
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
    def load(cls, path: str | os.PathLike[str], device: str | torch.device = "cpu") -> Self:
        """Read what `save` wrote, or any other matrix, in the user's row order.

        A matrix file, or what `python -m hpc_sla partition` takes: ``.mtx`` and ``.mtx.gz``,
        Harwell-Boeing, SciPy's ``.npz``, PETSc's binary, MATLAB's ``.mat`` (`read_source`).
        """
        values, row, col, shape = files.load(path)
        return cls(torch.from_numpy(np.ascontiguousarray(values)).to(device), row, col, shape)

    @entry
    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Another device, dtype or both, as `torch.Tensor.to`. Differentiable."""
        values = as_floats(self.values.to(*args, **kwargs), "dtype")
        return self._of(values, self._sparsity.to(values.device))

    @entry
    def with_values(self, values: torch.Tensor) -> Self:
        """Other values on the same pattern: `[nnz]`, `[*batch, nnz]`, in the order of `values`."""
        values = as_floats(values, "values")
        _check_values(values, self.nnz)
        return self._of(values, self._sparsity.to(values.device))

    @entry
    def detach(self) -> Self:
        """The same matrix or batch without a gradient."""
        return self._of(self.values.detach(), self._sparsity)

    # What it is

    @property
    def nnz(self) -> int:
        """Stored entries of one matrix."""
        return self._sparsity.nnz

    @property
    def batch_size(self) -> int | None:
        """How many matrices; None for one that is no batch."""
        return None if self.values.dim() == 1 else math.prod(self.batch_shape)

    @property
    def batch_shape(self) -> torch.Size:
        """The batch's dimensions; none for one matrix."""
        return self.values.shape[:-1]

    @property
    def dtype(self) -> torch.dtype:
        return self.values.dtype

    @property
    def device(self) -> torch.device:
        return self.values.device

    @entry
    def __getitem__(self, index: Any) -> Self:
        """One matrix of a batch, or some: as of a tensor of the batch's shape. Differentiable."""
        if self.batch_size is None:
            raise InputError(
                "this is one matrix, not a batch: it has no members",
                remedy="Use it as it is, without an index",
            )
        dims = len(index) if isinstance(index, tuple) else 1
        if dims > self.values.dim() - 1:
            raise InputError(f"{dims} indices for a batch of {tuple(self.batch_shape)}")
        return self._of(self.values[index], self._sparsity)

    @property
    @entry
    def matrix(self) -> DSparseMatrix:
        """One matrix as a DSparseMatrix of a World of one process; the same values."""
        self._require_one("matrix")
        return self._matrices()[0]

    def __repr__(self) -> str:
        many = self.batch_size if self.values.dim() == 2 else tuple(self.batch_shape)
        batch = "" if self.batch_size is None else f"batch={many}, "
        grad = ", requires_grad=True" if self.values.requires_grad else ""
        return (
            f"SparseTensor({batch}shape={self.shape}, nnz={self.nnz}, {self.dtype}, "
            f"{self.device}{grad})"
        )

    # Algebra

    @property
    @entry
    def T(self) -> Self:
        """The transpose. Differentiable."""
        sparsity, order = self._sparsity.transposed
        return self._of(self.values.index_select(-1, order), sparsity)

    @entry
    def __matmul__(self, x: Any) -> Any:
        """The product with one vector or several. Differentiable in both.

        Parameters
        ----------
        x : torch.Tensor [n], [n, k] or [B, n, k]; for a batch [n], [B, n] or [B, n, k]
            Two dimensions are columns for one matrix, and a batch for a batch. For one of more
            dimensions [n], [*batch, n] or [*batch, n, k].

        Returns
        -------
        torch.Tensor
            [m], [m, k] or [B, m, k]; for a batch [*batch, m] or [*batch, m, k].
        """
        if isinstance(x, numbers.Number):
            return NotImplemented  # a product with a vector, not a multiple
        x = self._given(x, "x")
        parts = take_apart(x, self.batch_shape, self.shape[1], "x")
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

    def _matrices(self) -> list[DSparseMatrix]:
        """A DSparseMatrix for each member of the batch; one without a batch."""
        pattern = self._sparsity.matrix
        each = [self.values] if self.batch_size is None else self.values.flatten(0, -2).unbind()
        return [pattern.with_values(values) for values in each]

    def _require_one(self, what: str) -> None:
        if self.batch_size is not None:
            raise InputError(
                f"{what} works on one matrix, and this is a batch of {self.batch_size}",
                remedy="Take a member of the batch: S[0]",
            )

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


def as_floats(values: Any, field: str) -> torch.Tensor:
    if isinstance(values, np.ndarray):
        values = native(values)
    try:
        # A tensor stays where it is, whatever the default device.
        foreign = by_dlpack(values)
        given = values if foreign is None else foreign
        tensor = given if isinstance(given, torch.Tensor) else torch.as_tensor(given)
    except (TypeError, ValueError, RuntimeError):
        tensor = tensor_of(values, field)  # says what it is
    if tensor.dtype not in _DTYPES:
        raise InputError(
            f"{tensor.dtype} is not supported", field=field, remedy="Use float64 or float32"
        )
    return tensor


def _check_values(values: torch.Tensor, nnz: int) -> None:
    if not values.dim() or values.shape[-1] != nnz:
        raise InputError(
            f"shape {tuple(values.shape)} is neither [{nnz}] nor [*batch, {nnz}]", field="values"
        )

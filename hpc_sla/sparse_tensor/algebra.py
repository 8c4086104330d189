"""What one writes with SparseTensors: sums and products, functions of entries, reductions."""

from __future__ import annotations

import numbers
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from hpc_sla.errors import InputError, InputTypeError
from hpc_sla.kernels.modes import entry
from hpc_sla.sparse_tensor.matrices import SparseMatrices
from hpc_sla.sparse_tensor.sparsity import Sparsity

if TYPE_CHECKING:
    from typing_extensions import Self


class SparseAlgebra(SparseMatrices):
    """The operators of a `SparseTensor`; all differentiable in the values of both sides.

    Batches go with batches of the same shape, or as torch broadcasts them, and with one matrix.
    """

    __array_ufunc__ = None  # NumPy's numbers would else take it for an array of objects

    # Of one

    @entry
    def map(self, function: Callable[[torch.Tensor], torch.Tensor]) -> Self:
        """`function` of the stored entries, elementwise; those that are not stored stay 0.

        So `S.map(torch.abs)` is |S|, and `S.map(torch.exp)` is no exponential of a dense matrix.

        Raises
        ------
        InputError
            What it gives has another shape.
        """
        values = function(self.values)
        if not isinstance(values, torch.Tensor) or values.shape != self.values.shape:
            raise InputError(
                f"gives {getattr(values, 'shape', type(values).__name__)} for values of shape "
                f"{tuple(self.values.shape)}",
                field="function",
                remedy="Pass an elementwise function, such as torch.abs",
            )
        return self.with_values(values)

    def __neg__(self) -> Self:
        return self.map(torch.neg)

    def __abs__(self) -> Self:
        return self.map(torch.abs)

    abs = __abs__

    def __pow__(self, exponent: float) -> Self:
        """Each stored entry to that power."""
        return self.map(lambda values: values**exponent)

    def __truediv__(self, divisor: Any) -> Self:
        """By a number, or a tensor of the batch's shape, as `*`."""
        factor = self._factor(divisor)
        return NotImplemented if factor is None else self._of(self.values / factor, self._sparsity)

    # Of two

    @entry
    def __mul__(self, other: Any) -> Self:
        """By a number, or a tensor of the batch's shape; or entry by entry, on both patterns.

        The dtype is that of ``values * other`` in torch: a number, or a tensor of no dimension,
        does not change it. Of real numbers.
        """
        if isinstance(other, SparseMatrices):
            return self._entrywise(other)
        factor = self._factor(other)
        return NotImplemented if factor is None else self._of(self.values * factor, self._sparsity)

    __rmul__ = __mul__

    @entry
    def __add__(self, other: Any) -> Self:
        """The sum, on the union of the patterns."""
        if not isinstance(other, SparseMatrices):
            return NotImplemented
        self._check_beside(other, "S + T", self.shape == other.shape)
        if other._sparsity is self._sparsity:
            return self._of(self.values + other.values, self._sparsity)
        n = self.shape[1]
        keys = [one.key for one in (self._sparsity, other._sparsity)]
        union = torch.unique(torch.cat(keys))
        where = [torch.searchsorted(union, key) for key in keys]
        batch = torch.broadcast_shapes(self.values.shape[:-1], other.values.shape[:-1])
        total = self.values.new_zeros((*batch, len(union)))
        for place, values in zip(where, (self.values, other.values), strict=True):
            total = total.index_add(-1, place, values.expand(*batch, -1))
        width = max(n, 1)
        return self._of(total, Sparsity(union // width, union % width, self.shape))

    def __sub__(self, other: Any) -> Self:
        if not isinstance(other, SparseMatrices):
            return NotImplemented
        return self + other.with_values(-other.values)

    @entry
    def __matmul__(self, x: Any) -> Any:
        """With vectors, as of `SparseMatrices`; or with another SparseTensor, a sparse product."""
        if not isinstance(x, SparseMatrices):
            return super().__matmul__(x)
        self._check_beside(x, "S @ T", self.shape[1] == x.shape[0])
        batch = torch.broadcast_shapes(self.values.shape[:-1], x.values.shape[:-1])
        shape = (self.shape[0], x.shape[1])
        if 0 in batch:
            nothing = self.values.new_zeros(0, dtype=torch.int64)
            values = (self.values.sum() + x.values.sum()).expand(*batch, 0)
            return self._of(values, Sparsity(nothing, nothing, shape))
        left, right = (
            one.with_values(one.values.expand(*batch, -1))._matrices() for one in (self, x)
        )
        found = [a @ b for a, b in zip(left, right, strict=True)]
        row, col = (torch.from_numpy(i).to(self.device) for i in found[0].entries())
        values = torch.stack([product.values for product in found]).unflatten(0, batch or (1,))
        return self._of(values if batch else values[0], Sparsity(row, col, shape))

    def _entrywise(self, other: SparseMatrices) -> Self:
        self._check_beside(other, "S * T", self.shape == other.shape)
        if other._sparsity is self._sparsity:
            return self._of(self.values * other.values, self._sparsity)
        mine, theirs = self._sparsity.key, other._sparsity.key
        here = torch.isin(mine, theirs).nonzero().squeeze(1)
        there = torch.isin(theirs, mine).nonzero().squeeze(1)
        values = self.values.index_select(-1, here) * other.values.index_select(-1, there)
        row, col = (t.index_select(0, here) for t in (self.row, self.col))
        return self._of(values, Sparsity(row, col, self.shape))

    def _factor(self, given: Any) -> torch.Tensor | float | None:
        """A number, or what is of the batch's shape, as goes with `values`; None for neither."""
        kind = given.dtype if isinstance(given, torch.Tensor) else type(given)
        if getattr(kind, "is_complex", False) or (
            isinstance(given, numbers.Complex) and not isinstance(given, numbers.Real)
        ):
            raise InputTypeError(
                f"a factor of {kind} is not real, and matrices are",
                remedy="Keep two matrices, of the real and of the imaginary part",
            )
        if isinstance(given, numbers.Real) and not isinstance(given, bool):
            try:
                return float(given)
            except OverflowError:
                raise InputError("a factor is beyond the range of float64") from None
        if not isinstance(given, torch.Tensor):
            return None
        try:
            torch.broadcast_shapes(given.shape, self.values.shape[:-1])
        except RuntimeError:
            raise InputError(
                f"a tensor of shape {tuple(given.shape)} is no factor of a batch of "
                f"{tuple(self.values.shape[:-1])}",
                remedy="Pass one number for each matrix; S @ x is a product with vectors",
            ) from None
        return given.unsqueeze(-1) if given.dim() else given

    def _check_beside(self, other: SparseMatrices, what: str, fits: bool) -> None:
        if not fits:
            raise InputError(f"{what} of shapes {self.shape} and {other.shape}")
        if (other.dtype, other.device) != (self.dtype, self.device):
            raise InputError(
                f"{what} of {self.dtype} on {self.device} and {other.dtype} on {other.device}",
                remedy="Use T.to(S.values)",
            )
        try:
            torch.broadcast_shapes(self.values.shape[:-1], other.values.shape[:-1])
        except RuntimeError:
            raise InputError(
                f"{what} of batches {tuple(self.values.shape[:-1])} and "
                f"{tuple(other.values.shape[:-1])}"
            ) from None

    # Reductions over the entries of each matrix

    @entry
    def sum(self, axis: int | None = None) -> torch.Tensor:
        """The sum of all entries, of rows (axis 1) or columns (0): [*batch], [*batch, m or n]."""
        if axis is None:
            return self.values.sum(-1)
        index = self.row if self._axis(axis) else self.col
        size = self.shape[0] if self._axis(axis) else self.shape[1]
        return self.values.new_zeros((*self.values.shape[:-1], size)).index_add(
            -1, index, self.values
        )

    @entry
    def mean(self, axis: int | None = None) -> torch.Tensor:
        """As `sum`, over the number of entries, those that are not stored included."""
        m, n = self.shape
        count = m * n if axis is None else n if self._axis(axis) else m
        return self.sum(axis) / count

    @entry
    def max(self) -> torch.Tensor:
        """The largest entry, zeros that are not stored included, as in SciPy: [*batch]."""
        return self._extreme(torch.amax)

    @entry
    def min(self) -> torch.Tensor:
        """The smallest entry, zeros that are not stored included, as in SciPy: [*batch]."""
        return self._extreme(torch.amin)

    @entry
    def diagonal(self) -> torch.Tensor:
        """[*batch, min(m, n)], 0 where not stored."""
        here = (self.row == self.col).nonzero().squeeze(1)
        zeros = self.values.new_zeros((*self.values.shape[:-1], min(self.shape)))
        return zeros.index_add(-1, self.row[here], self.values.index_select(-1, here))

    def _extreme(self, of: Callable[..., torch.Tensor]) -> torch.Tensor:
        values = self.values
        if self.nnz < self.shape[0] * self.shape[1]:
            values = torch.cat([values, values.new_zeros((*values.shape[:-1], 1))], dim=-1)
        if not values.shape[-1]:
            raise InputError("a matrix without rows or columns has no largest or smallest entry")
        return of(values, dim=-1)

    def _axis(self, axis: int) -> int:
        if axis not in (0, 1, -1, -2):
            raise InputError(f"{axis!r} is not 0, 1 or None", field="axis")
        return axis % 2

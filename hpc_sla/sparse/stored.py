"""What a DSparseMatrix and its transpose have in common: stored entries, and products with them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch

from hpc_sla.distributed.layout import RowLayout
from hpc_sla.distributed.row_order import made
from hpc_sla.errors import InputError, InputTypeError
from hpc_sla.kernels.modes import entry, untracked
from hpc_sla.sparse.pattern import DistributedPattern
from hpc_sla.sparse.product import product, rproduct, used
from hpc_sla.sparse.values import Values


class StoredMatrix(ABC):
    """A distributed matrix whose entries are stored: a `DSparseMatrix`, or the transpose of one.

    Attributes
    ----------
    stored : DSparseMatrix
        The matrix itself, or the one that this is the transpose of.
    transposed : bool
        Whether this is the transpose of `stored`.
    pattern : DistributedPattern
        Of `stored`.
    values : torch.Tensor [nnz_owned]
        Of `stored`; per rank.
    held : Values
        How `stored` has them: to read from it without making a tensor of them.
    layout, columns : RowLayout
        Rows and columns by rank: A @ x is in `layout` for x in `columns`.
    world : World
    shape : (int, int)
    """

    transposed = False
    pattern: DistributedPattern
    held: Values
    # NumPy's numbers would else take a matrix for an array of objects.
    __array_ufunc__ = None

    def __init__(self, layout: RowLayout, columns: RowLayout) -> None:
        self.layout, self.columns = layout, columns
        self.world = layout.world
        self.shape = (layout.n_global, columns.n_global)

    @property
    @abstractmethod
    def stored(self) -> Any: ...

    @abstractmethod
    def with_values(self, values: torch.Tensor) -> StoredMatrix:
        """The same pattern and halo with other values [nnz_owned]. Local; differentiable."""

    @abstractmethod
    def as_it_is(self) -> StoredMatrix:
        """The same, whose values stay packed if they are, whatever becomes of this one's. Local."""

    @property
    def values(self) -> torch.Tensor:
        """The stored entries: what is changed in place is changed in the matrix."""
        return self.held.tensor

    @values.setter
    def values(self, values: torch.Tensor) -> None:
        if not self.held.written or values is not self.held.tensor:
            self.held = Values(values)

    @property
    def dtype(self) -> torch.dtype:
        return self.held.dtype

    @property
    def device(self) -> torch.device:
        return self.held.device

    @abstractmethod
    def explicit(self) -> Any:
        """It as a DSparseMatrix: itself, or of a transpose a copy. **Collective.**"""

    @entry
    def matvec(self, x: torch.Tensor) -> torch.Tensor:
        """`A x` for x `[n_owned]` or `[n_owned, k]` in `columns`, giving the same in `layout`.

        **Collective.** Differentiable in both.
        """
        return self._times(x, self.transposed)

    @entry
    def __matmul__(self, x: Any) -> Any:
        """`A x`, as `matvec`; or the DSparseMatrix `A B`. **Collective.** Differentiable in both.

        B is a DSparseMatrix or the transpose of one, its rows on the ranks and in the order of A's
        columns. Of a square product the columns are owned as its rows are.

        Raises
        ------
        InputError
            On every rank: a matrix of another shape, layout, dtype or device.
        """
        if isinstance(x, StoredMatrix):
            return self.explicit().compose(x)
        return self._times(x, self.transposed)

    @entry
    def rmatvec(self, x: torch.Tensor) -> torch.Tensor:
        """`A^T x` for x in `layout`, giving a vector in `columns`. **Collective.**

        Differentiable in both.
        """
        return self._times(x, not self.transposed)

    def _times(self, x: Any, transposed: bool) -> torch.Tensor:
        pattern = self.pattern
        if transposed:
            x = self._checked(x, pattern.layout)
            return made(rproduct(self.values, x, pattern), pattern.columns)
        x = self._checked(x, pattern.columns)
        if not self.held.written and untracked(x):
            used(pattern)
            y = x.new_empty((pattern.layout.n_owned, *x.shape[1:]))
            pattern.matmul(self.held, x.detach().contiguous(), y)
            return made(y, pattern.layout)
        return made(product(self.values, x, pattern), pattern.layout)

    def _checked(self, x: Any, layout: RowLayout) -> torch.Tensor:
        x = layout._checked(x, "x", self.dtype)
        # Before anything is sent: a product that fails half way leaves messages behind.
        if x.dtype != self.dtype or x.device != self.device:
            raise InputTypeError(
                f"a vector of {x.dtype} on {x.device} does not go with a matrix of "
                f"{self.dtype} on {self.device}",
                field="x",
                remedy=f"Pass x.to({str(self.device)!r}, {self.dtype})",
            )
        if x.dim() > 2:
            raise InputError(f"shape {tuple(x.shape)} is not [n_owned] or [n_owned, k]", field="x")
        return x


class TransposedMatrix(StoredMatrix):
    """`A.T`: the same storage, multiplied the other way."""

    transposed = True

    def __init__(self, matrix: Any) -> None:
        super().__init__(matrix.columns, matrix.layout)
        self._matrix = matrix

    @property
    def block_size(self) -> int:
        """That of the matrix. Replicated."""
        size: int = self._matrix.block_size
        return size

    @property
    def coordinates(self) -> torch.Tensor | None:
        """Those of the matrix, where it is square. Per rank."""
        points: torch.Tensor | None = self._matrix.coordinates
        return points if self.layout is self.columns else None

    @property
    def stored(self) -> Any:
        return self._matrix

    @property
    def T(self) -> Any:
        """The matrix that this is the transpose of. Local."""
        return self._matrix

    @property
    def pattern(self) -> DistributedPattern:  # type: ignore[override]
        found: DistributedPattern = self._matrix.pattern
        return found

    @property
    def held(self) -> Values:  # type: ignore[override]
        found: Values = self._matrix.held
        return found

    def explicit(self) -> Any:
        return self._matrix.transpose()

    def __mul__(self, factor: Any) -> Any:
        """As of the matrix: a view again. Local. Differentiable."""
        return _turned(self._matrix.__mul__(factor))

    __rmul__ = __mul__

    def __truediv__(self, divisor: Any) -> Any:
        """As of the matrix: a view again. Local. Differentiable."""
        return _turned(self._matrix.__truediv__(divisor))

    def __neg__(self) -> Any:
        """As of the matrix: a view again. Local. Differentiable."""
        return (-self._matrix).T

    def __add__(self, other: Any) -> Any:
        """A DSparseMatrix, as `A + B`. **Collective.** Differentiable in both."""
        return self.explicit() + other if isinstance(other, StoredMatrix) else NotImplemented

    def __sub__(self, other: Any) -> Any:
        """A DSparseMatrix, as `A - B`. **Collective.** Differentiable in both."""
        return self.explicit() - other if isinstance(other, StoredMatrix) else NotImplemented

    def as_it_is(self) -> TransposedMatrix:
        made: TransposedMatrix = self._matrix.as_it_is().T
        return made

    def with_values(self, values: torch.Tensor) -> TransposedMatrix:
        made: TransposedMatrix = self._matrix.with_values(values).T
        return made


def _turned(made: Any) -> Any:
    """The view of what an operator of the matrix has made, if it has made anything."""
    return made if made is NotImplemented else made.T

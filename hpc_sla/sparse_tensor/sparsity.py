"""Where a SparseTensor has entries, shared by all that have the same pattern."""

from __future__ import annotations

import operator
from functools import cache, cached_property
from typing import Any

import numpy as np
import torch

from hpc_sla.distributed.arguments import tensor_of
from hpc_sla.distributed.world import World
from hpc_sla.errors import InputError, InputTypeError
from hpc_sla.sparse.matrix import DSparseMatrix
from hpc_sla.storage.checks import native

_INT64 = 2**63


class Sparsity:
    """Distinct (row, column) pairs in row-major order, on one device.

    Attributes
    ----------
    row, col : int64 tensor [nnz]
    shape : (int, int)
    """

    def __init__(self, row: torch.Tensor, col: torch.Tensor, shape: tuple[int, int]) -> None:
        self.row = row
        self.col = col
        self.shape = shape

    @classmethod
    def of(
        cls, row: Any, col: Any, shape: Any, device: torch.device
    ) -> tuple[Sparsity, torch.Tensor | None]:
        """From pairs in any order, repeats allowed; and each pair's slot, None where in order.

        Raises
        ------
        InputError
            Not integers, different lengths, outside the shape.
        """
        n_rows, n_cols = _shape(shape)
        row, col = _indices(row, "row", n_rows, device), _indices(col, "col", n_cols, device)
        if row.shape != col.shape:
            raise InputError(
                f"{len(row)} row indices and {len(col)} column indices do not make pairs",
                field="row, col",
                remedy="Pass one row and one column for each value",
            )
        key = row * n_cols + col
        # Already in order (a matrix that comes back from a file, say): no sort.
        if bool((key[1:] > key[:-1]).all()):
            return cls(row, col, (n_rows, n_cols)), None
        distinct, slots = torch.unique(key, return_inverse=True)
        return cls(distinct // n_cols, distinct % n_cols, (n_rows, n_cols)), slots

    def __deepcopy__(self, memo: dict[int, Any]) -> Sparsity:
        return self  # it never changes

    def __reduce__(self) -> Any:
        return Sparsity, (self.row, self.col, self.shape)  # what is made of them is made again

    @property
    def nnz(self) -> int:
        return len(self.row)

    @property
    def key(self) -> torch.Tensor:
        """The place of each entry in the row-major dense matrix: int64 [nnz]."""
        return self.row * self.shape[1] + self.col

    @cached_property
    def matrix(self) -> DSparseMatrix:
        """The pattern as a DSparseMatrix of one rank: its values are zeros."""
        zeros = torch.zeros(self.nnz, dtype=torch.float64, device=self.row.device)
        # Making a World makes its GPU the current one; the caller's choice is put back.
        with torch.cuda.device_of(zeros):
            world = _world(self.row.device)
            return DSparseMatrix.from_coo(self.row, self.col, zeros, self.shape, world)

    @cached_property
    def transposed(self) -> tuple[Sparsity, torch.Tensor]:
        """The transpose's pattern, and the entry of ours that each of its entries is."""
        order = torch.argsort(self.col, stable=True)
        row, col = self.col.index_select(0, order), self.row.index_select(0, order)
        return Sparsity(row, col, (self.shape[1], self.shape[0])), order

    def to(self, device: torch.device) -> Sparsity:
        """The pattern on another device; itself where it is on that already."""
        if device == self.row.device:
            return self
        return Sparsity(self.row.to(device), self.col.to(device), self.shape)


@cache
def _world(device: torch.device) -> World:
    return World.serial(device)


def _shape(shape: Any) -> tuple[int, int]:
    try:
        sizes = tuple(operator.index(size) for size in shape)
    except TypeError:
        raise InputTypeError(f"{shape!r} is not two integers", field="shape") from None
    if len(sizes) != 2 or min(sizes) < 0:
        raise InputError(f"{sizes} is not the shape of a matrix", field="shape")
    if sizes[0] * sizes[1] >= _INT64:
        raise InputError(f"a {sizes[0]} x {sizes[1]} matrix is too large", field="shape")
    return sizes[0], sizes[1]


def _indices(indices: Any, field: str, size: int, device: torch.device) -> torch.Tensor:
    if isinstance(indices, np.ndarray):
        indices = native(indices)
    tensor = tensor_of(indices, field, None, device).detach().to(device)
    if tensor.numel() == 0:
        return torch.zeros(0, dtype=torch.int64, device=device)
    if tensor.dtype.is_floating_point or tensor.dtype.is_complex or tensor.dtype == torch.bool:
        raise InputError(f"indices of type {tensor.dtype} are not integers", field=field)
    if tensor.dim() != 1:
        raise InputError(f"shape {tuple(tensor.shape)} is not [nnz]", field=field)
    tensor = tensor.to(torch.int64)
    smallest, largest = (int(value) for value in torch.aminmax(tensor))
    if smallest < 0 or largest >= size:
        wrong = smallest if smallest < 0 else largest
        raise InputError(f"index {wrong} is outside 0 to {size - 1}", field=field)
    return tensor

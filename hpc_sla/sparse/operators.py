"""Operators of what solvers are given: a distributed matrix, or any object with the products."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from hpc_sla.distributed.layout import RowLayout
from hpc_sla.errors import InputError
from hpc_sla.kernels import device_products
from hpc_sla.kernels.basis import Basis
from hpc_sla.kernels.burst import Distributed
from hpc_sla.kernels.device_matrix import DeviceMatrix
from hpc_sla.kernels.packed import Packed
from hpc_sla.kernels.sweep import pays
from hpc_sla.kernels.vectors import copy_
from hpc_sla.sparse.arnoldi import Arnoldi
from hpc_sla.sparse.compressed import may_pay, packed_of, version_of
from hpc_sla.sparse.matrix import DSparseMatrix
from hpc_sla.sparse.operator import Operator, TransposeOf
from hpc_sla.sparse.stored import StoredMatrix
from hpc_sla.sparse.symmetry import is_symmetric
from hpc_sla.sparse.values import Values


def as_operator(A: Any, needs: Sequence[str] = ()) -> Operator:
    """`A` as the solvers use it. **Collective.**

    Parameters
    ----------
    A : DSparseMatrix, its transpose `A.T`, LinearOperator or Operator
        The last is returned as it is.
    needs : sequence of {"rmatvec", "diagonal"}
        Optional methods that the caller will use.

    Raises
    ------
    InputError
        On every rank, naming what A lacks.
    """
    if isinstance(A, Operator):
        return A
    if isinstance(A, StoredMatrix):
        operator = _MatrixOperator(A.stored)
        return operator.T if A.transposed else operator
    layout = getattr(A, "layout", None)
    # Without a layout there are no other ranks to agree with: this is raised where it is met.
    if not isinstance(layout, RowLayout):
        raise _lacks(A, "layout", "a RowLayout of its rows")
    with layout.world.agree():
        _check(A, needs)
    return _MatrixFreeOperator(A)


class _MatrixOperator(Operator):
    capturable = True

    def __init__(self, A: DSparseMatrix) -> None:
        super().__init__(A.layout, A.columns, A.dtype, A.device)
        self._matrix = A
        self._pattern = A.pattern
        written = A.held.written
        self._given = A.values if written else None
        self._values = A.held.plain if written else A.held
        # A graph may read it when somebody has had the values written out.
        self._sliced = A.held.sliced
        self._transposed: torch.Tensor | None = None
        self._transposed_rows: DeviceMatrix | None = None
        self._turned: object = None  # what it was made of
        self._turns = 0
        self._packed: Packed | DeviceMatrix | None = None
        self._version: int | None = None
        self._distributed: tuple[Packed | None, Distributed] | None = None

    def __call__(
        self,
        x: torch.Tensor,
        out: torch.Tensor,
        dot: torch.Tensor | None = None,
        weights: torch.Tensor | None = None,
        square: torch.Tensor | None = None,
        /,
    ) -> None:
        sums = (dot, weights, square)
        self._pattern.matmul(self._values, x, out, *sums, self._compressed(x))  # in one pass

    def product(self, x: torch.Tensor, out: torch.Tensor) -> None:
        self._pattern.matmul(self._values, x, out, packed=self._compressed(x))

    def _compressed(self, x: torch.Tensor) -> Packed | DeviceMatrix | None:
        """The owned block in fewer bytes, of the values as they are now. Local."""
        if isinstance(self._values, Values):
            return self._values.serving(x)
        assert self._given is not None
        if not may_pay(self._pattern, self.brief):
            return None
        version = version_of(self._values)
        served = device_products.serves(x) or self._pattern.owned.compiled(x)
        if version != self._version and served:
            mine = self._pattern.owned_values(self._given.detach())
            # What others have laid of the pattern meanwhile is no reason to lay it anew elsewhere.
            if not (isinstance(self._packed, DeviceMatrix) and self._packed.holds(mine)):
                self._packed = packed_of(self._pattern, self._given)
            self._version = version
        return self._packed

    def _compiled_rows(self, x: torch.Tensor) -> Packed | None:
        """The same for compiled loops, which are those of the CPU. Local."""
        packed = self._compressed(x)
        assert not isinstance(packed, DeviceMatrix)
        return packed

    def refresh(self) -> None:
        self._version = None
        if isinstance(self._turned, int):
            self._turned = None

    def settle(self, x: torch.Tensor) -> None:
        self._compressed(x)
        if self._transposed is not None:
            self._turn(x)

    @property
    def token(self) -> tuple[object, ...]:
        return (self, self._packed, str(self._turns))

    def adjoint(self, y: torch.Tensor, out: torch.Tensor) -> None:
        transposed, rows = self._turn(y), self._transposed_rows
        self._pattern.rmatmul(transposed, y, out, transposed=True, packed=rows)

    def _turn(self, y: torch.Tensor) -> torch.Tensor:
        """The transpose's values as they are now, for products with vectors like y. Local.

        Written where they were, and laid anew for a GPU where they are others now.
        """
        held = self._values
        packed = held.packed if isinstance(held, Values) else None
        state = version_of(self._plain()) if packed is None else packed  # which does not change
        if self._transposed is None or self._turned != state:
            self._transposed = self._pattern.transpose_values(self._plain(), self._transposed)
            self._turned = state
            rows = self._transposed_rows
            if rows is not None and not rows.holds(self._pattern.owned_values(self._transposed)):
                self._transposed_rows, self._turns = None, self._turns + 1
        if self._transposed_rows is None and device_products.serves(y):
            self._transposed_rows = self._pattern.transposed_rows(self._transposed)
        return self._transposed

    def absolute(self, x: torch.Tensor, out: torch.Tensor, again: bool = False) -> bool:
        self._pattern.absolute_matmul(self._values, x, out, again)
        return True

    def absolute_row_sums(self, out: torch.Tensor) -> None:
        self._pattern.absolute_row_sums(self._values, out)

    def _plain(self) -> torch.Tensor:
        return self._values if isinstance(self._values, torch.Tensor) else self._values.plain

    def compiled(self, x: torch.Tensor) -> bool:
        return self._pattern.compiled(x)

    def distributed(self, x: torch.Tensor) -> Distributed:
        packed = self._compiled_rows(x)
        if self._distributed is None or self._distributed[0] is not packed:
            self._distributed = packed, self._pattern.distributed(self._values, x, packed)
        return self._distributed[1]

    def arnoldi(self, basis: Basis, inverse: torch.Tensor | None) -> Arnoldi | None:
        like = basis.vectors[0]
        # Of several columns all vectors of a piece would not stay in the cache; and pieces wait for
        # one another, which threads should not.
        if (
            like.dim() > 1
            or torch.get_num_threads() > 1
            or not (basis.compiled and self._pattern.owned.compiled(like))
        ):
            return None
        if not pays(len(like), self._pattern.plan.send_index, self._pattern.boundary):
            return None
        return Arnoldi(self._pattern, self._values, basis, inverse, self._compiled_rows(like))

    def diagonal(self) -> torch.Tensor:
        return self._matrix.diagonal()

    def symmetric(self, dtype: torch.dtype = torch.float64) -> bool:
        return is_symmetric(self._matrix)

    @property
    def T(self) -> Operator:
        return _TransposedMatrixOperator(self)


class _MatrixFreeOperator(Operator):
    def __init__(self, A: Any) -> None:
        columns = getattr(A, "columns", None)
        device = getattr(A, "device", None)
        super().__init__(
            A.layout,
            A.layout if columns is None else columns,
            getattr(A, "dtype", None),
            A.layout.world.device if device is None else torch.device(device),
        )
        self._object = A
        self.transposable = callable(getattr(A, "rmatvec", None))

    def product(self, x: torch.Tensor, out: torch.Tensor) -> None:
        self._put(self._object.matvec(x), out, "matvec")

    def adjoint(self, y: torch.Tensor, out: torch.Tensor) -> None:
        if not self.transposable:
            raise _lacks(self._object, "rmatvec", "the product with its transpose")
        self._put(self._object.rmatvec(y), out, "rmatvec")

    def diagonal(self) -> torch.Tensor:
        if not callable(getattr(self._object, "diagonal", None)):
            raise _lacks(self._object, "diagonal", "the diagonal of its owned rows")
        found: torch.Tensor = self._object.diagonal()
        if found.shape != (self.layout.n_owned,) or self.dtype not in (None, found.dtype):
            raise ValueError(
                f"{type(self._object).__name__}.diagonal gave {tuple(found.shape)} {found.dtype} "
                f"where [{self.layout.n_owned}] {self.dtype or 'of the dtype of b'} is needed"
            )
        return found

    def _put(self, found: torch.Tensor, out: torch.Tensor, name: str) -> None:
        # Local on purpose, as RowLayout's: one rank's wrong shape is a bug.
        if not isinstance(found, torch.Tensor):
            raise ValueError(
                f"{type(self._object).__name__}.{name} gave a {type(found).__name__} where a "
                f"tensor {tuple(out.shape)} of {out.dtype} is needed"
            )
        if found.shape != out.shape or found.dtype != out.dtype or found.device != out.device:
            raise ValueError(
                f"{type(self._object).__name__}.{name} gave {tuple(found.shape)} {found.dtype} on "
                f"{found.device} where {tuple(out.shape)} {out.dtype} on {out.device} is needed"
            )
        copy_(out, found)


class _TransposedMatrixOperator(TransposeOf):
    _operator: _MatrixOperator

    def symmetric(self, dtype: torch.dtype = torch.float64) -> bool:
        return self._operator.symmetric(dtype)

    def absolute(self, x: torch.Tensor, out: torch.Tensor, again: bool = False) -> bool:
        matrix = self._operator
        matrix._pattern.rmatmul(matrix._plain().abs(), x.abs(), out)
        return True


def _check(A: Any, needs: Sequence[str]) -> None:
    if not callable(getattr(A, "matvec", None)):
        raise _lacks(A, "matvec", "the product with it")
    columns = getattr(A, "columns", None)
    if columns is not None and not isinstance(columns, RowLayout):
        raise InputError(
            f"columns of {type(A).__name__} is a {type(columns).__name__}",
            field="columns",
            remedy="Make it a RowLayout, or leave it out for a square operator",
        )
    dtype = getattr(A, "dtype", None)
    if dtype not in (None, torch.float64, torch.float32):
        raise InputError(
            f"dtype of {type(A).__name__} is {dtype}",
            field="dtype",
            remedy="Make it torch.float64 or torch.float32, or leave it out",
        )
    what = {"rmatvec": "the product with its transpose", "diagonal": "the diagonal of its rows"}
    for name in needs:
        if not callable(getattr(A, name, None)):
            raise _lacks(A, name, what[name])


def _lacks(A: Any, name: str, what: str) -> InputError:
    remedy = "Pass a DSparseMatrix, or an object with layout, matvec and, for what needs them, "
    remedy += "rmatvec and diagonal"
    if hasattr(A, "tocsr"):
        remedy = "Distribute it first: DSparseMatrix.from_scipy(matrix, world); on one process "
        remedy += "SparseTensor.from_scipy(matrix) has the same solvers"
    return InputError(f"{type(A).__name__} has no {name}, {what}", field="A", remedy=remedy)

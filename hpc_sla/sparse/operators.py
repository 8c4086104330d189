"""What solvers multiply by: a distributed matrix, or any object that can do the products."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Protocol

import torch

from hpc_sla.distributed.layout import RowLayout
from hpc_sla.errors import InputError
from hpc_sla.hashing import noise
from hpc_sla.kernels.basis import Basis
from hpc_sla.kernels.burst import Distributed
from hpc_sla.kernels.packed import Packed
from hpc_sla.kernels.sweep import pays
from hpc_sla.kernels.vectors import copy_, inner_products
from hpc_sla.sparse.arnoldi import Arnoldi
from hpc_sla.sparse.compressed import packed_of, version_of
from hpc_sla.sparse.matrix import DSparseMatrix
from hpc_sla.sparse.stored import StoredMatrix
from hpc_sla.sparse.symmetry import is_symmetric
from hpc_sla.sparse.values import Values

# Rounding leaves a few units in the last place of asymmetry; assembly in another order some more.
_ASYMMETRY = 1000


class LinearOperator(Protocol):
    """What a matrix-free operator must have; a DSparseMatrix has it all.

    Vectors are plain tensors of this rank's owned entries, `[n_owned]` or `[n_owned, k]`.

    Attributes
    ----------
    layout : RowLayout
        Of the rows: where `matvec` gives its result.
    columns : RowLayout, optional
        Where its argument lives. Default: `layout`, the operator being square.
    dtype : torch.dtype, optional
        Default: whatever the right-hand side is of.
    device : torch.device, optional
        Default: that of `layout.world`.

    Methods
    -------
    matvec(x)
        A x, a new tensor in `layout` for x in `columns`. **Collective**, if it communicates.
    rmatvec(y), optional
        A^T y, in `columns` for y in `layout`: for methods that use the transpose, and for the
        gradient of those that do not ask for symmetry.
    diagonal(), optional
        The diagonal of the owned rows [n_owned]: for the Jacobi preconditioner.
    parameters(), optional
        The tensors that matvec computes with and that a solution is to be differentiated with
        respect to, none of them computed from another; as a torch.nn.Module has. matvec then is
        differentiable torch code.

    Examples
    --------
    >>> class Twice:
    ...     def __init__(self, layout):
    ...         self.layout = layout
    ...     def matvec(self, x):
    ...         return 2 * x
    """

    layout: RowLayout

    def matvec(self, x: torch.Tensor, /) -> torch.Tensor: ...


class Operator(ABC):
    """The products solvers call, whatever is behind them. Made by `as_operator`.

    Attributes
    ----------
    layout, columns : RowLayout
        Of the rows and of the columns; one object for a square operator.
    world : World
    shape : (int, int)
    n_global : int
        The number of columns, which is that of the unknowns.
    dtype : torch.dtype or None
        None where a matrix-free operator does not say.
    device : torch.device
    """

    def __init__(
        self,
        layout: RowLayout,
        columns: RowLayout,
        dtype: torch.dtype | None,
        device: torch.device,
    ) -> None:
        self.layout, self.columns = layout, columns
        self.world = layout.world
        self.shape = (layout.n_global, columns.n_global)
        self.n_global = columns.n_global
        self.dtype, self.device = dtype, device

    @property
    def square(self) -> bool:
        """Whether x and A x live in the same layout."""
        return self.columns is self.layout

    def __call__(
        self,
        x: torch.Tensor,
        out: torch.Tensor,
        dot: torch.Tensor | None = None,
        weights: torch.Tensor | None = None,
        square: torch.Tensor | None = None,
        /,
    ) -> None:
        """`out = A x`. **Collective.** Not differentiable.

        Parameters
        ----------
        x : torch.Tensor [n_owned] or [n_owned, k]
            Of `columns`; contiguous.
        out : torch.Tensor [n_owned] or [n_owned, k]
            Of `layout`; contiguous, overwritten.
        dot, weights, square : torch.Tensor, optional
            Inner products that go with it: see `hpc_sla.kernels.vectors.inner_products`.
        """
        self.product(x, out)
        if dot is not None and weights is None and not self.square:
            raise ValueError("x . (A x) needs the same layout of rows and columns")
        inner_products(x, out, dot, weights, square)

    @abstractmethod
    def product(self, x: torch.Tensor, out: torch.Tensor) -> None:
        """`out = A x` and no more. **Collective.** Arguments as of a call."""

    @abstractmethod
    def adjoint(self, y: torch.Tensor, out: torch.Tensor) -> None:
        """`out = A^T y`, for y in `layout` and out in `columns`. **Collective.**

        Raises
        ------
        InputError
            On every rank, where a matrix-free operator has no `rmatvec`.
        """

    def absolute(self, x: torch.Tensor, out: torch.Tensor, again: bool = False) -> bool:
        """`out = |A| |x|`, entry by entry; False, out untouched, where A has none to see.

        **Collective.** Arguments as of a product; `again` says that A x was the last one: what it
        exchanged is still there.
        """
        return False

    def arnoldi(self, basis: Basis, inverse: torch.Tensor | None) -> Arnoldi | None:
        """Steps of gmres in one sweep each, where that can be. Local, and ranks may differ.

        Parameters
        ----------
        basis : Basis
        inverse : torch.Tensor [n_owned] or None
            The pointwise preconditioner.
        """
        return None

    @abstractmethod
    def diagonal(self) -> torch.Tensor:
        """The diagonal of the owned rows: [n_owned]. Local.

        Raises
        ------
        InputError
            On every rank, where there is none.
        """

    def compiled(self, x: torch.Tensor) -> bool:
        """Whether `distributed` serves vectors like x. Local."""
        return False

    def distributed(self, x: torch.Tensor) -> Distributed:
        """It as compiled loops multiply vectors like x by it. **Collective**, at first."""
        raise NotImplementedError

    transposable = True
    """Whether `adjoint` works."""

    @property
    def T(self) -> Operator:
        """The transpose, as a view. Local."""
        return _TransposedOperator(self)

    def symmetric(self, dtype: torch.dtype = torch.float64) -> bool:
        """Whether A = A^T up to rounding, to all appearances. **Collective**; replicated.

        Two products with random vectors x and y, the same on any number of ranks: A is taken
        for symmetric where x . (A y) and y . (A x) differ by no more than rounding makes of sums
        of such terms. A matrix whose asymmetry is far below its other entries passes for
        symmetric.

        Parameters
        ----------
        dtype : torch.dtype
            Of the vectors, where the operator has none.
        """
        if not self.square:
            return False
        dtype = self.dtype or dtype
        with torch.no_grad():
            x, y = (self.noise(seed, dtype) for seed in (1, 2))
            product = torch.empty_like(x)
            terms = []
            for left, right in ((x, y), (y, x)):
                self(right, product)
                terms.append(left.double() * product.double())
            both = torch.cat(terms)
            # Scaled by the largest, so that squares neither over- nor underflow.
            largest = self.world.max(_largest(both))
            if not 0 < largest < math.inf:
                return largest == 0
            # torch sums by halves, so the sum's own rounding is far below that of the products.
            first, second = (both / largest).chunk(2)
            sums = torch.stack([first.sum() - second.sum(), (both / largest).square().sum()])
            difference, square = self.world.all_sum(sums).tolist()
        return abs(difference) <= _ASYMMETRY * torch.finfo(dtype).eps * math.sqrt(square)

    def refresh(self) -> None:  # noqa: B027
        """Look again at values that may have been changed in place, uncounted. Local."""

    def noise(self, seed: int, dtype: torch.dtype) -> torch.Tensor:
        """Uniform in [-1, 1), by the user's row numbers: [n_owned], in `columns`. Local."""
        return torch.from_numpy(noise(self.columns.rows, seed)).to(self.device, dtype)


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
    def __init__(self, A: DSparseMatrix) -> None:
        super().__init__(A.layout, A.columns, A.dtype, A.device)
        self._matrix = A
        self._pattern = A.pattern
        packed = A.held.packed is not None
        self._given = None if packed else A.values
        self._values = A.held if packed else A.held.plain
        self._transposed: torch.Tensor | None = None
        self._packed: Packed | None = None
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

    def _compressed(self, x: torch.Tensor) -> Packed | None:
        """The owned block in fewer bytes, of the values as they are now. Local."""
        if isinstance(self._values, Values):
            return self._values.serving(x)
        assert self._given is not None
        version = version_of(self._values)
        if version != self._version and self._pattern.owned.compiled(x):
            self._packed, self._version = packed_of(self._pattern, self._given), version
        return self._packed

    def refresh(self) -> None:
        self._version = None

    def adjoint(self, y: torch.Tensor, out: torch.Tensor) -> None:
        if self._transposed is None:
            self._transposed = self._pattern.transpose_values(self._plain())
        self._pattern.rmatmul(self._transposed, y, out, transposed=True)

    def absolute(self, x: torch.Tensor, out: torch.Tensor, again: bool = False) -> bool:
        self._pattern.absolute_matmul(self._values, x, out, again)
        return True

    def _plain(self) -> torch.Tensor:
        return self._values if isinstance(self._values, torch.Tensor) else self._values.plain

    def compiled(self, x: torch.Tensor) -> bool:
        return self._pattern.compiled(x)

    def distributed(self, x: torch.Tensor) -> Distributed:
        packed = self._compressed(x)
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
        return Arnoldi(self._pattern, self._values, basis, inverse, self._compressed(like))

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


class _TransposedOperator(Operator):
    def __init__(self, operator: Operator) -> None:
        super().__init__(operator.columns, operator.layout, operator.dtype, operator.device)
        self._operator = operator

    def product(self, x: torch.Tensor, out: torch.Tensor) -> None:
        self._operator.adjoint(x, out)

    def adjoint(self, y: torch.Tensor, out: torch.Tensor) -> None:
        self._operator(y, out)

    def diagonal(self) -> torch.Tensor:
        return self._operator.diagonal()

    def refresh(self) -> None:
        self._operator.refresh()

    @property
    def T(self) -> Operator:
        return self._operator


class _TransposedMatrixOperator(_TransposedOperator):
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


def _largest(values: torch.Tensor) -> float:
    """The largest magnitude: infinity where there is a NaN, which MPI's maximum may drop."""
    largest = float(values.abs().max()) if values.numel() else 0.0
    return math.inf if math.isnan(largest) else largest

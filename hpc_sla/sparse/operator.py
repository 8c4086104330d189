"""What an operator is: the products that solvers call, whatever is behind them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Protocol

import torch

from hpc_sla.distributed.layout import RowLayout
from hpc_sla.hashing import noise
from hpc_sla.kernels.basis import Basis
from hpc_sla.kernels.burst import Distributed
from hpc_sla.kernels.vectors import inner_products
from hpc_sla.sparse.arnoldi import Arnoldi

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

    def absolute_row_sums(self, out: torch.Tensor) -> None:
        """`out = |A| 1`, for out [n_owned] of a square A whose entries `absolute` sees.

        **Collective.**
        """
        self.absolute(torch.ones_like(out), out)

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

    capturable = False
    """Whether a CUDA graph can be made of its products: nothing of a user's is in them, and what
    they read stays where it is."""

    def settle(self, x: torch.Tensor) -> None:  # noqa: B027
        """Look at the values now, for products with vectors like x. Local.

        What these read stays where it is from here on, as long as the values stay what they are.
        """

    @property
    def token(self) -> tuple[object, ...]:
        """What says, object by object, which tensors products read after `settle`. Local."""
        return (self,)

    @property
    def T(self) -> Operator:
        """The transpose, as a view. Local."""
        return TransposeOf(self)

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

    brief = False
    """Replicated. Whether it serves one solve, for which little should be made of it."""

    def refresh(self) -> None:  # noqa: B027
        """Look again at values that may have been changed in place, uncounted. Local."""

    def noise(self, seed: int, dtype: torch.dtype) -> torch.Tensor:
        """Uniform in [-1, 1), by the user's row numbers: [n_owned], in `columns`. Local."""
        return torch.from_numpy(noise(self.columns.rows, seed)).to(self.device, dtype)


class TransposeOf(Operator):
    def __init__(self, operator: Operator) -> None:
        super().__init__(operator.columns, operator.layout, operator.dtype, operator.device)
        self._operator = operator
        self.capturable = operator.capturable

    def settle(self, x: torch.Tensor) -> None:
        self._operator.settle(x)

    @property
    def token(self) -> tuple[object, ...]:
        return (*self._operator.token, "transposed")

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


def _largest(values: torch.Tensor) -> float:
    """The largest magnitude: infinity where there is a NaN, which MPI's maximum may drop."""
    largest = float(values.abs().max()) if values.numel() else 0.0
    return math.inf if math.isnan(largest) else largest

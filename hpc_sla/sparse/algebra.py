"""What one writes with distributed matrices: A + B, s * A, A @ B, sums and norms."""

from __future__ import annotations

import math
import numbers
from dataclasses import replace
from typing import Any

import torch

from hpc_sla.distributed.row_order import made
from hpc_sla.errors import InputError, InputTypeError
from hpc_sla.kernels.modes import entry
from hpc_sla.sparse import compose
from hpc_sla.sparse.pattern import DistributedPattern
from hpc_sla.sparse.stored import StoredMatrix
from hpc_sla.sparse.unknowns import Described, Unknowns


class Algebra(Described, StoredMatrix):
    """The operators of a `DSparseMatrix`. Matrices stay as they are; results are new ones."""

    def _differentiable(self) -> torch.Tensor:
        """The values, packed ones written out and left packed. Local."""
        return self.held.plain if self.held.packed is not None else self.values

    def _new(self, pattern: DistributedPattern, values: torch.Tensor, known: Unknowns) -> Any:
        kind: Any = type(self)
        return kind(pattern, values)._knowing(known)

    # Multiples

    @entry
    def __mul__(self, factor: Any) -> Any:
        """`A * s`, and `s * A`, for a number or a tensor of one. Local. Differentiable in both.

        A tensor that all ranks hold goes through `world.replicate` first, as everywhere, for its
        gradient to be whole.
        """
        one = isinstance(factor, torch.Tensor) and factor.dim() == 0
        if not one and (not isinstance(factor, numbers.Real) or isinstance(factor, bool)):
            return NotImplemented
        return self.with_values(self._differentiable() * factor)

    __rmul__ = __mul__

    @entry
    def __truediv__(self, divisor: Any) -> Any:
        """`A / s`. Local. Differentiable in both."""
        one = isinstance(divisor, torch.Tensor) and divisor.dim() == 0
        if not one and (not isinstance(divisor, numbers.Real) or isinstance(divisor, bool)):
            return NotImplemented
        return self.with_values(self._differentiable() / divisor)

    @entry
    def __neg__(self) -> Any:
        """Local. Differentiable."""
        return self.with_values(-self._differentiable())

    # Sums

    @entry
    def __add__(self, other: Any) -> Any:
        """`A + B` on the union of their patterns. **Collective.** Differentiable in both.

        B is a DSparseMatrix, or the transpose of one, with its rows and columns on the same ranks
        in the same order; of the same dtype and device. Where B has A's own pattern (`with_values`)
        so has the sum, and no set-up is needed. Coordinates and the block size are A's.

        Raises
        ------
        InputError
            On every rank: another shape, layout, dtype or device.
        """
        if not isinstance(other, StoredMatrix):
            return NotImplemented
        B: Any = other.explicit()
        self._check_beside(B, "A + B", B.layout, B.columns)
        a, b, known = self._differentiable(), B._differentiable(), self.unknowns
        if B.pattern is self.pattern:
            return self._new(self.pattern, a + b, known)
        pattern, values = compose.add(a, self.pattern, b, B.pattern)
        return self._new(pattern, values, replace(known, near_nullspace=None))

    @entry
    def __sub__(self, other: Any) -> Any:
        """`A - B`, as `A + B`. **Collective.** Differentiable in both."""
        if not isinstance(other, StoredMatrix):
            return NotImplemented
        return self + -other.explicit()

    # Products

    @entry
    def transpose(self) -> Any:
        """A^T as a DSparseMatrix of its own, not a view as `A.T`. **Collective.** Differentiable.

        Its rows are on the ranks that own A's columns. Solves and products with vectors do not need
        it: `A.T` has no set-up.
        """
        pattern, values = compose.transpose(self._differentiable(), self.pattern)
        known = self.unknowns if self.layout is self.columns else Unknowns()
        return self._new(pattern, values, replace(known, near_nullspace=None))

    def explicit(self) -> Any:
        """The matrix itself. Local."""
        return self

    def compose(self, other: StoredMatrix) -> Any:
        """`A @ B` for a matrix B. **Collective.** See `__matmul__`."""
        B: Any = other.explicit()
        self._check_beside(B, "A @ B", B.layout)
        columns = B.columns
        if self.shape[0] == B.shape[1]:
            columns = self.layout  # columns of a square matrix are owned as its rows are
        other_order = self.world.sum(int(not columns.same(B.columns))) > 0
        if other_order:
            stored = compose.columns_in(columns, B.pattern, B.entries()[1])
        else:
            stored = B.pattern.stored_columns()
        pattern, values = compose.multiply(
            self._differentiable(), self.pattern, B._differentiable(), B.pattern, stored, columns
        )
        square = columns is self.layout
        points = self.unknowns.coordinates
        return self._new(pattern, values, Unknowns(coordinates=points if square else None))

    def _check_beside(self, B: Any, what: str, rows: Any, columns: Any = None) -> None:
        """Raise InputError where A and B do not go together. **Collective.**

        B's rows go with A's columns; where `columns` are given, rows with rows, too.
        """
        mine = self.columns if columns is None else self.layout
        with self.world.agree(what, A=(self.shape, self.dtype), B=(B.shape, B.dtype)):
            if B.world is not self.world:
                raise InputError(
                    "belongs to another World", field="B", remedy="Make both on one World"
                )
            pairs = [(mine, rows)] if columns is None else [(mine, rows), (self.columns, columns)]
            if any(one.n_global != two.n_global for one, two in pairs):
                raise InputError(
                    f"{what} of a {self.shape[0]} x {self.shape[1]} matrix and one of "
                    f"{B.shape[0]} x {B.shape[1]}",
                    field="B",
                )
            if not all(one.same(two) for one, two in pairs):
                raise InputError(
                    f"{what} of matrices that order these rows differently, or have them on other "
                    "ranks",
                    field="B",
                    remedy="Make B with layout=A.columns (layout= and columns= of from_scipy, "
                    "from_torch and from_coo)",
                )
            if (B.dtype, B.device) != (self.dtype, self.device):
                raise InputTypeError(
                    f"{B.dtype} on {B.device} does not go with {self.dtype} on {self.device}",
                    field="B",
                    remedy="Use B.to(A.dtype)",
                )

    # Numbers of it

    @entry
    def sum(self, axis: int | None = None) -> torch.Tensor:
        """The sum of all entries, of each row (axis 1) or of each column (0). **Collective.**

        Differentiable.

        Returns
        -------
        torch.Tensor
            Of all: [], replicated. Of rows: [n_owned] in `layout`; of columns, in `columns`.

        Raises
        ------
        InputError
            On every rank: another axis.
        """
        with self.world.agree("sum", axis=axis):
            if axis not in (None, 0, 1, -1, -2):
                raise InputError(f"{axis!r} is not 0, 1 or None", field="axis")
        values = self._differentiable()
        if axis is None:
            return self.world._all_sum(values.sum(), self.pattern.nnz_owned)
        return self._sums(values, axis % 2)

    def _sums(self, values: torch.Tensor, axis: int) -> torch.Tensor:
        one = self.layout if axis == 0 else self.columns
        ones = made(values.new_ones(one.n_owned), one)
        B: Any = self.with_values(values)
        return B.T @ ones if axis == 0 else B @ ones

    @entry
    def norm(self, ord: str | float = "fro") -> torch.Tensor:
        """A matrix norm. **Collective.** Differentiable, where it is.

        Parameters
        ----------
        ord : "fro", 1 or inf
            Replicated. Frobenius; the largest sum of moduli of a column, or of a row. The 2-norm of
            a symmetric matrix is the largest modulus of its eigenvalues: `hs.eigsh`.

        Returns
        -------
        torch.Tensor []
            Replicated.

        Raises
        ------
        InputError
            On every rank: another norm.
        """
        with self.world.agree("norm", ord=ord):
            if ord not in ("fro", 1, math.inf):
                raise InputError(
                    f"{ord!r} is not 'fro', 1 or inf",
                    field="ord",
                    remedy="For the 2-norm use hs.eigsh: of A, or of A.T @ A if not symmetric",
                )
        values = self._differentiable()
        if ord == "fro":
            square = self.world._all_sum((values * values).sum(), self.pattern.nnz_owned)
            some = square != 0
            return torch.where(some, torch.where(some, square, 1.0).sqrt(), 0.0)
        sums = self._sums(values.abs(), 0 if ord == 1 else 1)
        return self._largest(sums)

    def _largest(self, x: torch.Tensor) -> torch.Tensor:
        """The largest of a distributed vector; its gradient goes to the first. **Collective.**"""
        world = self.world
        mine = float(x.detach().max()) if len(x) else -math.inf
        everyone = world.comm.allgather((math.isnan(mine), mine))
        winner = max(range(world.size), key=lambda rank: (*everyone[rank], -rank))
        at = int(x.detach().argmax()) if world.rank == winner and len(x) else 0
        part = x.narrow(0, at, 1).sum() if world.rank == winner and len(x) else x.sum() * 0
        return world._all_sum(part, len(x))

    @entry
    def is_symmetric(self, rtol: float | None = None, atol: float = 0.0) -> bool:
        """Whether A equals its transpose. **Collective**; replicated.

        Parameters
        ----------
        rtol, atol : float
            Replicated. ``|a_ij - a_ji| <= atol + rtol (|a_ij| + |a_ji|)`` at every entry. Default
            of rtol: a thousand units in the last place, as what is chosen by symmetry goes by.
        """
        if self.layout is not self.columns:
            return False
        rtol = 1000 * torch.finfo(self.dtype).eps if rtol is None else rtol
        plain: Any = self.with_values(self.held.plain)
        mirrored = plain.transpose()
        # What is stored on one side only is a zero of the other.
        apart = plain - mirrored
        size = plain.with_values(plain.values.abs()) + mirrored.with_values(mirrored.values.abs())
        wrong = ~(apart.values.abs() <= atol + rtol * size.values)
        return self.world.sum(int(wrong.any())) == 0

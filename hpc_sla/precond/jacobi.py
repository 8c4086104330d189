"""Divide by the diagonal: cheap, exact in parallel; any matrix will do."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch

from hpc_sla.distributed.world import World
from hpc_sla.errors import InputError
from hpc_sla.precond.base import Preconditioner, Takes
from hpc_sla.precond.none import Identity
from hpc_sla.precond.workspace import scale
from hpc_sla.sparse.operator import Operator
from hpc_sla.sparse.operators import as_operator
from hpc_sla.sparse.stored import StoredMatrix

CONSTANT_FROM = 1 << 16
"""Rows from which on a diagonal that is one number everywhere is looked for."""


class Jacobi(Preconditioner):
    """`M = diag(A)` (Saad, Iterative Methods for Sparse Linear Systems, 2nd ed., section 10.2).

    For least squares, of a rectangular matrix, the norms of its columns instead. Of a diagonal that
    is one positive number on all ranks no vector is held: see `up_to_a_factor`.
    """

    name = "jacobi"
    takes: ClassVar[Takes] = "diagonal"
    petsc = "jacobi"

    _inverse: torch.Tensor | None = None
    _constant: torch.Tensor | None = None  # [1]

    def set_up(self, A: Any) -> None:
        """**Collective** for a rectangular or large matrix."""
        operator = as_operator(A)
        diagonal = operator.diagonal() if operator.square else _column_norms(A, operator)
        self.inverse = inverse = inverse_diagonal(diagonal)
        if operator.square and operator.n_global >= CONSTANT_FROM:
            constant = _constant(inverse, operator.world)
            if constant is not None:
                self._inverse, self._constant = None, inverse.new_tensor([constant])
        # An operator may leave its dtype open; from here on it is that of its diagonal.
        self._belongs_to(len(diagonal), diagonal.dtype, diagonal.device)

    @classmethod
    def of(cls, diagonal: torch.Tensor) -> Jacobi:
        """The one that divides by this diagonal [n_owned], whatever the matrix. Local."""
        made = cls()
        made.inverse = inverse_diagonal(diagonal)
        made._belongs_to(len(diagonal), diagonal.dtype, diagonal.device)
        return made

    @property
    def inverse(self) -> torch.Tensor:
        """1 / diag(A), [n_owned]: made where it is asked for, of a constant diagonal."""
        if self._inverse is None:
            assert self._constant is not None and self._fits is not None
            self._inverse = self._constant.expand(self._fits[0]).contiguous()
        return self._inverse

    @inverse.setter
    def inverse(self, inverse: torch.Tensor) -> None:
        self._inverse, self._constant = inverse, None

    pointwise = capturable = True

    @property
    def token(self) -> tuple[object, ...]:
        return (self, self._inverse, self._constant)

    @property
    def up_to_a_factor(self) -> Preconditioner:
        """The identity under this name, for a constant diagonal."""
        own = type(self).apply is not Jacobi.apply  # a user's, which may do something else
        if self._constant is None or own:
            return self
        made = Identity()
        made.name = self.name
        return made

    def apply(self, r: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """Local."""
        if self._constant is not None:
            return torch.mul(r, self._constant, out=out)
        return scale(r, self.inverse, out)

    apply_transpose = apply


def inverse_diagonal(diagonal: torch.Tensor) -> torch.Tensor:
    """The reciprocals [n_owned]. Zeros, as of rows with no entries, count as 1. Local."""
    return torch.where(diagonal == 0, 1.0, diagonal).reciprocal_().contiguous()


def _constant(inverse: torch.Tensor, world: World) -> float | None:
    """The one positive number that all of it is on all ranks, if it is. **Collective**."""
    mine = [-math.inf, -math.inf]
    if inverse.numel():
        mine = torch.stack([inverse.amax(), -inverse.amin()]).tolist()
    # A NaN is no number, and the largest of some on other ranks may hide it.
    largest, least = (world.max(math.inf if math.isnan(end) else end) for end in mine)
    smallest = -least
    return largest if largest == smallest and 0 < largest < math.inf else None


def positive(jacobi: Jacobi) -> Jacobi:
    """The same with the absolute values of the diagonal: definite, as minres needs. Local."""
    if isinstance(jacobi, _Positive) or jacobi.up_to_a_factor is not jacobi:
        return jacobi
    made = _Positive.of(jacobi.inverse.abs().reciprocal())
    made.name = jacobi.name
    return made


class _Positive(Jacobi):
    """One that `positive` has made."""


def _column_norms(A: Any, operator: Operator) -> torch.Tensor:
    """The 2-norms of the columns: their squares are the diagonal of A^T A. **Collective.**

    Raises
    ------
    InputError
        On every rank, for a matrix-free operator: its columns cannot be known.
    """
    if not isinstance(A, StoredMatrix):
        with operator.world.agree():
            raise InputError(
                f"{type(A).__name__} has no columns to scale",
                field="precond",
                remedy='Pass precond="none"',
            )
    values = A.values.detach()
    # Scaled by a power of two, so that squares neither over- nor underflow.
    mine = float(values.abs().max()) if values.numel() else 0.0
    largest = operator.world.max(mine)
    unit = 2.0 ** (math.frexp(largest)[1] - 1) if 0 < largest < math.inf else 1.0
    squares = A.with_values((values / unit).square())
    return squares.rmatvec(values.new_ones(operator.layout.n_owned)).sqrt() * unit

"""Divide by the diagonal: cheap, exact in parallel; any matrix will do."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch

from hpc_sla.errors import InputError
from hpc_sla.precond.base import Preconditioner, Takes
from hpc_sla.precond.workspace import scale
from hpc_sla.sparse.operator import Operator
from hpc_sla.sparse.operators import as_operator
from hpc_sla.sparse.stored import StoredMatrix


class Jacobi(Preconditioner):
    """`M = diag(A)` (Saad, Iterative Methods for Sparse Linear Systems, 2nd ed., section 10.2).

    For least squares, of a rectangular matrix, the norms of its columns instead.
    """

    name = "jacobi"
    takes: ClassVar[Takes] = "diagonal"
    petsc = "jacobi"

    inverse: torch.Tensor

    def set_up(self, A: Any) -> None:
        """**Collective** for a rectangular matrix."""
        operator = as_operator(A)
        diagonal = operator.diagonal() if operator.square else _column_norms(A, operator)
        self.inverse = inverse_diagonal(diagonal)
        # An operator may leave its dtype open; from here on it is that of its diagonal.
        self._belongs_to(len(diagonal), diagonal.dtype, diagonal.device)

    @classmethod
    def of(cls, diagonal: torch.Tensor) -> Jacobi:
        """The one that divides by this diagonal [n_owned], whatever the matrix. Local."""
        made = cls()
        made.inverse = inverse_diagonal(diagonal)
        made._belongs_to(len(diagonal), diagonal.dtype, diagonal.device)
        return made

    def apply(self, r: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """Local."""
        return scale(r, self.inverse, out)

    apply_transpose = apply


def inverse_diagonal(diagonal: torch.Tensor) -> torch.Tensor:
    """The reciprocals [n_owned]. Zeros, as of rows with no entries, count as 1. Local."""
    return torch.where(diagonal == 0, 1.0, diagonal).reciprocal_().contiguous()


def positive(jacobi: Jacobi) -> Jacobi:
    """The same with the absolute values of the diagonal: definite, as minres needs. Local."""
    if isinstance(jacobi, _Positive):
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

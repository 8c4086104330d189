"""Column scaling: Jacobi for least squares."""

from __future__ import annotations

import math
from typing import Any

from hpc_sla.errors import InputError
from hpc_sla.precond.jacobi import Jacobi
from hpc_sla.sparse.operators import Operator
from hpc_sla.sparse.stored import StoredMatrix


class ColumnScaling(Jacobi):
    """`M = diag(||a_j||_2)`, the norms of the columns: for lsqr on a rectangular matrix.

    The square root of Jacobi for the normal equations A^T A. **Collective.**

    Parameters
    ----------
    A : DSparseMatrix or its transpose

    Raises
    ------
    InputError
        On every rank, for a matrix-free operator: its columns' norms cannot be known.
    """

    name = "jacobi"

    def __init__(self, A: Any, operator: Operator) -> None:
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
        scale = 2.0 ** (math.frexp(largest)[1] - 1) if 0 < largest < math.inf else 1.0
        squares = A.with_values((values / scale).square())
        sums = squares.rmatvec(values.new_ones(operator.layout.n_owned))
        super().__init__(sums.sqrt() * scale)


def positive(jacobi: Jacobi) -> Jacobi:
    """The same with the absolute values of the diagonal: definite, as minres needs. Local."""
    if isinstance(jacobi, _Positive):
        return jacobi
    made = _Positive(jacobi.inverse.abs().reciprocal())
    made.name = jacobi.name
    return made


class _Positive(Jacobi):
    """One that `positive` has made."""

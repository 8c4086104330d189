"""Column scaling: Jacobi for least squares."""

from __future__ import annotations

from typing import Any

from hpc_sla.errors import InputError
from hpc_sla.matrix import DSparseMatrix, TransposedMatrix
from hpc_sla.operators import Operator
from hpc_sla.precond.jacobi import Jacobi


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
        squares: DSparseMatrix | TransposedMatrix
        if isinstance(A, DSparseMatrix):
            values = A.values.detach()
            squares = A.with_values(values * values).T
        elif isinstance(A, TransposedMatrix):
            values = A.T.values.detach()
            squares = A.T.with_values(values * values)
        else:
            with operator.world.agree():
                raise InputError(
                    f"{type(A).__name__} has no columns to scale",
                    field="precond",
                    remedy='Pass precond="none"',
                )
        super().__init__((squares @ values.new_ones(operator.layout.n_owned)).sqrt())


def positive(jacobi: Jacobi) -> Jacobi:
    """The same with the absolute values of the diagonal: definite, as minres needs. Local."""
    return Jacobi(jacobi.inverse.abs().reciprocal())

"""What suits a linear system with a Jacobian, where the user leaves it open."""

from __future__ import annotations

import numpy as np
import torch

from hpc_sla.distributed.layout import RowLayout
from hpc_sla.linear.method import Method
from hpc_sla.linear.methods import make_method
from hpc_sla.sparse.matrix import DSparseMatrix
from hpc_sla.sparse.operators import Operator

# Bytes of a rank for a Krylov basis, and for the products that a coloured Jacobian is made of.
_MEMORY = 2**28
_MOST_COLOURS = 256
# Rows of a rank, times entries of a row, whose direct factor costs less than iterations do.
_DIRECT = 50_000


def fitting_method(operator: Operator) -> Method:
    """GMRES, with a restart that memory allows. Local, replicated."""
    return make_method(f"gmres:restart={restart(operator.layout)}")


def restart(layout: RowLayout) -> int:
    """Local, replicated."""
    return min(max(_MEMORY // (8 * largest_part(layout)), 30), 500)


def largest_part(layout: RowLayout) -> int:
    """Rows of the rank that has most; at least 1. Local, replicated."""
    return max(int(np.diff(layout.offsets).max()), 1)


def fitting_preconds(matrix: DSparseMatrix | None, maker: Method | None) -> list[str]:
    """The best first; the next where it cannot be made of this matrix. Local, replicated.

    A method for symmetric matrices gets "jacobi".
    """
    if matrix is None:
        return ["none"]
    if maker is not None and maker.needs_symmetric:
        return ["jacobi"]
    rows = largest_part(matrix.layout)
    a_row = matrix.nnz_global / max(matrix.layout.n_global, 1)
    incomplete = ["additive_schwarz:factor=ilu0", "none"]
    return ["additive_schwarz:factor=lu", *incomplete] if rows * a_row <= _DIRECT else incomplete


def most_colours(pattern: DSparseMatrix) -> int:
    """Up to how many products a Jacobian is worth. Local, replicated."""
    return min(_MOST_COLOURS, max(_MEMORY // (8 * largest_part(pattern.layout)), 30))


def tolerance_of(jvp: str, dtype: torch.dtype) -> float:
    """What a product with an assembled Jacobian may differ by from an exact one."""
    eps = torch.finfo(dtype).eps
    return 1e3 * (eps**0.5 if jvp == "fd" else eps)

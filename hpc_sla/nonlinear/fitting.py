"""What suits a linear system with a Jacobian, where the user leaves it open."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch

from hpc_sla.distributed.layout import RowLayout
from hpc_sla.linear.ladder import choices
from hpc_sla.linear.method import Method
from hpc_sla.linear.methods import make_method
from hpc_sla.precond import Direct, Preconditioner
from hpc_sla.sparse.matrix import DSparseMatrix
from hpc_sla.sparse.operator import Operator

# Bytes of a rank for a Krylov basis, and for the products that a coloured Jacobian is made of.
_MEMORY = 2**28
_MOST_COLOURS = 256


def fitting_method(operator: Operator, precond: Preconditioner | None = None) -> Method:
    """GMRES, with a restart that memory allows, or that is long enough. Local, replicated."""
    # A factorisation serves in a few steps, or is made anew; to keep what it gave spares the
    # application at the end, each a way to one rank and back.
    if isinstance(getattr(precond, "of", precond), Direct):
        return _made("fgmres:restart=10")
    return _made(f"gmres:restart={restart(operator.layout)}")


@cache
def _made(text: str) -> Method:
    return make_method(text)


def restart(layout: RowLayout) -> int:
    """Local, replicated."""
    return min(max(_MEMORY // (8 * largest_part(layout)), 30), 500)


def largest_part(layout: RowLayout) -> int:
    """Rows of the rank that has most; at least 1. Local, replicated."""
    return max(int(np.diff(layout.offsets).max()), 1)


def fitting_preconds(matrix: DSparseMatrix | None, maker: Method | None) -> list[str]:
    """The best first; the next where it cannot be made of this matrix, or does not pay.

    **Collective**; replicated. As `solve` takes them where nothing is named: by what the matrix is.
    """
    if matrix is None:
        return ["none"]
    rungs = choices(matrix, maker)
    found = dict.fromkeys(str(rung.precond) for rung in rungs)
    return [*found, *({"none"} - found.keys())]


def most_colours(pattern: DSparseMatrix) -> int:
    """Up to how many products a Jacobian is worth. Local, replicated."""
    return min(_MOST_COLOURS, max(_MEMORY // (8 * largest_part(pattern.layout)), 30))


def tolerance_of(jvp: str, dtype: torch.dtype) -> float:
    """What a product with an assembled Jacobian may differ by from an exact one."""
    eps = torch.finfo(dtype).eps
    return 1e3 * (eps**0.5 if jvp == "fd" else eps)

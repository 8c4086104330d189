"""The preconditioner of `eigsh`: as asked, or what helps where none is named."""

from __future__ import annotations

import math
from typing import Any

import torch

from hpc_sla.eigen.scaling import ScaledPreconditioner
from hpc_sla.errors import InputError, UnsuitableError
from hpc_sla.linear.facts import look
from hpc_sla.precond import AMG, Jacobi, Preconditioner, make_preconditioner, needs_matrix
from hpc_sla.precond.jacobi import positive
from hpc_sla.sparse.matrix import DSparseMatrix
from hpc_sla.sparse.operators import as_operator

GRADED = 100.0
"""Ratio of diagonal entries from which on a diagonal is worth dividing by."""

_DIAGONAL = 1e3
"""Sums of magnitudes, in rows of the scaled matrix, above which a diagonal does not tell its size.

Of a semidefinite matrix they are at most the numbers of entries in a row.
"""


_LARGE = 500
"""Rows below which multigrid's set-up is not worth it."""


def precondition(
    precond: Any,
    A: Any,
    scaled_A: Any,
    scaled_B: Any,
    sign: float,
    power: int,
    dtype: torch.dtype,
    gradient: bool,
) -> Preconditioner:
    """A preconditioner of the scaled matrix; one made already is of A itself. **Collective.**

    "auto" is what helps.
    """
    if isinstance(precond, str) and precond == "auto":
        chosen = _multigrid(scaled_A) if sign > 0 else None
        chosen = chosen or _chosen(scaled_A if sign > 0 else scaled_B, sign)
        if chosen:
            return chosen
        precond = "none"
    named = needs_matrix(precond)
    M = make_preconditioner(precond, scaled_A if named else A)
    if isinstance(M, Jacobi):
        M = positive(M)
    operator = as_operator(A)
    with operator.world.agree():
        M.check(operator.columns.n_owned, operator.dtype or dtype, operator.device)
        if gradient and not M.symmetric:
            raise InputError(
                f"the gradient of eigenvectors needs a symmetric preconditioner, and {M.name} is "
                "none",
                field="precond",
                remedy="Choose another",
            )
    return M if named or not power else ScaledPreconditioner(M, power)


def spread(matrix: Any) -> float:
    """The largest of the diagonal's entries over the least: 1 where it is not all positive.

    And of what has no entries to see. **Collective**; replicated.
    """
    if not isinstance(matrix, DSparseMatrix):
        return 1.0
    diagonal = matrix.diagonal().detach().double()
    ends = [float(diagonal.max()), -float(diagonal.min())] if len(diagonal) else [-math.inf] * 2
    largest, least = (matrix.layout.world.max(value) for value in ends)
    return largest / -least if least < 0 and math.isfinite(largest) else 1.0


def _multigrid(matrix: Any) -> Preconditioner | None:
    """Multigrid, where it is likely to suit and worth its set-up. **Collective.**

    None for matrices that are small, whose levels fill up, or that are seen to be indefinite: a
    preconditioner has to be definite, whatever the matrix is.
    """
    if not isinstance(matrix, DSparseMatrix) or matrix.shape[0] < _LARGE:
        return None
    facts = look(matrix)
    if not facts.symmetric_rest or facts.negative or facts.zero:
        return None
    try:
        made = AMG().on(matrix)
    except UnsuitableError:  # on every rank
        return None
    return None if made.indefinite else made


def _chosen(matrix: Any, sign: float) -> Preconditioner | None:
    """Jacobi, where rows are of very different size: penalties, units. **Collective.**

    Of A for the smallest pairs, to which the directions of huge entries are nothing; of B for the
    largest, where a residual's direction is B^-1 r. None where it would not help.
    """
    if spread(matrix) < GRADED:
        return None
    diagonal = matrix.diagonal().detach()
    root = diagonal.rsqrt()
    sums = torch.empty_like(root)
    as_operator(matrix).absolute(root, sums)
    mine = float((sums * root).max()) if len(sums) else 0.0
    if not matrix.layout.world.max(mine) <= _DIAGONAL:
        return None
    made = Jacobi.of(diagonal)
    if sign < 0:
        made.name = "jacobi of B"
    return made

"""What the levels of multigrid are made of: a matrix in units that suit them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from hpc_sla.precond.amg.rows import Multigrid, row_factors
from hpc_sla.precond.amg.units import component_units, in_component_units
from hpc_sla.precond.decoupled import DecoupledRows, decoupled_rows
from hpc_sla.sparse.matrix import DSparseMatrix
from hpc_sla.sparse.operators import as_operator

_NEARER = 0.1
"""Vectors whose Rayleigh quotient is below this part of the constants' are taken in their place."""


@dataclass(frozen=True)
class ScaledMatrix:
    """What the levels are made of: A without its decoupled rows, in units that suit them.

    Attributes
    ----------
    matrix : DSparseMatrix
    scale : float
        What all of A was multiplied by. Replicated.
    rows, columns : torch.Tensor [n_owned] or None
        What its rows and columns were multiplied by before.
    decoupled : DecoupledRows or None
    symmetric : bool
        Whether `matrix` is. Replicated.
    """

    matrix: DSparseMatrix
    scale: float
    rows: torch.Tensor | None
    columns: torch.Tensor | None
    decoupled: DecoupledRows | None
    symmetric: bool

    @classmethod
    def of(
        cls,
        A: DSparseMatrix,
        block_size: int,
        multigrid: Multigrid,
        columns: torch.Tensor | None = None,
    ) -> ScaledMatrix:
        """**Collective.** With the factors of `columns` where those are known.

        `multigrid` makes one of a matrix, should its rows be in units of their own.
        """
        decoupled = decoupled_rows(A)
        if decoupled is not None:
            A = decoupled.rest(A, block_size)
        symmetric = as_operator(A).symmetric()
        rows = None if symmetric else row_factors(A, multigrid)
        if rows is not None:
            A = A.with_values(A.held.plain * rows.index_select(0, A.pattern.local_rows()))
            symmetric = as_operator(A).symmetric()
        if rows is not None or not symmetric or block_size == 1:
            columns = None
        elif columns is None:
            columns = component_units(A, block_size)
        if columns is not None:
            rows, A = columns, in_component_units(A, columns, block_size)
        factor = _scale(A)
        matrix = A if factor == 1 else A.rescaled(factor)
        return cls(matrix, factor, rows, columns, decoupled, symmetric)

    def in_its_units(self, B: np.ndarray) -> np.ndarray:
        """A near-nullspace [n_owned, m] of A as one of `matrix`. Local."""
        if self.columns is None:
            return B
        return B / self.columns.double().cpu().numpy()[:, None]

    @property
    def mask(self) -> torch.Tensor | None:
        """Which rows are decoupled: bool [n_owned]."""
        return None if self.decoupled is None else self.decoupled.mask

    def in_units(self, B: np.ndarray) -> np.ndarray:
        """B over the roots of the diagonal where those vectors are the nearer to the nullspace.

        **Collective.** B [n_owned, m] has constants. By the Rayleigh quotients of D^-1 A.
        """
        A, size = self.matrix, self.matrix.diagonal().abs()
        low, high = map(float, size.aminmax()) if len(size) else (math.inf, 0.0)
        # MPI's maximum makes of a NaN what it likes. Of a diagonal that is one number both are the
        # same vectors.
        low = -A.world.max(1.0 if math.isnan(low) else -low)
        if not low > 0 or A.world.max(high) == low:
            return B
        product, out = as_operator(A), torch.empty_like(size)
        forced, sums = size.new_empty(()), size.new_zeros(4)
        for column in B.T:
            x = torch.from_numpy(column.copy()).to(A.device, A.dtype)
            if self.mask is not None:
                x[self.mask] = 0
            for energy, mass in sums.view(2, 2):
                product(x, out, forced)
                energy.add_(forced)
                mass.add_(torch.dot(torch.mul(x, x, out=out), size))
                x.mul_(size.rsqrt())
        a, b, c, d = A.world.all_sum(sums.double()).tolist()
        if not (b > 0 and d > 0 and abs(c / d) < _NEARER * abs(a / b)):
            return B
        return B * size.rsqrt().double().cpu().numpy()[:, None]


def _scale(A: DSparseMatrix) -> float:
    """A power of two that brings A into float32's range, 1 where it is well inside. **Collective.**

    Negative where the diagonal is: multigrid is for positive definite matrices, and -A is one
    where A is negative definite.
    """
    largest = A.world.max(A.held.largest())
    negative = A.world.sum(int((A.diagonal().detach() < 0).sum())) == A.shape[0] > 0
    sign = -1.0 if negative else 1.0
    if not 0 < largest < math.inf or 1e-10 < largest < 1e10:
        return sign
    return sign * 2.0 ** min(-round(math.log2(largest)), 1000)

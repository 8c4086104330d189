"""In which order a matrix is best eliminated, and what that costs, known before it is done."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch

from hpc_sla.direct.base import LocalMatrix
from hpc_sla.kernels.csr import CsrPattern
from hpc_sla.kernels.ordering import (
    column_counts,
    hold_back,
    minimum_degree,
    nested_dissection,
)
from hpc_sla.partition.metis import adjacency

_WORTH_DISSECTING = 12_000
"""Operations for each entry from which on nested dissection saves more time than it takes."""
_ALIKE = 0.3
"""The part of the entries that must have one at the transposed place: below, the pattern of
A + A^T says too little of A's."""
_DOMINANT, _LARGE = 0.95, 0.1
"""But where so large a part of the diagonal is this large in its column, pivots are there."""
_ENTRY_BYTES = 12


@dataclass(frozen=True)
class Cost:
    """What a factorisation will cost, if it need not leave the diagonal for its pivots.

    Attributes
    ----------
    entries : int
        Of L and U together, the diagonal counted once in each.
    flops : float
        Of an LU factorisation; Cholesky takes half.
    bytes : int
        That the factors take, at their most.
    """

    entries: int
    flops: float
    bytes: int

    @classmethod
    def of(cls, counts: np.ndarray) -> Cost:
        """From the entries of each column of L: [n]."""
        below = counts.astype(np.float64) - 1
        entries = 2 * int(counts.sum(dtype=np.int64))
        flops = float(2 * (below * below).sum() + below.sum())
        return cls(entries, flops, _ENTRY_BYTES * entries)


@dataclass(frozen=True, eq=False)
class Elimination:
    """An order of elimination of a square matrix, rows and columns alike.

    Attributes
    ----------
    order : int32 array [n]
        Row `order[i]` is eliminated as number i.
    cost : Cost
    kind : {"minimum degree", "nested dissection"}
    on_diagonal : bool
        Whether pivots are likely to be found on the diagonal or near: most of it is there, and the
        pattern is not far from symmetric or the diagonal dominates. Else columns are best ordered
        alone, and `cost` is a guess.
    there : bool torch.Tensor [nnz] or None
        Which stored entries were not 0 in what it was made of; None for all.
    """

    order: np.ndarray
    cost: Cost
    kind: str
    on_diagonal: bool
    there: torch.Tensor | None


def stands_for(there: torch.Tensor | None, pattern: CsrPattern, values: torch.Tensor) -> bool:
    """Whether what was made of a matrix serves for other values on its pattern. Local.

    It does where they are zero wherever the former were, and on its diagonal nowhere else.

    Parameters
    ----------
    there : bool torch.Tensor [nnz] or None
        Where the former were not 0; None for everywhere.
    """
    now = values != 0
    if there is not None and bool((now & ~there).any()):
        return False
    where = pattern.diagonal
    where = where[where >= 0]
    return torch.equal(now[where], torch.ones_like(now[where]) if there is None else there[where])


def nonzeros(values: torch.Tensor) -> torch.Tensor | None:
    """Which are not 0; None for all. Local."""
    there = values != 0
    return None if bool(there.all()) else there


def elimination(matrix: LocalMatrix) -> Elimination:
    """How to eliminate a matrix. Local; kept with its pattern, also for other values on it
    as far as they have no entries that the first did not have.

    Minimum degree, with rows of a zero diagonal held back until they are filled; nested dissection
    where a large factorisation gains by it. What is not stored, or stored as 0, counts alike.
    """
    kept = matrix.pattern._cache.get("elimination")
    if not isinstance(kept, Elimination) or not stands_for(
        kept.there, matrix.pattern, matrix.values
    ):
        kept = matrix.pattern._cache["elimination"] = _found(matrix)
    return kept


def _found(matrix: LocalMatrix) -> Elimination:
    n, data = matrix.n, matrix.values.cpu().numpy()
    indptr, indices = (t.cpu().numpy() for t in (matrix.pattern.indptr, matrix.pattern.indices))
    csr = sp.csr_matrix((data, indices, indptr), shape=(n, n))
    if not data.all():
        csr = csr.copy()
        csr.eliminate_zeros()
    starts, neighbours = adjacency(csr)
    zero = csr.diagonal() == 0
    beside = csr.nnz - (n - int(zero.sum()))
    # Of k places off the diagonal, a + a' entries: those at mirrored places are counted once in k.
    alike = 2 * beside - len(neighbours)
    on_diagonal = 2 * int(zero.sum()) <= n and (alike >= _ALIKE * beside or _dominant(csr))
    order, kind = minimum_degree(starts, neighbours), "minimum degree"
    if order is None:
        order, kind = nested_dissection(starts, neighbours), "nested dissection"

    def looked_at(order: np.ndarray) -> tuple[np.ndarray, Cost]:
        if zero.any():
            order = hold_back(starts, neighbours, order, zero)
        counts, order = column_counts(starts, neighbours, order)
        return order, Cost.of(counts)

    order, cost = looked_at(order)
    if kind == "minimum degree" and cost.flops > _WORTH_DISSECTING * max(1, len(neighbours)):
        other, less = looked_at(nested_dissection(starts, neighbours))
        if less.flops < cost.flops:
            order, cost, kind = other, less, "nested dissection"
    return Elimination(order, cost, kind, on_diagonal, nonzeros(matrix.values))


def _dominant(csr: sp.csr_matrix) -> bool:
    """Whether nearly every diagonal entry is among the large ones of its column. Local."""
    size = abs(csr)
    largest = size.max(axis=0).toarray().ravel()
    return bool((size.diagonal() >= _LARGE * largest).mean() >= _DOMINANT) if csr.shape[0] else True

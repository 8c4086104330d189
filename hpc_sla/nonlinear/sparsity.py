"""Where a Jacobian may have entries, guessed from the matrices that the residual multiplies by."""

from __future__ import annotations

from collections.abc import Sequence
from weakref import WeakKeyDictionary, ref

import numpy as np
import torch

from hpc_sla.distributed.layout import RowLayout
from hpc_sla.sparse.matrix import DSparseMatrix
from hpc_sla.sparse.pattern import DistributedPattern
from hpc_sla.sparse.product import Use

# Entries a row and its share of a rank's memory beyond which a guess costs more than it saves.
_MOST_A_ROW = 512
_MOST_ENTRIES = 2**27


def guess(layout: RowLayout, columns: int, uses: Sequence[Use], dtype: torch.dtype) -> Guess:
    """The entries of all matrices used, and each point's with itself. **Collective.**

    Right for functions of u and of products with it, point by point; not for products of
    products, nor for what is written without a matrix.

    Parameters
    ----------
    layout : RowLayout
        Of the unknowns, `columns` at each point.
    columns : int
    uses : sequence of Use
        Replicated, as far as patterns are. Those that do not fit are left out.
    dtype : torch.dtype

    Returns
    -------
    DSparseMatrix or None
        Zeros on that pattern; None where it would be too large. The same object's pattern for the
        same matrices.
    """
    fit = [use for use in uses if _unknowns_a_row(use[0], layout)]
    known = _KNOWN.setdefault(fit[0][0], []) if fit else []
    for others, pattern in known:
        if columns == others[0] and _same(others[1], fit):
            return _zeros(pattern or fit[0][0], dtype)
    entries = layout.world.sum(_count(layout, columns, fit))
    if entries > min(_MOST_A_ROW * max(layout.n_global, 1), _MOST_ENTRIES * layout.world.size):
        return None
    codes = _codes(layout, columns, fit)
    if len(fit) == 1 and not fit[0][1] and _unknowns_a_row(fit[0][0], layout) == 1:
        (pattern, _), mine = fit[0], len(codes)
        alike = pattern.layout is layout and pattern.nnz_owned == mine
        if layout.world.all(alike):
            known.append(((columns, _weak(fit)), None))
            return _zeros(pattern, dtype)
    n = max(layout.n_global, 1)
    indptr = np.searchsorted(codes // n, np.arange(layout.n_owned + 1))
    made, _ = DistributedPattern.from_rows(
        layout, indptr.astype(np.int64), codes % n, np.zeros(len(codes), dtype=np.int8)
    )
    known.append(((columns, _weak(fit)), made))
    return _zeros(made, dtype)


Guess = DSparseMatrix | None


def _zeros(pattern: DistributedPattern, dtype: torch.dtype) -> DSparseMatrix:
    device = pattern.layout.world.device
    return DSparseMatrix(pattern, torch.zeros(pattern.nnz_owned, dtype=dtype, device=device))


def _unknowns_a_row(pattern: DistributedPattern, layout: RowLayout) -> int:
    """How many of the layout's unknowns each row has; 0 for a matrix of something else.

    **Collective.**
    """
    own = pattern.layout
    if pattern.columns is not own or not own.n_global or layout.n_global % own.n_global:
        return 0
    ratio = layout.n_global // own.n_global
    return ratio if layout.fits(own.blocked(ratio)) else 0


def _count(layout: RowLayout, columns: int, fit: Sequence[Use]) -> int:
    """Entries at most, of this rank. **Collective.**"""
    blocks = sum(pattern.nnz_owned * _unknowns_a_row(pattern, layout) ** 2 for pattern, _ in fit)
    return blocks + layout.n_owned * columns


def _codes(layout: RowLayout, columns: int, fit: Sequence[Use]) -> np.ndarray:
    """Own row times n plus stored column of each entry here, ascending. **Collective.**"""
    own = np.arange(layout.n_owned)
    point = own // columns * columns
    rows, cols = np.repeat(own, columns), np.repeat(point, columns)
    cols = cols + np.tile(np.arange(columns), len(own)) + layout.start
    found = [rows * layout.n_global + cols]
    for pattern, transposed in fit:
        k = _unknowns_a_row(pattern, layout)
        i = pattern.local_rows().cpu().numpy()
        j = pattern.stored_columns().cpu().numpy()
        if transposed:
            i, j = _turned(pattern, i, j)
        a, b = np.divmod(np.arange(k * k), k)
        rows = (i[:, None] * k + a).reshape(-1)
        cols = (j[:, None] * k + b).reshape(-1)
        found.append(rows * layout.n_global + cols)
    return np.unique(np.concatenate(found))


def _turned(
    pattern: DistributedPattern, i: np.ndarray, j: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Entries of the transpose in this rank's rows: own row, stored column. **Collective.**"""
    layout = pattern.layout
    pairs = np.stack([j, i + layout.start])
    owner = np.searchsorted(layout.offsets, j, side="right") - 1
    away = {
        int(rank): np.ascontiguousarray(pairs[:, owner == rank]).reshape(-1)
        for rank in np.unique(owner)
        if rank != layout.world.rank
    }
    received = layout.world.sparse_exchange(away)
    mine = [pairs[:, owner == layout.world.rank], *(t.reshape(2, -1) for t in received.values())]
    row, column = np.concatenate(mine, axis=1)
    return row - layout.start, column


def _weak(uses: Sequence[Use]) -> list[tuple[ref[DistributedPattern], bool]]:
    return [(ref(pattern), transposed) for pattern, transposed in uses]


def _same(known: Sequence[tuple[ref[DistributedPattern], bool]], uses: Sequence[Use]) -> bool:
    return len(known) == len(uses) and all(
        one() is pattern and one_transposed == transposed
        for (one, one_transposed), (pattern, transposed) in zip(known, uses, strict=True)
    )


_Weak = list[tuple[ref[DistributedPattern], bool]]
_KNOWN: WeakKeyDictionary[
    DistributedPattern, list[tuple[tuple[int, _Weak], DistributedPattern | None]]
] = WeakKeyDictionary()
"""By the first matrix used: what was used, and its guess; None for that matrix's own pattern. A
hit depends on what the caller holds and on nothing else, and so is a hit on every rank."""

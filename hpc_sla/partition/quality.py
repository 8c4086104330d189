"""How good a partition is: what the ranks will have to swap, and how evenly they are loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class PartitionQuality:
    """Figures of a partition; the arrays have one entry per part.

    Attributes
    ----------
    edge_cut : int
        Pairs of rows in different parts that are coupled, in either direction.
    rows, nnz : ndarray, int64 [parts]
        Rows and stored entries of each part.
    halo : ndarray, int64 [parts]
        Columns of other parts that each part's rows refer to: values to receive per product.
    neighbours : ndarray, int64 [parts]
        Parts that each part receives from or sends to.
    """

    edge_cut: int
    rows: np.ndarray
    nnz: np.ndarray
    halo: np.ndarray
    neighbours: np.ndarray

    @property
    def row_balance(self) -> float:
        """Most rows in a part over the average; 1 is perfect."""
        return _balance(self.rows)

    @property
    def nnz_balance(self) -> float:
        """Most stored entries in a part over the average; 1 is perfect."""
        return _balance(self.nnz)


def quality(matrix: Any, part_offsets: np.ndarray) -> PartitionQuality:
    """Judge a square CSR `matrix` in stored order, part p being rows
    ``part_offsets[p]:part_offsets[p+1]``.
    """
    offsets = np.asarray(part_offsets, dtype=np.int64)
    parts, n = len(offsets) - 1, matrix.shape[0]
    halo = np.zeros(parts, dtype=np.int64)
    cut: list[np.ndarray] = []
    exchanges: list[np.ndarray] = []
    for p in range(parts):
        start, stop = int(offsets[p]), int(offsets[p + 1])
        first, last = int(matrix.indptr[start]), int(matrix.indptr[stop])
        columns = matrix.indices[first:last]
        outside = np.flatnonzero((columns < start) | (columns >= stop))
        if not len(outside):
            continue
        pointers = matrix.indptr[start : stop + 1].astype(np.int64)
        rows = start + np.searchsorted(pointers, first + outside, side="right") - 1
        columns = columns[outside].astype(np.int64)
        needed = np.unique(columns)
        halo[p] = len(needed)
        owners = np.unique(np.searchsorted(offsets, needed, side="right") - 1)
        exchanges.append(np.stack([np.full_like(owners, p), owners]))
        # One number per unordered pair, so that (i, j) and (j, i) count once.
        cut.append(np.minimum(rows, columns) * n + np.maximum(rows, columns))
    return PartitionQuality(
        edge_cut=len(np.unique(np.concatenate(cut))) if cut else 0,
        rows=np.diff(offsets),
        nnz=np.diff(np.asarray(matrix.indptr, dtype=np.int64)[offsets]),
        halo=halo,
        neighbours=_neighbours(exchanges, parts),
    )


def _neighbours(exchanges: list[np.ndarray], parts: int) -> np.ndarray:
    if not exchanges:
        return np.zeros(parts, dtype=np.int64)
    receiver, sender = np.concatenate(exchanges, axis=1)
    both = np.concatenate([receiver * parts + sender, sender * parts + receiver])
    return np.bincount(np.unique(both) // parts, minlength=parts).astype(np.int64)


def _balance(loads: np.ndarray) -> float:
    total = int(loads.sum())
    return float(loads.max() * len(loads) / total) if total else 1.0

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
        Pairs of rows in different parts that are coupled, in either direction; of a rectangular
        matrix, entries whose column is in another part than their row.
    rows, columns, nnz : ndarray, int64 [parts]
        Rows, columns and stored entries of each part.
    halo : ndarray, int64 [parts]
        Columns of other parts that each part's rows refer to: values to receive per product.
    neighbours : ndarray, int64 [parts]
        Parts that each part receives from or sends to.
    """

    edge_cut: int
    rows: np.ndarray
    columns: np.ndarray
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


def quality(
    matrix: Any, part_offsets: np.ndarray, column_part_offsets: np.ndarray | None = None
) -> PartitionQuality:
    """What a partition costs: the figures of a matrix that is stored part by part.

    Parameters
    ----------
    matrix : SciPy CSR matrix or array [m, n]
        In stored order; only its pattern is looked at.
    part_offsets : int array [parts + 1]
        Part p is the rows ``part_offsets[p]:part_offsets[p+1]``.
    column_part_offsets : int array [parts + 1], optional
        Of a rectangular matrix: its columns, likewise. Default: as the rows.
    """
    offsets = np.asarray(part_offsets, dtype=np.int64)
    square = column_part_offsets is None
    columns_at = offsets if column_part_offsets is None else np.asarray(column_part_offsets)
    parts, n = len(offsets) - 1, matrix.shape[1]
    halo = np.zeros(parts, dtype=np.int64)
    cut: list[np.ndarray] = []
    exchanges: list[np.ndarray] = []
    for p in range(parts):
        start, stop = int(offsets[p]), int(offsets[p + 1])
        first, last = int(matrix.indptr[start]), int(matrix.indptr[stop])
        columns = matrix.indices[first:last]
        outside = np.flatnonzero((columns < columns_at[p]) | (columns >= columns_at[p + 1]))
        if not len(outside):
            continue
        pointers = matrix.indptr[start : stop + 1].astype(np.int64)
        rows = start + np.searchsorted(pointers, first + outside, side="right") - 1
        columns = columns[outside].astype(np.int64)
        needed = np.unique(columns)
        halo[p] = len(needed)
        owners = np.unique(np.searchsorted(columns_at, needed, side="right") - 1)
        exchanges.append(np.stack([np.full_like(owners, p), owners]))
        # One number per pair, unordered in a square matrix, so that (i, j) and (j, i) count once.
        if square:
            rows, columns = np.minimum(rows, columns), np.maximum(rows, columns)
        cut.append(rows * n + columns)
    return PartitionQuality(
        edge_cut=len(np.unique(np.concatenate(cut))) if cut else 0,
        rows=np.diff(offsets),
        columns=np.diff(columns_at),
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

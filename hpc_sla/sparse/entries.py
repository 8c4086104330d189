"""Entries in any order: their numbers row by row, and their places in a distributed pattern."""

from __future__ import annotations

import numpy as np

from hpc_sla.distributed.layout import RowLayout
from hpc_sla.sparse.pattern import DistributedPattern


def slots(rows: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number distinct (row, column) pairs in row-major order. Local.

    Parameters
    ----------
    rows, columns : int arrays [m]
        In any order; a pair may come several times.

    Returns
    -------
    first : int64 array [d]
        One entry of each pair, by the pairs' numbers.
    slot : int64 array [m]
        The number of each entry's pair.
    """
    up, same = rows[1:] > rows[:-1], rows[1:] == rows[:-1]
    if (up | (same & (columns[1:] > columns[:-1]))).all():  # no sort
        every = np.arange(len(rows), dtype=np.int64)
        return every, every
    order = np.lexsort((columns, rows))
    rows, columns = rows[order], columns[order]
    new = np.ones(len(order), dtype=bool)
    new[1:] = (rows[1:] != rows[:-1]) | (columns[1:] != columns[:-1])
    slot = np.empty(len(order), dtype=np.int64)
    slot[order] = np.cumsum(new) - 1
    return order[new], slot


def pattern_of(
    layout: RowLayout,
    rows: np.ndarray,
    columns: np.ndarray,
    column_layout: RowLayout | None = None,
) -> tuple[DistributedPattern, np.ndarray]:
    """The pattern that has entries there, and where its values have each. **Collective.**

    Parameters
    ----------
    layout : RowLayout
    rows : int array [m]
        Per rank: its own rows, counted from 0.
    columns : int array [m]
        Stored numbers. A pair that comes several times is one entry of the pattern.
    column_layout : RowLayout, optional
        Default: `layout` itself, for a square matrix.

    Returns
    -------
    DistributedPattern
    place : int64 array [m]
        Per rank: which of the pattern's entries each one is.

    Raises
    ------
    InputError
        On every rank: as `DistributedPattern.from_rows`.
    """
    first, slot = slots(rows, columns)
    counts = np.bincount(rows[first], minlength=layout.n_owned)
    indptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    # The pattern has an order of its own, in which the numbers come back.
    numbers = np.arange(len(first), dtype=np.int64)
    pattern, numbers = DistributedPattern.from_rows(
        layout, indptr, columns[first], numbers, column_layout
    )
    place = np.empty(len(numbers), dtype=np.int64)
    place[numbers] = np.arange(len(numbers))
    return pattern, place[slot]

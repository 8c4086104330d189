"""The parts of a rectangular matrix's columns, given those of its rows."""

from __future__ import annotations

from typing import Any

import numpy as np

from hpc_sla.partition.offsets import contiguous


def column_parts(matrix: Any, part: np.ndarray, parts: int) -> np.ndarray:
    """Part of every column: the one whose rows have most of the column's entries.

    A product then moves as few values as these parts of rows allow: a column whose rows lie in m
    parts is sent to m - 1 of them. Of several parts with as many entries, the one next after that
    which the column's even block of columns would go to, so that ties are spread evenly; a column
    without entries goes to that block's part itself.

    Parameters
    ----------
    matrix : SciPy CSR matrix or array [m, n]
        Only its pattern is looked at.
    part : int array [m]
        Part of every row.
    parts : int

    Returns
    -------
    ndarray, int32 [n]
    """
    n_cols = matrix.shape[1]
    home = contiguous(n_cols, parts).astype(np.int64)
    entry_part = np.repeat(np.asarray(part, dtype=np.int64), np.diff(matrix.indptr))
    # How far beyond the column's home the part of each entry is, going round.
    ahead = (entry_part - home[matrix.indices]) % parts
    pairs, counts = np.unique(matrix.indices.astype(np.int64) * parts + ahead, return_counts=True)
    column, ahead = pairs // parts, pairs % parts
    # Ascending: by column, then fewest entries first, then the farthest first; the last wins.
    order = np.lexsort((-ahead, counts, column))
    column, ahead = column[order], ahead[order]
    found = home.copy()
    found[column] = (home[column] + ahead) % parts
    return found.astype(np.int32)

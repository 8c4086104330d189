"""Symmetric matrices of which files hold one triangle."""

from __future__ import annotations

import numpy as np

Triplets = tuple[np.ndarray, np.ndarray, np.ndarray]


def given_twice(rows: np.ndarray, cols: np.ndarray) -> tuple[int, int] | None:
    """Positions of an entry and of its mirror image where both are there, else None.

    Entries may be in either triangle, and repeated in the same place.
    """
    below = rows > cols
    above = rows < cols
    if not below.any() or not above.any():
        return None  # by far the most files
    place = np.flatnonzero(below | above)
    low, high = np.minimum(rows, cols)[place], np.maximum(rows, cols)[place]
    order = np.lexsort((below[place], high, low))
    low, high, side, place = low[order], high[order], below[place][order], place[order]
    same = (low[1:] == low[:-1]) & (high[1:] == high[:-1]) & (side[1:] != side[:-1])
    if not same.any():
        return None
    first = int(np.argmax(same))
    pair = sorted((int(place[first]), int(place[first + 1])))
    return pair[0], pair[1]


def mirrored(rows: np.ndarray, cols: np.ndarray, values: np.ndarray, sign: int) -> Triplets:
    """The triplets, and after them the mirror image of those off the diagonal, times `sign`."""
    off = rows != cols
    return (
        np.concatenate([rows, cols[off]]),
        np.concatenate([cols, rows[off]]),
        np.concatenate([values, sign * values[off]]),
    )

"""Recursive coordinate bisection: halve the rows again and again across their longest extent."""

from __future__ import annotations

import numpy as np


def rcb(coordinates: np.ndarray, parts: int) -> np.ndarray:
    """Part of every row from its point in space.

    Every cut is made where the two sides get rows in proportion to the parts they will be cut
    into, so part sizes differ by at most a row or two whatever `parts` is. Equal coordinates
    are told apart by row number, which makes the result deterministic.

    Parameters
    ----------
    coordinates : float array [n, dimensions]
    parts : int

    Returns
    -------
    ndarray, int32 [n]
    """
    points = np.asarray(coordinates, dtype=np.float64)
    part = np.zeros(len(points), dtype=np.int32)
    todo = [(np.arange(len(points)), 0, parts)]
    while todo:
        rows, first, count = todo.pop()
        if count == 1 or not len(rows):
            part[rows] = first
            continue
        here = points[rows]
        axis = int(np.argmax(np.ptp(here, axis=0)))
        low = count // 2
        cut = len(rows) * low // count
        order = np.argsort(here[:, axis], kind="stable")
        # Ascending rows on both sides keep later ties in the order of row numbers too.
        todo.append((np.sort(rows[order[cut:]]), first + low, count - low))
        todo.append((np.sort(rows[order[:cut]]), first, low))
    return part

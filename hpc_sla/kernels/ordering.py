"""In which order to eliminate the rows of a symmetric pattern, and what its factor will hold.

A pattern here is that of `A + A^T` without its diagonal, as METIS takes it: int32 `starts` [n + 1]
and `neighbours`, those of a row ascending. In C (`ordering.c`); where nothing was compiled the
order is METIS's, and the counts are made in Python.
"""

from __future__ import annotations

import numpy as np

from hpc_sla.kernels import native

_DENSE = 10.0
"""Rows with more neighbours than this times the root of their number come last: they would slow
down the search for the others' order, and fill everything wherever they stand."""


def minimum_degree(starts: np.ndarray, neighbours: np.ndarray) -> np.ndarray | None:
    """The rows in an order of elimination that fills little: int32 [n]. Local.

    Approximate minimum degree; deterministic. None where nothing was compiled, or memory is short.
    """
    n = len(starts) - 1
    if native.LIBRARY is None:
        return None
    order, weights = np.empty(n, dtype=np.int32), np.ones(n, dtype=np.int32)
    dense = max(16, int(_DENSE * n**0.5))
    arrays = (starts, neighbours, weights, order)
    return None if native.call_of_pattern("minimum_degree", n, n, dense, *arrays) else order


def nested_dissection(starts: np.ndarray, neighbours: np.ndarray) -> np.ndarray:
    """The same by METIS's nested dissection: better in 3D, and 20 times as slow. Local."""
    import pymetis

    n = len(starts) - 1
    if n < 2 or not len(neighbours):  # of which METIS makes nothing
        return np.arange(n, dtype=np.int32)
    found, _inverse = pymetis.nested_dissection(pymetis.CSRAdjacency(starts, neighbours))
    return np.asarray(found, dtype=np.int32)


def hold_back(
    starts: np.ndarray, neighbours: np.ndarray, order: np.ndarray, zero: np.ndarray
) -> np.ndarray:
    """`order`, but rows whose diagonal is zero come behind a neighbour that fills it. Local.

    Eliminated first, they would have no pivot of their own. Each gets a neighbour for itself, so
    that two do not live on the same fill.

    Parameters
    ----------
    zero : bool array [n]
        Which they are.
    """
    n = len(order)
    keys = np.empty(n, dtype=np.int64)
    if native.LIBRARY is not None:
        taken, zeros = np.zeros(n, dtype=np.int32), zero.astype(np.int32)
        arrays = (starts, neighbours, order, _inverse_of(order), zeros, taken, keys)
        native.call_of_pattern("hold_back", n, *arrays)
    else:
        keys = hold_back_reference(starts, neighbours, order, zero)
    return np.argsort(keys, kind="stable").astype(np.int32)


def hold_back_reference(
    starts: np.ndarray, neighbours: np.ndarray, order: np.ndarray, zero: np.ndarray
) -> np.ndarray:
    """What `hold_back` in ordering.c does, in Python: keys to sort by, int64 [n]."""
    place, taken = _inverse_of(order), zero.copy()
    keys = 2 * place.astype(np.int64)
    for i in order[zero[order]]:
        near = neighbours[starts[i] : starts[i + 1]]
        near = near[~taken[near]]
        if len(near):
            best = near[place[near].argmin()]
            taken[best] = True
            keys[i] = max(keys[i], 2 * int(place[best]) + 1)
    return keys


def column_counts(
    starts: np.ndarray, neighbours: np.ndarray, order: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """What each column of a Cholesky factor will hold, in that order of elimination. Local.

    Returns
    -------
    int32 array [n]
        Entries of each column, the diagonal included; by place in `order`.
    int32 array [n]
        `order`, postordered by the elimination tree: as good, and columns that are alike stand
        side by side, where supernodes find them. The counts are not reordered.
    """
    n = len(order)
    if native.LIBRARY is None:
        counts, post = column_counts_reference(starts, neighbours, order)
        return counts, order[post]
    parent, counts = np.empty(n, dtype=np.int32), np.empty(n, dtype=np.int32)
    work = np.empty(6 * n, dtype=np.int32)
    order = np.ascontiguousarray(order, dtype=np.int32)
    arrays = (starts, neighbours, order, _inverse_of(order), parent, counts, work)
    native.call_of_pattern("column_counts", n, *arrays)
    return counts, order[work[2 * n : 3 * n]]


def column_counts_reference(
    starts: np.ndarray, neighbours: np.ndarray, order: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """What `column_counts` in ordering.c does, by the elimination itself: the oracle.

    Returns
    -------
    counts, post : int32 arrays [n]
        `post` are places in `order`, in postorder.
    """
    n, place = len(order), _inverse_of(order)
    children: list[list[int]] = [[] for _ in range(n)]
    below: list[set[int]] = []
    counts, roots = np.empty(n, dtype=np.int32), []
    for j in range(n):
        mine = set(place[neighbours[starts[order[j]] : starts[order[j] + 1]]].tolist())
        mine = {i for i in mine if i > j}.union(*(below[child] for child in children[j])) - {j}
        counts[j] = len(mine) + 1
        below.append(mine)
        for child in children[j]:
            below[child] = set()
        if mine:
            children[min(mine)].append(j)
        else:
            roots.append(j)
    post: list[int] = []
    todo = roots
    while todo:  # parents before children, from behind: read the other way round, it is one
        post.append(todo.pop())
        todo.extend(children[post[-1]])
    return counts, np.array(post[::-1], dtype=np.int32)


def _inverse_of(order: np.ndarray) -> np.ndarray:
    place = np.empty(len(order), dtype=np.int32)
    place[order] = np.arange(len(order), dtype=np.int32)
    return place

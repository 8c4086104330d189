"""What moving the vertices of a graph between parts would gain, on one rank.

A graph here is int64 `indptr` [n + 1], int32 `neighbours` and int64 `weights` [arcs] of this
rank's n vertices; `part`, int32 [n + ghosts], has those of other ranks' behind. In C
(`regroup.c`); the plain version is the oracle, and serves where nothing was compiled.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hpc_sla.kernels import native


class Gains(NamedTuple):
    """One entry a vertex, `[n]`.

    Attributes
    ----------
    here : int64 array
        What its arcs into its own part weigh.
    there : int64 array
        And those into the best other part that is open; 0 where there is none.
    best : int32 array
        Which that is, -1 for none; of equal ones the next after its own, going round.
    cut : int
        Arcs between parts, all of them; each edge of two own vertices counts twice.
    """

    here: np.ndarray
    there: np.ndarray
    best: np.ndarray
    cut: int


def gains(
    indptr: np.ndarray,
    neighbours: np.ndarray,
    weights: np.ndarray,
    part: np.ndarray,
    open_: np.ndarray,
) -> Gains:
    """Where each vertex had better be. Local.

    Parameters
    ----------
    open_ : int32 array [parts]
        Whether a part may be moved to.
    """
    if native.LIBRARY is None:
        return gains_reference(indptr, neighbours, weights, part, open_)
    n, parts = len(indptr) - 1, len(open_)
    here, there, table = (np.zeros(m, dtype=np.int64) for m in (n, n, parts))
    best = np.empty(n, dtype=np.int32)
    arrays = (indptr, neighbours, weights, part, open_, table, here, there, best)
    cut = native.call_of_pattern("regroup_gains", n, parts, *arrays)
    assert cut is not None
    return Gains(here, there, best, cut)


def gains_reference(
    indptr: np.ndarray,
    neighbours: np.ndarray,
    weights: np.ndarray,
    part: np.ndarray,
    open_: np.ndarray,
) -> Gains:
    """What `regroup_gains` in regroup.c does."""
    n, parts = len(indptr) - 1, len(open_)
    tails = np.repeat(np.arange(n), np.diff(indptr))
    theirs, own = part[neighbours].astype(np.int64), part[tails].astype(np.int64)
    inside = theirs == own
    here = np.zeros(n, dtype=np.int64)
    np.add.at(here, tails[inside], weights[inside])
    cut = int(weights[~inside].sum())
    tails, theirs, own = tails[~inside], theirs[~inside], own[~inside]
    ahead = (theirs - own) % parts
    pairs, place = np.unique(tails * parts + ahead, return_inverse=True)
    sums = np.zeros(len(pairs), dtype=np.int64)
    np.add.at(sums, place, weights[~inside])
    vertex, ahead = np.divmod(pairs, parts)
    into = (part[vertex] + ahead) % parts
    usable = open_[into] != 0
    vertex, ahead, into, sums = (a[usable] for a in (vertex, ahead, into, sums))
    # Ascending: the heaviest of each vertex last, of equal ones the nearest; the last wins.
    order = np.lexsort((-ahead, sums, vertex))
    there, best = np.zeros(n, dtype=np.int64), np.full(n, -1, dtype=np.int32)
    there[vertex[order]], best[vertex[order]] = sums[order], into[order]
    return Gains(here, there, best, cut)


def afterthoughts(
    movers: np.ndarray,
    indptr: np.ndarray,
    neighbours: np.ndarray,
    weights: np.ndarray,
    part: np.ndarray,
    wish: np.ndarray,
    gain: np.ndarray,
    rank: np.ndarray,
) -> np.ndarray:
    """What each of the movers gains if all that come before it move, int64 [m]. Local.

    Those of a larger gain come first, of equal ones those of the lower rank.

    Parameters
    ----------
    movers : int64 array [m]
        Vertices with a wish.
    wish : int32 array [n + ghosts]
        The part that a vertex would move to, -1 where it would not.
    gain, rank : int64 arrays [n + ghosts]
    """
    arrays = (movers, indptr, neighbours, weights, part, wish, gain, rank)
    if native.LIBRARY is None:
        return afterthoughts_reference(*arrays)
    found = np.empty(len(movers), dtype=np.int64)
    native.call_of_pattern("regroup_afterthoughts", len(movers), *arrays, found)
    return found


def afterthoughts_reference(
    movers: np.ndarray,
    indptr: np.ndarray,
    neighbours: np.ndarray,
    weights: np.ndarray,
    part: np.ndarray,
    wish: np.ndarray,
    gain: np.ndarray,
    rank: np.ndarray,
) -> np.ndarray:
    """What `regroup_afterthoughts` in regroup.c does."""
    degrees = indptr[movers + 1] - indptr[movers]
    which = np.repeat(np.arange(len(movers)), degrees)
    arcs = np.arange(len(which)) - np.repeat(np.cumsum(degrees) - degrees, degrees)
    arcs += indptr[movers][which]
    me, other = movers[which], neighbours[arcs]
    first = (wish[other] >= 0) & (
        (gain[other] > gain[me]) | ((gain[other] == gain[me]) & (rank[other] < rank[me]))
    )
    theirs = np.where(first, wish[other], part[other])
    signed = weights[arcs] * ((theirs == wish[me]).astype(np.int64) - (theirs == part[me]))
    found = np.zeros(len(movers), dtype=np.int64)
    np.add.at(found, which, signed)
    return found

"""On how many ranks a coarse level goes on, and which of its rows go where.

Pure functions of what all ranks know, a few numbers a rank: every rank decides alike, and so does a
script that counts for more ranks than there are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from hpc_sla.precond.amg.costs import Costs

_BELIEVED = 0.8
"""The part of the imbalance that is allowed: the levels below are not known yet."""

_LEVEL = 1.25
"""Times the mean that the busiest rank of a level is expected to have once its rows are cut."""

_WHOLE = 0.1
"""A cut that is no further than this part of a share from the end of a rank's rows is moved there,
which spares messages."""

_UNEVEN = 1.5
"""Times the mean that the busiest rank of a level may have before rows are moved for that alone."""

_TOUCHING = 6.0
"""Neighbours that a part of a plane or of space has at least, but for those at the boundary."""

_FLAT, _STEEP = 2.0, 100.0
"""Bounds of what is believed of how fast entries of levels decrease."""


@dataclass(frozen=True)
class Load:
    """A level on the ranks that hold it, and what these hold of the levels above. Replicated.

    Attributes
    ----------
    offsets : int64 array [ranks + 1]
        Of rows.
    entries : int64 array [ranks]
        Of the level's matrix.
    above : int64 array [ranks]
        Of the matrices of all levels above.
    neighbours, halo : int64 array [ranks]
        Ranks that a product hears from, and numbers that they send.
    total : int
        Entries of all levels above, over all ranks of the finest.
    ranks : int
        Of the finest level.
    previous : int
        Entries of the level above.
    """

    offsets: np.ndarray
    entries: np.ndarray
    above: np.ndarray
    neighbours: np.ndarray
    halo: np.ndarray
    total: int
    ranks: int
    previous: int

    @property
    def size(self) -> int:
        """Ranks that hold the level."""
        return len(self.entries)

    @property
    def rows(self) -> int:
        """Over all ranks."""
        return int(self.offsets[-1])

    @property
    def decrease(self) -> float:
        """Times that a level has the entries of the next one, by this one and the one above."""
        ratio = self.previous / max(1, int(self.entries.sum()))
        return min(max(ratio, _FLAT), _STEEP)


@dataclass(frozen=True)
class Visit:
    """What a cycle does on a level. Replicated.

    Attributes
    ----------
    products : int
        With the level's matrix, each of which exchanges the halo.
    coarse_size : int
        Rows of the last level at most.
    itemsize : int
        Bytes of a number.
    balance : float
        Times the mean of all ranks' entries, over all levels, that a rank is given at most.
    """

    products: int
    coarse_size: int
    itemsize: int
    balance: float = 1.5


def members(size: int, ranks: int) -> np.ndarray:
    """Which of `size` ranks are those that go on: `World.thinned`. Ascending, 0 the first."""
    return np.arange(ranks, dtype=np.int64) * size // ranks


def cuts(offsets: np.ndarray, entries: np.ndarray, ranks: int, block: int = 1) -> np.ndarray:
    """Rows in their order cut into runs of like numbers of entries: int64 [ranks + 1].

    Ranks that are neighbours in number are so in space, too, as partitioners number them: runs keep
    them together. Within a rank entries count as evenly spread.

    Parameters
    ----------
    offsets : int64 array [size + 1]
        Of rows, multiples of `block`.
    entries : int64 array [size]
    ranks : int
    block : int
        Rows that stay together.
    """
    weights = np.asarray(entries if np.any(entries) else np.diff(offsets), dtype=np.float64)
    ends = np.concatenate([[0.0], np.cumsum(weights)])
    wanted = ends[-1] * np.arange(1, ranks) / ranks
    place = np.interp(wanted, ends, offsets)
    inside = (np.rint(place / block) * block).astype(np.int64)
    after = np.searchsorted(ends, wanted).clip(1, len(ends) - 1)
    nearest = np.where(wanted - ends[after - 1] <= ends[after] - wanted, after - 1, after)
    near = np.abs(ends[nearest] - wanted) <= _WHOLE * ends[-1] / ranks
    inner = np.where(near, offsets[nearest], inside)
    return np.maximum.accumulate(np.concatenate([offsets[:1], inner, offsets[-1:]]))


def seconds(load: Load, ranks: int, costs: Costs, visit: Visit, cut: bool = True) -> float:
    """What a cycle takes from this level on, if it goes on on so many ranks. Modelled.

    The busiest rank's entries, alpha for each message and beta for each byte; levels below as this
    one, with fewer entries by what is seen so far, and the last one's dense inverse. Without `cut`
    rows stay where they are.
    """
    rows, entries = float(load.rows), float(load.entries.sum())
    share = entries / ranks if cut else float(load.entries.max())
    apart = load.size / ranks
    neighbours = min(ranks - 1.0, _neighbours(float(load.neighbours.max()), apart))
    halo = min(float(load.halo.max()) * apart ** (2 / 3), rows * (1 - 1 / ranks))
    # Restriction and prolongation exchange halos as well.
    messages = (visit.products + 2) * costs.message * neighbours
    total = 0.0
    while rows > visit.coarse_size:
        total += visit.products * share * costs.entry + messages
        total += (visit.products + 2) * halo * visit.itemsize * costs.byte
        rows, share, halo = (part / load.decrease for part in (rows, share, halo))
    rounds = 2 * math.ceil(math.log2(ranks)) if ranks > 1 else 0
    total += rows * rows / ranks * costs.entry / 2  # which has no columns to read
    total += rounds * (costs.message + rows * visit.itemsize * costs.byte)
    if cut:
        # Some more send to a rank that goes on, and hear from it.
        moved = load.rows / ranks * visit.itemsize
        total += 2 * (max(1, math.ceil(apart) - 1) * costs.message + moved * costs.byte)
    return total


def _neighbours(now: float, apart: float) -> float:
    """How many a rank has once it has the rows of `apart` ranks.

    Now it and they make a cube, of which it is one in the middle; later that is wider, and what
    surrounds it as wide as before. Those that touch it remain.
    """
    around = (1 + now) ** (1 / 3) - 1
    return max(min(now, _TOUCHING), (1 + around / apart ** (1 / 3)) ** 3 - 1)


def balanced(load: Load, ranks: int, balance: float) -> bool:
    """Whether no rank that goes on would get more than is allowed, as of `Visit`.

    With the levels below on the same ranks.
    """
    entries = int(load.entries.sum())
    below = load.decrease / (load.decrease - 1)
    mean = (load.total + entries * below) / load.ranks
    share = _LEVEL * entries / ranks * below
    busiest = load.above[members(load.size, ranks)].max() + share
    return bool(busiest <= (1 + _BELIEVED * (balance - 1)) * mean)


def agglomerated(load: Load, costs: Costs, visit: Visit, block: int = 1) -> np.ndarray | None:
    """The rows of each rank that goes on: int64 [ranks + 1]; None where all stays as it is.

    Of half the ranks, a quarter and so on those that are the cheapest by the model, among which
    leave the whole in balance; or all of them, where rows are cut anew if that is cheaper and one
    has far more entries than the mean.
    """
    best, least = 0, seconds(load, load.size, costs, visit, cut=False)
    for ranks in candidates(load, visit.balance):
        modelled = seconds(load, ranks, costs, visit)
        if modelled < least:
            best, least = ranks, modelled
    return cuts(load.offsets, load.entries, best, block) if best else None


def candidates(load: Load, balance: float) -> list[int]:
    """Numbers of ranks for which rows may be cut, the largest first."""
    found = [load.size] if load.entries.max() * load.size > _UNEVEN * load.entries.sum() else []
    ranks = load.size
    while ranks > 1:
        ranks = (ranks + 1) // 2
        if balanced(load, ranks, balance):
            found.append(ranks)
    return found


def by_rows(load: Load, rows_per_rank: int, block: int = 1) -> np.ndarray | None:
    """As `agglomerated`, for at least so many rows a rank and at most half the ranks."""
    ranks = max(1, min(load.size, load.rows // rows_per_rank))
    if ranks > load.size / 2:
        return None
    return cuts(load.offsets, load.entries, ranks, block)

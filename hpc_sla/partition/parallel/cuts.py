"""Where to cut what lies on many ranks in order of a key, so that each piece weighs as wanted.

No rank sorts but its own: thresholds are found digit by digit from sums over ranks, as in
histogram sort (L. V. Kale and S. Krishnan, "A comparison based parallel sorting algorithm", ICPP
1993), and exactly, so that the answer does not depend on who has what.
"""

from __future__ import annotations

import numpy as np

from hpc_sla.messages.peers import Peers

_WIDE, _NARROW, _MANY = 8, 4, 256
"""Bits that are found at a time of up to so many thresholds, and of more."""


def ordered(values: np.ndarray) -> np.ndarray:
    """float64 numbers as uint64 that compare alike. Local."""
    bits = (np.asarray(values, dtype=np.float64) + 0.0).view(np.int64)  # no negative zero
    flipped = np.where(bits < 0, ~bits, bits | np.int64(-(2**63)))
    return flipped.view(np.uint64)


def bisect(
    values: np.ndarray, first: np.ndarray, last: np.ndarray, probes: np.ndarray, right: bool = False
) -> np.ndarray:
    """`np.searchsorted` of each probe in its own ascending run ``values[first:last]``. Local."""
    low, high = np.broadcast_arrays(first, probes)[0].copy(), np.broadcast_to(last, probes.shape)
    high = high.copy()
    if not len(values):
        return low
    while (open_ := low < high).any():
        middle = (low + high) // 2
        found = values[np.minimum(middle, len(values) - 1)]
        after = (found <= probes) if right else (found < probes)
        low = np.where(open_ & after, middle + 1, low)
        high = np.where(open_ & ~after, middle, high)
    return low


def pieces(
    peers: Peers,
    group: np.ndarray,
    key: np.ndarray,
    weight: np.ndarray,
    target_group: np.ndarray,
    target: np.ndarray,
) -> np.ndarray:
    """How many of its group's cuts each item lies behind. **Collective.**

    The items of a group are ordered by key, and among equal ones by rank and place. Each goes to
    the side of a cut on which its middle lies: in `halves`, twice the weight before it and its own.

    Parameters
    ----------
    group : int64 array [m]
        Per rank.
    key : uint64 array [m]
    weight : int64 array [m]
        Not negative.
    target_group : int64 array [t]
        Replicated, ascending.
    target : int64 array [t]
        Replicated, ascending in each group: the weight of a group's items before the cut.

    Returns
    -------
    int64 array [m]
    """
    order = np.lexsort((key, group))  # stable: equal ones stay by place
    group, key, weight = group[order], key[order], weight[order]
    before = np.concatenate([[0], np.cumsum(weight)])
    first = np.searchsorted(group, target_group)
    last = np.searchsorted(group, target_group, side="right")
    # The largest key, of as many bits, with at most the target's weight below it.
    cut = np.zeros(len(target), dtype=np.uint64)
    below = np.zeros(len(target), dtype=np.int64)
    bits = _WIDE if len(target) <= _MANY else _NARROW
    digits = np.arange(1, 1 << bits, dtype=np.uint64)
    for shift in range((_length(peers, key) - 1) // bits * bits, -1, -bits):
        probes = cut[:, None] + (digits << np.uint64(shift))[None]
        places = bisect(key, first[:, None], last[:, None], probes)
        sums = peers.sum(before[places] - before[first][:, None])
        digit = (sums <= target[:, None]).sum(axis=1)
        here = np.flatnonzero(digit)
        cut[here] = probes[here, digit[here] - 1]
        below[here] = sums[here, digit[here] - 1]
    start = np.searchsorted(target_group, group)
    stop = np.searchsorted(target_group, group, side="right")
    place = bisect(cut, start, stop, key)
    behind = place - start
    # Equal to a cut's key: those on ranks before this one come first.
    found = np.minimum(place, max(len(cut) - 1, 0))
    tied = (place < stop) & (cut[found] == key) if len(cut) else np.zeros(len(key), dtype=bool)
    tie = found[tied]  # the first cut of that group and key stands for all of them
    weights = weight[tied]
    sums = np.bincount(tie, weights, len(target)).astype(np.int64)
    if len(weights) and weights.sum() >= 2**53:  # beyond what bincount's doubles hold
        sums = np.zeros(len(target), dtype=np.int64)
        np.add.at(sums, tie, weights)
    ahead = peers.before(sums)
    # Tied items of one cut stand side by side.
    running = np.cumsum(weights) - weights
    fresh = np.searchsorted(tie, tie)
    running -= running[fresh]
    halves = 2 * (below[tie] + ahead[tie] + running) + weights
    behind[tied] = bisect(2 * target, start[tied], stop[tied], halves) - start[tied]
    answer = np.empty(len(order), dtype=np.int64)
    answer[order] = behind
    return answer


def _length(peers: Peers, key: np.ndarray) -> int:
    """Bits of the largest key of all ranks, at least 1. **Collective.**"""
    largest = int(key.max()) if len(key) else 0
    return max(int(peers.max(np.array([largest.bit_length()], dtype=np.int64))[0]), 1)


def shares_of(total: int, shares: np.ndarray) -> np.ndarray:
    """The sums of the first 1, 2, ... shares of a whole number, rounded down: int64 [parts].

    Parameters
    ----------
    shares : int64 array [parts]
        Relative, with a sum below 2**31.
    """
    whole = int(shares.sum())
    cumulated = np.cumsum(shares)
    # In two steps, each exact: total * shares need not fit 64 bits.
    high, low = divmod(int(total), whole)
    return high * cumulated + low * cumulated // whole

"""Runs of rows, of a space-filling curve, or boxes: parts of equal weight, exactly, in parallel."""

from __future__ import annotations

import numpy as np

from hpc_sla.messages.peers import Peers
from hpc_sla.partition.parallel.cuts import ordered, pieces, shares_of


def runs(
    peers: Peers, start: int, weights: np.ndarray, shares: np.ndarray, key: np.ndarray | None = None
) -> np.ndarray:
    """Parts that follow each other along a key, or in the order of the rows. **Collective.**

    Parameters
    ----------
    start : int
        This rank's first row.
    weights : int64 array [n_local]
    shares : int64 array [parts]
        Replicated: how much each part gets, relatively.
    key : uint64 array [n_local], optional

    Returns
    -------
    int32 array [n_local]
    """
    total = int(peers.sum(np.array([weights.sum()], dtype=np.int64))[0])
    if key is None:
        key = np.arange(start, start + len(weights), dtype=np.uint64)
    cuts = shares_of(total, shares)[:-1]
    none, one = np.zeros(len(weights), dtype=np.int64), np.zeros(len(cuts), dtype=np.int64)
    return pieces(peers, none, key, weights, one, cuts).astype(np.int32)


def boxes(peers: Peers, points: np.ndarray, weights: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Recursive bisection across the longest extent, all boxes of a depth at once. **Collective.**

    Of equal weights and shares what `hpc_sla.partition.rcb.rcb` gives of all points, ties included.

    Parameters
    ----------
    points : float64 array [n_local, dimensions]
    weights, shares
        As of `runs`.

    Returns
    -------
    int32 array [n_local]
    """
    parts, d = len(shares), points.shape[1]
    cumulated = np.concatenate([[0], np.cumsum(shares)])
    box = np.zeros(len(points), dtype=np.int64)  # by the first part that it will be cut into
    counts = {0: parts}
    while max(counts.values()) > 1:
        open_ = np.array(sorted(b for b, count in counts.items() if count > 1), dtype=np.int64)
        here = np.flatnonzero(np.isin(box, open_))
        which = np.searchsorted(open_, box[here])
        extents = np.full((len(open_), 2 * d), -np.inf)
        for axis in range(d):
            np.maximum.at(extents[:, axis], which, points[here, axis])
            np.maximum.at(extents[:, d + axis], which, -points[here, axis])
        extents = peers.max(extents)
        with np.errstate(invalid="ignore"):  # of a box without points, which is not cut
            axes = np.argmax(extents[:, :d] + extents[:, d:], axis=1)
        sums = np.zeros(len(open_), dtype=np.int64)
        np.add.at(sums, which, weights[here])
        sums = peers.sum(sums)
        low = np.array([counts[b] // 2 for b in open_.tolist()])
        of_low = cumulated[open_ + low] - cumulated[open_]
        of_both = np.array([cumulated[b + counts[b]] - cumulated[b] for b in open_.tolist()])
        high, rest = np.divmod(sums, of_both)
        target = high * of_low + rest * of_low // of_both
        key = ordered(points[here, axes[which]])
        behind = pieces(peers, which, key, weights[here], np.arange(len(open_)), target)
        box[here] += behind * low[which]
        for b, step in zip(open_.tolist(), low.tolist(), strict=True):
            counts[b + step] = counts[b] - step
            counts[b] = step
    return box.astype(np.int32)


def hilbert(peers: Peers, points: np.ndarray) -> np.ndarray:
    """Each point's place on Hilbert's curve through the cube around all of them. **Collective.**

    By J. Skilling, "Programming the Hilbert curve", AIP Conf. Proc. 707 (2004).

    Parameters
    ----------
    points : float64 array [n_local, d]

    Returns
    -------
    uint64 array [n_local]
    """
    n, d = points.shape
    bits = min(63 // d, 31)
    ends = np.full(2 * d, -np.inf)
    if n:
        ends = np.concatenate([points.max(axis=0), -points.min(axis=0)])
    ends = peers.max(ends)
    if not np.isfinite(ends).all():  # nobody has a point
        return np.zeros(n, dtype=np.uint64)
    side = float((ends[:d] / 2 + ends[d:] / 2).max())
    cell = (points / 2 + ends[d:] / 2) / side if side > 0 else np.zeros((n, d))
    last = np.uint64((1 << bits) - 1)
    x = [np.minimum((cell[:, i] * 2.0**bits).astype(np.uint64), last) for i in range(d)]
    for bit in range(bits - 1, 0, -1):
        mask, rest = np.uint64(1 << bit), np.uint64((1 << bit) - 1)
        for i in range(d):
            up = (x[i] & mask) != 0
            swap = np.where(up, np.uint64(0), (x[0] ^ x[i]) & rest)
            x[0] ^= np.where(up, rest, swap)
            if i:
                x[i] ^= swap
    for i in range(1, d):
        x[i] ^= x[i - 1]
    turn = np.zeros(n, dtype=np.uint64)
    for bit in range(bits - 1, 0, -1):
        turn ^= np.where(x[d - 1] & np.uint64(1 << bit), np.uint64((1 << bit) - 1), np.uint64(0))
    key = np.zeros(n, dtype=np.uint64)
    for i in range(d):
        x[i] ^= turn
    for bit in range(bits - 1, -1, -1):
        for i in range(d):
            key = (key << np.uint64(1)) | ((x[i] >> np.uint64(bit)) & np.uint64(1))
    return key

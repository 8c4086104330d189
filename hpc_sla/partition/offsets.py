"""Which stored rows each rank gets: the file's parts, merged or split to the rank count."""

from __future__ import annotations

import numpy as np

# Whole parts are kept while the fullest rank has at most this many times an even share.
_BALANCED = 1.1


def even_offsets(n: int, ranks: int) -> np.ndarray:
    """Cut `n` rows into `ranks` runs whose lengths differ by at most one.

    Returns
    -------
    ndarray, int64 [ranks + 1]
        Rank r owns rows ``offsets[r]:offsets[r+1]``; some may own none.
    """
    _check_ranks(ranks)
    return np.arange(ranks + 1, dtype=np.int64) * n // ranks


def contiguous(n: int, parts: int) -> np.ndarray:
    """Part of every row, int32 [n]: equal runs of the user's rows, as `even_offsets` cuts them."""
    return np.repeat(np.arange(parts, dtype=np.int32), np.diff(even_offsets(n, parts)))


def offsets_for(part_offsets: np.ndarray, ranks: int, block_size: int = 1) -> np.ndarray:
    """Row offsets of `ranks` ranks for a file cut into parts.

    - As many ranks as parts, or a divisor of that: whole neighbouring parts, merged.
    - Fewer ranks otherwise: whole parts where that leaves no rank with more than 1.1 times an
      even share, else equal runs of rows.
    - More ranks than parts: every part is split evenly among a number of ranks proportional to
      its rows.

    Parameters
    ----------
    part_offsets : ndarray, int64 [parts + 1]
    ranks : int
        At least 1.
    block_size : int
        Divides every part offset, and then every offset that is returned: rows of a node are
        never split.

    Returns
    -------
    ndarray, int64 [ranks + 1]
        The same on every rank, from 0 to the number of rows, never decreasing; ranks may be
        empty.
    """
    _check_ranks(ranks)
    cuts = np.asarray(part_offsets, dtype=np.int64)
    if block_size > 1:
        return offsets_for(cuts // block_size, ranks) * block_size
    parts, n = len(cuts) - 1, int(cuts[-1])
    if parts % ranks == 0:
        return cuts[:: parts // ranks].copy()
    if ranks > parts:
        return _split(cuts, ranks)
    even = even_offsets(n, ranks)
    after = np.clip(np.searchsorted(cuts, even), 1, parts)
    before = after - 1
    nearest = np.where(even - cuts[before] <= cuts[after] - even, cuts[before], cuts[after])
    nearest[0], nearest[-1] = 0, n
    if np.diff(nearest).max() * ranks <= _BALANCED * n:
        return nearest
    return even


def column_offsets_for(
    part_offsets: np.ndarray, column_part_offsets: np.ndarray, offsets: np.ndarray
) -> np.ndarray:
    """Column offsets of ranks whose row offsets are `offsets`: each gets its parts' columns.

    Where a part's rows are split among ranks, so are its columns, in proportion.

    Parameters
    ----------
    part_offsets, column_part_offsets : ndarray, int64 [parts + 1]
        Of the file's rows and columns.
    offsets : ndarray, int64 [ranks + 1]
        What `offsets_for` gave for the rows.

    Returns
    -------
    ndarray, int64 [ranks + 1]
        From 0 to the number of columns, never decreasing.
    """
    parts, ranks = len(part_offsets) - 1, len(offsets) - 1
    if parts % ranks == 0:
        return column_part_offsets[:: parts // ranks].copy()
    rows, columns = np.diff(part_offsets), np.diff(column_part_offsets)
    part = np.searchsorted(part_offsets, offsets, side="right") - 1
    part = np.minimum(part, parts - 1)
    inside = (offsets - part_offsets[part]) * columns[part] // np.maximum(rows[part], 1)
    cuts = column_part_offsets[part] + inside
    cuts[0], cuts[-1] = 0, column_part_offsets[-1]
    return cuts


def _split(cuts: np.ndarray, ranks: int) -> np.ndarray:
    """Give ranks to parts one by one, always to the part with the most rows per rank."""
    rows = np.diff(cuts)
    n = int(cuts[-1])
    filled = rows > 0
    if n == 0:
        return np.zeros(ranks + 1, dtype=np.int64)
    share = np.maximum(rows * ranks // n, filled)  # a part with rows needs a rank
    while (short := ranks - int(share.sum())) != 0:
        if short > 0:
            load = np.where(filled, rows / np.maximum(share, 1), -1.0)
            share[int(np.argmax(load))] += 1
        else:
            load = np.where(share > 1, rows / np.maximum(share - 1, 1), np.inf)
            share[int(np.argmin(load))] -= 1
    runs = [cuts[p] + even_offsets(int(rows[p]), int(share[p])) for p in np.flatnonzero(filled)]
    return np.concatenate([runs[0][:1]] + [run[1:] for run in runs])


def _check_ranks(ranks: int) -> None:
    if ranks < 1:
        raise ValueError(f"{ranks} ranks")

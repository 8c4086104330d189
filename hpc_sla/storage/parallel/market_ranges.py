"""MatrixMarket files: each rank parses some of the lines, and rows go where they belong."""

from __future__ import annotations

from functools import partial

import numpy as np

from hpc_sla.messages.peers import Peers
from hpc_sla.messages.records import owners, send_records
from hpc_sla.storage.compressed import open_bytes
from hpc_sla.storage.matrix_market import MarketHeader, both_triangles, on_diagonal
from hpc_sla.storage.parallel.local_rows import (
    Cut,
    CutOfArray,
    LocalRows,
    Triplets,
    cut_rows,
    even_runs,
    from_triplets,
)
from hpc_sla.storage.parallel.market_lines import MarketEntries, read_entries
from hpc_sla.storage.triangles import given_twice


def read_market_rows(peers: Peers, path: str, cut: Cut) -> LocalRows:
    """Rows of a sparse matrix in either form. **Collective.**"""
    found = read_entries(peers, path)
    rows, columns = found.header.sizes[:2]
    offsets = cut_rows(peers, path, (rows, columns), cut, None)
    groups = _groups(peers, path, offsets, found)
    if found.header.form == "array":
        # Of dense ones SciPy keeps what is not 0.
        groups = [tuple(a[g[2] != 0] for a in g) for g in groups]
    return from_triplets(peers, offsets, columns, groups)


def read_market_array(peers: Peers, path: str, cut: CutOfArray) -> np.ndarray:
    """Rows of either form as a dense float64 array [n_local, columns], or [n_local].

    **Collective.**
    """
    found = read_entries(peers, path)
    rows, columns = found.header.sizes[:2]
    shape = (rows,) if columns == 1 else (rows, columns)
    offsets = cut_rows(peers, path, shape, cut, width=8 * columns)
    first, last = int(offsets[peers.rank]), int(offsets[peers.rank + 1])
    dense = np.zeros((last - first, columns))
    for group in _groups(peers, path, offsets, found):
        row, col, values = send_records(peers, owners(offsets, group[0]), group)
        np.add.at(dense, (row - first, col), values)  # as SciPy does it, in this order
    return dense[:, 0] if columns == 1 else dense


def _groups(peers: Peers, path: str, offsets: np.ndarray, found: MarketEntries) -> list[Triplets]:
    """The entries, and those that symmetry adds, as they come in the file. **Collective.**"""
    header, number = found.header, found.number
    row, col, values = found.row, found.col, found.values
    if header.form == "array":
        row, col = _places(header, number)
    elif header.symmetry != "general":
        _check_triangle(peers, path, offsets, found)
    row, col, values = _in_order(peers, path, number, row, col, values)
    groups = [(row, col, values)]
    if header.symmetry != "general":
        off = row != col
        groups.append((col[off], row[off], header.sign * values[off]))
    return groups


def _in_order(
    peers: Peers, path: str, number: np.ndarray, *arrays: np.ndarray
) -> tuple[np.ndarray, ...]:
    """Entries in even runs of the file's, where ranks have blocks in turn. **Collective.**"""
    if path.lower().endswith(".mtx"):
        return arrays
    total = int(peers.sum(np.array([len(number)], dtype=np.int64))[0])
    cuts = even_runs(peers, total)
    numbers, *arrived = send_records(peers, owners(cuts, number), [number, *arrays])
    order = np.argsort(numbers, kind="stable")
    return tuple(array[order] for array in arrived)


def _places(header: MarketHeader, number: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of values of an array: columns one after another, from the diagonal down."""
    rows = header.sizes[0]
    if header.symmetry == "general":
        col, row = np.divmod(number, max(rows, 1))
        return row, col
    skew = header.sign < 0
    # Columns begin where the lengths of those before add up to: found by bisection, since a
    # square root would have to be mended for large numbers.
    lengths = np.arange(rows, 0, -1, dtype=np.int64) - skew
    starts = np.concatenate([[0], np.cumsum(lengths)])
    col = np.searchsorted(starts, number, side="right") - 1
    return number - starts[col] + col + skew, col


def _check_triangle(peers: Peers, path: str, offsets: np.ndarray, found: MarketEntries) -> None:
    """Raise InputError where an entry is in both triangles, or cannot be. **Collective.**"""
    header, row, col = found.header, found.row, found.col
    opener = partial(open_bytes, path)
    sides = np.array([(row > col).any(), (row < col).any()], dtype=np.int64)
    if peers.sum(sides).all():
        off = np.flatnonzero(row != col)
        low, high = np.minimum(row, col)[off], np.maximum(row, col)[off]
        below = (row > col)[off].astype(np.int64)
        arrays = send_records(peers, owners(offsets, low), [low, high, below, found.number[off]])
        order = np.argsort(arrays[3], kind="stable")
        low, high, below, number = (array[order] for array in arrays)
        mine = np.where(below, high, low), np.where(below, low, high)
        twice = given_twice(*mine)
        with peers.agree():
            if twice is not None:
                at = twice[1]
                place = int(mine[0][at]), int(mine[1][at])
                raise both_triangles(opener, path, header, int(number[at]), *place)
    if header.sign < 0:
        wrong = np.flatnonzero((row == col) & (found.values != 0))
        first = found.number[wrong[0]] if len(wrong) else 2**62
        least = -int(peers.max(np.array([-first], dtype=np.int64))[0])
        with peers.agree():
            if len(wrong) and first == least:
                raise on_diagonal(opener, path, header, int(first))

"""Nodes of several unknowns, found in a matrix: every b consecutive rows with one pattern.

The pattern is that of the nodes. Of two nodes that are coupled, each unknown of the one has an
entry with some unknown of the other; which ones is the same both ways, or the same for all pairs of
nodes. So exact zeros that an assembly dropped hide nothing, and the stencils of grids and meshes
of one unknown a point, which reach from one pair of rows to the half of another, are told apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from hpc_sla.hashing import GOLDEN, mix

MOST = 7
"""Unknowns of a node that are looked for: a shell's six and one more."""

_ROUNDING = 1e-13
"""Entries of less beside the diagonals may be zeros: they count where they help, and never else."""

_TWINS = 0.4
"""The part of nodes that may be coupled to the same nodes as their successors. Where b is a divisor
of the true number, or all is coupled to all, half of them are or more."""

_PRESENT = 0.7
"""The part of the unknowns that must have an entry with a node that theirs is coupled to."""

_SAMPLE, _CHUNK = 1 << 11, 1 << 16
"""Rows looked at first, and at once."""


def _alone(mine: Any) -> Any:
    return mine


@dataclass(frozen=True)
class NodeRows:
    """Consecutive rows of a square matrix, whole nodes of them. Per rank.

    Attributes
    ----------
    first, n : int
        The number of the first row, and of all rows of the matrix.
    indptr, columns, values : arrays
        CSR, columns in the numbering of all rows.
    extend : callable
        From values of these rows ``[rows]`` to those of all columns that occur. Collective.
    place : callable
        Where in what `extend` gives a column's value is.
    sums : callable
        From an int64 array of this rank's numbers to the sums over ranks. Collective.
    any_bits : callable
        From an int to the bits that are set on some rank. Collective.
    """

    first: int
    n: int
    indptr: np.ndarray
    columns: np.ndarray
    values: np.ndarray
    extend: Callable[[np.ndarray], np.ndarray] = np.asarray
    place: Callable[[np.ndarray], np.ndarray] = np.asarray
    sums: Callable[[np.ndarray], np.ndarray] = _alone
    any_bits: Callable[[int], int] = _alone

    def runs(self, most: int) -> Iterator[tuple[int, int]]:
        """Rows in runs of at most that many. Local."""
        rows = len(self.indptr) - 1
        for start in range(0, rows, most):
            yield start, min(start + most, rows)


def block_size_of(matrix: Any) -> int:
    """Unknowns of a node of a SciPy CSR matrix, numbered node by node; 1 where there are no such.

    At most `MOST`. Rows with a diagonal alone, as Dirichlet conditions leave them, and their
    columns say nothing. 1, too, where the unknowns of nodes have nothing to do with each other.
    """
    if matrix.shape[0] != matrix.shape[1]:
        return 1
    return find(NodeRows(0, matrix.shape[0], matrix.indptr, matrix.indices, matrix.data))


def find(rows: NodeRows, sizes: range | list[int] = range(MOST, 1, -1)) -> int:
    """The first of these sizes that makes nodes of all ranks' rows, or 1. **Collective.**

    On every rank the same, and on any number of ranks.
    """
    scan: _Scan | None = None
    for b in sizes:
        if rows.n % b == 0 and rows.n > b:
            scan = scan or _Scan(rows)
            if scan.has_nodes(b):
                return b
    return 1


@dataclass(frozen=True)
class _NodePairs:
    """Pairs of nodes that are coupled, one of this rank's first. Bit ``a b + c`` is for the
    unknowns a of the first and c of the second node.

    Attributes
    ----------
    here : int64 array
        The first node; local.
    there : int64 array
        The second; of all.
    present, wanted, mirrored : int64 array
        Bits of entries; of those that are no zeros; of the mirror images of these.
    rows : int64 array
        Which of the first node's unknowns have an entry.
    free : int64 array
        Bits that say nothing.
    entry : int64 array
        Where `extend` has a value of the second node.
    """

    here: np.ndarray
    there: np.ndarray
    present: np.ndarray
    wanted: np.ndarray
    mirrored: np.ndarray
    rows: np.ndarray
    free: np.ndarray
    entry: np.ndarray


class _Scan:
    """What is the same for all sizes of nodes. **Collective.**"""

    def __init__(self, rows: NodeRows) -> None:
        self.rows = rows
        n = len(rows.indptr) - 1
        diagonal = np.zeros(n)
        for start, stop in rows.runs(_CHUNK):
            row, column, value = self._entries(start, stop)
            on = column == row + rows.first
            diagonal[row[on]] = np.abs(value[on])
        self._root = np.sqrt(diagonal)
        self._root_there = rows.extend(self._root)
        beside = np.zeros(n, dtype=bool)
        for start, stop in rows.runs(_CHUNK):
            row, column, value = self._entries(start, stop)
            beside[row[self._counts(row, column, value) & (column != row + rows.first)]] = True
        self._alone = ~beside
        self._alone_there = rows.extend(self._alone.astype(np.int64)) != 0

    def _entries(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rows = self.rows
        first, last = rows.indptr[start], rows.indptr[stop]
        row = np.repeat(np.arange(start, stop), np.diff(rows.indptr[start : stop + 1]))
        return row, rows.columns[first:last].astype(np.int64), rows.values[first:last]

    def _counts(self, row: np.ndarray, column: np.ndarray, value: np.ndarray) -> np.ndarray:
        """Which entries are no zeros."""
        root = self._root[row] * self._root_there[self.rows.place(column)]
        return np.abs(value) > _ROUNDING * root

    def has_nodes(self, b: int) -> bool:
        """Whether every b rows are a node. **Collective.**"""
        alone = self._alone.reshape(-1, b) @ (1 << np.arange(b))
        there = self.rows.extend(np.repeat(alone, b))
        # Most matrices are seen not to have them in their first rows, or not at all.
        some = [self._pairs(b, 0, min(_SAMPLE // b * b, len(self._root)), alone, there)]
        return self._alike(b, some) and self._nodes(b, alone, there)

    def _nodes(self, b: int, alone: np.ndarray, there: np.ndarray) -> bool:
        pairs = [self._pairs(b, *run, alone, there) for run in self.rows.runs(_CHUNK // b * b)]
        if not self._alike(b, pairs):
            return False
        popcount = np.array([bin(mask).count("1") for mask in range(1 << b)])
        mixed = np.zeros(len(alone), dtype=np.uint64)
        coupled = between = wanted = got = 0
        for some in pairs:
            np.add.at(mixed, some.here, mix(some.there.astype(np.uint64) + GOLDEN))
            beside = some.there != some.here + self.rows.first // b
            coupled += len(np.unique(some.here))
            between += int(beside.sum())
            wanted += int((b - popcount[alone[some.here[beside]]]).sum())
            got += int(popcount[some.rows[beside] & ~alone[some.here[beside]]].sum())
        mixed_there = self.rows.extend(np.repeat(mixed.view(np.int64), b))
        twins = 0
        for some in pairs:
            following = some.there == some.here + self.rows.first // b + 1
            here, entry = some.here[following], some.entry[following]
            twins += int((mixed.view(np.int64)[here] == mixed_there[entry]).sum())
        sums = self.rows.sums(np.array([coupled, between, wanted, got, twins], dtype=np.int64))
        coupled, between, wanted, got, twins = (int(s) for s in sums)
        enough = 2 * between >= coupled > 0
        return enough and got >= _PRESENT * wanted and twins < _TWINS * coupled

    def _alike(self, b: int, pairs: list[_NodePairs]) -> bool:
        """Whether pairs of nodes are coupled both ways alike, or all alike. **Collective.**"""
        mine = 0
        for some in pairs:
            mine |= int(np.bitwise_or.reduce(some.wanted, initial=0))
        shape = self.rows.any_bits(mine)
        good = True
        for some in pairs:
            known = some.present | some.free
            good &= bool(((some.mirrored & ~known == 0) | (shape & ~known == 0)).all())
        return not self.rows.any_bits(int(not good)) and _mixes(shape, b)

    def _pairs(
        self, b: int, start: int, stop: int, alone: np.ndarray, there: np.ndarray
    ) -> _NodePairs:
        row, column, value = self._entries(start, stop)
        place = self.rows.place(column)
        keep = ~(self._alone[row] | self._alone_there[place])
        row, column, value, place = row[keep], column[keep], value[keep], place[keep]
        counts = self._counts(row, column, value)
        node, other = row // b, column // b
        a, c = row % b, column % b
        order = np.argsort(node * (self.rows.n // b) + other, kind="stable")
        node, other = node[order], other[order]
        new = np.ones(len(order), dtype=bool)
        new[1:] = (node[1:] != node[:-1]) | (other[1:] != other[:-1])
        (starts,) = np.nonzero(new)

        def union(bits: np.ndarray) -> np.ndarray:
            found = np.zeros(len(starts), dtype=np.int64)
            return np.bitwise_or.reduceat(bits[order], starts) if len(starts) else found

        bit, mirror = 1 << (a * b + c), 1 << (c * b + a)
        wanted = union(np.where(counts, bit, 0))
        whole = _masks(b)
        entry = place[order][starts]
        free = whole[0][alone[node[starts]]] | whole[1][there[entry]]
        columns = (
            node[starts], other[starts], union(bit), wanted, union(np.where(counts, mirror, 0)),
            union(1 << a), free, entry,
        )  # fmt: skip
        return _NodePairs(*(column[wanted != 0] for column in columns))


def _mixes(shape: int, b: int) -> bool:
    """Whether unknowns of a node have to do with each other, and with whom their partners do.

    In a line of a grid, which may look like a node, they have to do with the next ones only.
    """
    with_whom = np.array([shape >> bit & 1 for bit in range(b * b)]).reshape(b, b)
    np.fill_diagonal(with_whom, 1)
    closed = with_whom @ with_whom > 0
    return bool((closed == with_whom).all()) and with_whom.sum() > b


@cache
def _masks(b: int) -> tuple[np.ndarray, np.ndarray]:
    """The bits of pairs in which the first, and in which the second, is one of some unknowns."""
    first, second = np.zeros((2, 1 << b), dtype=np.int64)
    for mask in range(1 << b):
        for a in range(b):
            for c in range(b):
                first[mask] |= (mask >> a & 1) << (a * b + c)
                second[mask] |= (mask >> c & 1) << (a * b + c)
    return first, second

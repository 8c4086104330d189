"""Multigrid's levels as many ranks would make them, made by one process.

Each rank's aggregates are found from the connections within its own rows, as the ranks would do;
on how many ranks a level goes on decide the functions that decide it there. What differs: a node
whose strong neighbours are all on other ranks joins the first of them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse as sp

import hpc_sla as hs
from hpc_sla.distributed.layout import RowLayout
from hpc_sla.kernels.multigrid import local_matrix
from hpc_sla.precond.amg.agglomeration import Load, members
from hpc_sla.precond.amg.aggregation import aggregate
from hpc_sla.precond.amg.blocks import Blocks
from hpc_sla.precond.amg.hierarchy import Hierarchy
from hpc_sla.precond.amg.options import AmgOptions
from hpc_sla.precond.amg.strength import Graph, node_graph


@dataclass
class Words:
    """What each rank of the finest level sends in one exchange: messages, and numbers in them."""

    messages: np.ndarray
    numbers: np.ndarray

    @classmethod
    def none(cls, ranks: int) -> Words:
        return cls(np.zeros(ranks, dtype=np.int64), np.zeros(ranks, dtype=np.int64))

    def __add__(self, other: Words) -> Words:
        return Words(self.messages + other.messages, self.numbers + other.numbers)

    def __mul__(self, times: int) -> Words:
        return Words(self.messages * times, self.numbers * times)


class SimulatedLevels(Hierarchy):
    """A hierarchy as `ranks` ranks would have it, on one.

    Parameters
    ----------
    matrix : csr_matrix
        Rows in the order of their parts.
    B : float64 array [n, m]
    options : AmgOptions
    offsets : int64 array [ranks + 1]
        Of the parts.

    Attributes
    ----------
    held : list of int64 array [ranks]
        The entries of each rank of the finest level, by levels.
    after, before : Words
        Of one V-cycle; and as it would be if vectors were brought together on fewer ranks in
        messages of their own.
    """

    def __init__(
        self, matrix: sp.csr_matrix, B: np.ndarray, options: AmgOptions, offsets: np.ndarray
    ) -> None:
        self._of_ranks, self._size = offsets, len(offsets) - 1
        self._ranks = np.arange(self._size)  # of the finest, by those of the level
        self.held: list[np.ndarray] = [self._entries(matrix, offsets)]
        self.sizes = [self._size]
        self.after, self.before = Words.none(self._size), Words.none(self._size)
        self._products = 2 * options.degree
        A = hs.DSparseMatrix.from_scipy(matrix, hs.World.serial("cpu"), partition="contiguous")
        self._count_products(A)
        super().__init__(A, B, options)
        if len(self.levels) > len(self.held):
            raise RuntimeError("a level was not counted")

    def _graph(self, A, block_size):
        graph = node_graph(A, Blocks.of(A), block_size)
        owner = self._owner(self._of_ranks // block_size)
        whole = graph.blocks.owned.tocsr()
        rows = np.repeat(np.arange(whole.shape[0]), np.diff(whole.indptr))
        inside = owner[rows] == owner[whole.indices]
        indptr = np.concatenate([[0], np.cumsum(inside)])[whole.indptr].astype(np.int32)
        within = sp.csr_matrix((whole.data[inside], whole.indices[inside], indptr), whole.shape)
        blocks = replace(graph.blocks, local=local_matrix(within))
        return graph.layout, lambda threshold: self._grouped(
            replace(graph, blocks=blocks), whole, owner, threshold
        )

    def _grouped(self, graph: Graph, whole: sp.csr_matrix, owner: np.ndarray, threshold: float):
        layout, group = aggregate(graph, threshold)
        group = group.astype(np.int64)
        root, rows = graph.root, np.repeat(np.arange(len(owner)), np.diff(whole.indptr))
        strong = np.abs(whole.data) > threshold * root[rows] * root[whole.indices]
        strong &= rows != whole.indices
        count, ends = layout.n_global, np.searchsorted(rows, np.arange(len(owner) + 1))
        for node in np.flatnonzero(group < 0):
            mine = slice(ends[node], ends[node + 1])
            near = whole.indices[mine][strong[mine]]
            if len(near):
                found = near[group[near] >= 0]
                group[node] = group[found[0]] if len(found) else count
                count += not len(found)
        first = np.full(count, len(owner))
        inside = group >= 0
        np.minimum.at(first, group[inside], np.flatnonzero(inside))
        order = np.argsort(first, kind="stable")
        number = np.empty(count, dtype=np.int64)
        number[order] = np.arange(count)
        group[inside] = number[group[inside]]
        counts = np.bincount(owner[first], minlength=len(self._ranks))
        self._aggregates = np.concatenate([[0], np.cumsum(counts)])
        layout = RowLayout(graph.layout.world, np.array([0, count]))
        return layout, group.astype(np.int32)

    def _repartition(self, A, above, block):
        was, size = self._of_ranks, len(self._ranks)
        offsets = self._aggregates * block
        matrix = A.local_csr()
        entries = self._entries(matrix, offsets)
        if size > 1 and A.shape[0] > self._options.coarse_size:
            before = np.sum(self.held, axis=0)
            found = _exchanged(matrix.indices, matrix.indptr, offsets, offsets)
            load = Load(
                offsets,
                entries,
                before[self._ranks],
                *(np.bincount(found[0], weights, size).astype(int) for weights in (None, found[2])),
                int(before.sum()),
                self._size,
                above.nnz_global,
            )
            now = self._owners(load, block)
        else:
            now = None
        self._move = (was, offsets, self._ranks, now)
        if now is not None:
            self._ranks = self._ranks[members(size, len(now) - 1)]
            offsets = now
        self._of_ranks = offsets
        held = np.zeros(self._size, dtype=np.int64)
        held[self._ranks] = self._entries(matrix, offsets)
        self.held.append(held)
        self.sizes.append(len(self._ranks))
        self._count_products(A)
        return None

    def _transfer(self, P):
        was, first, ranks, now = self._move
        rows = P.rows.csr()
        apart = self._both_ways(ranks, _exchanged(rows.indices, rows.indptr, was, first))
        merged = apart
        if now is not None:
            inner = ranks[members(len(ranks), len(now) - 1)]
            merged = self._both_ways(
                (ranks, inner), _exchanged(rows.indices, rows.indptr, was, now, inner, ranks)
            )
            owner = np.arange(first[-1])
            gather = _exchanged(owner, np.arange(len(owner) + 1), first, now, inner, ranks)
            apart = apart + self._both_ways((ranks, inner), gather)
        self.after, self.before = self.after + merged, self.before + apart
        return super()._transfer(P)

    def _count_products(self, A: hs.DSparseMatrix) -> None:
        matrix, offsets = A.local_csr(), self._of_ranks
        words = Words.none(self._size)
        if A.shape[0] > self._coarse_size():
            found = _exchanged(matrix.indices, matrix.indptr, offsets, offsets)
            words = self._sent(self._ranks[found[1]], found[2]) * self._products
        self.after, self.before = self.after + words, self.before + words

    def _coarse_size(self) -> int:
        return getattr(self, "_options", AmgOptions()).coarse_size

    def _sent(self, ranks: np.ndarray, numbers: np.ndarray) -> Words:
        size = self._size
        return Words(
            np.bincount(ranks, minlength=size), np.bincount(ranks, numbers, size).astype(np.int64)
        )

    def _both_ways(self, ranks, found) -> Words:
        """There and back: restriction and prolongation."""
        rows, columns = ranks if isinstance(ranks, tuple) else (ranks, ranks)
        receiver, sender, numbers = found
        return self._sent(rows[receiver], numbers) + self._sent(columns[sender], numbers)

    def _entries(self, matrix: sp.csr_matrix, offsets: np.ndarray) -> np.ndarray:
        return np.diff(matrix.indptr[offsets]).astype(np.int64)

    def _owner(self, offsets: np.ndarray) -> np.ndarray:
        return np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))


def _exchanged(
    indices: np.ndarray,
    indptr: np.ndarray,
    rows: np.ndarray,
    columns: np.ndarray,
    column_ranks: np.ndarray | None = None,
    row_ranks: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Who needs whose columns, by offsets of both: receiver, sender, and how many numbers.

    With the ranks of those offsets, where these are not the same: a rank sends itself nothing.
    """
    receiver = np.repeat(np.arange(len(rows) - 1), np.diff(indptr[rows]))
    sender = np.searchsorted(columns, indices, side="right") - 1
    n = int(columns[-1])
    pairs = np.unique(receiver.astype(np.int64) * n + indices)
    receiver, sender = pairs // max(n, 1), np.searchsorted(columns, pairs % max(n, 1), "right") - 1
    same = receiver == sender
    if column_ranks is not None:
        same = row_ranks[receiver] == column_ranks[sender]
    width = len(columns)
    both, numbers = np.unique((receiver * width + sender)[~same], return_counts=True)
    return both // width, both % width, numbers

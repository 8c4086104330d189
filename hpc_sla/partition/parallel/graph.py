"""A weighted undirected graph whose vertices lie on many ranks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hpc_sla.messages.fetch import Fetch
from hpc_sla.messages.peers import Peers
from hpc_sla.messages.records import distinct, owners, send_records


@dataclass
class DistributedGraph:
    """Vertices `offsets[rank]` to `offsets[rank + 1]` of a graph, and their arcs. Per rank.

    Arcs stand at both ends. Neighbours are numbered locally: this rank's vertices first, then its
    ghosts, which are vertices of other ranks.

    Attributes
    ----------
    peers : Peers
    offsets : int64 array [size + 1]
        Replicated.
    indptr : int64 array [n + 1]
    neighbours : int32 array [arcs]
    weights : int64 array [arcs]
    ids : int64 array [n + ghosts]
        Their numbers in the whole graph, ghosts ascending.
    sizes : int64 array [n + ghosts]
        What each vertex weighs.
    halo : Fetch
        Of the ghosts.
    """

    peers: Peers
    offsets: np.ndarray
    indptr: np.ndarray
    neighbours: np.ndarray
    weights: np.ndarray
    ids: np.ndarray
    sizes: np.ndarray
    halo: Fetch

    @property
    def n(self) -> int:
        """This rank's vertices."""
        return len(self.indptr) - 1

    @property
    def n_global(self) -> int:
        return int(self.offsets[-1])

    def extend(self, values: np.ndarray) -> np.ndarray:
        """Values `[n]` of this rank's vertices, and behind them the ghosts'. **Collective.**"""
        return np.concatenate([values, self.halo(values)])

    def tails(self) -> np.ndarray:
        """The vertex that each arc is of, int32 [arcs]."""
        return np.repeat(np.arange(self.n, dtype=np.int32), np.diff(self.indptr))


def assemble(
    peers: Peers,
    offsets: np.ndarray,
    rows: np.ndarray,
    columns: np.ndarray,
    weights: np.ndarray,
    sizes: np.ndarray,
) -> DistributedGraph:
    """A graph of arcs that any rank has; those of one pair are summed. **Collective.**

    Parameters
    ----------
    rows, columns : int64 arrays [m]
        Per rank, in global numbers, in any order; each arc goes to the owner of its row. No loops.
    weights : int64 array [m]
    sizes : int64 array [n]
        Of this rank's vertices.
    """
    import scipy.sparse as sp  # slow to load; ranks that only read do without

    rows, columns, weights = send_records(peers, owners(offsets, rows), [rows, columns, weights])
    start, stop = int(offsets[peers.rank]), int(offsets[peers.rank + 1])
    n = stop - start
    away = (columns < start) | (columns >= stop)
    ghosts = distinct(columns[away])
    local = columns - start
    local[away] = n + np.searchsorted(ghosts, columns[away])
    narrow = np.int32 if len(rows) < 2**31 else np.int64
    pairs = ((rows - start).astype(narrow), local.astype(narrow))
    csr = sp.coo_array((weights, pairs), shape=(n, n + len(ghosts))).tocsr()
    csr.sum_duplicates()
    halo = Fetch(peers, offsets, ghosts)
    return DistributedGraph(
        peers,
        offsets,
        csr.indptr.astype(np.int64),
        csr.indices.astype(np.int32),
        csr.data,
        np.concatenate([np.arange(start, stop, dtype=np.int64), ghosts]),
        np.concatenate([sizes, halo(sizes)]),
        halo,
    )


def of_pattern(
    peers: Peers,
    offsets: np.ndarray,
    rows: np.ndarray,
    columns: np.ndarray,
    sizes: np.ndarray,
) -> DistributedGraph:
    """The graph of a matrix's pattern and its transpose, without loops, all arcs alike.

    **Collective.** As `assemble`; entries may repeat, and rows be of any rank.
    """
    keep = rows != columns
    rows, columns = rows[keep], columns[keep]
    ones = np.ones(2 * len(rows), dtype=np.int64)
    both = np.concatenate([rows, columns]), np.concatenate([columns, rows])
    graph = assemble(peers, offsets, *both, ones, sizes)
    graph.weights[...] = 1
    return graph

"""Pairs of vertices made one, all over the ranks.

Heavy edges are matched where both ends prefer each other (J.-H. Hoepman, "Simple distributed
weighted matchings", 2004): in an order of the edges that depends on no rank, the pairs do not
either. Edges are rated by weight^2 over the product of the ends' sizes (M. Holtgrewe, P. Sanders
and C. Schulz, "Engineering a scalable high quality graph partitioner", IPDPS 2010). Where sizes
grow along the graph, each vertex prefers the next one, and hardly two each other: there edges are
then taken in a random order. What is left over is paired with others that prefer the same vertex
(D. LaSalle et al., "Improving graph partitioning for modern graphs and architectures", IA3 2015),
as the leaves of a star are.
"""

from __future__ import annotations

import numpy as np

from hpc_sla.hashing import GOLDEN, mix
from hpc_sla.messages.fetch import Fetch
from hpc_sla.messages.peers import Peers
from hpc_sla.messages.records import distinct, owners, send_records
from hpc_sla.partition.offsets import even_offsets
from hpc_sla.partition.parallel.graph import DistributedGraph, assemble

_ROUNDS = 8
_FEW = 0.02
"""Rounds end when one matches less than this share of the vertices."""
_STUCK = 0.6
"""Vertices that are left for each one there was, beyond which others than the best are paired."""


Arcs = tuple[np.ndarray, ...]
"""Tails, ascending, heads, and what they can be ordered by; both arcs of an edge alike."""


class Coarser:
    """A graph half as large, and how its vertices stand for the finer ones. **Collective.**

    Parameters
    ----------
    graph : DistributedGraph
    most : int
        No two vertices become one that weighs more.

    Attributes
    ----------
    graph : DistributedGraph
        The same whatever the ranks have: its vertices are numbered by the first one of each pair,
        and lie on the ranks in even runs.
    """

    def __init__(self, graph: DistributedGraph, most: int) -> None:
        peers = graph.peers
        mates = _mates(graph, most)
        mine = graph.ids[: graph.n]
        leads = mates >= mine
        count = int(leads.sum())
        first = int(peers.before(np.array([count], dtype=np.int64))[0])
        total = int(peers.sum(np.array([count], dtype=np.int64))[0])
        of_lead = np.cumsum(leads) - 1 + first
        # Each follower asks for the number of its leader, which may be anywhere.
        wanted = distinct(mates[~leads])
        found = Fetch(peers, graph.offsets, wanted)(of_lead)
        coarse = of_lead
        coarse[~leads] = found[np.searchsorted(wanted, mates[~leads])]
        self.graph = _contracted(graph, graph.extend(coarse), even_offsets(total, peers.size))
        wanted, self._place = np.unique(coarse, return_inverse=True)
        self._finer = Fetch(peers, self.graph.offsets, wanted)

    def project(self, values: np.ndarray) -> np.ndarray:
        """Values of the coarse vertices, as the finer graph's. **Collective.**"""
        return self._finer(values)[self._place]


def _contracted(
    graph: DistributedGraph, coarse: np.ndarray, offsets: np.ndarray
) -> DistributedGraph:
    """The graph of `coarse` vertices, given that of each finer one and ghost. **Collective.**"""
    import scipy.sparse as sp  # slow to load; ranks that only read do without

    peers, n = graph.peers, graph.n
    ids, local = np.unique(coarse, return_inverse=True)
    local = local.astype(np.int32)
    head, tail = local[graph.neighbours], local[graph.tails()]
    keep = head != tail
    pairs = (tail[keep], head[keep])
    # Summed here first: less to send.
    csr = sp.coo_array((graph.weights[keep], pairs), shape=(len(ids),) * 2).tocsr()
    rows = np.repeat(ids, np.diff(csr.indptr))
    sizes = np.bincount(local[:n], graph.sizes[:n], len(ids)).astype(np.int64)
    own = distinct(local[:n])
    where, what = send_records(peers, owners(offsets, ids[own]), [ids[own], sizes[own]])
    start = int(offsets[peers.rank])
    mine = np.bincount(where - start, what, int(offsets[peers.rank + 1]) - start).astype(np.int64)
    return assemble(peers, offsets, rows, ids[csr.indices], csr.data, mine)


def _mates(graph: DistributedGraph, most: int) -> np.ndarray:
    """The vertex that each of this rank's is paired with, or itself. **Collective.**"""
    n, ids = graph.n, graph.ids
    mates = ids[:n].copy()
    lonely = np.diff(graph.indptr) == 0
    _pair_lonely(graph, np.flatnonzero(lonely), most, mates)
    tails, heads = graph.tails(), graph.neighbours
    chance = _chances(graph, tails)
    rating = _ratings(graph, tails, chance)
    favourite = _strongest(n, tails, rating, ids[heads])
    fits = graph.sizes[tails] + graph.sizes[heads] <= most
    arcs: Arcs = tails[fits], heads[fits], rating[fits], chance[fits]
    del tails, heads, chance, rating, fits
    for key in (2, 3):
        arcs = _match(graph, arcs, key, mates)
        if _kept(graph, mates) <= _STUCK * graph.n_global:
            return mates
    left_over = np.flatnonzero((mates == ids[:n]) & ~lonely)
    _pair(graph, favourite[left_over], graph.offsets, left_over, most, mates)
    return mates


def _match(graph: DistributedGraph, arcs: Arcs, key: int, mates: np.ndarray) -> Arcs:
    """Match along the arcs whose both ends have them highest in ``arcs[key]``. **Collective.**

    Parameters
    ----------
    arcs : arrays [m]
    mates : int64 array [n]
        Written to.

    Returns
    -------
    arrays
        The arcs that are left, both ends of which are free.
    """
    peers, n, ids = graph.peers, graph.n, graph.ids
    free = mates == ids[:n]
    for _ in range(_ROUNDS):
        wish = _strongest(n, arcs[0], arcs[key], ids[arcs[1]])
        theirs = graph.extend(wish)
        wisher = np.flatnonzero(wish >= 0)
        # The wish of the vertex that one wishes for.
        place = _local(graph, wish[wisher])
        met = wisher[theirs[place] == ids[wisher]]
        mates[met] = wish[met]
        free[met] = False
        matched, left = peers.sum(np.array([len(met), free.sum()], dtype=np.int64))
        open_ = graph.extend(free.view(np.int8)).view(bool)
        keep = open_[arcs[0]] & open_[arcs[1]]
        arcs = tuple(a[keep] for a in arcs)
        if matched <= _FEW * graph.n_global or not left:
            break
    return arcs


def _kept(graph: DistributedGraph, mates: np.ndarray) -> int:
    """Vertices of the coarse graph. **Collective.**"""
    leads = np.array([(mates >= graph.ids[: graph.n]).sum()], dtype=np.int64)
    return int(graph.peers.sum(leads)[0])


def _chances(graph: DistributedGraph, tails: np.ndarray) -> np.ndarray:
    """A number of 52 random bits for each edge, whatever rank has it."""
    heads, ids = graph.neighbours, graph.ids
    low = np.minimum(ids[tails], ids[heads]).astype(np.uint64)
    high = np.maximum(ids[tails], ids[heads]).astype(np.uint64)
    return (mix(mix(low * GOLDEN) + high * GOLDEN) >> np.uint64(12)).astype(np.float64)


def _ratings(graph: DistributedGraph, tails: np.ndarray, chance: np.ndarray) -> np.ndarray:
    """How much each arc is worth matching, both arcs of an edge alike, no two edges quite."""
    size = np.maximum(graph.sizes, 1).astype(np.float64)
    weight = graph.weights.astype(np.float64)
    return weight * weight / (size[tails] * size[graph.neighbours]) * (1 + chance * 2.0**-62)


def _strongest(n: int, tails: np.ndarray, rating: np.ndarray, heads: np.ndarray) -> np.ndarray:
    """The head of each vertex's best arc, -1 without one. Local; tails ascend."""
    wish = np.full(n, -1, dtype=np.int64)
    if len(tails):
        starts = np.flatnonzero(np.diff(tails, prepend=-1))
        best = np.maximum.reduceat(rating, starts)
        found = np.flatnonzero(rating == np.repeat(best, np.diff(starts, append=len(tails))))
        wish[tails[found]] = heads[found]
    return wish


def _local(graph: DistributedGraph, ids: np.ndarray) -> np.ndarray:
    """Local numbers of this rank's vertices and its ghosts."""
    start, n = int(graph.offsets[graph.peers.rank]), graph.n
    away = (ids < start) | (ids >= start + n)
    local = ids - start
    local[away] = n + np.searchsorted(graph.ids[n:], ids[away])
    return local


def _pair_lonely(graph: DistributedGraph, lonely: np.ndarray, most: int, mates: np.ndarray) -> None:
    """Pair vertices without neighbours, each with the next one of all ranks. **Collective.**"""
    peers = graph.peers
    counts = np.array([len(lonely)], dtype=np.int64)
    first, total = int(peers.before(counts)[0]), int(peers.sum(counts)[0])
    if total < 2:
        return
    slots = (first + np.arange(len(lonely), dtype=np.int64)) // 2
    _pair(graph, slots, even_offsets(-(-total // 2), peers.size), lonely, most, mates)


def _pair(
    graph: DistributedGraph,
    meeting: np.ndarray,
    offsets: np.ndarray,
    vertices: np.ndarray,
    most: int,
    mates: np.ndarray,
) -> None:
    """Pair vertices that meet at the same number, in ascending order. **Collective.**

    Parameters
    ----------
    meeting : int64 array [m]
        Per rank: a number of those that ranks own by `offsets`.
    vertices : int array [m]
        Local.
    mates : int64 array [n]
        Written to.
    """
    peers: Peers = graph.peers
    mine, start = graph.ids[vertices], int(graph.offsets[peers.rank])
    table = meeting, mine, graph.sizes[vertices]
    where, who, size = send_records(peers, owners(offsets, meeting), table)
    order = np.lexsort((who, where))
    where, who, size = where[order], who[order], size[order]
    # The first with the second of each meeting, the third with the fourth.
    turn = np.arange(len(where)) - np.searchsorted(where, where)
    one = np.flatnonzero(turn[1:] % 2 == 1)
    one = one[size[one] + size[one + 1] <= most]
    left, right = who[one], who[one + 1]
    back = np.concatenate([left, right]), np.concatenate([right, left])
    whose, whom = send_records(peers, owners(graph.offsets, back[0]), back)
    mates[whose - start] = whom

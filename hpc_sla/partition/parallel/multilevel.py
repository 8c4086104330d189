"""Coarsen a distributed graph, cut the small one by METIS, refine on the way back."""

from __future__ import annotations

import numpy as np

from hpc_sla.messages.alone import Alone
from hpc_sla.messages.fetch import Fetch
from hpc_sla.messages.peers import Peers
from hpc_sla.partition.parallel.coarsen import Coarser
from hpc_sla.partition.parallel.cuts import shares_of
from hpc_sla.partition.parallel.graph import DistributedGraph
from hpc_sla.partition.parallel.refine import limits, refine

_SEED = 20240229
SMALL, EACH = 4096, 64
"""A graph of so many vertices, or of so many for each part, is cut on one rank."""
_STALLED = 0.95
_LARGEST = 2**30
"""Sums of weights that METIS, which numbers in 32 bits, is given."""


def multilevel(graph: DistributedGraph, shares: np.ndarray) -> np.ndarray:
    """Part of each of this rank's vertices. **Collective.**

    The same parts whatever the number of ranks.

    Parameters
    ----------
    graph : DistributedGraph
    shares : int64 array [parts]
        Replicated, relative.

    Returns
    -------
    int32 array [n]
    """
    peers, parts = graph.peers, len(shares)
    small = max(SMALL, EACH * parts)
    total = int(peers.sum(np.array([graph.sizes[: graph.n].sum()], dtype=np.int64))[0])
    most = max(3 * total // (2 * small), 1)
    levels: list[Coarser] = []
    graphs = [graph]
    while graphs[-1].n_global > small:
        levels.append(Coarser(graphs[-1], most))
        graphs.append(levels[-1].graph)
        if graphs[-1].n_global > _STALLED * graphs[-2].n_global:
            break
    allowed = limits(total, shares)
    part = _cut(graphs[-1], shares, allowed, finest=not levels)
    for level, finer in zip(reversed(levels), reversed(graphs[:-1]), strict=True):
        graphs.pop()  # its memory is wanted for the next one
        part = refine(finer, level.project(part), allowed, finest=finer is graph)
    return part


def _cut(
    graph: DistributedGraph, shares: np.ndarray, allowed: np.ndarray, finest: bool
) -> np.ndarray:
    """Parts of a small graph, which rank 0 sees the whole of. **Collective.**"""
    peers, n = graph.peers, graph.n
    tails, heads = graph.ids[graph.tails()], graph.ids[graph.neighbours]
    table = [peers.gather(a) for a in (tails, heads, graph.weights, graph.sizes[:n])]
    part = np.empty(graph.n_global, dtype=np.int32)
    if peers.rank == 0:
        tails, heads, weights, sizes = table
        order = np.lexsort((heads, tails))  # ranks number their ghosts last
        starts = np.searchsorted(tails, np.arange(len(sizes) + 1))
        heads, weights = heads[order], weights[order]
        found = cut_whole(starts, heads, weights, sizes, shares)
        alone, ends = Peers(Alone()), np.array([0, len(sizes)])
        halo = Fetch(alone, ends, np.empty(0, dtype=np.int64))
        ids = np.arange(len(sizes), dtype=np.int64)
        arcs = starts.astype(np.int64), heads.astype(np.int32), weights
        whole = DistributedGraph(alone, ends, *arcs, ids, sizes, halo)
        part[...] = refine(whole, found, allowed, finest)
    if peers.size > 1:
        peers.comm.Bcast(part)
    start = int(graph.offsets[peers.rank])
    return part[start : start + n].copy()


def cut_whole(
    starts: np.ndarray,
    heads: np.ndarray,
    weights: np.ndarray,
    sizes: np.ndarray,
    shares: np.ndarray,
) -> np.ndarray:
    """METIS's parts of a weighted graph, int32 [n]: the best of a few tries. Local."""
    import pymetis  # slow to load; ranks that only read do without

    n, parts = len(sizes), len(shares)
    if parts == 1 or parts >= n or not len(heads):
        # METIS cannot do these: runs of equal weight.
        halves = 2 * np.cumsum(sizes) - sizes
        cuts = 2 * shares_of(int(sizes.sum()), shares)[:-1]
        return np.searchsorted(cuts, halves).astype(np.int32)
    graph = pymetis.CSRAdjacency(starts.astype(np.int32), heads.astype(np.int32))
    of_vertices, of_arcs = _narrow(sizes), np.maximum(_narrow(weights), 1)
    wanted = shares / shares.sum()
    tails = np.repeat(np.arange(n), np.diff(starts))
    allowed = limits(int(sizes.sum()), shares)
    best: tuple[int, int, np.ndarray] | None = None
    for seed, recursive in ((0, False), (1, False), (2, False), (3, True)):
        _, found = pymetis.part_graph(
            parts,
            graph,
            vweights=of_vertices,
            eweights=of_arcs,
            tpwgts=wanted.tolist(),
            recursive=recursive,
            options=pymetis.Options(seed=_SEED + seed, niter=30),
        )
        part = np.asarray(found, dtype=np.int32)
        cut = int(weights[part[tails] != part[heads]].sum())
        loads = np.bincount(part, sizes, parts).astype(np.int64)
        over = int(np.maximum(loads - allowed, 0).sum())
        if best is None or (over, cut) < best[:2]:
            best = over, cut, part
    assert best is not None
    return best[2]


def _narrow(weights: np.ndarray) -> np.ndarray:
    """Weights whose sum fits 32 bits, as METIS counts."""
    total = int(weights.sum())
    if total > _LARGEST:
        weights = np.rint(weights * (_LARGEST / total))
    return weights.astype(np.int32)

"""Aggregates: disjoint groups of nodes, each to be one node of the next level."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import torch

from hpc_sla.distributed.layout import RowLayout
from hpc_sla.kernels import multigrid as kernels
from hpc_sla.precond.amg.strength import Graph, strong_halo
from hpc_sla.precond.spectrum import start_vector


def aggregate(graph: Graph, threshold: float) -> tuple[RowLayout, np.ndarray]:
    """Group each rank's nodes, and its lone ones with those of other ranks. **Collective.**

    The greedy algorithm of Vanek, Mandel and Brezina, Computing 56 (1996), algorithm 5.1, inside
    each rank, on connections above the threshold, widened on grids in space (see
    `kernels.multigrid.aggregate`). A node without a strong neighbour on its own rank, as bad
    partitions leave many, then joins its strongest neighbour's aggregate on another rank, or where
    none of its neighbours has one, founds one if its number comes before theirs in an order that
    looks random (Luby, SIAM J. Comput. 15, 1986).

    Returns
    -------
    RowLayout
        Of the aggregates.
    int32 array [n_nodes]
        The stored number of each owned node's aggregate, -1 for a node without any strong
        neighbour.
    """
    layout, world = graph.layout, graph.layout.world
    with world.agree():
        group, count = kernels.aggregate(graph.blocks.local, graph.root, threshold)
    halo, boundary = strong_halo(graph, threshold), graph.blocks.boundary
    alone = boundary[np.diff(halo.indptr) > 0]
    alone = alone[group[alone] < 0]
    founded = np.zeros(0, dtype=np.int64)
    joined: np.ndarray | None = None
    if world.sum(len(alone)):
        lonely = np.zeros(layout.n_owned, dtype=bool)
        lonely[alone] = True
        founded, joined = _beyond(graph, halo, group, lonely)
    group[founded] = count + np.arange(len(founded))
    aggregates = RowLayout(world, world.offsets(count + len(founded)))
    stored = group
    if aggregates.start:
        nobody = np.flatnonzero(group < 0)
        stored += np.int32(aggregates.start)
        stored[nobody] = -1
    if joined is not None:
        # Whom they joined is known by node; its aggregate has a number only now.
        there = _exchange(graph, stored)
        guests = np.flatnonzero(joined >= 0)
        stored[guests] = there[joined[guests]]
    return aggregates, stored


def _beyond(
    graph: Graph, halo: sp.csr_matrix, group: np.ndarray, lonely: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """What becomes of nodes whose strong neighbours are all on other ranks. **Collective.**

    Returns
    -------
    int64 array
        The owned nodes that found an aggregate.
    int64 array [n_nodes]
        The halo node whose aggregate each owned node joins, -1 for none.
    """
    world = graph.layout.world
    boundary = graph.blocks.boundary
    order = start_vector(graph.layout).numpy()
    there_order = _exchange(graph, order)
    joined = np.full(len(group), -1, dtype=np.int64)
    settled = group >= 0
    founders = np.zeros(len(group), dtype=bool)
    rows = np.repeat(boundary, np.diff(halo.indptr))
    sizes = np.abs(halo.data)
    while world.sum(int(lonely.sum())):
        # Guests are no hosts: an aggregate would grow into a chain.
        hosts = _exchange(graph, settled | founders) > 0
        open_there = _exchange(graph, lonely) > 0
        mine = lonely[rows]
        able = mine & hosts[halo.indices]
        # The strongest host of each row: sorted by row and size, the last of a row.
        entries = np.flatnonzero(able)
        entries = entries[np.lexsort((sizes[entries], rows[entries]))]
        last = np.ones(len(entries), dtype=bool)
        last[:-1] = rows[entries][1:] != rows[entries][:-1]
        joined[rows[entries[last]]] = halo.indices[entries[last]]
        lonely &= joined < 0
        rivals = lonely[rows] & open_there[halo.indices]
        lost = rivals & (there_order[halo.indices] < order[rows])
        first = lonely.copy()
        first[rows[lost]] = False
        founders |= first
        lonely &= ~first
    return np.flatnonzero(founders), joined


def _exchange(graph: Graph, values: np.ndarray) -> np.ndarray:
    """The halo's values. **Collective.**"""
    wide = values.astype(np.float64 if values.dtype.kind == "f" else np.int64)
    here = torch.from_numpy(wide).to(graph.layout.world.device)
    return graph.plan.exchange(here).cpu().numpy()

"""Aggregates on a device: roots that are far apart, and who joins them."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from hpc_sla.distributed.layout import RowLayout
from hpc_sla.precond.amg.device.arrays import (
    cuts,
    joined,
    pointers,
    segment_largest,
    true_places,
)
from hpc_sla.precond.amg.device.independent import ABOVE, independent_set, node_of, priorities
from hpc_sla.precond.amg.device.numbers import noise, stored_rows
from hpc_sla.precond.amg.device.strength import Connections, NodeGraph
from hpc_sla.precond.amg.device.widened import widened

Tensor = torch.Tensor

_MISSED = 3
"""A node may be the root of what is left with two thirds of its neighbourhood, or all neighbours
but so many: on a line a node alone. Joining others costs more iterations than it saves work."""

_MANY = 63
"""Nodes of an aggregate that is as large as any."""


def aggregates_of(graph: NodeGraph, threshold: float) -> tuple[RowLayout, Tensor]:
    """Group each rank's nodes, and its lone ones with those of other ranks. **Collective.**

    Aggregates grow around the roots of a maximal independent set of distance two (Bell, Dalton and
    Olson, SIAM J. Sci. Comput. 34, 2012, section 4), inside each rank, on connections above the
    threshold, on grids in space of `widened` ones; around those of a second one where at least two
    neighbours are left (Kelley and Rajamanickam, "Parallel, portable algorithms for distance-2
    maximal independent set and graph coarsening", IPDPS 2022, algorithm 3); the rest join their
    strongest neighbours. What becomes of a node without a strong neighbour on its own rank: see
    `amg.aggregation.aggregate`.

    Returns
    -------
    RowLayout
        Of the aggregates.
    int32 tensor [n_nodes]
        The stored number of each owned node's aggregate, -1 for a node without any strong
        neighbour; int64 where 32 bits do not count them.
    """
    layout, world = graph.layout, graph.layout.world
    strong = graph.strong(threshold)
    root = _roots(strong, layout)
    alone = torch.zeros_like(root, dtype=torch.bool)
    alone[strong.far_rows] = True
    alone &= root < 0
    hosts = None
    if world.size > 1 and world.sum(int(alone.sum())):
        founders, hosts = _beyond(graph, strong, root >= 0, alone)
        root = torch.where(founders, torch.arange(len(root), device=root.device), root)
    chosen = torch.zeros(len(root) + 1, dtype=torch.bool, device=root.device)
    chosen[root] = True  # that of none is behind the others
    number = chosen[:-1].cumsum(0) - 1
    aggregates = RowLayout(world, world.offsets(int(chosen[:-1].sum())))
    group = number.index_select(0, root.clamp(min=0)) + aggregates.start if len(root) else root
    group = torch.where(root < 0, -1, group)
    if hosts is not None:
        # Whom they hosts is known by node; its aggregate has a number only now.
        there = graph.plan.exchange(group)
        guests = true_places(hosts >= 0)
        group[guests] = there[hosts[guests]]
    small = aggregates.n_global < 2**31
    return aggregates, group.to(torch.int32) if small else group


def _roots(strong: Connections, layout: RowLayout) -> Tensor:
    """The root of each node's aggregate, -1 for one without a strong neighbour: int64. Local."""
    indptr, columns, n = strong.indptr, strong.columns, layout.n_owned
    if not len(columns):
        return torch.full((n,), -1, device=indptr.device)
    priority = priorities(stored_rows(layout, indptr.device))
    wide = widened(indptr, columns)
    claim = _claims(*wide, priority, indptr.diff() > 0)
    degrees, reach = indptr.diff().int(), wide[0].diff().int()
    del wide
    # Where many are left between aggregates they make one of their own.
    left = (claim < 0) & (degrees > 0)
    inner = _among(indptr, columns, left)
    around = inner[0].diff().int()
    total = degrees.index_add(
        0, strong.far_rows, torch.ones_like(strong.far_rows, dtype=torch.int32)
    )
    few_missed = (around >= total - _MISSED) & ((around > 0) | (total <= 2))
    many = (3 * (around + 1) >= 2 * (total + 1)) | few_missed
    # Where it was widened one of seven nodes would be a small one.
    many &= (reach == degrees) | (around == total)
    many &= left
    del degrees, reach, around, total, few_missed
    claim = torch.where(left, _claims(*inner, priority, many), claim)
    del inner
    # Guests are no hosts: an aggregate would grow into a chain.
    root = torch.where(claim < 0, _hosts(strong, claim), claim)
    return torch.where(root < 0, -1, node_of(root))


def _runs(indptr: Tensor, columns: Tensor) -> Iterator[tuple[int, int, Tensor, slice]]:
    """The graph by pieces: its nodes from the first to the last, and the edges: whose each is, from
    the first on, and where they are.
    """
    for (first, last), cut in cuts(indptr, len(columns)):
        degrees = indptr[first : last + 1].diff()
        runs = torch.arange(last - first, device=columns.device)
        rows = torch.repeat_interleave(runs, degrees, output_size=cut[1] - cut[0])
        yield first, last, rows, slice(*cut)


def _among(indptr: Tensor, columns: Tensor, some: Tensor) -> tuple[Tensor, Tensor]:
    """What is left of the graph between some of its nodes. Local."""
    parts = [(indptr.new_zeros(1), columns.new_empty(0))]
    for first, last, rows, part in _runs(indptr, columns):
        there = columns[part]
        mine = some[first:last].index_select(0, rows)
        edges = true_places(mine & some.index_select(0, there))
        ends = pointers(rows.index_select(0, edges), last - first)
        parts.append((ends.diff(), there.index_select(0, edges)))
    counts, found = joined(parts)
    return counts.cumsum(0), found


def _hosts(strong: Connections, claim: Tensor) -> Tensor:
    """As of `_smallest_first`, that of a node's strongest neighbour that has one; or -1. Local."""
    claims = _smallest_first(claim)
    parts = [(claim.new_empty(0),)]
    for first, last, rows, part in _runs(strong.indptr, strong.columns):
        hosts = claims.index_select(0, strong.columns[part])
        edges = true_places((claim[first:last] < 0).index_select(0, rows) & (hosts >= 0))
        rows, hosts, sizes = (t.index_select(0, edges) for t in (rows, hosts, strong.sizes[part]))
        ends = pointers(rows, last - first)
        strongest = segment_largest(sizes, ends, 0.0).index_select(0, rows)
        parts.append((segment_largest(torch.where(sizes == strongest, hosts, -1.0), ends, -1.0),))
    return joined(parts)[0]


def _smallest_first(claim: Tensor) -> Tensor:
    """Each claim, and above it what is larger the fewer nodes have the same; -1 stays. Local."""
    node = node_of(claim.clamp(min=0))
    size = torch.zeros_like(node).index_add_(0, node, (claim >= 0).long())
    room = _MANY - size.index_select(0, node).clamp(max=_MANY)
    return torch.where(claim < 0, -1.0, claim + room.double() * ABOVE)


def _claims(indptr: Tensor, columns: Tensor, priority: Tensor, open_: Tensor) -> Tensor:
    """For each node the priority of the root that it is, or is a neighbour of; or -1. Local."""
    roots = independent_set(indptr, columns, priority, open_)
    own = torch.where(roots, priority, -1.0)
    around = segment_largest(own.index_select(0, columns), indptr, -1.0)
    return torch.where(roots, own, around)


def _beyond(
    graph: NodeGraph, strong: Connections, settled: Tensor, lonely: Tensor
) -> tuple[Tensor, Tensor]:
    """What becomes of nodes whose strong neighbours are all on other ranks. **Collective.**

    Returns
    -------
    bool tensor [n_nodes]
        Which of them found an aggregate.
    int64 tensor [n_nodes]
        The halo node whose aggregate each owned node joins, -1 for none.
    """
    world, plan = graph.layout.world, graph.plan
    rows, columns, sizes = strong.far_rows, strong.far_columns, strong.far_sizes
    order = noise(stored_rows(graph.layout, world.device) + 1)
    lower = plan.exchange(order).index_select(0, columns) < order.index_select(0, rows)
    hosts_of = torch.full_like(lonely, -1, dtype=torch.int64)
    founders = torch.zeros_like(lonely)
    while world.sum(int(lonely.sum())):
        hosts = plan.exchange((settled | founders).long()).index_select(0, columns) > 0
        open_there = plan.exchange(lonely.long()).index_select(0, columns) > 0
        able = lonely.index_select(0, rows) & hosts
        # The strongest host of each row, of equals the last. No order of entries plays a part.
        size = torch.where(able, sizes, 0.0)
        strongest = size.new_zeros(len(lonely)).scatter_reduce_(0, rows, size, "amax")
        able &= sizes == strongest.index_select(0, rows)
        hosts_of = hosts_of.scatter_reduce(0, rows, torch.where(able, columns, -1), "amax")
        lonely = lonely & (hosts_of < 0)
        lost = lonely.index_select(0, rows) & open_there & lower
        beaten = torch.zeros_like(hosts_of).scatter_reduce_(0, rows, lost.long(), "amax") > 0
        founders |= lonely & ~beaten
        lonely = lonely & beaten
    return founders, hosts_of

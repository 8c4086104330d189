"""Neighbourhoods of nodes on grids in space, widened so that aggregates there are large enough."""

from __future__ import annotations

from itertools import pairwise

import torch

from hpc_sla.precond.amg.device.arrays import (
    at,
    grouped,
    host,
    joined,
    pieces,
    pointers,
    segment_sums,
    true_places,
    written_out,
)
from hpc_sla.precond.amg.device.independent import Around

Tensor = torch.Tensor

FEWEST, MOST = 5, 8
"""Neighbours of a node on the face of a grid in space, and of one inside a grid of four dimensions:
in a plane there are fewer."""

_DIRECT = 1024.0
"""What stands for a connection itself among counts of ways over a node between, which are fewer."""


def widened(indptr: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """The graph, and connections over two nodes at least between where a ring has holes. Local.

    A node of five to eight neighbours, no two of them connected, has those besides that are
    connected to two of them: of a cube of 27 nodes the edges, where neighbours are the faces. As in
    `kernels.multigrid.aggregate`: with the neighbours alone the next level would have four times as
    many entries. The other node has the connection where it is such a node as well.

    Parameters
    ----------
    indptr, columns : int64 tensor [n + 1], int64 tensor [t]
        The graph: no node is its own neighbour.

    Returns
    -------
    int64 tensor [n + 1], int tensor
        The same of the larger one, or what was given where there is nothing to add.
    """
    degrees = indptr.diff()
    ring = (degrees >= FEWEST) & (degrees <= MOST)
    (some,) = host(ring.sum())
    if not some:
        return indptr, columns
    # Of each such node its neighbours, and theirs.
    theirs = Around(indptr, columns)(segment_sums, degrees.double()).long()
    edges = pieces((degrees + torch.where(ring, theirs, 0)).cumsum(0))
    del theirs
    parts = [(indptr.new_zeros(1), columns.new_empty(0, dtype=torch.int32))]
    for (first, last), cut in zip(pairwise(edges), pairwise(at(indptr, edges)), strict=True):
        runs = torch.arange(first, last, device=indptr.device)
        rows = torch.repeat_interleave(runs, degrees[first:last], output_size=cut[1] - cut[0])
        source, target = _reached(indptr, columns, rows, columns[slice(*cut)], ring)
        parts.append((pointers(source - first, last - first).diff(), target.int()))
    counts, found = joined(parts)
    return counts.cumsum(0), found


def _reached(
    indptr: Tensor, columns: Tensor, rows: Tensor, middles: Tensor, ring: Tensor
) -> tuple[Tensor, Tensor]:
    """Some whole rows' connections in the larger graph, by rows and columns. Local."""
    n = len(ring)
    mine = true_places(ring.index_select(0, rows))
    source, middle = rows.index_select(0, mine), middles.index_select(0, mine)
    starts = indptr.index_select(0, middle)
    counts = indptr.index_select(0, middle + 1) - starts
    run, entry = written_out(starts, counts, *host(counts.sum()))
    ways = source.index_select(0, run) * n + columns.index_select(0, entry)
    keys = torch.cat([rows * n + middles, ways])
    weights = torch.ones_like(keys, dtype=torch.float64)
    weights[: len(rows)] = _DIRECT
    order, first, ends = grouped(keys)
    sums = segment_sums(weights.index_select(0, order), ends)
    keys = keys.index_select(0, first)
    source, target = keys.div(n, rounding_mode="floor"), keys % n
    closed = torch.zeros(n, dtype=torch.bool, device=indptr.device)
    closed[source.index_select(0, true_places(sums > _DIRECT))] = True  # a neighbour of two
    further = (sums >= 2) & (source != target) & ~closed.index_select(0, source)
    kept = true_places((sums >= _DIRECT) | further)
    return source.index_select(0, kept), target.index_select(0, kept)

"""Neighbourhoods of nodes on grids in space, widened so that aggregates there are large enough."""

from __future__ import annotations

from itertools import pairwise

import torch

from hpc_sla.precond.amg.device.arrays import (
    at,
    grouped,
    host,
    pieces,
    pointers,
    segment_sums,
    true_places,
    written_out,
)

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
    runs = torch.arange(len(degrees), device=indptr.device)
    rows = torch.repeat_interleave(runs, degrees, output_size=len(columns))
    # Of each such node its neighbours, and theirs.
    costs = torch.where(ring.index_select(0, rows), degrees.index_select(0, columns), 0)
    costs = torch.cat([costs.new_zeros(1), (costs + 1).cumsum(0)]).index_select(0, indptr)
    edges = pieces(costs[1:])
    counts, found = [indptr[:1]], [columns[:0].int()]
    for rows_of, entries in zip(pairwise(edges), pairwise(at(indptr, edges)), strict=True):
        part = slice(*entries)
        source, target = _reached(indptr, columns, rows[part], columns[part], ring)
        counts.append(pointers(source - rows_of[0], rows_of[1] - rows_of[0]).diff())
        found.append(target.int())
    return torch.cat(counts).cumsum(0), torch.cat(found)


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

"""The Galerkin product on a device: products written out, sorted and summed, piece by piece."""

from __future__ import annotations

from itertools import pairwise
from typing import TypeAlias

import numpy as np
import torch

from hpc_sla.distributed.halo import HaloPlan
from hpc_sla.distributed.layout import RowLayout
from hpc_sla.kernels.csr import CsrPattern
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
from hpc_sla.precond.amg.device.numbers import stored_rows
from hpc_sla.precond.amg.device.prolongator import (
    MOST_ENTRIES,
    DeviceProlongator,
    VectorRows,
    check_entries,
)
from hpc_sla.precond.amg.device.remote import fetch_rows, send_home
from hpc_sla.precond.amg.device.rows import RankRows
from hpc_sla.sparse.matrix import DSparseMatrix
from hpc_sla.sparse.pattern import DistributedPattern

Tensor = torch.Tensor
Block: TypeAlias = tuple[Tensor, Tensor, Tensor]


def product_of(
    A: RankRows, plan: HaloPlan, P: DeviceProlongator, known: DistributedPattern | None = None
) -> DSparseMatrix:
    """`P^T A P`. **Collective.**

    By rows of (P^T A) P. Which entries there are says the pattern of A and of P, not their values.

    Parameters
    ----------
    A : RankRows
    plan : HaloPlan
        Of vectors that A multiplies.
    P : DeviceProlongator
    known : DistributedPattern, optional
        Of the product, from other values of A and the same P.

    Raises
    ------
    InputError
        On every rank: the product has more entries than 32 bits count.
    """
    layout, world, dtype = P.nodes.layout, plan.layout.world, A.dtype
    work = _DeviceWork(A, plan, P)
    parts = work.rows(0, layout.n_owned)
    beyond = None
    if world.size > 1:
        beyond = joined(work.rows(layout.n_owned, layout.n_owned + P.nodes.n_halo))
    del A, work  # before there is another copy of what they made
    counts, columns, values = joined(parts)
    ends = _ends(counts)
    if beyond is not None:
        there = _row_of(_ends(beyond[0]), len(beyond[1]))
        more = send_home(P.nodes, there, beyond[1].long(), beyond[2])
        rows = torch.cat([_row_of(ends, len(columns)), more[0]])
        columns = torch.cat([columns.long(), more[1]])
        values = torch.cat([values, more[2]])
        del beyond, there, more
        order, first, sums = grouped(rows * layout.n_global + columns)
        values = segment_sums(values.index_select(0, order), sums).to(dtype)
        rows, columns = rows.index_select(0, first), columns.index_select(0, first)
        ends = pointers(rows, layout.n_owned)
    check_entries(world, values.numel(), "coarse level's matrix")
    if known is None:
        return DSparseMatrix(*_distributed(P.nodes, ends, columns, values))
    (_, _, near), (_, _, far), _ = _parts(layout, ends, columns, values)
    return DSparseMatrix(known, _behind(near, far))


class _DeviceWork:
    """What the rows of a product are made of. **Collective.**"""

    def __init__(self, A: RankRows, plan: HaloPlan, P: DeviceProlongator) -> None:
        layout, rows, device = P.nodes.layout, P.rows, A.device
        self._A, self._transposed, self._P = A, P.transposed, rows
        self._n_global, self._square = layout.n_global, P.vectors**2
        # What is as long as the entries is held in few bytes; others' parts are added in double.
        self._kind = torch.int32 if layout.n_global <= MOST_ENTRIES else torch.int64
        self._dtype = A.dtype if layout.world.size == 1 else torch.float64
        halo = torch.from_numpy(P.nodes.halo).to(device)
        self._numbers = torch.cat([stored_rows(layout, device), halo])
        counts, columns, values = fetch_rows(plan, rows, self._numbers)
        if len(counts):
            ends = counts.cumsum(0) + rows.indptr[-1]
            local = torch.arange(len(columns), device=device) + len(self._numbers)
            self._P = VectorRows(
                torch.cat([rows.indptr, ends.to(torch.int32)]),
                torch.cat([rows.columns, local.to(torch.int32)]),
                torch.cat([rows.values, values]),
            )
            self._numbers = torch.cat([self._numbers, columns])
        lengths = self._P.indptr.diff().long()
        self._costs = lengths.new_zeros(self._A.n)
        for piece in self._A.pieces():
            met = lengths.index_select(0, piece.columns)
            self._costs.index_add_(0, piece.rows + piece.first, met)

    def rows(self, first: int, last: int) -> list[Block]:
        """Those of some rows of P^T, in pieces: entries a row, and in order the stored column
        and the [m, m] of each. Local.
        """
        transposed = self._transposed
        ends = transposed.indptr[first : last + 1]
        costs = self._costs.index_select(0, transposed.columns).cumsum(0)
        costs = torch.cat([costs.new_zeros(1), costs]).index_select(0, ends)
        edges = pieces((costs[1:] - costs[0]) * self._square)
        begins = at(ends, edges)
        none, m = ends.new_empty(0, dtype=self._kind), transposed.values.shape[1]
        nothing = none.int(), none, none.new_empty((0, m, m), dtype=self._dtype)
        return [
            nothing,
            *(
                self._piece(first + rows[0], first + rows[1], *entries)
                for rows, entries in zip(pairwise(edges), pairwise(begins), strict=True)
            ),
        ]

    def _piece(self, first: int, last: int, begin: int, end: int) -> Block:
        """Rows `first` to `last` of P^T, which are its entries `begin` to `end`."""
        transposed, P = self._transposed, self._P
        counts = transposed.indptr[first : last + 1].diff().long()
        runs = torch.arange(last - first, device=counts.device)
        row = torch.repeat_interleave(runs, counts, output_size=end - begin)
        run, middle, value = self._A.of_rows(transposed.columns[begin:end])
        row = row.index_select(0, run)
        order, head, ends = grouped(row * self._A.columns + middle)
        left = transposed.values[begin:end].index_select(0, run.index_select(0, order)).double()
        left = segment_sums(left * value.index_select(0, order).unsqueeze(1), ends)
        row, middle = row.index_select(0, head), middle.index_select(0, head)

        starts = P.indptr.index_select(0, middle)
        counts = P.indptr.index_select(0, middle + 1) - starts
        run, entry = written_out(starts, counts, *host(counts.sum()))
        row = row.index_select(0, run)
        column = self._numbers.index_select(0, P.columns.index_select(0, entry))
        order, head, ends = grouped(row * self._n_global + column)
        left = left.index_select(0, run.index_select(0, order))
        right = P.values.index_select(0, entry.index_select(0, order)).double()
        values = segment_sums(left.unsqueeze(2) * right.unsqueeze(1), ends).to(self._dtype)
        counts = pointers(row.index_select(0, head), last - first).diff().int()
        return counts, column.index_select(0, head).to(self._kind), values


def _ends(counts: Tensor) -> Tensor:
    """Where rows of so many entries begin, and the end: int64 [n + 1]. Local."""
    return torch.cat([counts.new_zeros(1, dtype=torch.int64), counts.cumsum(0)])


def _row_of(ends: Tensor, count: int) -> Tensor:
    """The row of each of so many entries: int64. Local."""
    runs = torch.arange(len(ends) - 1, device=ends.device)
    return torch.repeat_interleave(runs, ends.diff(), output_size=count)


def _behind(near: Tensor, far: Tensor) -> Tensor:
    return torch.cat([near, far]) if len(far) else near


def _distributed(
    nodes: HaloPlan, ends: Tensor, columns: Tensor, values: Tensor
) -> tuple[DistributedPattern, Tensor]:
    """Rows of entries at stored columns of aggregates as a distributed matrix. **Collective.**"""
    layout, m = nodes.layout, values.shape[1]
    near, far, halo = _parts(layout, ends, columns, values)
    whole = layout if m == 1 else RowLayout(layout.world, layout.offsets * m)
    counts = far[0].diff()
    boundary = true_places(counts > 0)
    ends = torch.cat([far[0][:1], far[0].index_select(0, boundary + 1)])
    unknowns = (halo.cpu().numpy()[:, None] * m + np.arange(m)).ravel()

    pattern = DistributedPattern(
        whole,
        CsrPattern(near[0].int(), near[1].int(), layout.n_owned * m),
        CsrPattern(ends.int(), far[1].int(), len(unknowns)),
        boundary.int(),
        HaloPlan(whole, unknowns),
    )
    return pattern, _behind(near[2], far[2])


def _parts(
    layout: RowLayout, ends: Tensor, columns: Tensor, values: Tensor
) -> tuple[Block, Block, Tensor]:
    """Blocks of owned and of other columns, with all rows; and which others there are. Local."""
    n = layout.n_owned
    if layout.world.size == 1:
        none, no_values = columns.new_empty(0), values.new_empty((0, *values.shape[1:]))
        return _block(ends, columns, values), _block(torch.zeros_like(ends), none, no_values), none
    rows, own = _row_of(ends, len(columns)), columns - layout.start
    inside = (own >= 0) & (own < n)
    near, far = true_places(inside), true_places(~inside)
    halo, place = torch.unique(columns.index_select(0, far), return_inverse=True)
    columns = own.index_select(0, near)
    first, second = (
        _block(pointers(rows.index_select(0, some), n), columns_of, values.index_select(0, some))
        for some, columns_of in ((near, columns), (far, place))
    )
    return first, second, halo


def _block(ends: Tensor, columns: Tensor, values: Tensor) -> Block:
    """Row pointers, columns and values of entries of m by m, by single ones. Local."""
    m = values.shape[1]
    if m == 1:
        return ends, columns, values.reshape(-1)
    unknowns = torch.arange(m, device=ends.device)
    lengths = ends.diff() * m
    begins = ends[:-1, None] * m * m + lengths[:, None] * unknowns
    indptr = torch.cat([begins.view(-1), ends[-1:] * m * m])
    rows = _row_of(ends, len(columns))
    within = torch.arange(len(rows), device=rows.device) - ends.index_select(0, rows)
    places = begins.index_select(0, rows) + within[:, None] * m
    places = (places[:, :, None] + unknowns).view(-1)
    columns = (columns[:, None, None] * m + unknowns).expand(values.shape).reshape(-1)
    values = values.reshape(-1)
    columns = torch.empty_like(columns).index_copy_(0, places, columns)
    return indptr, columns, torch.empty_like(values).index_copy_(0, places, values)

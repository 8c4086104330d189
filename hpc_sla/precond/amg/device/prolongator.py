"""The prolongator on a device: as `precond/amg/prolongator.py`, which see."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from hpc_sla.distributed.halo import HaloPlan
from hpc_sla.distributed.layout import RowLayout
from hpc_sla.distributed.world import World
from hpc_sla.errors import InputError
from hpc_sla.precond.amg.device.arrays import (
    grouped,
    joined,
    pointers,
    segment_largest,
    segment_sums,
    true_places,
)
from hpc_sla.precond.amg.device.numbers import stored_rows
from hpc_sla.precond.amg.device.rows import Piece, RankRows
from hpc_sla.precond.amg.device.tentative import Places, tentative_of
from hpc_sla.precond.amg.prolongator import DAMPING, SMALL

Tensor = torch.Tensor

MOST_ENTRIES = 2**31 - 1
"""That 32-bit row pointers count."""


@dataclass(frozen=True)
class VectorRows:
    """A rank-local matrix whose entries are vectors, by rows.

    Attributes
    ----------
    indptr : int32 tensor [rows + 1]
    columns : int32 tensor [t]
        Ascending in each row.
    values : tensor [t, m]
    """

    indptr: Tensor
    columns: Tensor
    values: Tensor

    def transposed(self, columns: int) -> VectorRows:
        """The transpose, whose rows have entries by ascending column. Local."""
        ends, order = torch.sort(self.columns, stable=True)
        runs = torch.arange(len(self.indptr) - 1, dtype=torch.int32, device=ends.device)
        counts = self.indptr.diff().long()
        rows = torch.repeat_interleave(runs, counts, output_size=len(order))
        arrays = rows.index_select(0, order), self.values.index_select(0, order)
        return VectorRows(pointers(ends, columns).to(torch.int32), *arrays)


@dataclass(frozen=True)
class DeviceProlongator:
    """P: its rows are the fine unknowns, its columns aggregates of m unknowns each (per rank).

    Attributes
    ----------
    nodes : HaloPlan
        Of values at aggregates.
    rows : VectorRows
        Of n_owned rows; columns are those owned and behind them the halo.
    transposed : VectorRows
        P^T by aggregates: vectors are columns of m unknowns.
    """

    nodes: HaloPlan
    rows: VectorRows
    transposed: VectorRows

    @property
    def vectors(self) -> int:
        """M."""
        return self.rows.values.shape[1]

    @property
    def home(self) -> HaloPlan:
        """What `by` takes to undo `over`."""
        return self.nodes

    def over(self, layout: RowLayout) -> DeviceProlongator:
        """The same where others own the coarse unknowns, whose order stays. **Collective.**"""
        layout = RowLayout(layout.world, layout.offsets // self.vectors)
        used = torch.unique(self._stored())
        away = (used < layout.start) | (used >= layout.start + layout.n_owned)
        return self.by(HaloPlan(layout, used[true_places(away)].cpu().numpy()))

    def by(self, plan: HaloPlan) -> DeviceProlongator:
        """The same in the numbers of a plan that knows all of its columns. Local."""
        start, n = plan.layout.start, plan.layout.n_owned
        stored = self._stored()
        halo = torch.from_numpy(plan.halo).to(stored.device)
        inside = (stored >= start) & (stored < start + n)
        columns = torch.where(inside, stored - start, n + torch.searchsorted(halo, stored))
        rows = VectorRows(self.rows.indptr, columns.to(torch.int32), self.rows.values)
        turned = rows.transposed(n + plan.n_halo)  # and back: entries of a row are to ascend
        return DeviceProlongator(plan, turned.transposed(len(rows.indptr) - 1), turned)

    def _stored(self) -> Tensor:
        """The stored aggregate of each vector: int64 [t]. Local."""
        columns = self.rows.columns
        halo = torch.from_numpy(self.nodes.halo).to(columns.device)
        numbers = torch.cat([stored_rows(self.nodes.layout, columns.device), halo])
        return numbers.index_select(0, columns)


def prolongator_of(
    A: RankRows,
    plan: HaloPlan,
    inverse: Tensor,
    largest: float,
    aggregates: RowLayout,
    group: Tensor,
    B: Tensor,
    dtype: torch.dtype,
) -> tuple[DeviceProlongator, Tensor]:
    """`P = (I - omega D^-1 A) T` and the next level's near-nullspace. **Collective.**

    Parameters
    ----------
    A : RankRows
    plan : HaloPlan
        Of vectors that A multiplies.
    inverse : torch.Tensor [n_owned]
        The diagonal of D^-1.
    largest : float
        Of the eigenvalues of D^-1 A. Replicated.
    aggregates : RowLayout
    group : int tensor [n_owned]
        The stored aggregate of each row, -1 for none.
    B : float64 tensor [n_owned, m]
    dtype : torch.dtype
        Of P's values.

    Raises
    ------
    InputError
        On every rank: P has more entries than 32 bits count.
    """
    places = Places.of(plan, aggregates, group)
    Q, coarse = tentative_of(places, B)
    smoothing = _Smoothing(
        -(DAMPING / largest) * inverse.double(),
        torch.cat([places.here, places.there]),
        None if Q is None else plan.extend(Q),
        B.shape[1],
        aggregates.n_owned + places.plan.n_halo,
    )
    none = group.new_empty(0, dtype=torch.int32)
    parts = [(group.new_zeros(1), none, none.new_empty((0, B.shape[1]), dtype=dtype))]
    parts += (smoothing(piece, dtype) for piece in A.pieces(B.shape[1]))
    reached = places.plan
    del A, plan, places, smoothing, Q  # what the pieces were made of is no longer needed
    counts, columns, values = joined(parts)
    check_entries(aggregates.world, values.numel(), "prolongator")
    nodes, columns = _used(reached, columns)
    rows = VectorRows(counts.cumsum(0).to(torch.int32), columns.to(torch.int32), values)
    del counts
    transposed = rows.transposed(aggregates.n_owned + nodes.n_halo)
    return DeviceProlongator(nodes, rows, transposed), coarse


@dataclass(frozen=True)
class _Smoothing:
    """What goes into P's rows. Columns of T, and Q's rows, are at A's owned and halo columns."""

    damped: Tensor
    column: Tensor
    Q: Tensor | None
    vectors: int
    width: int

    def __call__(self, piece: Piece, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """Entries a row, their columns and their values, of a piece of A's rows. Local."""
        n = piece.last - piece.first
        own = torch.arange(n, device=piece.rows.device)
        weights = self.damped[piece.first : piece.last].index_select(0, piece.rows) * piece.values
        rows = torch.cat([own, piece.rows])
        source = torch.cat([own + piece.first, piece.columns])
        weights = torch.cat([weights.new_ones(n), weights])
        columns = self.column.index_select(0, source)
        inside = true_places(columns >= 0)
        rows, source, weights, columns = (
            part.index_select(0, inside) for part in (rows, source, weights, columns)
        )
        order, first, ends = grouped(rows * self.width + columns)
        entries = weights.index_select(0, order).unsqueeze(1)
        if self.Q is not None:
            entries = entries * self.Q.index_select(0, source.index_select(0, order))
        values = segment_sums(entries, ends)
        rows, columns = rows.index_select(0, first), columns.index_select(0, first)
        if self.vectors == 1:
            rows, columns, values = _truncated(rows, columns, values, n)
        return pointers(rows, n).diff(), columns.to(torch.int32), values.to(dtype)


def _truncated(
    rows: Tensor, columns: Tensor, values: Tensor, n: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Without the smallest entries of each row; the rest is scaled to the row's old sum. Local."""
    ends, size = pointers(rows, n), values.abs().squeeze(1)
    largest = segment_largest(size, ends, 0.0)
    keep = ~(size < SMALL * largest.index_select(0, rows))
    sums, kept = segment_sums(values, ends), segment_sums(values * keep.unsqueeze(1), ends)
    scale = torch.where(kept != 0, sums / kept, 1.0)
    kept_entries = true_places(keep)
    rows, columns, values = (part.index_select(0, kept_entries) for part in (rows, columns, values))
    return rows, columns, values * scale.index_select(0, rows)


def check_entries(world: World, count: int, what: str) -> None:
    """Raise InputError where 32-bit row pointers do not count a rank's entries. **Collective.**"""
    with world.agree():
        if count > MOST_ENTRIES:
            raise InputError(
                f"a {what} has {count} entries on one rank, which do not fit 32-bit local indices",
                remedy="Use more ranks",
            )


def _used(plan: HaloPlan, columns: Tensor) -> tuple[HaloPlan, Tensor]:
    """The plan with what there are columns of, and these as it numbers them. **Collective.**"""
    world, n = plan.layout.world, plan.layout.n_owned
    if world.size == 1:
        return plan, columns
    met = torch.zeros(n + plan.n_halo, dtype=torch.bool, device=columns.device)
    met[columns.long()] = True
    met[:n] = True
    if not world.sum(int((~met).sum())):
        return plan, columns
    number = met.cumsum(0) - 1
    halo = plan.halo[met[n:].cpu().numpy()]
    return HaloPlan(plan.layout, np.ascontiguousarray(halo)), number.index_select(0, columns)

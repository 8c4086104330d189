"""The prolongator: the tentative one, smoothed by a step of damped Jacobi."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from hpc_sla.distributed.halo import HaloPlan
from hpc_sla.distributed.layout import RowLayout
from hpc_sla.kernels import multigrid as kernels
from hpc_sla.kernels.tiles import Tiles
from hpc_sla.precond.amg.blocks import Blocks, Columns, used

DAMPING = 4 / 3
"""Vanek, Mandel and Brezina, Computing 56 (1996), section 3: the best for a model problem."""

SMALL = 0.002
"""Entries of a smaller part of their row's largest only make the next level denser."""


@dataclass(frozen=True)
class Prolongator:
    """P: its rows lie as the fine unknowns, its columns as the coarse ones (per rank).

    Attributes
    ----------
    plan : HaloPlan
        Of coarse vectors: P's columns are those owned, and behind them the halo.
    rows : Tiles
        Of n_owned rows.
    transposed : Tiles
        P^T by rows, of the same tiles.
    """

    plan: HaloPlan
    rows: Tiles
    transposed: Tiles

    def parts(self) -> tuple[Tiles, Tiles]:
        """P^T's owned rows, and those of the halo. Local."""
        owned = self.plan.layout.n_owned // self.transposed.size[1]
        return self.transposed.between(0, owned), self.transposed.between(owned, self.rows.columns)

    @property
    def home(self) -> HaloPlan:
        """What `by` takes to undo `over`."""
        return self.plan

    def over(self, layout: RowLayout) -> Prolongator:
        """The same where others own the coarse unknowns, whose order stays. **Collective.**"""
        wide = self.rows.size[1]
        used = np.unique(self._stored())
        away = used[(used < layout.start // wide) | (used * wide >= layout.start + layout.n_owned)]
        return self.by(HaloPlan(layout, (away[:, None] * wide + np.arange(wide)).ravel()))

    def by(self, plan: HaloPlan) -> Prolongator:
        """The same in the numbers of a plan that knows all of its columns. Local."""
        wide, rows = self.rows.size[1], self.rows
        start, n = plan.layout.start // wide, plan.layout.n_owned // wide
        halo = plan.halo[::wide] // wide
        stored = self._stored()
        inside = (stored >= start) & (stored < start + n)
        columns = np.where(inside, stored - start, n + np.searchsorted(halo, stored))
        moved = Tiles(rows.indptr, columns.astype(np.int32), rows.values, n + len(halo))
        turned = moved.transposed()  # and back: entries of a row are to ascend
        return Prolongator(plan, turned.transposed(), turned)

    def _stored(self) -> np.ndarray:
        """The stored column of tiles of each tile: int64. Local."""
        wide, layout = self.rows.size[1], self.plan.layout
        own = (layout.start + np.arange(0, layout.n_owned, wide)) // wide
        return np.concatenate([own, self.plan.halo[::wide] // wide])[self.rows.indices]


def smoothed_prolongator(
    blocks: Blocks,
    inverse: np.ndarray,
    largest: float,
    plan: HaloPlan,
    aggregates: RowLayout,
    group: np.ndarray,
    Q: np.ndarray | None,
    tile: tuple[int, int],
    dtype: np.dtype,
) -> Prolongator:
    """`P = (I - omega D^-1 A) T` with omega = 4/3 over the largest eigenvalue. **Collective.**

    Vanek, Mandel and Brezina, Computing 56 (1996), equation 3.2, with all of A. For one
    near-nullspace vector the smallest entries are dropped, which changes next to nothing but the
    cost: where A is strongly anisotropic they would make the next level four times as dense.

    Parameters
    ----------
    blocks : Blocks
        Of A.
    inverse : array [n_owned]
        The diagonal of D^-1, of A's dtype.
    largest : float
        Of the eigenvalues of D^-1 A. Replicated.
    plan : HaloPlan
        A's.
    aggregates : RowLayout
    group : int32 or int64 array [n_owned]
        The stored aggregate of each row, -1 for none.
    Q : float64 array [n_owned, m] or None
        T's entries. None: ones, on every rank alike.
    tile : (int, int)
        The unknowns of a node, or 1; and m.
    dtype : numpy.dtype
        Of P's values.
    """
    m = tile[1]
    columns = Columns(aggregates)
    there, Q_there = _exchange(plan, group), None if Q is None else _exchange(plan, Q)
    here = _tile_columns(group, columns), Q
    away = _tile_columns(there, columns), Q_there
    rest = (len(columns), tile, SMALL, dtype)
    P = kernels.prolongator(
        blocks.local, blocks.there, inverse, DAMPING / largest, here, away, *rest
    )
    halo = columns.away
    n, wide = aggregates.n_owned, P.size[1]
    if len(halo):
        far = np.flatnonzero(P.indices >= n * m // wide)
        if wide < m:  # without the compiled loops there are only single entries
            columns = Columns(RowLayout(aggregates.world, aggregates.offsets * m))
            columns.away = (halo[:, None] * m + np.arange(m)).ravel()
        halo, place = used(columns, P.indices[far])
        P.indices[far] = columns.layout.n_owned + place
        P = Tiles(P.indptr, P.indices, P.values, columns.layout.n_owned + len(halo))
    coarse = aggregates if m == 1 else RowLayout(aggregates.world, aggregates.offsets * m)
    if wide == m:
        halo = (halo[:, None] * m + np.arange(m)).ravel()
    return Prolongator(HaloPlan(coarse, halo), P, P.transposed())


def _tile_columns(group: np.ndarray, columns: Columns) -> np.ndarray:
    """The local number of each row's aggregate, -1 for none: int32. Local."""
    start, n = columns.layout.start, columns.layout.n_owned
    if start == 0 and group.dtype == np.int32 and group.max(initial=-1) < n:
        return np.ascontiguousarray(group)
    result = np.where(group < 0, -1, group - start).astype(np.int32)
    away = np.flatnonzero((group >= 0) & ((result < 0) | (result >= n)))
    result[away] = columns.local(group[away])
    return result


def _exchange(plan: HaloPlan, values: np.ndarray) -> np.ndarray:
    here = torch.from_numpy(np.ascontiguousarray(values)).to(plan.layout.world.device)
    return plan.exchange(here).cpu().numpy()

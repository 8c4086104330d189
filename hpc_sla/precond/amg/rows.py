"""Equations in units of their own: factors of the rows that bring them together.

Multigrid averages equations into coarser ones, which needs them in the same units. A matrix S A,
with S a diagonal of any sort, has lost them, and nothing tells what S was; but where A was
symmetric, `s_i |a_ij| = s_j |a_ji|` does, and where it was not, equations with diagonals of one
size are as good.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch

from hpc_sla.precond.amg.blocks import Columns
from hpc_sla.precond.amg.remote import send_home
from hpc_sla.precond.base import Preconditioner
from hpc_sla.sparse.matrix import DSparseMatrix

Multigrid = Callable[[DSparseMatrix], Preconditioner]

_BAD = math.log(4)
"""Rows that differ from their neighbours' mean by less than this factor stay as they are."""

_WEAK = 0.01
"""Entries of less weight, rounding among them, say nothing of that."""

_WIDE = math.log(1e10)
"""What symmetry costs at most: beyond, as with convection that dominates, diagonals decide."""

_BETTER = 0.9
"""The part of the misfit that may be left: factors that leave more explain nothing."""

_SHIFT = 1e-6
_STEPS, _RTOL = 50, 1e-10


@dataclass(frozen=True)
class _Edges:
    """The entries beside the diagonal that are no zeros (per rank).

    With d the diagonal's moduli, and `exp(g_i) / d_i` the factor of row i, `g_i - g_j = wanted`
    makes an entry and its mirror image alike. Nothing here changes with the scaling of rows.

    Attributes
    ----------
    entries : int64 array [n_edges]
        Their places in the matrix's values.
    rows, columns : int64 array [n_edges]
        Local; columns of the halo come after those owned.
    wanted : array [n_edges]
        log |a_ji / d_j| - log |a_ij / d_i|, or 0 where a_ji is none.
    weights : array [n_edges]
        sqrt |a_ij a_ji / (d_i d_j)|, at most 1; of a_ij alone where a_ji is none.
    paired : bool array [n_edges]
        Where a_ji is there.
    """

    entries: np.ndarray
    rows: np.ndarray
    columns: np.ndarray
    wanted: np.ndarray
    weights: np.ndarray
    paired: np.ndarray

    @classmethod
    def of(cls, A: DSparseMatrix, log_d: np.ndarray) -> _Edges:
        """**Collective.**"""
        pattern = A.pattern
        size = A.held.plain.abs().double().cpu().numpy()
        rows = pattern.local_rows().cpu().numpy()
        columns = pattern.local_columns().cpu().numpy()
        entries = np.flatnonzero((size > 0) & (rows != columns))
        rows, columns = rows[entries], columns[entries]
        own = np.log(size[entries]) - log_d[rows]
        other = _mirrored(A, rows, columns, own)
        paired = np.isfinite(other)
        wanted = np.where(paired, other - own, 0.0)
        mean = np.where(paired, own + other, 2 * own) / 2
        return cls(entries, rows, columns, wanted, np.exp(mean.clip(max=0)), paired)

    def misfit(self, A: DSparseMatrix, g: np.ndarray) -> np.ndarray:
        """How far each edge is from what is wanted. **Collective.**"""
        return self.difference(A, g) - self.wanted

    def difference(self, A: DSparseMatrix, g: np.ndarray) -> np.ndarray:
        """g_i - g_j. **Collective.**"""
        here = torch.from_numpy(g).to(A.device)
        there = A.pattern.plan.extend(here).cpu().numpy()
        return g[self.rows] - there[self.columns]

    def average(self, values: np.ndarray, n: int) -> np.ndarray:
        """The mean of edges' values over the edges of each row, 0 for one of none: [n]. Local."""
        sums = np.bincount(self.rows, self.weights * values, n)
        weights = np.bincount(self.rows, self.weights, n)
        return np.divide(sums, weights, out=np.zeros(n), where=weights > 0)


def _mirrored(
    A: DSparseMatrix, rows: np.ndarray, columns: np.ndarray, values: np.ndarray
) -> np.ndarray:
    """What the entry at [j, i] has for `values` at [i, j], NaN for none. **Collective.**"""
    n, plan = A.layout.n_owned, A.pattern.plan
    known = [Columns(A.layout), Columns(A.layout)]
    for one in known:
        one.away = np.asarray(plan.halo, dtype=np.int64)
    away = np.flatnonzero(columns >= n)
    outside = sp.csr_matrix(
        (values[away], (columns[away] - n, rows[away])), shape=(plan.n_halo, n + plan.n_halo)
    )
    row, column, value = send_home(outside, known[0], known[1])
    inside = columns < n
    row = np.concatenate([columns[inside], row.astype(np.int64)])
    column = np.concatenate([rows[inside], column.astype(np.int64)])
    value = np.concatenate([values[inside], value])
    width = n + plan.n_halo
    keep = column < width  # one-sided entries come from rows that this rank does not know
    keys = row[keep] * width + column[keep]
    order = np.argsort(keys)
    keys, value = keys[order], value[keep][order]
    mine = rows * width + columns
    place = np.searchsorted(keys, mine)
    place[place == len(keys)] = 0
    found = np.full(len(mine), np.nan)
    if len(keys):
        there = keys[place] == mine
        found[there] = value[place[there]]
    return found


def row_factors(A: DSparseMatrix, multigrid: Multigrid) -> torch.Tensor | None:
    """What to multiply A's rows by, None where they are in the same units. **Collective.**

    None where all rows are within a factor of four of their neighbours' mean.

    Parameters
    ----------
    A : DSparseMatrix
        Square.
    multigrid : callable
        That makes a preconditioner of a symmetric matrix.

    Returns
    -------
    torch.Tensor [n_owned] or None
        Per rank, positive, of A's dtype; on every rank or on none.
    """
    world, size = A.world, A.diagonal().detach().abs().double()
    usable = bool((size > 0).all()) and bool(A.held.plain.isfinite().all())
    if world.sum(int(not usable)):
        return None
    log_d = size.log().cpu().numpy()
    edges = _Edges.of(A, log_d)
    asis = edges.misfit(A, log_d)
    strong = edges.weights > _WEAK
    if world.max(float(abs(asis[strong]).max(initial=0.0))) <= _BAD:
        return None
    fitted = _fit(A, edges, multigrid)
    even = np.zeros_like(fitted)
    squares = [
        float(edges.weights @ part**2)
        for part in (asis, edges.misfit(A, fitted), edges.misfit(A, even))
    ]
    before, after, without = world.sums(np.array(squares))
    wide = world.max(float(fitted.max(initial=-np.inf))) + world.max(
        float((-fitted).max(initial=-np.inf))
    )
    g = fitted
    if wide > _WIDE or after > without / 2:
        g, after = even, without
    # A factor that grows steadily from row to row is a matter of what flows, not of units.
    apart = edges.average(edges.difference(A, log_d - g), len(g))
    if world.max(float(abs(apart).max(initial=0.0))) <= _BAD or not after <= _BETTER * before:
        return None
    return torch.from_numpy(np.exp(g - log_d)).to(A.device, A.dtype)


def _fit(A: DSparseMatrix, edges: _Edges, multigrid: Multigrid) -> np.ndarray:
    """The least-squares g of all pairs, by conjugate gradients. **Collective.**"""
    n, pairs = A.layout.n_owned, edges.paired
    weights = edges.weights[pairs]
    degree, rhs = (
        np.bincount(edges.rows[pairs], weights * part, n).astype(np.float64)  # of none: integers
        for part in (1.0, edges.wanted[pairs])
    )
    values = np.zeros(A.nnz_owned)
    values[edges.entries[pairs]] = -weights
    where = A.pattern.owned.diagonal.cpu().numpy()
    values[where] = np.where(degree > 0, degree * (1 + _SHIFT), 1.0)
    L = A.with_values(torch.from_numpy(values).to(A.device))
    M = multigrid(L)
    dot = A.layout.dot
    g, r = torch.zeros_like(L.diagonal()), torch.from_numpy(rhs).to(A.device)
    z = M.apply(r, torch.empty_like(r)).clone()
    p, first = z.clone(), float(dot(r, z))
    rz = first
    for _ in range(_STEPS):
        if not rz > _RTOL**2 * first:
            break
        q = L @ p
        step = rz / float(dot(p, q))
        g += step * p
        r -= step * q
        z = M.apply(r, z)
        rz, past = float(dot(r, z)), rz
        p = z + rz / past * p
    return g.cpu().numpy()

"""The prolongator: the tentative one, smoothed by a step of damped Jacobi."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch

from hpc_sla.distributed.halo import HaloPlan
from hpc_sla.distributed.layout import RowLayout
from hpc_sla.kernels import multigrid as kernels
from hpc_sla.precond.amg.blocks import Blocks, Columns, csr, distribute
from hpc_sla.sparse.pattern import DistributedPattern

_DAMPING = 4 / 3
"""Vanek, Mandel and Brezina, Computing 56 (1996), section 3: the best for a model problem."""

_SMALL = 0.002
"""Entries of a smaller part of their row's largest only make the next level denser."""


@dataclass(frozen=True)
class Prolongator:
    """P: its rows lie as the fine unknowns, its columns as the coarse ones (per rank).

    Attributes
    ----------
    pattern : DistributedPattern
    values : array [nnz_owned]
        In the pattern's order.
    rows : csr_matrix [n_owned, n_coarse_owned + n_halo]
        The same, in one.
    transposed : csr_matrix [n_coarse_owned + n_halo, n_owned]
        P^T by rows.
    """

    pattern: DistributedPattern
    values: np.ndarray
    rows: sp.csr_matrix
    transposed: sp.csr_matrix


def smoothed_prolongator(
    blocks: Blocks,
    inverse: np.ndarray,
    largest: float,
    plan: HaloPlan,
    group: np.ndarray,
    Q: np.ndarray,
    coarse: RowLayout,
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
        The diagonal of D^-1.
    largest : float
        Of the eigenvalues of D^-1 A. Replicated.
    plan : HaloPlan
        A's.
    group : int64 array [n_owned]
        The stored aggregate of each row, -1 for none.
    Q : float64 array [n_owned, m]
        T's entries.
    coarse : RowLayout
        Of the coarse unknowns, m to an aggregate.
    """
    columns = Columns(coarse)
    there, Q_there = _exchange(plan, group), _exchange(plan, Q)
    _know_neighbours(columns, np.concatenate([group, there]), Q.shape[1])
    damped = _DAMPING / largest * inverse
    halo = blocks.spread(blocks.halo)
    if Q.shape[1] == 1:
        here = (_column(group, columns), Q.ravel())
        away = (_column(there, columns), Q_there.ravel())
        P = kernels.prolongator(blocks.owned, halo, damped, here, away, len(columns), _SMALL)
    else:
        T, T_there = _tentative(group, Q, columns), _tentative(there, Q_there, columns)
        P = _iteration_matrix(blocks.owned, damped) @ T
        if halo.nnz:
            P = P - sp.diags_array(damped) @ (halo @ T_there)
    pattern, values, rows = distribute(plan.layout, columns, P)
    return Prolongator(pattern, values, rows, rows.T.tocsr())


def _tentative(group: np.ndarray, Q: np.ndarray, columns: Columns) -> sp.csr_matrix:
    """T's rows of these groups and entries, in local columns. Local."""
    m = Q.shape[1]
    inside = group >= 0
    everywhere = bool(inside.all())
    first = columns.local((group if everywhere else group[inside]) * m)
    indices = first if m == 1 else (first[:, None] + np.arange(m, dtype=np.int32)).ravel()
    if everywhere:
        indptr = np.arange(0, m * len(group) + 1, m, dtype=np.int32)
    else:
        indptr = np.concatenate([[0], m * np.cumsum(inside)]).astype(np.int32)
    data = Q.ravel() if everywhere else Q[inside].ravel()
    return csr(data, indices, indptr, len(group), len(columns))


def _column(group: np.ndarray, columns: Columns) -> np.ndarray:
    """The local column of each row's one entry, -1 for none. Local."""
    if (group >= 0).all():
        return columns.local(group)
    result = np.full(len(group), -1, dtype=np.int32)
    inside = group >= 0
    result[inside] = columns.local(group[inside])
    return result


def _know_neighbours(columns: Columns, groups: np.ndarray, m: int) -> None:
    """Give numbers to the unknowns of other ranks' aggregates, one after the other. Local."""
    first = columns.layout.start
    end = first + columns.layout.n_owned
    away = np.unique(groups[(groups >= 0) & ((groups * m < first) | (groups * m >= end))])
    columns.local((away[:, None] * m + np.arange(m)).ravel())


def _iteration_matrix(A: sp.csr_matrix, damped: np.ndarray) -> sp.csr_matrix:
    """`I - diag(damped) A`. Local."""
    data = A.data * np.repeat(-damped, np.diff(A.indptr))
    rows = np.repeat(np.arange(A.shape[0], dtype=np.int32), np.diff(A.indptr))
    (diagonal,) = np.nonzero(rows == A.indices)
    data[diagonal] += 1
    result = csr(data, A.indices, A.indptr, *A.shape)
    if len(diagonal) == A.shape[0]:
        return result
    absent = np.ones(A.shape[0])
    absent[rows[diagonal]] = 0
    return result + sp.diags_array(absent, format="csr")


def _exchange(plan: HaloPlan, values: np.ndarray) -> np.ndarray:
    here = torch.from_numpy(np.ascontiguousarray(values)).to(plan.layout.world.device)
    return plan.exchange(here).cpu().numpy()

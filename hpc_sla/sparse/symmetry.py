"""Whether a distributed matrix is its own transpose, entry by entry and not to all appearances."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from hpc_sla.kernels.census import (
    Asymmetry,
    Census,
    asymmetry,
    differences,
    host,
    largest_of_rows,
)
from hpc_sla.kernels.packed import Packed
from hpc_sla.sparse.matrix import DSparseMatrix

SYMMETRIC = {torch.float64: 1e-11, torch.float32: 2e-5}
"""The largest asymmetry that goes for none. Assembly leaves up to some hundred units in the last
place; in double precision there is room between that and what a solver would notice."""


Parts = tuple[np.ndarray | Packed, np.ndarray]
"""Values of the owned block, an array or packed, and of the halo's: float64 or float32."""


def parts_of(A: DSparseMatrix) -> Parts:
    """A's values to look at, on the host. Local."""
    return A.held.parts(A.pattern.owned.nnz)


@dataclass(frozen=True)
class Arrivals:
    """The nonzero entries that other ranks' rows have in this rank's columns.

    Attributes
    ----------
    columns : int64 array [m]
        Which of the owned columns.
    rows : int64 array [m]
        Stored numbers.
    values, scales : float64 array [m]
        Each entry, and s of its row.
    """

    columns: np.ndarray
    rows: np.ndarray
    values: np.ndarray
    scales: np.ndarray


def arrivals(A: DSparseMatrix, values: np.ndarray, scale: np.ndarray) -> Arrivals:
    """Tell the owners of halo columns what is in them. **Collective.**

    Parameters
    ----------
    values : float64 or float32 array [halo.nnz]
        Those in halo columns.
    scale : float64 array [n_owned]
        s, one number for each row.
    """
    pattern, halo = A.pattern, A.pattern.halo
    if A.world.size == 1:
        none = np.empty(0, dtype=np.int64)
        return Arrivals(none, none, none.view(np.float64), none.view(np.float64))
    kept = np.flatnonzero(values)
    index = host(halo.indices)[kept]
    row = host(pattern.boundary)[host(halo.rows())[kept]]
    entry = values[kept].astype(np.float64)
    table = np.empty((4, len(kept)), dtype=np.int64)
    table[0], table[1] = pattern.plan.halo[index], row.astype(np.int64) + A.layout.start
    table[2], table[3] = entry.view(np.int64), scale[row].view(np.int64)
    owner = np.searchsorted(A.columns.offsets, table[0], side="right") - 1
    messages = {int(rank): table[:, owner == rank].reshape(-1) for rank in np.unique(owner)}
    arrived = A.world.sparse_exchange(messages).values()
    came = [table[:, :0], *(message.reshape(4, -1) for message in arrived)]
    columns, rows, found, scales = np.concatenate(came, axis=1)
    return Arrivals(
        columns - A.columns.start, rows, found.view(np.float64), scales.view(np.float64)
    )


def take_census(A: DSparseMatrix, values: Parts) -> Census:
    """The census of `values` on A's pattern. Local."""
    pattern, (own, away) = A.pattern, values
    found = Census(A.layout.n_owned, A.columns.n_owned)
    found.count(pattern.owned, own, A.columns is A.layout)
    if pattern.halo.nnz:
        found.count_halo(pattern.halo, away, host(pattern.boundary))
    return found


def without_columns(A: DSparseMatrix, values: Parts, aside: np.ndarray) -> Parts:
    """`values` with 0 in some columns, itself where they are no rank's. **Collective.**

    Parameters
    ----------
    values : Parts
    aside : bool array [owned columns]
    """
    pattern = A.pattern
    channel = pattern.plan.start_exchange(torch.from_numpy(aside).to(A.device, A.dtype))
    channel.finish()
    there = host(channel.recv_buffer) != 0
    if not (aside.any() or there.any()):
        return values
    own, away = values
    if isinstance(own, Packed):
        own = own.csr()[2]
    zero = np.zeros_like(away[:0], shape=1)
    return (
        np.where(aside[host(pattern.owned.at_hand().indices)], zero, own),
        np.where(there[host(pattern.halo.indices)], zero, away),
    )


def own_asymmetry(
    A: DSparseMatrix, values: Parts, scale: np.ndarray, aside: np.ndarray, came: Arrivals
) -> Asymmetry:
    """What this rank sees of it: its own block, and what came. Local.

    How far an entry is from its mirror image is told beside what rounding can make of it: the two
    themselves, and the geometric mean of the largest of either's rows. Sums of larger terms that
    cancel are then not taken for a difference, and the measure is the same however rows and
    columns are scaled together.
    """
    pattern, n, (own, away) = A.pattern, A.layout.n_global, values
    found = asymmetry(pattern.owned, own, scale, aside)
    if not len(came.columns):
        return found
    row = host(pattern.boundary)[host(pattern.halo.rows())].astype(np.int64)
    return found | differences(
        row * n + pattern.plan.halo[host(pattern.halo.indices)],
        away,
        came.columns * n + came.rows,
        came.values,
        scale[came.columns] * came.scales,
        aside[came.columns],
    )


@torch.no_grad()
@np.errstate(all="ignore")  # of entries that are not finite
def is_symmetric(A: DSparseMatrix) -> bool:
    """Whether A = A^T to rounding, every pair of entries looked at. **Collective**; replicated.

    Stored zeros count for nothing, nor does what rounding leaves of sums that cancel.
    """
    if A.columns is not A.layout:
        return False
    values = parts_of(A)
    scale = np.empty(A.layout.n_owned)
    largest_of_rows(A.pattern.owned, values[0], scale, None)
    largest_of_rows(A.pattern.halo, values[1], scale, host(A.pattern.boundary))
    np.sqrt(scale, out=scale)
    came = arrivals(A, values[1], scale)
    found = own_asymmetry(A, values, scale, np.zeros(len(scale), dtype=bool), came)
    finite = math.isfinite(scale.max(initial=0.0))
    return A.world.max(found.worst if finite else np.inf) <= SYMMETRIC[A.dtype]

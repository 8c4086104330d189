"""Connected parts of a distributed matrix's graph."""

from __future__ import annotations

import numpy as np
import torch

from hpc_sla.kernels.census import connected, host, joined
from hpc_sla.sparse.matrix import DSparseMatrix
from hpc_sla.sparse.symmetry import Parts

_MOST_SHARED, _MOST_A_RANK = 1 << 18, 1 << 7
"""Parts that reach other ranks, and their connections, that all ranks may hold: in all, or in the
mean of many ranks."""


def good_components(
    A: DSparseMatrix, values: Parts, rows: np.ndarray, good: np.ndarray
) -> int | None:
    """How many connected parts have good rows only. **Collective**; replicated.

    Rows i and j are connected where a_ij or a_ji is not 0.

    Parameters
    ----------
    A : DSparseMatrix
        Square.
    values : Parts
        In place of A's.
    rows : bool array [n_owned]
        Which rows there are: entries between these and others are 0.
    good : bool array [n_owned]

    Returns
    -------
    int or None
        None where there is more to tell than every rank should hold.
    """
    pattern, start, (own, away) = A.pattern, A.layout.start, values
    label = connected(pattern.owned, own)
    part, bad = (np.zeros(len(label), dtype=bool) for _ in range(2))
    part[label[rows]] = True
    bad[label[rows & ~good]] = True
    if A.world.size == 1:
        return int(np.count_nonzero(part & ~bad))
    there = host(pattern.plan.exchange(torch.from_numpy(label + start).to(A.device)))
    kept = np.flatnonzero(away)
    row = host(pattern.boundary)[host(pattern.halo.rows())[kept]]
    ends = label[row] + start, there[host(pattern.halo.indices)[kept]]
    edges = np.unique(np.stack(ends, axis=1), axis=0)
    # What reaches another rank, or is reached by it, is put together by everybody.
    shared = np.zeros(len(label), dtype=bool)
    shared[label[host(pattern.plan.send_index)]] = True
    shared[edges[:, 0] - start] = True
    alone = int(np.count_nonzero(part & ~bad & ~shared))
    nodes = np.flatnonzero(part & shared)
    mine = np.array([alone, len(nodes) + len(edges)], dtype=np.int64)
    alone, shared_by_all = (int(total) for total in A.world.sums(mine))
    if shared_by_all > max(_MOST_SHARED, _MOST_A_RANK * A.world.size):
        return None
    nodes, bad = A.world.stacked(np.stack([nodes + start, bad[nodes]], axis=1)).T
    edges = A.world.stacked(edges)
    bad = bad > 0
    label = joined(len(nodes), *np.searchsorted(nodes, edges).T)
    spoilt = np.zeros(len(nodes), dtype=bool)
    spoilt[label[bad]] = True
    return alone + int(np.count_nonzero((label == np.arange(len(nodes))) & ~spoilt))

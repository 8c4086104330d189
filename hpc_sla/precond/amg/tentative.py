"""The tentative prolongator: near-nullspace vectors cut up into aggregates."""

from __future__ import annotations

import numpy as np
import torch

from hpc_sla.distributed.halo import HaloPlan
from hpc_sla.distributed.layout import RowLayout
from hpc_sla.precond.amg.blocks import Columns

RANK = 1e-10
"""An eigenvalue of a Gram matrix below this part of the largest is a dependent vector's."""


def tentative(
    aggregates: RowLayout, group: np.ndarray, B: np.ndarray
) -> tuple[np.ndarray | None, np.ndarray]:
    """Bases of B on each aggregate, orthonormal where B has several columns. **Collective.**

    One column is its own basis, and the next level's near-nullspace is ones: then the sums of
    the prolongator's rows say what it makes of the near-nullspace, and truncation can keep it.

    Of several, with B_a the rows of B in aggregate a, and B_a^T B_a = V L V^T, T has
    Q_a = B_a V L^-1/2 there and the next level's near-nullspace is R_a = L^1/2 V^T: T R = B.
    (Vanek, Mandel and Brezina, Computing 56, 1996, algorithm 4.1, by Gram matrices instead of QR,
    so that an aggregate may lie on several ranks.) Where an aggregate has fewer unknowns than
    there are vectors, columns of Q_a and rows of R_a are zero.

    Parameters
    ----------
    aggregates : RowLayout
    group : int64 array [n_owned]
        The stored aggregate of each owned row; -1 for none.
    B : float64 array [n_owned, m]

    Returns
    -------
    float64 array [n_owned, m] or None
        Q: row i of T has these entries, in the m columns of its aggregate. None where they are
        ones on every rank.
    float64 array [n_aggregates_owned * m, m]
        The near-nullspace of the next level.
    """
    world, m = aggregates.world, B.shape[1]
    if m == 1:
        ones = not world.sum(int(((B[:, 0] != 1) & (group >= 0)).any()))
        coarse = np.broadcast_to(np.ones(1), (aggregates.n_owned, 1))
        return (None if ones else np.where(group[:, None] >= 0, B, 0.0)), coarse
    columns = Columns(aggregates)
    mine = np.flatnonzero(group >= 0)
    local = columns.local(group[mine])
    rows = B if len(mine) == len(group) else B[mine]
    gram = np.empty((len(columns), m, m))
    for i in range(m):
        for j in range(i, m):
            gram[:, i, j] = gram[:, j, i] = np.bincount(
                local, weights=rows[:, i] * rows[:, j], minlength=len(columns)
            )
    n = aggregates.n_owned
    if shared := world.sum(len(columns.away)):
        plan = HaloPlan(aggregates, columns.away)
        gram[:n] += _on_device(plan.reduce, gram[n:], world.device)
    into, onto = _roots(gram[:n])
    if shared:
        into = np.concatenate([into, _on_device(plan.exchange, into, world.device)])
    Q = np.zeros_like(B)
    Q[mine] = np.einsum("im,imk->ik", rows, into[local])
    # Of a single aggregate NumPy's reshape is a transposed view.
    return Q, np.ascontiguousarray(onto.reshape(n * m, m))


def _roots(gram: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """V L^-1/2 and L^1/2 V^T of each matrix, zero in the dependent directions."""
    values, vectors = np.linalg.eigh(gram)
    largest = values[:, -1:].clip(min=0)
    kept = (values > RANK * largest) & (values > 0)
    root = np.sqrt(np.where(kept, values, 0.0))
    inverse = np.divide(1.0, root, out=np.zeros_like(root), where=kept)
    return vectors * inverse[:, None, :], root[:, :, None] * vectors.transpose(0, 2, 1)


def _on_device(function, values: np.ndarray, device: torch.device) -> np.ndarray:  # type: ignore[no-untyped-def]
    return function(torch.from_numpy(np.ascontiguousarray(values)).to(device)).cpu().numpy()

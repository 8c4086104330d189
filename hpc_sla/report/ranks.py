"""What each rank of a distributed matrix holds and exchanges."""

from __future__ import annotations

from dataclasses import dataclass

from hpc_sla.sparse.matrix import DSparseMatrix


@dataclass(frozen=True)
class RankShare:
    """One rank's share of a matrix.

    Attributes
    ----------
    rows, nnz : int
        Owned rows and their stored entries.
    halo : int
        Values received from other ranks for each product.
    cut : int
        Entries in columns of other ranks.
    neighbours : int
        Ranks it receives from or sends to.
    """

    rows: int
    nnz: int
    halo: int
    cut: int
    neighbours: int


def rank_shares(A: DSparseMatrix) -> list[RankShare] | None:
    """Every rank's share, on rank 0; None elsewhere. **Collective.**"""
    plan = A.pattern.plan
    return A.world.gather_objects(
        RankShare(
            rows=A.layout.n_owned,
            nnz=A.nnz_owned,
            halo=A.n_halo,
            cut=A.pattern.halo.nnz,
            neighbours=len({*plan.sends.ranks, *plan.receives.ranks}),
        )
    )

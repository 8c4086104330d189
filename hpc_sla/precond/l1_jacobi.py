"""Jacobi, its diagonal raised by what a row has on other ranks: as a smoother."""

from __future__ import annotations

import torch

from hpc_sla.precond.jacobi import Jacobi, inverse_diagonal
from hpc_sla.sparse.matrix import DSparseMatrix


class L1Jacobi(Jacobi):
    """`d_i = a_ii + sign(a_ii) sum |a_ij|` over the columns j of other ranks.

    The l1 smoother of Baker, Falgout, Kolev and Yang, "Multigrid smoothers for ultraparallel
    computing", SIAM J. Sci. Comput. 33 (2011), section 4, on top of Jacobi. Their blocks are ranks,
    as in hypre's hybrid smoothers; so on one rank this is Jacobi.
    """

    name = "l1_jacobi"
    takes = "entries"
    petsc = ""

    def set_up(self, A: DSparseMatrix) -> None:
        """Local."""
        diagonal = A.diagonal().detach()
        pattern = A.pattern
        if pattern.halo.nnz:
            held = A.held
            there = pattern.halo_values(held.plain) if held.written else held.halo
            sums = diagonal.new_empty(pattern.halo.n_rows)
            pattern.halo.matmul(there.abs(), diagonal.new_ones(pattern.plan.n_halo), sums)
            away = torch.zeros_like(diagonal).index_add_(0, pattern.boundary, sums)
            diagonal = diagonal + torch.where(diagonal < 0, -away, away)
        self.inverse = inverse_diagonal(diagonal)

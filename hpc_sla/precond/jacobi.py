"""Jacobi, and l1-Jacobi: the inverse of a diagonal."""

from __future__ import annotations

import torch

from hpc_sla.precond.base import Preconditioner
from hpc_sla.sparse.matrix import DSparseMatrix


class Jacobi(Preconditioner):
    """`M = diag(A)` (Saad, Iterative Methods for Sparse Linear Systems, 2nd ed., section 10.2).

    Parameters
    ----------
    diagonal : torch.Tensor [n_owned]
        Per rank. Zeros, as of rows with no entries, count as 1: such a row is left as it is.
    """

    name = "jacobi"
    symmetric = True
    inverse: torch.Tensor

    def __init__(self, diagonal: torch.Tensor) -> None:
        self.inverse = torch.where(diagonal == 0, 1.0, diagonal).reciprocal_().contiguous()
        self._belongs_to(len(diagonal), diagonal)

    def apply(self, r: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """Local."""
        inverse = self.inverse if r.dim() == 1 else self.inverse.unsqueeze(1)
        return torch.mul(r, inverse, out=out)

    apply_transpose = apply


class L1Jacobi(Jacobi):
    """Jacobi whose diagonal also bears what a row has on other ranks. Local.

    `d_i = a_ii + sign(a_ii) sum |a_ij|` over the columns j of other ranks: the l1 smoother of
    Baker, Falgout, Kolev and Yang, "Multigrid smoothers for ultraparallel computing", SIAM J.
    Sci. Comput. 33 (2011), section 4, on top of Jacobi. Their blocks are ranks, as in hypre's
    hybrid smoothers; so on one rank this is Jacobi.

    Parameters
    ----------
    A : DSparseMatrix
    """

    name = "l1_jacobi"

    def __init__(self, A: DSparseMatrix) -> None:
        diagonal = A.diagonal().detach()
        pattern = A.pattern
        if pattern.halo.nnz:
            there = pattern.halo_values(A.values.detach()).abs()
            sums = diagonal.new_empty(pattern.halo.n_rows)
            pattern.halo.matmul(there, diagonal.new_ones(pattern.plan.n_halo), sums)
            away = torch.zeros_like(diagonal).index_add_(0, pattern.boundary, sums)
            diagonal = diagonal + torch.where(diagonal < 0, -away, away)
        super().__init__(diagonal)

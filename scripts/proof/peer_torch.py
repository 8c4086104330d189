"""CG with Jacobi in plain PyTorch: `torch.mv` on a CSR tensor, as anybody would write it."""

from __future__ import annotations

import torch
from peer import Peer

LOOK = 10
"""Iterations between two looks at the residual, each of which waits for the device."""


class TorchCG(Peer):
    """The textbook's (Saad, Iterative Methods for Sparse Linear Systems, algorithm 9.1)."""

    name = "plain torch.mv CG"

    def prepare(self, n: int, A: torch.Tensor, b: torch.Tensor, rtol: float) -> None:
        self.A, self.b, self.rtol, self.most = A, b, rtol, 20 * n
        rows = torch.arange(len(b), device=b.device)
        counts = A.crow_indices().diff()
        on_diagonal = A.col_indices() == torch.repeat_interleave(rows, counts)
        self.inverse = A.values()[on_diagonal].reciprocal()

    def solve(self) -> tuple[torch.Tensor, int]:
        A, inverse = self.A, self.inverse
        x, r = torch.zeros_like(self.b), self.b.clone()
        z = inverse * r
        p, rho = z.clone(), torch.dot(r, z)
        target = self.rtol * torch.linalg.vector_norm(self.b)
        for iteration in range(1, self.most + 1):
            q = torch.mv(A, p)
            alpha = rho / torch.dot(p, q)
            x += alpha * p
            r -= alpha * q
            if iteration % LOOK == 0 and torch.linalg.vector_norm(r) <= target:
                return x, iteration
            z = inverse * r
            rho, before = torch.dot(r, z), rho
            p = z + rho / before * p
        return x, self.most

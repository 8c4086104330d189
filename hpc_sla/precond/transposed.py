"""The preconditioner of the transposed system, made of one that is there."""

from __future__ import annotations

import torch

from hpc_sla.precond.base import Preconditioner


def transposed(M: Preconditioner) -> Preconditioner:
    """`M^T`: the set-up of M, its `apply` and `apply_transpose` exchanged. Local."""
    return M if M.pointwise else _TransposedPreconditioner(M)


class _TransposedPreconditioner(Preconditioner):
    def __init__(self, M: Preconditioner) -> None:
        self._of = M
        self.name, self.symmetric, self.transposable = M.name, M.symmetric, True

    def apply(self, r: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        return self._of.apply_transpose(r, out)

    def apply_transpose(self, r: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        return self._of.apply(r, out)

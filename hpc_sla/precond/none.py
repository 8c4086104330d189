"""No preconditioner: for a matrix whose rows are already well scaled."""

from __future__ import annotations

import torch

from hpc_sla.precond.base import Preconditioner


class Identity(Preconditioner):
    """`M = 1`, whatever the matrix."""

    name = "none"
    takes = "anything"
    petsc = "none"
    pointwise = capturable = True

    @property
    def token(self) -> tuple[object, ...]:
        return ("the identity",)

    def apply(self, r: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """`r` itself. Local."""
        return r

    apply_transpose = apply

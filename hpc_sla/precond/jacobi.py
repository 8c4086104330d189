"""Jacobi: the inverse of the diagonal."""

from __future__ import annotations

import torch

from hpc_sla.errors import InputError
from hpc_sla.precond.base import Preconditioner


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

    def check(self, n_owned: int, like: torch.Tensor) -> None:
        """Raise InputError unless it goes with a matrix of these rows and such values. Local."""
        inverse = self.inverse
        if inverse.shape != (n_owned,) or (inverse.dtype, inverse.device) != (
            like.dtype,
            like.device,
        ):
            raise InputError(
                f"a Jacobi of {tuple(inverse.shape)} {inverse.dtype} on {inverse.device} does not "
                f"go with {n_owned} rows of {like.dtype} on {like.device}",
                field="precond",
            )

    def apply(self, r: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """Local."""
        inverse = self.inverse if r.dim() == 1 else self.inverse.unsqueeze(1)
        return torch.mul(r, inverse, out=out)

    apply_transpose = apply

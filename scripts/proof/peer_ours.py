"""This package's own, of the same system."""

from __future__ import annotations

import torch
from peer import Peer

import hpc_sla as hs
from hpc_sla.problems import distribute, make


class Ours(Peer):
    """A method with a preconditioner, set-up included. **Collective.**"""

    takes_matrix = False

    def __init__(self, world: hs.World, precond: str, method: str = "cg") -> None:
        self.world, self.precond, self.method = world, precond, method
        self.name = f"hpc_sla {method} + {precond}"

    def prepare(self, n: int, A: torch.Tensor | None, b: torch.Tensor, rtol: float) -> None:
        """`b` is [n_owned], with the rows spread evenly in their order."""
        self.A, self.b, self.rtol = distribute(make(f"poisson2d:n={n}"), self.world), b, rtol

    def solve(self) -> tuple[torch.Tensor, int]:
        x, info = hs.solve(self.A, self.b, self.method, self.precond, rtol=self.rtol)
        return x, info.iterations

    def release(self) -> None:
        del self.A, self.b

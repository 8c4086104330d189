"""This package's own, of the same system."""

from __future__ import annotations

import torch
from peer import Peer

import hpc_sla as hs
from hpc_sla.problems import distribute, make


class Ours(Peer):
    """CG with a preconditioner, set-up included."""

    def __init__(self, world: hs.World, precond: str) -> None:
        self.world, self.precond = world, precond
        self.name = f"hpc_sla cg + {precond}"

    def prepare(self, n: int, A: torch.Tensor, b: torch.Tensor, rtol: float) -> None:
        self.A, self.b, self.rtol = distribute(make(f"poisson2d:n={n}"), self.world), b, rtol

    def solve(self) -> tuple[torch.Tensor, int]:
        x, info = hs.solve(self.A, self.b, "cg", self.precond, rtol=self.rtol)
        return x, info.iterations

    def release(self) -> None:
        del self.A, self.b

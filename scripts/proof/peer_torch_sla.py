"""The published package itself: `pip install torch-sla` (tried with 0.4.0)."""

from __future__ import annotations

import torch
from peer import Peer, coordinates


class TorchSla(Peer):
    """Its solvers of Table 1: CG with Jacobi in PyTorch, or SuperLU through SciPy."""

    def __init__(self, method: str = "cg") -> None:
        self.method = method
        self.name = "torch-sla cg + jacobi" if method == "cg" else "torch-sla SuperLU"

    def why_not(self, device: torch.device) -> str | None:
        try:
            import torch_sla  # noqa: F401 - optional
        except (ImportError, OSError) as error:
            return f"not installed (pip install torch-sla): {error}"
        return None

    def prepare(self, n: int, A: torch.Tensor, b: torch.Tensor, rtol: float) -> None:
        self.system, self.b, self.most = coordinates(A), b, 20 * n
        self.norm = rtol * float(torch.linalg.vector_norm(b))

    def solve(self) -> tuple[torch.Tensor, None]:
        from torch_sla import spsolve  # optional

        x = spsolve(
            **self.system, b=self.b, backend="pytorch" if self.method == "cg" else "scipy",
            method=self.method, preconditioner="jacobi", atol=self.norm, maxiter=self.most,
            is_symmetric=True, is_spd=True,
        )  # fmt: skip
        return x, None

    def release(self) -> None:
        del self.system, self.b

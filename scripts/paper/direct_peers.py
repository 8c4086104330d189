"""Direct solvers as peers: SuperLU as SciPy calls it, and what `hpc_sla.direct` wraps."""

from __future__ import annotations

import scipy.sparse as sp
import torch
from peer import Peer

from hpc_sla.direct import BACKENDS, factorize
from hpc_sla.kernels.csr import CsrPattern


class SuperLU(Peer):
    """`scipy.sparse.linalg.spsolve` with its defaults, as published: columns by COLAMD."""

    name = "SciPy SuperLU"

    def prepare(self, n: int, A: torch.Tensor, b: torch.Tensor, rtol: float) -> None:
        parts = (A.values().numpy(), A.col_indices().numpy(), A.crow_indices().numpy())
        self.A, self.b = sp.csr_array(parts, A.shape).tocsc(), b.numpy()

    def solve(self) -> tuple[torch.Tensor, None]:
        from scipy.sparse.linalg import spsolve  # slow to load

        return torch.from_numpy(spsolve(self.A, self.b, use_umfpack=False)), None


class Direct(Peer):
    """Factors and solution by a library that `hpc_sla.direct` wraps, in the order it chooses."""

    def __init__(self, name: str, library: str, method: str) -> None:
        self.name, self.library, self.method = name, library, method

    def why_not(self, device: torch.device) -> str | None:
        backend = BACKENDS[self.library]
        if device.type not in backend.devices:
            return f"needs a GPU, and this runs on the {device.type}"
        return backend.why_not(self.method)

    def prepare(self, n: int, A: torch.Tensor, b: torch.Tensor, rtol: float) -> None:
        self.pattern = CsrPattern(A.crow_indices(), A.col_indices(), A.shape[1])
        self.values, self.b = A.values(), b

    def solve(self) -> tuple[torch.Tensor, None]:
        factors = factorize(self.pattern, self.values, backend=self.library, method=self.method)
        return factors.solve(self.b), None

    def release(self) -> None:
        del self.pattern, self.values, self.b

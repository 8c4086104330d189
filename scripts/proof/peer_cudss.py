"""NVIDIA's cuDSS, a direct solver, through nvmath-python."""

from __future__ import annotations

import logging

import torch
from peer import Peer

_LOGGER = logging.getLogger(__name__)
_LOGGER.setLevel(logging.ERROR)


class CuDss(Peer):
    """Cholesky: analysis, factors and solution, as in the published table."""

    name = "cuDSS Cholesky"

    def why_not(self, device: torch.device) -> str | None:
        if device.type != "cuda":
            return "needs a GPU"
        try:
            import nvmath.sparse.advanced  # noqa: F401 - optional
        except (ImportError, OSError) as error:
            return f"not installed (scripts/setup.sh --extras cuda): {error}"
        return None

    def prepare(self, n: int, A: torch.Tensor, b: torch.Tensor, rtol: float) -> None:
        self.A, self.b = A, b

    def solve(self) -> tuple[torch.Tensor, None]:
        from nvmath.sparse.advanced import (  # optional
            DirectSolver,
            DirectSolverMatrixType,
            DirectSolverMatrixViewType,
        )

        options = {
            "sparse_system_type": DirectSolverMatrixType.SPD,
            "sparse_system_view": DirectSolverMatrixViewType.LOWER,
            "logger": _LOGGER,
        }
        with DirectSolver(self.A, self.b, options=options) as solver:
            solver.plan()
            solver.factorize()
            x = solver.solve()
            torch.cuda.synchronize(self.b.device)
            return x, None

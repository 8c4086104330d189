"""NVIDIA's AmgX, a multigrid, through pyamgx. Written from its documentation, and not yet run."""

from __future__ import annotations

import numpy as np
import torch
from peer import Peer


class AmgX(Peer):
    """CG with aggregation multigrid, a V-cycle of Jacobi smoothing."""

    name = "AmgX cg + aggregation amg"

    def why_not(self, device: torch.device) -> str | None:
        if device.type != "cuda":
            return "needs a GPU"
        try:
            import pyamgx  # noqa: F401 - optional
        except (ImportError, OSError) as error:
            return f"not installed (pyamgx, built against AmgX): {error}"
        return None

    def prepare(self, n: int, A: torch.Tensor, b: torch.Tensor, rtol: float) -> None:
        import pyamgx  # optional

        pyamgx.initialize()
        self.config = pyamgx.Config().create_from_dict(_configuration(rtol, 20 * n))
        self.resources = pyamgx.Resources().create_simple(self.config)
        self.matrix = pyamgx.Matrix().create(self.resources)
        self.rhs, self.x = (pyamgx.Vector().create(self.resources) for _ in range(2))
        pointers, columns = (
            t.cpu().numpy().astype(np.int32) for t in (A.crow_indices(), A.col_indices())
        )
        self.matrix.upload(pointers, columns, A.values().cpu().numpy())
        self.rhs.upload(b.cpu().numpy())
        self.found, self.device = np.zeros(len(b)), b.device
        self.x.upload(self.found)

    def solve(self) -> tuple[torch.Tensor, int]:
        import pyamgx  # optional

        solver = pyamgx.Solver().create(self.resources, self.config)
        solver.setup(self.matrix)
        solver.solve(self.rhs, self.x, zero_initial_guess=True)
        iterations = solver.iterations_number
        solver.destroy()
        # Downloading is AmgX's way of waiting, and counts.
        self.x.download(self.found)
        return torch.from_numpy(self.found).to(self.device), iterations

    def release(self) -> None:
        import pyamgx  # optional

        for part in (self.matrix, self.rhs, self.x, self.resources, self.config):
            part.destroy()
        pyamgx.finalize()
        vars(self).clear()


def _configuration(rtol: float, most: int) -> dict[str, object]:
    return {
        "config_version": 2,
        "determinism_flag": 1,
        "solver": {
            "solver": "PCG",
            "max_iters": most,
            "tolerance": rtol,
            "convergence": "RELATIVE_INI",
            "norm": "L2",
            "monitor_residual": 1,
            "preconditioner": {
                "solver": "AMG",
                "algorithm": "AGGREGATION",
                "selector": "SIZE_4",
                "cycle": "V",
                "smoother": "BLOCK_JACOBI",
                "presweeps": 1,
                "postsweeps": 1,
                "max_iters": 1,
            },
        },
    }

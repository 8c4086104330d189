"""The solvers that are compared, by the names that `--backends` takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from direct_peers import Direct, SuperLU
from peer import Peer
from peer_ours import Ours
from peer_torch import TorchCG
from peer_torch_sla import TorchSla

import hpc_sla as hs


@dataclass(frozen=True)
class Backend:
    """One of them.

    Attributes
    ----------
    label : str
        In tables and figures.
    make : callable(World) -> Peer
    host : bool
        Whether it computes on the CPU whatever there is.
    theirs : bool
        Whether it is torch-sla's, which has an environment of its own.
    ranks : bool
        Whether it runs on several.
    """

    label: str
    make: Callable[[hs.World], Peer]
    host: bool = False
    theirs: bool = False
    ranks: bool = False

    @property
    def ours(self) -> bool:
        return self.label.startswith("hpc_sla")

    def device(self, device: str) -> str:
        """Where it computes, asked for `device`."""
        return "cpu" if self.host else device

    def why_not(self, device: str) -> str | None:
        """Why it cannot be used here; None where it can. Of torch-sla nothing is known here."""
        if self.theirs:
            return None
        where = torch.device(self.device(device))
        return self.make(hs.World.serial(where)).why_not(where)


BACKENDS = {
    "superlu": Backend("SciPy SuperLU", lambda _: SuperLU(), host=True),
    "umfpack": Backend("UMFPACK", lambda _: Direct("UMFPACK", "scipy", "umfpack"), host=True),
    "eigen": Backend("Eigen LLT", lambda _: Direct("Eigen LLT", "eigen", "llt"), host=True),
    "cudss": Backend("cuDSS Cholesky", lambda _: Direct("cuDSS Cholesky", "cudss", "llt")),
    "cusolver": Backend("cuSOLVER Cholesky", lambda _: Direct("cuSOLVER", "cusolver", "llt")),
    "torch-cg": Backend("torch CG + jacobi", lambda _: TorchCG()),
    "ours-jacobi": Backend("hpc_sla cg + jacobi", lambda w: Ours(w, "jacobi"), ranks=True),
    "ours-default": Backend("hpc_sla default", lambda w: Ours(w, "auto", "auto"), ranks=True),
    "ours-amg": Backend("hpc_sla cg + amg", lambda w: Ours(w, "amg"), ranks=True),
    "torch-sla-superlu": Backend(
        "torch-sla SuperLU", lambda _: TorchSla("lu"), host=True, theirs=True
    ),
    "torch-sla-cg": Backend("torch-sla cg + jacobi", lambda _: TorchSla(), theirs=True, ranks=True),
}

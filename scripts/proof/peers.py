"""Other solvers on the same card, each with its set-up, to the same residual."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import torch
from measure import least
from peer import Peer
from peer_amgx import AmgX
from peer_cudss import CuDss
from peer_ours import Ours
from peer_torch import TorchCG
from peer_torch_sla import TorchSla
from plan import Plan
from record import Record
from stencil import relative_residual

import hpc_sla as hs
from hpc_sla.problems import make

RTOL = 1e-6
FALLS_SHORT = 1.1
"""Times that, still counts as solved: some stop by a residual that they update."""


def run(world: hs.World, plan: Plan, record: Record) -> None:
    """On one rank."""
    contenders: list[Peer] = [Ours(world, "amg"), Ours(world, "jacobi")]
    contenders += [TorchCG(), TorchSla(), CuDss(), AmgX()]
    for peer in contenders:
        reason = peer.why_not(world.device)
        for n in plan.peers:
            name = f"n={n}, {peer.name}"
            facts = {"n": n, "rows": n * n, "peer": peer.name, "rtol": RTOL}
            facts["ours"] = isinstance(peer, Ours)  # another's failure is none of ours
            if reason is not None:
                record.skip(name, reason, **facts)
                continue
            with record.attempt(name, "rows", **facts):
                A, b = system(n, world.device)
                peer.prepare(n, A, b, RTOL)
                peer.solve()  # whatever is loaded or compiled
                seconds, repeats, (x, iterations) = least(world, peer.solve, plan.repeats)
                residual = relative_residual(world, n, 0, x, b)
                peer.release()
                record.row(
                    name,
                    residual <= RTOL * FALLS_SHORT,
                    total_seconds=seconds,
                    repeats=repeats,
                    iterations=iterations,
                    residual=residual,
                    **facts,
                )


def system(n: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """The Laplacian as a CSR tensor with 32-bit indices, and ones."""
    A = sp.csr_array(make(f"poisson2d:n={n}").matrix())
    parts = (torch.from_numpy(v.astype(np.int32)).to(device) for v in (A.indptr, A.indices))
    values = torch.from_numpy(A.data).to(device)
    tensor = torch.sparse_csr_tensor(*parts, values, A.shape, check_invariants=False)
    return tensor, torch.ones(n * n, dtype=torch.float64, device=device)

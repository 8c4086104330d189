r"""One solver, one size, in a process of its own; under mpiexec on several ranks.

python scripts/paper/case.py '{"backend": "superlu", "n": 100, "rtol": 1e-9, ...}' FOUND.json
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from backends import BACKENDS
from measure import Peak, least
from peer import Peer
from peers import FALLS_SHORT, system
from record import write
from stencil import relative_residual

import hpc_sla as hs
from hpc_sla.distributed.layout import RowLayout

WARM = 33
"""Points along a side of what is solved first, so that all is loaded."""

SOLVED, WRONG, MEMORY, FAILED = "solved", "wrong", "out of memory", "failed"


def main() -> None:
    spec, path = json.loads(sys.argv[1]), Path(sys.argv[2])
    backend = BACKENDS[spec["backend"]]
    device = backend.device(spec["device"])
    world = hs.World(device=device) if spec["ranks"] else hs.World.serial(device)
    with told(path):
        found = run(world, backend.make(world), spec)
        if world.rank == 0:
            write(path, found)


@contextmanager
def told(path: Path) -> Iterator[None]:
    """A block whose failure is written down; it still fails, for the launcher to end the rest."""
    try:
        yield
    except Exception as error:
        traceback.print_exc()
        scarce = isinstance(error, MemoryError) or any(
            word in str(error).lower() for word in ("memory", "alloc")
        )
        reason = f"{type(error).__name__}: {error}"[:300]
        write(path, {"status": MEMORY if scarce else FAILED, "reason": reason})
        raise


def run(world: hs.World, peer: Peer, spec: dict[str, Any]) -> dict[str, Any]:
    """Time, memory and true residual. **Collective.**"""
    prepare(world, peer, WARM, 1e-6)
    peer.solve()
    peer.release()
    n, rtol = spec["n"], spec["rtol"]
    # Of this rank alone; what building the system takes is forgotten, the system itself counts.
    peak = Peak(hs.World.serial(world.device))
    b, start = prepare(world, peer, n, rtol)
    peak.again()
    seconds, repeats, (x, iterations) = least(world, peer.solve, spec["repeats"])
    held = peak.bytes()
    residual = relative_residual(world, n, start, x, b)
    return {
        **judged(residual, rtol),
        "seconds": seconds,
        "repeats": repeats,
        "iterations": iterations,
        "bytes_per_rank": None if held is None else world.max(held),
        "bytes_per_row": None if held is None else world.sum(held) / n**2,
    }


def judged(residual: float, rtol: float) -> dict[str, Any]:
    """Whether it is a solution."""
    good = residual <= rtol * FALLS_SHORT
    reason = "" if good else f"residual {residual:.1e}, asked for {rtol:.1e}"
    return {"status": SOLVED if good else WRONG, "reason": reason, "residual": residual}


def prepare(world: hs.World, peer: Peer, n: int, rtol: float) -> tuple[torch.Tensor, int]:
    """Hand the system over: b [n_owned], and this rank's first row. **Collective.**"""
    if peer.takes_matrix:
        A, b = system(n, world.device)
        peer.prepare(n, A, b, rtol)
        return b, 0
    layout = RowLayout.even(n * n, world)
    b = torch.ones(layout.n_owned, dtype=torch.float64, device=world.device)
    peer.prepare(n, None, b, rtol)
    return b, layout.start


if __name__ == "__main__":
    main()

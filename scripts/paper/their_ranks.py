r"""torch-sla's distributed CG with Jacobi, one size, on ranks of torchrun; gloo on CPUs.

python -m torch.distributed.run --standalone --nproc-per-node 2 scripts/paper/their_ranks.py \
    '{"n": 100, "rtol": 1e-8, "repeats": 3, ...}' FOUND.json

Each rank holds the whole matrix while it is split up, as `DSparseTensor.partition` wants; only what
is held after that counts as memory.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from case import WARM, judged, told
from measure import ENOUGH, Peak
from peer import coordinates
from peers import system
from record import write
from stencil import relative_residual
from torch.distributed.device_mesh import init_device_mesh

import hpc_sla as hs


def main() -> None:
    spec, path = json.loads(sys.argv[1]), Path(sys.argv[2])
    cuda = spec["device"] == "cuda"
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if cuda else "gloo")
    with told(path):
        found = run(hs.World.serial(device), spec)
        if dist.get_rank() == 0:
            write(path, found)
    dist.destroy_process_group()


def run(alone: hs.World, spec: dict[str, Any]) -> dict[str, Any]:
    """Time, memory and true residual. **Collective**, though `alone` has this rank only."""
    solve_once(*split(alone, WARM), 1e-6)
    n, rtol = spec["n"], spec["rtol"]
    peak = Peak(alone)
    D, b = split(alone, n)
    peak.again()
    times: list[float] = []
    while len(times) < spec["repeats"] and sum(times) < ENOUGH:
        dist.barrier()
        begin = time.perf_counter()
        x = solve_once(D, b, rtol)
        times.append(most(alone, time.perf_counter() - begin))
    held = peak.bytes()
    residual = residual_of(alone, n, D, x)
    return {
        **judged(residual, rtol),
        "seconds": min(times),
        "repeats": len(times),
        "iterations": None,
        "bytes_per_rank": None if held is None else most(alone, held),
        "bytes_per_row": None,
    }


def split(alone: hs.World, n: int) -> tuple[Any, torch.Tensor]:
    """Its matrix here, in even blocks of rows like ours, and b [n_owned]. **Collective.**"""
    from torch_sla import DSparseTensor, SparseTensor  # in its own environment only

    parts = coordinates(system(n, alone.device)[0])
    A = SparseTensor(parts["val"], parts["row"], parts["col"], parts["shape"])
    mesh = init_device_mesh(alone.device.type, (dist.get_world_size(),))
    D = DSparseTensor.partition(A, mesh, partition_method="simple")
    owned = len(D.spec.placement.partition.owned_nodes)
    return D, torch.ones(owned, dtype=torch.float64, device=alone.device)


def solve_once(D: Any, b: torch.Tensor, rtol: float) -> torch.Tensor:
    """**Collective.**"""
    n = round(D.shape[0] ** 0.5)
    found: torch.Tensor = D.solve_distributed_shard(
        b, method="cg", preconditioner="jacobi", rtol=rtol, atol=0.0, maxiter=20 * n
    )
    if b.is_cuda:
        torch.cuda.synchronize()
    return found


def residual_of(alone: hs.World, n: int, D: Any, x: torch.Tensor) -> float:
    """Of the whole solution, the same on every rank. **Collective.**"""
    whole = torch.zeros(n * n, dtype=torch.float64, device=x.device)
    whole[D.spec.placement.partition.owned_nodes.to(x.device)] = x
    dist.all_reduce(whole)
    return relative_residual(alone, n, 0, whole, torch.ones_like(whole))


def most(alone: hs.World, number: float) -> float:
    """The largest of all ranks' numbers. **Collective.**"""
    found = torch.tensor(number, dtype=torch.float64, device=alone.device)
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return float(found)


if __name__ == "__main__":
    main()

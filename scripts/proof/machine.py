"""The card, the software, and how fast memory is: a copy and a triad, as in STREAM."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import subprocess
from typing import Any

import torch
from measure import ENOUGH, free_bytes, timed, wait
from mpi4py import MPI
from plan import Plan
from provenance import version
from record import Record

import hpc_sla as hs

PACKAGES = ("torch", "triton", "numpy", "scipy", "mpi4py", "nvmath-python", "torch-sla", "pyamgx")


def run(world: hs.World, plan: Plan, record: Record) -> None:
    """**Collective.**"""
    each = world.comm.gather(_device(world))
    record.facts(
        ranks=world.size,
        devices=each,
        card=_name(world),
        driver=_driver(),
        cuda=torch.version.cuda,
        nccl=_nccl(world),
        python=platform.python_version(),
        packages={name: version(name) for name in PACKAGES},
        mpi=MPI.Get_library_version().strip("\0\n ").splitlines()[0],
        transport=world.transport.name,
        host=platform.platform(),
        cores=len(os.sched_getaffinity(0)),
    )
    with record.attempt("bandwidth", "rows"):
        size = min(plan.stream, int(free_bytes(world) // 64))
        copy, triad, right = _stream(world, size)
        record.row(
            "bandwidth",
            right,
            entries=size,
            copy_tb_per_second=copy / 1e12,
            triad_tb_per_second=triad / 1e12,
        )


def _stream(world: hs.World, size: int) -> tuple[float, float, bool]:
    """Bytes a second and rank, all ranks at once; and whether the triad's sum is right.

    **Collective.**
    """
    a, b, c = (
        torch.full((size,), float(value), dtype=torch.float64, device=world.device)
        for value in (0.0, 2.0, 5.0)
    )
    best = []
    for vectors, kernel in (
        (2, lambda: a.copy_(b)),
        (3, lambda: torch.add(b, c, alpha=3.0, out=a)),
    ):
        kernel()
        wait(world)
        times: list[float] = []
        while len(times) < 20 and sum(times) < ENOUGH:
            # Several launches, so that the first one's delay does not count.
            seconds, _ = timed(world, lambda kernel=kernel: [kernel() for _ in range(4)])
            times.append(seconds / 4)
        best.append(vectors * 8 * size / min(times))
    return *best, bool((a == 17.0).all())


def _device(world: hs.World) -> dict[str, Any]:
    if world.device.type != "cuda":
        return {"device": str(world.device), "name": platform.processor() or platform.machine()}
    about = torch.cuda.get_device_properties(world.device)
    return {
        "device": str(world.device),
        "name": about.name,
        "bytes": about.total_memory,
        "capability": f"{about.major}.{about.minor}",
        "processors": about.multi_processor_count,
    }


def _name(world: hs.World) -> str | None:
    """None without a card."""
    return torch.cuda.get_device_name(world.device) if world.device.type == "cuda" else None


def _driver() -> str | None:
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        asked = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
        said = subprocess.run(asked, capture_output=True, text=True, timeout=20).stdout
        return said.splitlines()[0].strip() if said.strip() else None
    return None


def _nccl(world: hs.World) -> str | None:
    if world.device.type != "cuda":
        return None
    return ".".join(map(str, torch.cuda.nccl.version()))

"""Table 2: several ranks, strong and weak, and what one exchange and one reduction take."""

from __future__ import annotations

from typing import Any

import torch
from measure import Peak, free_bytes, per_call, timed
from plan import Plan
from published import Published
from record import Record
from solves import FIRST_BYTES, FIRST_ITERATIONS, ROOM, between_lengths, predicted, warm_up, whole

import hpc_sla as hs
from hpc_sla.problems import distribute, make

CALLS = 50
"""Exchanges or reductions in a row."""


def run(world: hs.World, plan: Plan, record: Record) -> None:
    """**Collective.**"""
    record.facts(ranks=world.size, transport=world.transport.name, device=str(world.device))
    warm_up(world)
    n = round((plan.weak * world.size) ** 0.5)
    _size(world, plan, record, "weak", Published(n, None, 1e-6))
    for size in plan.table2:
        _size(world, plan, record, "strong", size)


def _size(world: hs.World, plan: Plan, record: Record, scaling: str, size: Published) -> None:
    """**Collective.**"""
    n, rows = size.n, size.n**2
    name = f"{scaling}, n={n}"
    if FIRST_BYTES * rows / world.size > free_bytes(world) * ROOM:
        record.skip(name, "no memory", scaling=scaling, n=n, rows=rows)
        return
    with record.attempt(name, "rows", scaling=scaling, n=n, rows=rows):
        peak = Peak(world)
        build, A = timed(world, lambda: distribute(make(f"poisson2d:n={n}"), world))
        b = torch.ones(A.layout.n_owned, dtype=torch.float64, device=world.device)
        same: dict[str, Any] = {"scaling": scaling, "n": n, "rows": rows, "nnz": A.nnz_global}
        same |= {"halo_max": int(world.max(A.n_halo)), "rtol": size.residual}
        same |= {"build_seconds": build, "published_seconds": size.seconds}
        same |= _words(world, plan, A, b)
        for precond in ("amg", "jacobi"):
            line, facts = f"{name}, cg + {precond}", {**same, "precond": precond}
            with record.attempt(line, "rows", **facts):
                facts |= between_lengths(world, plan, A, precond)
                steps = FIRST_ITERATIONS * n if precond == "jacobi" else 0.0
                seconds = predicted(facts, steps)
                if record.fits(seconds):
                    facts |= whole(world, plan, A, b, precond, size.residual, peak)
                    record.row(line, facts.pop("solved"), **facts)
                else:
                    record.skip(line, f"no time: some {seconds:.0f} s", **facts)


def _words(world: hs.World, plan: Plan, A: hs.DSparseMatrix, x: torch.Tensor) -> dict[str, float]:
    """Seconds of one exchange of the halo and of one sum of two numbers, alone. **Collective.**"""
    two = x.new_ones(2)
    with torch.no_grad():
        return {
            "halo_seconds": per_call(world, lambda: A.halo(x), CALLS, plan.repeats),
            "reduction_seconds": per_call(world, lambda: world.all_sum(two), CALLS, plan.repeats),
        }

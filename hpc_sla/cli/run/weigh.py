"""Where the memory of one solve goes, and how fast its iterations move it: `bench --memory`."""

from __future__ import annotations

from typing import Any

import torch

from hpc_sla.cli import exits
from hpc_sla.cli.asked import BenchOptions
from hpc_sla.cli.files import ONES
from hpc_sla.cli.record import conclude, gather_profile, log_input
from hpc_sla.cli.run.plan import Plan, plan_bench
from hpc_sla.cli.run.solver import check_solver_names
from hpc_sla.distributed.world import World
from hpc_sla.reference.weigh import Weight, weigh
from hpc_sla.report.tables import count, print_facts, print_table, seconds, size
from hpc_sla.sparse.matrix import DSparseMatrix


def run(world: World, asked: BenchOptions) -> int:
    """Do what ``bench --memory`` does; the exit code. **Collective.**"""
    check_solver_names(asked.method, asked.precond)
    choices = asked.method, asked.precond, asked.rtol

    def weighed(build: Any, limit: int | None) -> Weight:
        return weigh(world, build, *choices, limit)

    plan, small = plan_bench(world, asked.file, asked.rhs)
    log_input(plan)
    weighed(lambda: _build(world, small), 3)  # loads what a solve loads
    weight = weighed(lambda: _build(world, plan), asked.max_iterations)
    profile = gather_profile(world)
    if world.rank == 0:
        rows = max(weight.rows, 1)
        summary = {
            "status": "converged" if weight.converged else "max_iterations",
            "problem": asked.file,
            "method": weight.method,
            "precond": weight.precond,
            "rows": weight.rows,
            "ranks": world.size,
            "device": world.device.type,
            "iterations": weight.iterations,
            "bytes_per_row": {name: held / rows for name, held in weight.held.items()},
            "stages": {name: vars(stage) for name, stage in weight.stages.items()},
            "seconds_per_iteration": weight.seconds_per_iteration,
            "bytes_moved_per_iteration": weight.moved,
            "triad_bytes_per_second": weight.triad,
            "achieved": weight.achieved,
        }
        conclude(summary, profile, asked.as_json, lambda: _print(asked.file, world.size, weight))
    limited = asked.max_iterations is not None
    return exits.OK if weight.converged or limited else exits.NOT_CONVERGED


def _build(world: World, plan: Plan) -> tuple[DSparseMatrix, torch.Tensor]:
    """**Collective.**"""
    A = plan.system.matrix(world)
    if plan.generated and plan.rhs == ONES:  # a vector of no bytes
        one = torch.ones(1, dtype=A.dtype, device=world.device)
        return A, one.expand(A.layout.n_owned)
    return A, plan.system.right_hand_side(A.layout)


def _print(problem: str, ranks: int, weight: Weight) -> None:
    rows = max(weight.rows, 1)
    held = [(name, f"{n / rows:.1f}", size(n)) for name, n in weight.held.items() if n]
    total = sum(weight.held.values())
    held.append(("all that is held", f"{total / rows:.1f}", size(total)))
    for name, stage in weight.stages.items():
        if stage.after is not None and stage.peak is not None:
            held.append(
                (f"the process after {name}", f"{stage.after / rows:.1f}", size(stage.after))
            )
            held.append((f"  its peak in {name}", f"{stage.peak / rows:.1f}", size(stage.peak)))
    title = (
        f"bench {problem} --memory: {weight.method} + {weight.precond}, {count(weight.rows)} rows, "
        f"{ranks} rank(s)"
    )
    print_table(title, ("owner", "bytes a row", "all ranks"), held, right=(1, 2))
    each = weight.seconds_per_iteration
    facts = [(f"seconds in {name}", seconds(s.seconds)) for name, s in weight.stages.items()]
    facts += [
        ("iterations", count(weight.iterations)),
        ("time per iteration", f"{each * 1e6:.1f} us"),
    ]
    if weight.moved is not None:
        facts.append(("moved per iteration", f"{weight.moved / rows:.1f} bytes a row"))
        facts.append(("that is", f"{weight.moved / each / 1e9:.1f} GB/s"))
    facts.append(("triad on all ranks", f"{weight.triad / 1e9:.1f} GB/s"))
    if weight.achieved is not None:
        facts.append(("achieved share", f"{100 * weight.achieved:.0f} %"))
    print_facts("speed", facts)

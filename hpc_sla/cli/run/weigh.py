"""Where the memory of one solve goes, and how fast its iterations move it: `bench --memory`."""

from __future__ import annotations

from typing import Any

import torch

from hpc_sla.cli import exits
from hpc_sla.cli.asked import BenchOptions
from hpc_sla.cli.prepare import check_size, names_generator
from hpc_sla.cli.record import conclude, gather_profile, log_input
from hpc_sla.cli.run.plan import plan_run
from hpc_sla.cli.run.solver import check_solver_names
from hpc_sla.distributed.world import World
from hpc_sla.errors import InputError
from hpc_sla.problems import RHS_KINDS, distribute, make
from hpc_sla.reference.weigh import Weight, weigh
from hpc_sla.report.tables import count, print_facts, print_table, seconds, size
from hpc_sla.sparse.from_hdf5 import read_rhs
from hpc_sla.sparse.matrix import DSparseMatrix

_WARM_UP = "poisson2d:n=48"


def run(world: World, asked: BenchOptions) -> int:
    """Do what ``bench --memory`` does; the exit code. **Collective.**"""
    check_solver_names(asked.method, asked.precond)
    build = _generated if names_generator(asked.file) else _read
    choices = asked.method, asked.precond, asked.rtol

    def weighed(build: Any, limit: int | None) -> Weight:
        return weigh(world, build, *choices, limit)

    prepared = build(world, asked)
    weighed(lambda: _make(world, _WARM_UP, "ones"), 3)  # loads what a solve loads
    weight = weighed(prepared, asked.max_iterations)
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


def _generated(world: World, asked: BenchOptions) -> Any:
    """What makes a generator's matrix, each rank its own rows. **Collective.**"""
    with world.agree():
        problem = make(asked.file)
        check_size(asked.file, problem.n_rows, world.size)
        kind = asked.rhs or problem.default_rhs
        if kind not in RHS_KINDS:
            raise InputError(
                f"there is no right-hand side {kind!r}",
                field="--rhs",
                remedy=f"Choose one of {', '.join(RHS_KINDS)}, or give a file.",
            )
    return lambda: _make(world, asked.file, kind)


def _make(world: World, spec: str, kind: str) -> tuple[DSparseMatrix, torch.Tensor]:
    """**Collective.**"""
    problem = make(spec)
    A = distribute(problem, world)
    first, end = A.layout.start, A.layout.start + A.layout.n_owned
    if kind == "ones":  # a vector of no bytes
        return A, torch.ones(1, dtype=A.dtype, device=world.device).expand(end - first)
    return A, torch.from_numpy(problem.rhs(kind, first, end)).to(world.device)


def _read(world: World, asked: BenchOptions) -> Any:
    """What reads a file's matrix. **Collective.**"""
    plan = world.on_root(lambda: plan_run(asked.file, asked.rhs, "", world.size, one_column=True))
    log_input(plan)

    def build() -> tuple[DSparseMatrix, torch.Tensor]:
        A = DSparseMatrix.from_hdf5(plan.path, world)
        return A, read_rhs(plan.path, plan.rhs, A.layout).flatten()

    return build


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

"""A solver of ours and PETSc's, timed and weighed on the same matrix and ranks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from hpc_sla.cli import exits
from hpc_sla.cli.asked import BenchOptions
from hpc_sla.cli.record import conclude, gather_profile, log_input
from hpc_sla.cli.run.plan import Plan, plan_bench
from hpc_sla.cli.run.solver import check_solver_names
from hpc_sla.distributed.world import World
from hpc_sla.linear import default_rtol
from hpc_sla.observe.memory import reset_peak
from hpc_sla.reference import petsc
from hpc_sla.reference.krylov import names_for_petsc
from hpc_sla.reference.race import Ours, Petsc, Task, race, ratio, run_lap, summarise
from hpc_sla.report.tables import count, print_table, seconds, size
from hpc_sla.storage.matrix_file import MatrixFile

_MAX_ITERATIONS = 100_000


def run(world: World, asked: BenchOptions) -> int:
    """Do what ``bench`` does; the exit code. **Collective.**"""
    check_solver_names(asked.method, asked.precond)
    with world.agree():
        petsc.load()
    limit = _MAX_ITERATIONS if asked.max_iterations is None else asked.max_iterations
    plan, small = plan_bench(world, asked.file, asked.rhs)
    log_input(plan)
    rtol = world.on_root(lambda: _default_rtol(plan)) if asked.rtol is None else asked.rtol
    task = Task(plan.system, rtol, limit, asked.method, asked.precond)
    warm_up = replace(task, system=small.system)
    used, names = _named(world, task)
    laps = race((Ours(world), Petsc(world, *names)), task, warm_up, world, asked.repeats)
    ours, theirs = summarise(laps["hpc_sla"]), summarise(laps["PETSc"])
    both = ours["converged"] and theirs["converged"]
    profile = gather_profile(world)
    if world.rank == 0:
        facts = {
            "status": "converged" if both else "max_iterations",
            "problem": asked.file,
            "method": used[0],
            "precond": used[1],
            "petsc_method": names[0],
            "petsc_precond": names[1],
            "rows": plan.n_rows,
            "ranks": world.size,
            "device": world.device.type,
            "transport": world.transport.name,
            "rtol": rtol,
            "repeats": asked.repeats,
        }
        _report(facts, ours, theirs, profile, asked.as_json)
    return exits.OK if both or asked.max_iterations is not None else exits.NOT_CONVERGED


def _named(world: World, task: Task) -> tuple[tuple[str, str], tuple[str, str]]:
    """Method and preconditioner of ours, and those that PETSc runs. **Collective.**

    What is left open a solve tells.
    """
    asked = task.method, task.precond
    if "auto" not in asked:
        return asked, asked
    ours = Ours(world)
    run_lap(ours, task, world)
    return ours.used, names_for_petsc(*ours.used)


def _default_rtol(plan: Plan) -> float:
    if plan.generated:
        return default_rtol(torch.float64)
    with MatrixFile(plan.path) as file:
        return default_rtol(getattr(torch, file.dtype.name))


def _report(
    facts: dict[str, Any],
    ours: dict[str, Any],
    theirs: dict[str, Any],
    profile: dict[str, Any] | None,
    as_json: bool,
) -> None:
    rows = max(facts["rows"], 1)
    for one in (ours, theirs):
        peak = one["peak_bytes"]
        one["bytes_per_row"] = None if peak is None else peak / rows
    ratios = {
        "time_per_iteration_ratio": ratio(
            ours["seconds_per_iteration"], theirs["seconds_per_iteration"]
        ),
        "total_time_ratio": ratio(ours["seconds_total"], theirs["seconds_total"])
        if _comparable(ours, theirs)
        else None,
        "peak_memory_ratio": ratio(ours["peak_bytes"], theirs["peak_bytes"]),
    }
    reason = None
    if ratios["peak_memory_ratio"] is None:
        reason = reset_peak() or "the peak counter could not be read on every rank"
    summary = {**facts, **ratios, "peak_memory_reason": reason, "ours": ours, "petsc": theirs}
    conclude(summary, profile, as_json, lambda: _print_table(facts, ours, theirs, reason))


_OF_WHOLE_SOLVES = ("seconds_solve", "seconds_total")


def _comparable(ours: dict[str, Any], theirs: dict[str, Any]) -> bool:
    """Whether both have done the same: solved it, or as many iterations."""
    both = ours["converged"] and theirs["converged"]
    return bool(both or ours["iterations"] == theirs["iterations"])


def _print_table(
    facts: dict[str, Any], ours: dict[str, Any], theirs: dict[str, Any], reason: str | None
) -> None:
    def shown(value: Any, unit: str) -> str:
        if value is None:
            return "-"
        if unit == "us":
            return f"{value * 1e6:.1f} us"
        if unit == "B":
            return f"{value:.1f} B"
        return {"s": seconds, "size": size, "n": count}[unit](value)

    table = []
    for label, key, unit in (
        ("iterations", "iterations", "n"),
        ("time per iteration", "seconds_per_iteration", "us"),
        ("set-up", "seconds_set_up", "s"),
        ("solve", "seconds_solve", "s"),
        ("set-up + solve", "seconds_total", "s"),
        ("peak memory, all ranks", "peak_bytes", "size"),
        ("memory per row", "bytes_per_row", "B"),
    ):
        fair = key not in _OF_WHOLE_SOLVES or _comparable(ours, theirs)
        quotient = ratio(ours[key], theirs[key]) if fair else None
        table.append(
            [
                label,
                shown(ours[key], unit),
                shown(theirs[key], unit),
                "-" if quotient is None else f"{quotient:.3f}",
            ]
        )
    how = f"{facts['method']} + {facts['precond']}"
    theirs_is = f"{facts['petsc_method']} + {facts['petsc_precond']}"
    if theirs_is != how:
        how += f" beside PETSc's {theirs_is}"
    title = (
        f"bench {facts['problem']}: {how}, "
        f"{count(facts['rows'])} rows, "
        f"{facts['ranks']} rank(s), rtol {facts['rtol']:g}, median of {facts['repeats']}"
    )
    print_table(title, ("", "hpc_sla", "PETSc", "ratio"), table, right=(1, 2, 3))
    if facts["status"] != "converged":
        print("Not both converged: of times, that of an iteration can still be compared.")
    if reason is not None:
        print(f"Peak memory was not measured: {reason}.")

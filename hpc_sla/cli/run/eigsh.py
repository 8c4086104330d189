"""A few eigenpairs of a symmetric matrix, on all ranks."""

from __future__ import annotations

import time
from typing import Any

import torch

from hpc_sla.checkpoint.checkpoint import Checkpoint
from hpc_sla.cli import exits
from hpc_sla.cli.asked import EigshOptions
from hpc_sla.cli.checkpointing import Guard
from hpc_sla.cli.record import conclude, gather_profile
from hpc_sla.cli.run.plan import Plan, plan_run, say_what_was_made
from hpc_sla.cli.run.result import provenance, write_result
from hpc_sla.cli.run.solver import of_option
from hpc_sla.cli.run.stages import Stages, where_and_how_long
from hpc_sla.distributed.world import World
from hpc_sla.eigen import eigsh
from hpc_sla.eigen.mass import moved
from hpc_sla.errors import InputError
from hpc_sla.linear import SolveInfo
from hpc_sla.observe import log
from hpc_sla.precond import CHOICES, make_preconditioner
from hpc_sla.report.modes import print_modes
from hpc_sla.report.progress import LiveLine
from hpc_sla.report.tables import finite
from hpc_sla.sparse.matrix import DSparseMatrix


def run(world: World, asked: EigshOptions, guard: Guard) -> int:
    """Do what ``eigsh`` does; the exit code. **Collective.**"""
    _check(asked)
    stages = Stages()
    plan = world.on_root(lambda: plan_run(asked.file, None, asked.output, world.size, kind="modes"))
    mass = world.on_root(lambda: _plan_mass(asked.mass, plan, world.size))
    checkpoint = guard.checkpoint(world)
    log.emit("input", path=plan.path, digest=plan.digest, made_from=plan.made, result=plan.output)
    say_what_was_made(plan, world)
    with stages("read"):
        A = plan.system.matrix(world)
        M = None if mass is None else _read_mass(mass, A)
    w, V, info = _solve(A, M, asked, stages, checkpoint)
    if info.status == "preempted":
        return guard.preempted(world, info.iterations, info.relative_residual, asked.as_json)
    guard.finishing()
    with stages("write"):
        about = _attributes(world, plan, mass, asked, info) if world.rank == 0 else {}
        modes = {"modes": (A.layout, V)}
        write_result(plan.output, modes, info.residual_history, about, stages.done, w.tolist())
    _report(A, w.tolist(), info, asked, plan, mass, stages)
    return exits.OK if info.converged else exits.NOT_CONVERGED


def _check(asked: EigshOptions) -> None:
    """Refuse what needs no file to be seen."""
    if asked.k < 1:
        raise InputError(f"is {asked.k}", field="-k", remedy="Ask for one pair or more.")
    if asked.tol is not None and not 0 < asked.tol < 1:
        raise InputError(
            f"is {asked.tol:g}", field="--tol", remedy="Give a small positive number: 1e-8."
        )
    for field, number in (
        ("--max-iterations", asked.max_iterations),
        ("--guard", asked.guard),
    ):
        if number is not None and number < 0:
            raise InputError(f"is {number}", field=field, remedy="Give 0 or more.")
    try:
        if asked.precond != "auto":
            CHOICES.make(asked.precond)
    except InputError as error:
        raise of_option(error, "--precond") from error


def _plan_mass(mass: str | None, plan: Plan, ranks: int) -> Plan | None:
    """The other file or generator. On rank 0."""
    if mass is None:
        return None
    other = plan_run(mass, None, "", ranks, kind="modes")
    if other.n_rows != plan.n_rows:
        raise InputError(
            f"has {other.n_rows} rows, and {plan.path} has {plan.n_rows}",
            file=other.path,
            field="--mass",
            remedy="Give the mass matrix of the same unknowns.",
        )
    return other


def _read_mass(plan: Plan, A: DSparseMatrix) -> DSparseMatrix:
    """Its rows where A's are. **Collective.**"""
    return moved(plan.system.matrix(A.world, A.dtype), A.layout)


def _solve(
    A: DSparseMatrix,
    mass: DSparseMatrix | None,
    asked: EigshOptions,
    stages: Stages,
    checkpoint: Checkpoint,
) -> tuple[torch.Tensor, torch.Tensor, SolveInfo]:
    """Solve with a live line, timing set-up and iteration apart. **Collective.**"""
    with stages("setup"):
        # Of "auto" eigsh chooses.
        M = "auto" if asked.precond == "auto" else make_preconditioner(asked.precond, A)
    start = time.perf_counter()
    stages.begin("solve")
    with LiveLine(A.world.rank, 1.0, 0.0) as line, torch.no_grad():
        w, V, info = eigsh(
            A,
            asked.k,
            asked.which,
            mass,
            precond=M,
            tol=asked.tol,
            max_iterations=asked.max_iterations,
            guard=asked.guard,
            callback=line.callback,
            checkpoint=checkpoint,
        )
    stages.end("solve", time.perf_counter() - start)
    return w, V, info


def _attributes(
    world: World, plan: Plan, mass: Plan | None, asked: EigshOptions, info: SolveInfo
) -> dict[str, Any]:
    """What a result says about the run. Local."""

    def or_default(value: float | None) -> float | str:
        return "default" if value is None else value

    return {
        "status": info.status,
        "statuses": [one.status for one in info.columns],
        "iterations": info.iterations,
        "relative_residual": info.relative_residual,
        "residual_norm": info.residual_norm,
        "residual_norms": [one.residual_norm for one in info.columns],
        "method": info.method,
        "precond": info.precond,
        "k": asked.k,
        "which": asked.which,
        "tol": or_default(asked.tol),
        "max_iterations": or_default(asked.max_iterations),
        "guard": or_default(asked.guard),
        "ranks": world.size,
        "device": world.device.type,
        "transport": world.transport.name,
        "input": plan.input,
        "input_digest": plan.digest,
        **({"mass": mass.input, "mass_digest": mass.digest} if mass else {}),
        **provenance(),
    }


def _report(
    A: DSparseMatrix,
    values: list[float],
    info: SolveInfo,
    asked: EigshOptions,
    plan: Plan,
    mass: Plan | None,
    stages: Stages,
) -> None:
    """Print the JSON object or the tables, on rank 0. **Collective.**"""
    world, nnz = A.world, A.nnz_global
    profile = gather_profile(world)
    where = where_and_how_long(world, stages)
    if where is None:
        return
    summary = {
        "status": info.status,
        "iterations": info.iterations,
        "relative_residual": finite(info.relative_residual),
        "eigenvalues": [finite(value) for value in values],
        "residual_norms": [finite(one.residual_norm) for one in info.columns],
        "statuses": [one.status for one in info.columns],
        "rows": A.layout.n_global,
        "nnz": nnz,
        **where,
        "result": plan.output,
    }
    how = f"{info.method} + {info.precond}, {asked.which} {asked.k}"
    if mass:
        how += f", mass {mass.path}"
    conclude(summary, profile, asked.as_json, lambda: print_modes(summary, plan.path, how))

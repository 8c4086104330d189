"""``eigsh``: a few eigenpairs of a symmetric matrix, on all ranks."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from hpc_sla.cli import exits, options
from hpc_sla.cli.checkpointing import Guard, checkpoint_options
from hpc_sla.cli.clock import Stages
from hpc_sla.cli.config import config_option
from hpc_sla.cli.files import Read, Written, is_file
from hpc_sla.cli.launch import launch
from hpc_sla.cli.plan import any_problem, default_output
from hpc_sla.cli.record import conclude, gather_profile, record_options
from hpc_sla.cli.session import open_world
from hpc_sla.cli.stall import Watchdog, stall_option
from hpc_sla.errors import InputError
from hpc_sla.observe import log

if TYPE_CHECKING:
    import torch

    from hpc_sla.checkpoint.checkpoint import Checkpoint
    from hpc_sla.cli.plan import Plan
    from hpc_sla.distributed.world import World
    from hpc_sla.linear import SolveInfo
    from hpc_sla.sparse.matrix import DSparseMatrix


@dataclass(frozen=True)
class Settings:
    """The options of one run."""

    k: int
    which: str
    precond: str | None
    tol: float | None
    max_iterations: int | None
    guard: int | None


@click.command("eigsh", short_help="A few eigenpairs of a symmetric matrix.")
@click.argument(
    "file", metavar="[FILE.h5|GENERATOR]", required=False, type=Read(is_file, makes=any_problem)
)
@click.option("-k", "k", type=int, default=6, show_default=True, help="How many pairs.")
@click.option(
    "--which",
    type=click.Choice(["smallest", "largest"]),
    default="smallest",
    show_default=True,
    help="Which end of the spectrum, algebraically.",
)
@click.option(
    "--mass",
    metavar="FILE.h5|GENERATOR",
    type=Read(is_file, makes=lambda mass, ranks: any_problem(mass, ranks) if mass else None),
    help="Solve A x = w M x, M of this file: symmetric positive definite, partitioned as it likes.",
)
@click.option(
    "--precond",
    metavar="NAME[:OPTION=VALUE,...]",
    help="Preconditioner, as for 'solve': amg for the smallest pairs of elliptic problems. "
    "Default: none; jacobi where rows are of very different size.",
)
@click.option(
    "--tol",
    type=float,
    help="Stop when ||A v - w M v|| <= tol |w| ||M v||, or at the level of rounding. Default: "
    "1e-8, and 1e-5 in single precision.",
)
@click.option("--max-iterations", type=int, help="Give up after so many. Default: 5000.")
@click.option(
    "--guard", type=int, help="Vectors beyond k to iterate on. Default: k / 5, at least 2."
)
@options.world_options
@click.option(
    "-o",
    "--output",
    type=Written(lambda params: default_output(params["file"], "modes", launch().size), hdf5=True),
    metavar="RESULT.h5",
    help="Default: <stem of FILE>.modes.h5 in the current folder.",
)
@checkpoint_options
@stall_option
@record_options
@options.json_option
@config_option
def command(
    file: str | None,
    k: int,
    which: str,
    mass: str | None,
    precond: str | None,
    tol: float | None,
    max_iterations: int | None,
    guard: int | None,
    device: str,
    transport: str,
    output: str | None,
    checkpoint: str | None,
    checkpoint_every: str,
    resume: bool,
    stall_timeout: float | None,
    as_json: bool,
) -> int:
    """Find the k smallest or largest eigenvalues of the symmetric matrix in FILE.h5, by LOBPCG.

    FILE.h5 is one made by 'partition'. From a generator (or without one, from the default 2D
    Poisson problem) one is made first, in the current folder. The result file has /eigenvalues
    and /modes [n, k] in your row order.

    Exit codes: 0 all pairs converged, 1 failed, 2 bad input or usage, 3 not all converged (the
    result is written all the same), 70 stalled (see --stall-timeout), 75 told to end by SIGTERM
    or SIGUSR1 (see --checkpoint).
    """
    with (
        Guard(checkpoint, checkpoint_every, resume) as watch,
        Watchdog(stall_timeout),
        open_world(device, transport) as world,
    ):
        settings = Settings(k, which, precond, tol, max_iterations, guard)
        return _eigsh(world, file, mass, output, settings, watch, as_json)


def _eigsh(
    world: World,
    file: str | None,
    mass: str | None,
    output: str | None,
    settings: Settings,
    watch: Guard,
    as_json: bool,
) -> int:
    from hpc_sla.cli.plan import plan_run
    from hpc_sla.cli.result import write_result
    from hpc_sla.sparse.matrix import DSparseMatrix

    _check(settings)
    stages = Stages()
    plan = world.on_root(lambda: plan_run(file, None, output, world.size, kind="modes"))
    other = world.on_root(lambda: _plan_mass(mass, plan, world.size))
    checkpoint = watch.checkpoint(world)
    log.emit("input", path=plan.path, digest=plan.digest, made_from=plan.made, result=plan.output)
    for one in (plan, other):
        if one and one.made and world.rank == 0:
            print(f"made {one.path} from {one.made}: METIS, {world.size} part(s)", file=sys.stderr)
    with stages("read"):
        A = DSparseMatrix.from_hdf5(plan.path, world)
        M = None if other is None else _read_mass(other, A)
    w, V, info = _run(A, M, settings, stages, checkpoint)
    if info.status == "preempted":
        return watch.preempted(world, info.iterations, info.relative_residual, as_json)
    watch.finishing()
    with stages("write"):
        about = _attributes(world, plan, other, settings, info) if world.rank == 0 else {}
        write_result(plan.output, A.layout, V, info.residual_history, about, w.tolist())
    _report(A, w.tolist(), info, settings, plan, other, stages, as_json)
    return exits.OK if info.converged else exits.NOT_CONVERGED


def _check(settings: Settings) -> None:
    """Refuse what needs no file to be seen. Loads torch."""
    from hpc_sla.precond import parse

    if settings.k < 1:
        raise InputError(f"is {settings.k}", field="-k", remedy="Ask for one pair or more.")
    if settings.tol is not None and not 0 < settings.tol < 1:
        raise InputError(
            f"is {settings.tol:g}", field="--tol", remedy="Give a small positive number: 1e-8."
        )
    for field, number in (
        ("--max-iterations", settings.max_iterations),
        ("--guard", settings.guard),
    ):
        if number is not None and number < 0:
            raise InputError(f"is {number}", field=field, remedy="Give 0 or more.")
    try:
        if settings.precond is not None:
            parse(settings.precond)
    except InputError as error:
        raise InputError(error.problem, field="--precond", remedy=error.remedy) from error


def _plan_mass(mass: str | None, plan: Plan, ranks: int) -> Plan | None:
    """The other file, made where a generator is named. On rank 0."""
    from hpc_sla.cli.plan import plan_run

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
    from hpc_sla.eigen.mass import moved
    from hpc_sla.sparse.matrix import DSparseMatrix

    return moved(DSparseMatrix.from_hdf5(plan.path, A.world, A.dtype), A.layout)


def _run(
    A: DSparseMatrix,
    mass: DSparseMatrix | None,
    settings: Settings,
    stages: Stages,
    checkpoint: Checkpoint,
) -> tuple[torch.Tensor, torch.Tensor, SolveInfo]:
    """With a live line, timing set-up and iteration apart. **Collective.**"""
    import torch

    from hpc_sla.eigen import eigsh
    from hpc_sla.precond import make_preconditioner
    from hpc_sla.report.progress import LiveLine

    with stages("setup"):
        # Where none is named eigsh chooses.
        M = None if settings.precond is None else make_preconditioner(settings.precond, A)
    start = time.perf_counter()
    stages.begin("solve")
    with LiveLine(A.world.rank, 1.0, 0.0) as line, torch.no_grad():
        w, V, info = eigsh(
            A,
            settings.k,
            settings.which,
            mass,
            precond=M,
            tol=settings.tol,
            max_iterations=settings.max_iterations,
            guard=settings.guard,
            callback=line.callback,
            checkpoint=checkpoint,
        )
    stages.end("solve", time.perf_counter() - start)
    return w, V, info


def _attributes(
    world: World, plan: Plan, mass: Plan | None, settings: Settings, info: SolveInfo
) -> dict[str, Any]:
    """What a result says about the run. Local."""
    from hpc_sla.cli.provenance import provenance

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
        "k": settings.k,
        "which": settings.which,
        "tol": or_default(settings.tol),
        "max_iterations": or_default(settings.max_iterations),
        "guard": or_default(settings.guard),
        "ranks": world.size,
        "device": world.device.type,
        "transport": world.transport.name,
        "input": os.path.abspath(plan.path),
        "input_digest": plan.digest,
        **({"mass": os.path.abspath(mass.path), "mass_digest": mass.digest} if mass else {}),
        **provenance(),
    }


def _report(
    A: DSparseMatrix,
    values: list[float],
    info: SolveInfo,
    settings: Settings,
    plan: Plan,
    mass: Plan | None,
    stages: Stages,
    as_json: bool,
) -> None:
    """Print the JSON object or the tables, on rank 0. **Collective.**"""
    from hpc_sla.cli.measured import measured
    from hpc_sla.report.modes import print_modes
    from hpc_sla.report.run import finite

    world, nnz = A.world, A.nnz_global
    profile = gather_profile(world)
    where = measured(world, stages)
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
    how = f"{info.method} + {info.precond}, {settings.which} {settings.k}"
    if mass:
        how += f", mass {mass.path}"
    conclude(summary, profile, as_json, lambda: print_modes(summary, plan.path, how))

"""``solve``: read a partitioned matrix, solve on all ranks, write the result."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import click

from hpc_sla.cli import exits, options
from hpc_sla.cli.checkpointing import Guard, checkpoint_options
from hpc_sla.cli.clock import Stages
from hpc_sla.cli.config import config_option
from hpc_sla.cli.files import Read, Written
from hpc_sla.cli.launch import launch
from hpc_sla.cli.plan import default_output, default_problem
from hpc_sla.cli.record import conclude, gather_profile, log_input, record_options
from hpc_sla.cli.session import open_world
from hpc_sla.cli.stall import Watchdog, stall_option
from hpc_sla.errors import InputError
from hpc_sla.report.run import finite

if TYPE_CHECKING:
    import torch

    from hpc_sla.checkpoint.checkpoint import Checkpoint
    from hpc_sla.cli.plan import Plan
    from hpc_sla.distributed.world import World
    from hpc_sla.linear import SolveInfo
    from hpc_sla.precond import Preconditioner
    from hpc_sla.report.progress import LiveLine
    from hpc_sla.sparse.matrix import DSparseMatrix


@dataclass(frozen=True)
class Settings:
    """The solver options of one run. rtol is None until the dtype is known."""

    method: str
    precond: str
    rtol: float | None
    atol: float
    max_iterations: int | None
    dtol: float = 1e5

    def on(self, dtype: torch.dtype) -> Settings:
        """The same for a matrix of that dtype, which decides what was left open. Local."""
        from hpc_sla.linear import default_rtol

        return self if self.rtol is not None else replace(self, rtol=default_rtol(dtype))


@click.command("solve", short_help="Solve A x = b on all ranks and write the result.")
@click.argument("file", metavar="[FILE.h5]", required=False, type=Read(makes=default_problem))
@options.solver_options
@click.option(
    "--dtol",
    type=float,
    default=1e5,
    show_default=True,
    help="End as diverged when ||b - A x|| > dtol ||b||.",
)
@options.world_options
@click.option(
    "-o",
    "--output",
    type=Written(lambda params: default_output(params["file"], "result", launch().size), hdf5=True),
    metavar="RESULT.h5",
    help="Default: <stem of FILE>.result.h5 in the current folder.",
)
@checkpoint_options
@stall_option
@record_options
@options.json_option
@config_option
def command(
    file: str | None,
    method: str,
    precond: str,
    rtol: float | None,
    atol: float,
    max_iterations: int | None,
    rhs: str | None,
    dtol: float,
    device: str,
    transport: str,
    output: str | None,
    checkpoint: str | None,
    checkpoint_every: str,
    resume: bool,
    stall_timeout: float | None,
    as_json: bool,
) -> int:
    """Solve A x = b for the matrix in FILE.h5, made by 'partition'.

    Without FILE.h5 a small 2D Poisson problem is made, partitioned with METIS into as many parts
    as there are ranks, written to the current folder, and solved from there.

    Exit codes: 0 converged, 1 failed, 2 bad input or usage, 3 not converged (the result is
    written all the same), 70 stalled (see --stall-timeout), 75 told to end by SIGTERM or SIGUSR1
    (see --checkpoint).
    """
    options.check_solver_numbers(rtol, atol, max_iterations)
    if not dtol > 1:
        raise InputError(f"is {dtol:g}", field="--dtol", remedy="Give a number above 1.")
    settings = Settings(method, precond, rtol, atol, max_iterations, dtol)
    with (
        Guard(checkpoint, checkpoint_every, resume) as guard,
        Watchdog(stall_timeout),
        open_world(device, transport) as world,
    ):
        return _solve(world, file, rhs, output, settings, guard, as_json)


def _solve(
    world: World,
    file: str | None,
    rhs: str | None,
    output: str | None,
    settings: Settings,
    guard: Guard,
    as_json: bool,
) -> int:
    from hpc_sla.cli.plan import plan_run, right_hand_side
    from hpc_sla.cli.result import write_result
    from hpc_sla.sparse.matrix import DSparseMatrix

    options.check_solver_names(settings.method, settings.precond)
    stages = Stages()
    plan = world.on_root(lambda: plan_run(file, rhs, output, world.size, settings.method))
    checkpoint = guard.checkpoint(world)
    log_input(plan)
    if plan.made and world.rank == 0:
        print(f"made {plan.path} from {plan.made}: METIS, {world.size} part(s)", file=sys.stderr)
    with stages("read"):
        A = DSparseMatrix.from_hdf5(plan.path, world)
        b = right_hand_side(plan, A.layout)
    left_open = settings.rtol is None
    settings = settings.on(A.dtype)
    x, info, M = run_solver(A, b, settings, stages, checkpoint, left_open)
    if info.status == "preempted":
        return guard.preempted(world, info.iterations, info.relative_residual, as_json)
    guard.finishing()
    with stages("write"):
        about = attributes(world, plan, settings, info) if world.rank == 0 else {}
        write_result(plan.output, A.columns, x, info.residual_history, about)
    _report(A, x, info, plan, stages, as_json)
    if not as_json:
        _report_levels(M, world)
    return exits.OK if info.converged else exits.NOT_CONVERGED


class _SetUpWatch:
    """Ends set-up where the iteration begins, and hands every call on to the live line."""

    def __init__(self, line: LiveLine, stages: Stages) -> None:
        self._line, self._stages = line.callback, stages
        self._start = self._began = time.perf_counter()
        self._iterates = False
        stages.begin("setup")

    def __call__(self, iteration: int, residual_norm: float) -> None:
        if not self._iterates:
            self._iterate()
        if self._line is not None:
            self._line(iteration, residual_norm)

    def _iterate(self) -> None:
        self._iterates, self._began = True, time.perf_counter()
        self._stages.end("setup", self._began - self._start)
        self._stages.begin("solve")

    def end(self) -> None:
        if not self._iterates:
            self._iterate()
        self._stages.end("solve", time.perf_counter() - self._began)


def run_solver(
    A: DSparseMatrix,
    b: torch.Tensor,
    settings: Settings,
    stages: Stages,
    checkpoint: Checkpoint | None = None,
    left_open: bool = False,
) -> tuple[torch.Tensor, SolveInfo, Preconditioner]:
    """Solve with a live line, timing set-up and iteration apart. **Collective.**

    With `left_open` rtol is the default, and what rounding leaves will do: see `solve`.
    """
    from hpc_sla.linear import solve
    from hpc_sla.precond import make_preconditioner
    from hpc_sla.report.progress import LiveLine

    scale = float(A.layout.norm(b).max())
    assert settings.rtol is not None
    with LiveLine(A.world.rank, scale, settings.rtol) as line:
        watch = _SetUpWatch(line, stages)
        M = make_preconditioner(settings.precond, A)
        x, info = solve(
            A,
            b,
            method=settings.method,
            precond=M,
            rtol=None if left_open else settings.rtol,
            atol=settings.atol,
            max_iterations=settings.max_iterations,
            dtol=settings.dtol,
            callback=watch,
            checkpoint=checkpoint,
        )
        watch.end()
    return x, info, M


def _report_levels(M: Preconditioner, world: World) -> None:
    """The table of a multigrid preconditioner's levels, on rank 0. Local."""
    from hpc_sla.precond.amg import AMG
    from hpc_sla.report.hierarchy import print_hierarchy

    if world.rank == 0 and isinstance(M, AMG):
        print_hierarchy(M)


def attributes(world: World, plan: Plan, settings: Settings, info: SolveInfo) -> dict[str, Any]:
    """What a result says about the solve. Local."""
    from hpc_sla.cli.provenance import provenance

    limit, normal = settings.max_iterations, info.normal_residual
    return {
        "status": info.status,
        "iterations": info.iterations,
        "relative_residual": info.relative_residual,
        **({} if normal is None else {"normal_residual": normal}),
        "residual_norm": info.residual_norm,
        **_of_columns(info),
        **({} if info.backward_error is None else {"backward_error": info.backward_error}),
        "method": info.method,
        "method_reason": info.reason,
        "precond": info.precond,
        "rtol": settings.rtol,
        "atol": settings.atol,
        "dtol": settings.dtol,
        "max_iterations": "default" if limit is None else limit,
        "rhs": plan.rhs,
        "ranks": world.size,
        "device": world.device.type,
        "transport": world.transport.name,
        "input": os.path.abspath(plan.path),
        "input_digest": plan.digest,
        **provenance(),
    }


def _of_columns(info: SolveInfo) -> dict[str, Any]:
    """Of several right-hand sides each; all else tells of the worst."""
    if not info.columns:
        return {}
    return {
        "statuses": [one.status for one in info.columns],
        "column_iterations": [one.iterations for one in info.columns],
        "relative_residuals": [finite(one.relative_residual) for one in info.columns],
    }


def _report(
    A: DSparseMatrix, x: torch.Tensor, info: SolveInfo, plan: Plan, stages: Stages, as_json: bool
) -> None:
    """Print the JSON object or the table, on rank 0. **Collective.**"""
    from hpc_sla.cli.measured import measured
    from hpc_sla.linear.advice import advice
    from hpc_sla.report.ranks import rank_shares
    from hpc_sla.report.run import print_run

    world = A.world
    nnz = A.nnz_global
    shares = rank_shares(A)
    error = None if as_json or not plan.has_solution else _known_error(A, x, plan)
    profile = gather_profile(world)
    where = measured(world, stages)
    if where is None:
        return
    summary = {
        "status": info.status,
        "iterations": info.iterations,
        "relative_residual": finite(info.relative_residual),
        **({} if info.normal_residual is None else {"normal_residual": info.normal_residual}),
        **_of_columns(info),
        **({} if info.backward_error is None else {"backward_error": finite(info.backward_error)}),
        "rows": A.layout.n_global,
        "nnz": nnz,
        **where,
        "result": plan.output,
    }
    problem = f"{plan.path}, right-hand side {plan.rhs}"
    if info.columns:
        problem += f" of {len(info.columns)} columns"
    how = f"{info.method} + {info.precond}"
    if info.reason:
        how += f" (auto: {info.reason})"
    told_status = info.status, error, advice(info)

    def show() -> None:
        assert shares is not None
        print_run(summary, A.shape, shares, problem, plan.method, how, *told_status)

    conclude(summary, profile, as_json, show)


def _known_error(A: DSparseMatrix, x: torch.Tensor, plan: Plan) -> float:
    """||x - x_exact|| / ||x_exact|| for a right-hand side whose solution the file knows.

    The largest over its columns.

    **Collective.**
    """
    import torch

    from hpc_sla.storage.matrix_file import MatrixFile

    layout = A.columns
    with A.world.agree(), MatrixFile(plan.path) as file:
        known = file.read_solution(plan.rhs, layout.start, layout.start + layout.n_owned)
    exact = torch.from_numpy(known).to(x).reshape(x.shape)
    norm = layout.norm(exact)
    return float((layout.norm(x - exact) / torch.where(norm > 0, norm, 1.0)).max())

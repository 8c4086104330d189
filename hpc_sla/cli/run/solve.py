"""Read a partitioned matrix, solve on all ranks, write the result."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch

from hpc_sla.cli import exits
from hpc_sla.cli.asked import SolveOptions
from hpc_sla.cli.checkpointing import Guard
from hpc_sla.cli.record import conclude, gather_profile, log_input
from hpc_sla.cli.run.plan import Plan, plan_run, say_what_was_made
from hpc_sla.cli.run.result import write_result
from hpc_sla.cli.run.solver import (
    attributes,
    check_solver_names,
    column_figures,
    run_solver,
    with_rtol,
)
from hpc_sla.cli.run.stages import Stages, where_and_how_long
from hpc_sla.distributed.world import World
from hpc_sla.errors import AccuracyWarning
from hpc_sla.linear import SolveInfo
from hpc_sla.linear.advice import advice
from hpc_sla.observe import log
from hpc_sla.precond import Preconditioner
from hpc_sla.precond.amg import AMG
from hpc_sla.report.hierarchy import print_hierarchy
from hpc_sla.report.ranks import rank_shares
from hpc_sla.report.run import print_run
from hpc_sla.report.tables import finite
from hpc_sla.sparse.matrix import DSparseMatrix


def run(world: World, asked: SolveOptions, guard: Guard) -> int:
    """Do what ``solve`` does; the exit code. **Collective.**"""
    check_solver_names(asked.method, asked.precond)
    stages = Stages()
    plan = world.on_root(
        lambda: plan_run(asked.file, asked.rhs, asked.output, world.size, asked.method)
    )
    checkpoint = guard.checkpoint(world)
    log_input(plan)
    say_what_was_made(plan, world)
    with stages("read"):
        A = plan.system.matrix(world)
        b = plan.system.right_hand_side(A.layout)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AccuracyWarning)  # the table says it, once
        x, info, solver = run_solver(A, b, asked, stages, checkpoint)
    if info.status == "preempted":
        return guard.preempted(world, info.iterations, info.relative_residual, asked.as_json)
    _log_levels(solver.precond)
    guard.finishing()
    with stages("write"):
        with_its_rtol = with_rtol(asked, A.dtype)
        about = attributes(world, plan, with_its_rtol, info) if world.rank == 0 else {}
        write_result(plan.output, {"x": (A.columns, x)}, info.residual_history, about, stages.done)
    explained = solver.view().splitlines() if asked.explain else []
    _report(A, x, info, plan, stages, asked.as_json, explained)
    if not asked.as_json:
        _report_levels(solver.precond, world)
    return exits.OK if info.converged else exits.NOT_CONVERGED


def _report_levels(M: Preconditioner, world: World) -> None:
    """The table of a multigrid preconditioner's levels, on rank 0. Local."""
    if world.rank == 0 and isinstance(M, AMG):
        print_hierarchy(M)


def _log_levels(M: Preconditioner) -> None:
    """What `plot` draws of a multigrid preconditioner's levels. Local."""
    if isinstance(M, AMG):
        of_each = ("rows", "nonzeros", "ranks", "bytes")
        levels = [{name: int(getattr(level, name)) for name in of_each} for level in M.levels]
        log.emit("hierarchy", precond=M.name, levels=levels)


def _report(
    A: DSparseMatrix,
    x: torch.Tensor,
    info: SolveInfo,
    plan: Plan,
    stages: Stages,
    as_json: bool,
    explained: Sequence[str],
) -> None:
    """Print the JSON object or the table, on rank 0. **Collective.**"""
    world = A.world
    nnz = A.nnz_global
    shares = rank_shares(A)
    error = None if as_json or not plan.has_solution else _known_error(A, x, plan)
    profile = gather_profile(world)
    where = where_and_how_long(world, stages)
    if where is None:
        return
    summary = {
        "status": info.status,
        "iterations": info.iterations,
        "relative_residual": finite(info.relative_residual),
        **({} if info.normal_residual is None else {"normal_residual": info.normal_residual}),
        **column_figures(info),
        **({} if info.backward_error is None else {"backward_error": finite(info.backward_error)}),
        "rows": A.layout.n_global,
        "nnz": nnz,
        **where,
        "result": plan.output,
        **({"explained": explained} if explained else {}),
    }
    problem = f"{plan.path}, right-hand side {plan.rhs}"
    if info.columns:
        problem += f" of {len(info.columns)} columns"
    how = f"{info.method} + {info.precond}"
    if info.reason:
        how += f" (auto: {info.reason})"
    advised = advice(info)

    def show() -> None:
        assert shares is not None
        print_run(summary, A.shape, shares, problem, plan.method, how, info.status, error, advised)
        if explained:
            print("\n" + "\n".join(explained))

    conclude(summary, profile, as_json, show)


def _known_error(A: DSparseMatrix, x: torch.Tensor, plan: Plan) -> float:
    """||x - x_exact|| / ||x_exact|| for a right-hand side whose solution is known.

    The largest over its columns.

    **Collective.**
    """
    layout = A.columns
    exact = torch.from_numpy(plan.system.solution(plan.rhs, layout)).to(x).reshape(x.shape)
    norm = layout.norm(exact)
    return float((layout.norm(x - exact) / torch.where(norm > 0, norm, 1.0)).max())

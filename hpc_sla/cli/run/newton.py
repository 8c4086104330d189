"""Solve a nonlinear model problem on all ranks and write the result."""

from __future__ import annotations

import sys
from typing import Any

import torch

from hpc_sla.cli import exits
from hpc_sla.cli.asked import NewtonOptions
from hpc_sla.cli.checkpointing import Guard
from hpc_sla.cli.files import newton_output
from hpc_sla.cli.prepare import check_size
from hpc_sla.cli.record import conclude, gather_profile
from hpc_sla.cli.run.result import provenance, write_result
from hpc_sla.cli.run.stages import Stages, where_and_how_long
from hpc_sla.distributed.world import World
from hpc_sla.errors import InputError
from hpc_sla.linear import default_rtol
from hpc_sla.nonlinear.info import MEANINGS, NonlinearInfo
from hpc_sla.nonlinear.solver import nonlinear_solve
from hpc_sla.observe import log
from hpc_sla.problems import NonlinearProblem, NonlinearSystem, make_nonlinear
from hpc_sla.report.progress import LiveLine
from hpc_sla.report.tables import count, finite, print_facts, print_table, seconds, size


def run(world: World, asked: NewtonOptions, guard: Guard) -> int:
    """Do what ``newton`` does; the exit code. **Collective.**"""
    stages = Stages()
    problem = make_nonlinear(asked.problem)
    check_size(asked.problem, problem.n_rows, world.size)
    output = asked.output or newton_output(asked.problem)
    checkpoint = guard.checkpoint(world, tag=problem.spec)
    log.emit("input", problem=problem.spec, rows=problem.n_rows, result=output)
    # Picard's and Anderson's method refuse one to save to, and end at once when told to.
    saves = checkpoint.path is not None or asked.method.startswith("newton")
    with stages("setup"):
        system = problem.on(world)
    rtol = default_rtol(system.u0.dtype) if asked.rtol is None else asked.rtol
    given = _arguments(problem, system, asked, rtol)
    scale = float(system.layout.norm(system.residual(system.u0, *system.theta)))
    with stages("solve"), LiveLine(world.rank, scale, rtol) as line:
        u, info = nonlinear_solve(
            system.residual,
            system.u0,
            *system.theta,
            layout=system.layout,
            callback=line.callback,
            checkpoint=checkpoint if saves else None,
            **given,
        )
    if info.status == "preempted":
        return guard.preempted(world, info.iterations, info.relative_residual, asked.as_json)
    guard.finishing()
    with stages("write"):
        about = _attributes(world, problem, info, given) if world.rank == 0 else {}
        vectors = {"x": (system.layout, u)}
        write_result(output, vectors, info.residual_history, about, stages.done)
    _report(world, output, problem, system, u, info, given, stages, asked.as_json)
    return exits.OK if info.converged else exits.NOT_CONVERGED


def _arguments(
    problem: NonlinearProblem, system: NonlinearSystem, asked: NewtonOptions, rtol: float
) -> dict[str, Any]:
    """What `nonlinear_solve` is to be called with. Local, and alike on all ranks."""
    jacobian: Any = asked.jacobian
    if jacobian == "exact" and system.jacobian is None:
        raise InputError(
            f"{problem.name} has no Jacobian written out",
            field="--jacobian",
            remedy="Choose coloured or matrix_free.",
        )
    if jacobian in ("auto", "exact"):
        jacobian = system.jacobian or "coloured"
    linear_method, precond = asked.linear_method, asked.precond
    if linear_method == "auto":
        linear_method = "cg" if problem.symmetric else "gmres"
    if precond == "auto":
        several = "block_jacobi" if asked.method.startswith("newton") else "jacobi"
        precond = "amg" if problem.block_size == 1 else several
    return {
        "method": asked.method,
        "jacobian": jacobian,
        "linear_method": linear_method,
        "precond": precond,
        "precond_lag": asked.precond_lag,
        "forcing": asked.forcing,
        "rtol": rtol,
        "atol": asked.atol,
        "max_iterations": asked.max_iterations,
        "pattern": system.A,
    }


def _attributes(
    world: World, problem: NonlinearProblem, info: NonlinearInfo, given: dict[str, Any]
) -> dict[str, Any]:
    """What a result says about the solve. Local."""
    return {
        "input": problem.spec,
        "status": info.status,
        "iterations": info.iterations,
        "linear_iterations": sum(info.inner_iterations),
        "residual_norm": info.residual_norm,
        "relative_residual": info.relative_residual,
        "method": info.method,
        "jacobian": _jacobian(given),
        "linear_method": given["linear_method"],
        "precond": info.precond or str(given["precond"]),
        "forcing": given["forcing"] or "eisenstat-walker",
        "max_iterations": given["max_iterations"] or "default",
        "rtol": given["rtol"],
        "atol": given["atol"],
        "precond_lag": given["precond_lag"],
        "ranks": world.size,
        "device": world.device.type,
        "transport": world.transport.name,
        **provenance(),
    }


def _jacobian(given: dict[str, Any]) -> str:
    return "exact" if callable(given["jacobian"]) else str(given["jacobian"])


def _report(
    world: World,
    output: str,
    problem: NonlinearProblem,
    system: NonlinearSystem,
    u: torch.Tensor,
    info: NonlinearInfo,
    given: dict[str, Any],
    stages: Stages,
    as_json: bool,
) -> None:
    """Print the JSON object or the table, on rank 0. **Collective.**"""
    largest = world.max(float(u.abs().max()) if u.numel() else 0.0)
    error = None
    if system.exact is not None:
        wrong = (u - system.exact).abs()
        error = world.max(float(wrong.max()) if u.numel() else 0.0)
    profile = gather_profile(world)
    where = where_and_how_long(world, stages)
    if where is None:
        return
    summary = {
        "status": info.status,
        "iterations": info.iterations,
        "linear_iterations": sum(info.inner_iterations),
        "relative_residual": finite(info.relative_residual),
        "residual_evaluations": info.residual_evaluations,
        "jacobian_products": info.jacobian_products,
        "max_abs_u": finite(largest),
        **({} if error is None else {"error": finite(error)}),
        "rows": problem.n_rows,
        "nnz": system.A.nnz_global,
        **where,
        "result": output,
    }
    conclude(summary, profile, as_json, lambda: _print(summary, problem, info, given))
    sys.stdout.flush()


def _print(
    summary: dict[str, Any], problem: NonlinearProblem, info: NonlinearInfo, given: dict[str, Any]
) -> None:
    ended = f"{info.status} in {count(info.iterations)} iterations"
    if not info.converged:
        ended += f": {MEANINGS[info.status]}"
    how = f"{_jacobian(given)} Jacobian, {given['linear_method']} + {info.precond or 'none'}"
    facts = [
        ("problem", f"{problem.spec}, {count(summary['rows'])} unknowns"),
        ("ran on", f"{summary['ranks']} rank(s), {summary['device']}, {summary['transport']}"),
        ("solver", f"{info.method}, {how}" if info.method == "newton" else info.method),
        ("status", ended),
        ("residual", f"{info.residual_norm:.3e}, {info.relative_residual:.3e} of the first"),
        ("largest |u|", f"{summary['max_abs_u']}"),
    ]
    if "error" in summary:
        facts.append(("error", f"{summary['error']:.3e} (largest, to the manufactured solution)"))
    facts += [
        ("time", ", ".join(f"{stage} {seconds(t)}" for stage, t in summary["seconds"].items())),
        ("peak memory", f"{size(summary['peak_rss_bytes_max'])} on the largest rank"),
        ("result", summary["result"]),
    ]
    print_facts("newton", facts)
    if not info.inner_iterations:
        return
    steps = zip(
        info.inner_iterations,
        info.forcing,
        info.residual_history[1:],
        info.step_lengths,
        strict=False,
    )
    print_table(
        "iterations",
        ("step", "linear iterations", "to", "length", "residual"),
        [
            [str(k + 1), str(inner), f"{eta:.1e}", f"{length:.3g}", f"{norm:.3e}"]
            for k, (inner, eta, norm, length) in enumerate(steps)
        ],
        right=(0, 1, 2, 3, 4),
    )

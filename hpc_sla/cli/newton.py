"""``newton``: solve a nonlinear model problem on all ranks and write the result."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from hpc_sla.cli import exits, options
from hpc_sla.cli.checkpointing import Guard, checkpoint_options
from hpc_sla.cli.clock import Stages
from hpc_sla.cli.config import config_option
from hpc_sla.cli.files import Written
from hpc_sla.cli.prepare import check_size
from hpc_sla.cli.record import conclude, gather_profile, record_options
from hpc_sla.cli.session import open_world
from hpc_sla.cli.stall import Watchdog, stall_option
from hpc_sla.errors import InputError
from hpc_sla.nonlinear.choices import JACOBIANS, METHODS
from hpc_sla.observe import log

if TYPE_CHECKING:
    import torch

    from hpc_sla.distributed.world import World
    from hpc_sla.nonlinear.info import NonlinearInfo
    from hpc_sla.problems import NonlinearProblem, NonlinearSystem

DEFAULT_PROBLEM = "bratu2d:n=128,lambda=6"


@click.command("newton", short_help="Solve a nonlinear model problem and write the result.")
@click.argument("problem", metavar="[PROBLEM]", default=DEFAULT_PROBLEM)
@click.option("--problems", "listing", is_flag=True, help="List the problems and stop.")
@click.option(
    "--method",
    default="newton",
    show_default=True,
    metavar="NAME[:OPTION=VALUE,...]",
    help="As in anderson:memory=10. " + options._listed(METHODS),
)
@click.option(
    "--jacobian",
    type=click.Choice(["auto", "exact", *JACOBIANS]),
    default="auto",
    show_default=True,
    help="exact: the problem's own, where it has one; else coloured (auto). "
    + options._listed(JACOBIANS),
)
@click.option(
    "--linear-method",
    default="auto",
    show_default=True,
    metavar="NAME[:OPTION=VALUE,...]",
    help="Of the linear systems, as --method of 'solve'. auto: cg or gmres, as suits the problem.",
)
@click.option(
    "--precond",
    default="auto",
    show_default=True,
    metavar="NAME[:OPTION=VALUE,...]",
    help="Of the linear systems, as --precond of 'solve'. auto: amg, or block_jacobi for several "
    "unknowns a point.",
)
@click.option(
    "--precond-lag", type=int, default=1, show_default=True, help="Steps it serves; 0: for all."
)
@click.option(
    "--forcing",
    type=float,
    default=None,
    help="Relative tolerance of the linear systems. Default: Eisenstat and Walker's.",
)
@options.tolerance_options
@options.world_options
@click.option(
    "-o",
    "--output",
    type=Written(
        lambda params: None if params["listing"] else _default_output(params["problem"]),
        hdf5=True,
    ),
    metavar="RESULT.h5",
    help="Default: <name of PROBLEM>.result.h5 in the current folder.",
)
@checkpoint_options
@stall_option
@record_options
@options.json_option
@config_option
def command(
    problem: str,
    listing: bool,
    method: str,
    jacobian: str,
    linear_method: str,
    precond: str,
    precond_lag: int,
    forcing: float | None,
    rtol: float | None,
    atol: float,
    max_iterations: int | None,
    device: str,
    transport: str,
    output: str | None,
    checkpoint: str | None,
    checkpoint_every: str,
    resume: bool,
    stall_timeout: float | None,
    as_json: bool,
) -> int:
    """Solve F(u) = 0 for the model problem PROBLEM, such as bratu2d:n=256,lambda=6.

    Stops when ||F(u)|| <= max(rtol ||F(u0)||, atol).

    Exit codes: 0 converged, 1 failed, 2 bad input or usage, 3 not converged (the result is
    written all the same), 70 stalled (see --stall-timeout), 75 told to end by SIGTERM or SIGUSR1
    (see --checkpoint, which is for --method newton).
    """
    if listing:
        return _list()
    options.check_solver_numbers(rtol, atol, max_iterations)
    asked = {
        "method": method,
        "jacobian": jacobian,
        "linear_method": linear_method,
        "precond": precond,
        "precond_lag": precond_lag,
        "forcing": forcing,
        "rtol": rtol,
        "atol": atol,
        "max_iterations": max_iterations,
    }
    with (
        Guard(checkpoint, checkpoint_every, resume) as guard,
        Watchdog(stall_timeout),
        open_world(device, transport) as world,
    ):
        return _newton(world, problem, output, asked, guard, as_json)


def _list() -> int:
    from hpc_sla.problems import summaries_nonlinear
    from hpc_sla.report.tables import print_table

    rows = [list(pair) for pair in summaries_nonlinear().items()]
    print_table("nonlinear problems", ("problem", "equation"), rows)
    return exits.OK


def _newton(
    world: World,
    text: str,
    output: str | None,
    asked: dict[str, Any],
    guard: Guard,
    as_json: bool,
) -> int:
    from hpc_sla.linear import default_rtol
    from hpc_sla.nonlinear.solver import nonlinear_solve
    from hpc_sla.report.progress import LiveLine

    stages = Stages()
    problem = _problem(text)
    check_size(text, problem.n_rows, world.size)
    output = output or _default_output(text)
    checkpoint = guard.checkpoint(world, tag=problem.spec)
    log.emit("input", problem=problem.spec, rows=problem.n_rows, result=output)
    # Picard's and Anderson's method refuse one to save to, and end at once when told to.
    saves = checkpoint.path is not None or asked["method"].startswith("newton")
    with stages("setup"):
        system = problem.on(world)
    if asked["rtol"] is None:
        asked = {**asked, "rtol": default_rtol(system.u0.dtype)}
    given = _options(problem, system, asked)
    scale = float(system.layout.norm(system.residual(system.u0, *system.theta)))
    with stages("solve"), LiveLine(world.rank, scale, asked["rtol"]) as line:
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
        return guard.preempted(world, info.iterations, info.relative_residual, as_json)
    guard.finishing()
    with stages("write"):
        _write(world, output, problem, system, u, info, given)
    _report(world, output, problem, system, u, info, given, stages, as_json)
    return exits.OK if info.converged else exits.NOT_CONVERGED


def _default_output(problem: str) -> str:
    return f"{problem.partition(':')[0]}.result.h5"


def _problem(text: str) -> NonlinearProblem:
    from hpc_sla.problems import make_nonlinear

    return make_nonlinear(text)


def _options(
    problem: NonlinearProblem, system: NonlinearSystem, asked: dict[str, Any]
) -> dict[str, Any]:
    """What `nonlinear_solve` is asked for. Local, and alike on all ranks."""
    given = dict(asked)
    if given["jacobian"] == "exact" and system.jacobian is None:
        raise InputError(
            f"{problem.name} has no Jacobian written out",
            field="--jacobian",
            remedy="Choose coloured or matrix_free.",
        )
    if given["jacobian"] in ("auto", "exact"):
        given["jacobian"] = system.jacobian or "coloured"
    given["pattern"] = system.A
    if given["linear_method"] == "auto":
        given["linear_method"] = "cg" if problem.symmetric else "gmres"
    if given["precond"] == "auto":
        given["precond"] = "amg" if problem.block_size == 1 else "block_jacobi"
        if not given["method"].startswith("newton"):
            given["precond"] = "amg" if problem.block_size == 1 else "jacobi"
    return given


def _write(
    world: World,
    output: str,
    problem: NonlinearProblem,
    system: NonlinearSystem,
    u: torch.Tensor,
    info: NonlinearInfo,
    given: dict[str, Any],
) -> None:
    """**Collective.**"""
    from hpc_sla.cli.provenance import provenance
    from hpc_sla.cli.result import write_result

    about: dict[str, Any] = {}
    if world.rank == 0:
        kept = ("rtol", "atol", "precond_lag")
        about = {
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
            **{name: given[name] for name in kept},
            "ranks": world.size,
            "device": world.device.type,
            "transport": world.transport.name,
            **provenance(),
        }
    write_result(output, system.layout, u, info.residual_history, about)


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
    from hpc_sla.cli.measured import measured
    from hpc_sla.report.run import finite

    largest = world.max(float(u.abs().max()) if u.numel() else 0.0)
    error = None
    if system.exact is not None:
        wrong = (u - system.exact).abs()
        error = world.max(float(wrong.max()) if u.numel() else 0.0)
    profile = gather_profile(world)
    where = measured(world, stages)
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
    from hpc_sla.nonlinear.info import MEANINGS
    from hpc_sla.report.tables import count, print_facts, print_table, seconds, size

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

"""``grad``: the gradient of a loss of the solution, with respect to the matrix and b."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hpc_sla.cli import exits, options
from hpc_sla.cli.clock import Stages
from hpc_sla.cli.config import config_option
from hpc_sla.cli.files import Read, Written
from hpc_sla.cli.plan import default_output
from hpc_sla.cli.record import conclude, gather_profile, log_input, record_options
from hpc_sla.cli.session import open_world
from hpc_sla.cli.solve import Settings, attributes
from hpc_sla.errors import HpcSlaError, InputError

if TYPE_CHECKING:
    import torch

    from hpc_sla.cli.plan import Plan
    from hpc_sla.distributed.world import World
    from hpc_sla.linear.losses import Comparison, Gradient, Problem
    from hpc_sla.sparse.matrix import DSparseMatrix

LOSSES = ("sum", "norm2", "misfit")


@click.command("grad", short_help="Differentiate a loss of the solution; check by differences.")
@click.argument("file", metavar="FILE.h5", type=Read())
@click.option(
    "--loss",
    type=click.Choice(LOSSES),
    default="norm2",
    show_default=True,
    help="Of the solution x: the sum of x, ||x||_2, or ||x - target||_2^2 / 2.",
)
@click.option(
    "--target",
    type=Read(lambda target: bool(Path(target).suffix)),
    metavar="NAME|FILE",
    help="For misfit: a known solution in FILE.h5, by the name of its right-hand side (default: "
    "that of --rhs), or a vector in your order (.npy, .mtx).",
)
@click.option(
    "--adjoint-rtol", type=float, default=None, help="Of the backward solve. Default: --rtol's."
)
@click.option(
    "--check",
    is_flag=True,
    help="Compare with central differences in random directions, over a ladder of steps.",
)
@options.solver_options
@options.world_options
@click.option(
    "-o",
    "--output",
    type=Written(lambda params: default_output(params["file"], "gradient", 0), hdf5=True),
    metavar="RESULT.h5",
    help="Default: <stem of FILE>.gradient.h5 in the current folder.",
)
@record_options
@options.json_option
@config_option
def command(
    file: str,
    loss: str,
    target: str | None,
    adjoint_rtol: float | None,
    check: bool,
    method: str,
    precond: str,
    rtol: float | None,
    atol: float,
    max_iterations: int | None,
    rhs: str | None,
    device: str,
    transport: str,
    output: str | None,
    as_json: bool,
) -> int:
    """Solve A x = b of FILE.h5, and differentiate a loss of x with respect to A and b.

    The result has x, the gradient with respect to b and, on the matrix's pattern in compressed
    rows, that with respect to A, all in your order.

    Exit codes: 0 done, 1 failed or the check does not agree, 2 bad input or usage, 3 a solve did
    not converge (the result is written, without gradients).
    """
    options.check_solver_numbers(rtol, atol, max_iterations)
    asked = rtol if adjoint_rtol is None else adjoint_rtol
    if asked is not None and not asked > 0:
        raise InputError(
            "the backward solve has no tolerance",
            field="--adjoint-rtol",
            remedy="Give a positive number, such as 1e-8.",
        )
    if target is not None and loss != "misfit":
        raise InputError(f"{loss} has no target", field="--target", remedy="Use --loss misfit.")
    settings = Settings(method, precond, rtol, atol, max_iterations)
    wanted = {"loss": loss, "target": target, "adjoint_rtol": adjoint_rtol, "check": check}
    with open_world(device, transport) as world:
        return _grad(world, file, rhs, output, settings, wanted, as_json)


def _grad(
    world: World,
    file: str,
    rhs: str | None,
    output: str | None,
    settings: Settings,
    wanted: dict[str, Any],
    as_json: bool,
) -> int:
    from hpc_sla.cli.plan import plan_run, right_hand_side
    from hpc_sla.linear import losses
    from hpc_sla.sparse.matrix import DSparseMatrix

    options.check_solver_names(settings.method, settings.precond)
    stages = Stages()
    output = output or default_output(file, "gradient", world.size)
    plan = world.on_root(lambda: plan_run(file, rhs, output, world.size, settings.method))
    log_input(plan)
    with stages("read"):
        A = DSparseMatrix.from_hdf5(plan.path, world)
        b = right_hand_side(plan, A.layout)
        target = _target(A, plan, wanted["target"], b) if wanted["loss"] == "misfit" else None
    settings = settings.on(A.dtype)
    solving = {**vars(settings), "adjoint_rtol": wanted["adjoint_rtol"]}
    problem = losses.Problem(A, b, wanted["loss"], target, solving)
    with stages("solve"):
        found = losses.gradient(problem)
    compared = None
    if wanted["check"] and found.of_b is not None:
        with stages("check"):
            compared = losses.check(problem, found)
    with stages("write"):
        about = attributes(world, plan, settings, found.info) if world.rank == 0 else {}
        _write(plan.output, A, found, {**about, **_about(problem, found, wanted)})
    _report(problem, found, compared, plan, stages, as_json)
    if found.of_b is None:
        return exits.NOT_CONVERGED
    return exits.OK if compared is None or _agrees(problem, compared) else exits.FAILED


def _target(A: DSparseMatrix, plan: Plan, asked: str | None, b: torch.Tensor) -> torch.Tensor:
    """The target of the misfit, with as many columns as b. **Collective.**"""
    import numpy as np
    import torch

    from hpc_sla.cli.prepare import read_columns
    from hpc_sla.storage.matrix_file import MatrixFile

    if asked is not None and Path(asked).suffix:
        vector = None
        with A.world.agree():
            if A.world.rank == 0:
                vector = read_columns(asked, A.shape[1], "--target")
                _check_columns(vector.shape, b, asked)
        return A.columns.scatter(vector).to(A.values)
    with A.world.agree(), MatrixFile(plan.path) as file:
        name, first = asked or plan.rhs, A.columns.start
        known = file.read_solution(name, first, first + A.columns.n_owned)
        known = known[:, 0] if known.shape[1:] == (1,) else known
        _check_columns(known.shape, b, plan.path)
    return torch.from_numpy(np.ascontiguousarray(known)).to(A.values)


def _check_columns(shape: tuple[int, ...], b: torch.Tensor, path: str) -> None:
    if shape[1:] != tuple(b.shape[1:]):
        there, wanted = (one[1] if len(one) > 1 else 1 for one in (shape, b.shape))
        raise InputError(
            f"has {there} column(s) where the right-hand side has {wanted}",
            file=path,
            field="--target",
            remedy="Give a column for each.",
        )


def _about(problem: Problem, found: Gradient, wanted: dict[str, Any]) -> dict[str, Any]:
    adjoint = found.adjoint
    told = {
        "loss": problem.loss,
        "loss_value": found.loss,
        "target": wanted["target"] or "",
        "adjoint_rtol": wanted["adjoint_rtol"] or problem.options["rtol"],
    }
    if adjoint is not None:
        told["adjoint_status"], told["adjoint_iterations"] = adjoint.status, adjoint.iterations
    return told


def _write(path: str, A: DSparseMatrix, found: Gradient, about: dict[str, Any]) -> None:
    """Write x and the gradients in the user's order, through rank 0. **Collective.**"""
    from hpc_sla.sparse.rows_in_user_order import rows_in_user_order
    from hpc_sla.storage.result_file import ResultWriter

    world = A.world
    vectors = {"x": (A.columns, found.x)}
    if found.of_b is not None:
        vectors["rhs_gradient"] = (A.layout, found.of_b)
    matrix = None if found.of_values is None else (A.shape[0], A.nnz_global)
    with ExitStack() as stack:
        writer: ResultWriter | None = None
        with world.agree():
            if world.rank == 0:
                dtype = str(found.x.dtype).removeprefix("torch.")
                lengths = {"rhs_gradient": A.shape[0]}
                columns = found.x.shape[1] if found.x.dim() == 2 else None
                made = ResultWriter(
                    path, A.shape[1], dtype, tuple(vectors), columns, lengths, matrix
                )
                writer = stack.enter_context(made)
        error: HpcSlaError | None = None

        def write(function: str, *arguments: Any) -> None:
            # The others are sending: rank 0 must hear them out even when it can write no more.
            nonlocal error
            if writer is not None and error is None:
                try:
                    getattr(writer, function)(*arguments)
                except HpcSlaError as caught:
                    error = caught

        for name, (layout, vector) in vectors.items():
            for start, slab in layout.user_blocks(vector):
                write("write_slab", name, start, slab)
        if found.of_values is not None:
            for rows in rows_in_user_order(A, found.of_values):
                write("write_matrix_rows", *rows)
        with world.agree():
            if error is not None:
                raise error
            if writer is not None:
                writer.finish(found.info.residual_history, about)


def _agrees(problem: Problem, compared: list[Comparison]) -> bool:
    from hpc_sla.linear.losses import AGREEMENT, best

    return best(compared) <= AGREEMENT[problem.A.dtype]


def _report(
    problem: Problem,
    found: Gradient,
    compared: list[Comparison] | None,
    plan: Plan,
    stages: Stages,
    as_json: bool,
) -> None:
    """Print the JSON object or the tables, on rank 0. **Collective.**"""
    from hpc_sla.cli.measured import measured
    from hpc_sla.report.run import finite

    A, world = problem.A, problem.A.world
    norms = [_norm(world, t) for t in (found.of_values, found.of_b)]
    profile = gather_profile(world)
    where = measured(world, stages)
    if where is None:
        return
    info, adjoint = found.info, found.adjoint
    failed = info if not info.converged else adjoint
    status = failed.status if failed is not None else info.status
    summary: dict[str, Any] = {
        "status": status,
        "iterations": info.iterations,
        "relative_residual": finite(info.relative_residual),
        "loss": problem.loss,
        "loss_value": finite(found.loss),
        "matrix_gradient_norm": norms[0],
        "rhs_gradient_norm": norms[1],
        "adjoint_iterations": adjoint.iterations if adjoint else None,
        "adjoint_relative_residual": finite(adjoint.relative_residual) if adjoint else None,
        "rows": A.layout.n_global,
        "nnz": A.nnz_global,
        **where,
        "result": plan.output,
    }
    if compared is not None:
        from hpc_sla.linear.losses import AGREEMENT, best

        summary["check"] = {
            "error": finite(best(compared)),
            "tolerance": AGREEMENT[A.dtype],
            "ok": _agrees(problem, compared),
            "directions": [vars(one) for one in compared],
        }
    named = f"{plan.path}, right-hand side {plan.rhs}", info.precond, info.method
    conclude(summary, profile, as_json, lambda: _print(summary, *named))


def _norm(world: World, vector: torch.Tensor | None) -> float | None:
    """**Collective.**"""
    if vector is None:
        return None
    return float(world.all_sum(vector.double().square().sum()).sqrt())


def _print(summary: dict[str, Any], problem: str, precond: str, method: str) -> None:
    from hpc_sla.report.tables import count, print_facts, print_table, seconds, size

    solved = summary["relative_residual"]
    facts = [
        ("problem", f"{problem}, {count(summary['rows'])} rows, {count(summary['nnz'])} entries"),
        ("ran on", f"{summary['ranks']} rank(s), {summary['device']}, {summary['transport']}"),
        ("solver", f"{method} + {precond}"),
        ("status", summary["status"]),
        ("solve", f"{count(summary['iterations'])} iterations, residual {_number(solved)}"),
    ]
    if summary["adjoint_iterations"] is not None:
        backward = _number(summary["adjoint_relative_residual"])
        facts.append(
            (
                "backward solve",
                f"{count(summary['adjoint_iterations'])} iterations, residual {backward}",
            )
        )
    facts += [
        ("loss", f"{summary['loss']} = {_number(summary['loss_value'], 12)}"),
        ("gradient", _norms(summary)),
        ("time", ", ".join(f"{stage} {seconds(t)}" for stage, t in summary["seconds"].items())),
        ("peak memory", f"{size(summary['peak_rss_bytes_max'])} on the largest rank"),
        ("result", os.fspath(summary["result"])),
    ]
    print_facts("grad", facts)
    if "check" not in summary:
        return
    check = summary["check"]
    verdict = "agrees" if check["ok"] else "DISAGREES"
    print_table(
        f"check: {verdict} to {check['error']:.1e} (best step, worst direction; "
        f"{check['tolerance']:.0e} is asked)",
        ("direction", "step", "gradient", "central difference", "relative error"),
        [
            [
                one["direction"],
                f"{one['step']:.0e}",
                f"{one['derivative']:.10e}",
                f"{one['difference']:.10e}",
                f"{one['error']:.1e}",
            ]
            for one in check["directions"]
        ],
        right=(1, 2, 3, 4),
    )


def _norms(summary: dict[str, Any]) -> str:
    matrix, rhs = summary["matrix_gradient_norm"], summary["rhs_gradient_norm"]
    if matrix is None:
        return "none: a solve did not converge"
    return f"norm {matrix:.6e} with respect to the matrix, {rhs:.6e} to b"


def _number(value: float | None, digits: int = 4) -> str:
    return "not finite" if value is None else f"{value:.{digits}g}"

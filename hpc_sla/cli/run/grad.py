"""Differentiate a loss of the solution; write the gradients and check them by differences."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hpc_sla.cli import exits
from hpc_sla.cli.asked import GradOptions
from hpc_sla.cli.files import default_output
from hpc_sla.cli.prepare import read_columns
from hpc_sla.cli.record import conclude, gather_profile, log_input
from hpc_sla.cli.run.plan import Plan, plan_run
from hpc_sla.cli.run.result import write_result
from hpc_sla.cli.run.solver import attributes, check_solver_names, solve_arguments, with_rtol
from hpc_sla.cli.run.stages import Stages, where_and_how_long
from hpc_sla.distributed.world import World
from hpc_sla.errors import InputError
from hpc_sla.linear import losses
from hpc_sla.linear.losses import AGREEMENT, Comparison, Gradient, LossProblem, best
from hpc_sla.report.tables import count, finite, print_facts, print_table, seconds, size
from hpc_sla.sparse.matrix import DSparseMatrix


def run(world: World, asked: GradOptions) -> int:
    """Do what ``grad`` does; the exit code. **Collective.**"""
    check_solver_names(asked.method, asked.precond)
    stages = Stages()
    output = asked.output or default_output(asked.file, "gradient", world.size)
    plan = world.on_root(lambda: plan_run(asked.file, asked.rhs, output, world.size, asked.method))
    log_input(plan)
    with stages("read"):
        A = plan.system.matrix(world)
        b = plan.system.right_hand_side(A.layout)
        target = _target(A, plan, asked.target, b) if asked.loss == "misfit" else None
    solver = with_rtol(asked, A.dtype)
    solving = {**solve_arguments(solver), "adjoint_rtol": asked.adjoint_rtol}
    problem = LossProblem(A, b, asked.loss, target, solving)
    with stages("solve"):
        found = losses.gradient(problem)
    compared = None
    if asked.check and found.of_b is not None:
        with stages("check"):
            compared = losses.check(problem, found)
    with stages("write"):
        about = attributes(world, plan, solver, found.info) if world.rank == 0 else {}
        about |= _loss_attributes(problem, found, asked)
        _write(plan.output, A, found, about, stages)
    _report(problem, found, compared, plan, stages, asked.as_json)
    if found.of_b is None:
        return exits.NOT_CONVERGED
    return exits.OK if compared is None or _agrees(problem, compared) else exits.FAILED


def _target(A: DSparseMatrix, plan: Plan, asked: str | None, b: torch.Tensor) -> torch.Tensor:
    """The target of the misfit, with as many columns as b. **Collective.**"""
    if asked is not None and Path(asked).suffix:
        vector = None
        with A.world.agree():
            if A.world.rank == 0:
                vector = read_columns(asked, A.shape[1], "--target")
                _check_columns(vector.shape, b, asked)
        return A.columns.scatter(vector).to(A.values)
    known = plan.system.solution(asked or plan.rhs, A.columns)
    with A.world.agree():
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


def _loss_attributes(problem: LossProblem, found: Gradient, asked: GradOptions) -> dict[str, Any]:
    """What the result says of the loss and of the backward solve. Local."""
    about = {
        "loss": problem.loss,
        "loss_value": found.loss,
        "target": asked.target or "",
        "adjoint_rtol": asked.adjoint_rtol or problem.options["rtol"],
    }
    if found.adjoint is not None:
        about["adjoint_status"] = found.adjoint.status
        about["adjoint_iterations"] = found.adjoint.iterations
    return about


def _write(
    path: str, A: DSparseMatrix, found: Gradient, about: dict[str, Any], stages: Stages
) -> None:
    """Write x and the gradients in the user's order. **Collective.**"""
    vectors = {"x": (A.columns, found.x)}
    if found.of_b is not None:
        vectors["rhs_gradient"] = (A.layout, found.of_b)
    matrix = None if found.of_values is None else (A, found.of_values)
    history = found.info.residual_history
    write_result(path, vectors, history, about, stages.done, matrix_gradient=matrix)


def _agrees(problem: LossProblem, compared: list[Comparison]) -> bool:
    return best(compared) <= AGREEMENT[problem.A.dtype]


def _report(
    problem: LossProblem,
    found: Gradient,
    compared: list[Comparison] | None,
    plan: Plan,
    stages: Stages,
    as_json: bool,
) -> None:
    """Print the JSON object or the tables, on rank 0. **Collective.**"""
    A, world = problem.A, problem.A.world
    norms = [_norm(world, t) for t in (found.of_values, found.of_b)]
    profile = gather_profile(world)
    where = where_and_how_long(world, stages)
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

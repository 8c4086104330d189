"""``verify``: the same rows through PETSc or SciPy; do they agree?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from hpc_sla.cli import exits, options
from hpc_sla.cli.clock import Stages
from hpc_sla.cli.config import config_option
from hpc_sla.cli.files import Read
from hpc_sla.cli.record import conclude, gather_profile, log_input, record_options
from hpc_sla.cli.session import open_world
from hpc_sla.cli.solve import Settings, run_solver

if TYPE_CHECKING:
    import torch

    from hpc_sla.distributed.world import World
    from hpc_sla.linear import SolveInfo
    from hpc_sla.reference.base import Reference
    from hpc_sla.reference.compare import Check
    from hpc_sla.sparse.matrix import DSparseMatrix


@click.command("verify", short_help="Compare products and solution with PETSc or SciPy.")
@click.argument("file", metavar="FILE.h5", type=Read())
@click.option(
    "--against",
    type=click.Choice(["petsc", "scipy"]),
    help="Default: petsc where it is installed, else scipy (a direct solve on one rank).",
)
@options.solver_options
@options.world_options
@record_options
@options.json_option
@config_option
def command(
    file: str,
    against: str | None,
    method: str,
    precond: str,
    rtol: float | None,
    atol: float,
    max_iterations: int | None,
    rhs: str | None,
    device: str,
    transport: str,
    as_json: bool,
) -> int:
    """Put the rows of FILE.h5 into another library's matrix, on the same ranks, and compare.

    Compared are A x, A^T x, the solution of A x = b, and the number of iterations.

    Exit codes: 0 all agree, 1 they do not, 2 bad input or usage, 3 the products agree and the
    solve did not converge.
    """
    options.check_solver_numbers(rtol, atol, max_iterations)
    settings = Settings(method, precond, rtol, atol, max_iterations)
    with open_world(device, transport) as world:
        return _verify(world, file, against, rhs, settings, as_json)


def _verify(
    world: World,
    file: str,
    against: str | None,
    rhs: str | None,
    settings: Settings,
    as_json: bool,
) -> int:
    from hpc_sla.cli.plan import plan_run, right_hand_side
    from hpc_sla.reference import choose, make_reference
    from hpc_sla.reference.compare import compare_products
    from hpc_sla.sparse.matrix import DSparseMatrix

    options.check_solver_names(settings.method, settings.precond)
    plan = world.on_root(lambda: plan_run(file, rhs, "", world.size))
    log_input(plan)
    chosen = world.on_root(lambda: choose(against, plan.n_rows))
    A = DSparseMatrix.from_hdf5(plan.path, world)
    b = right_hand_side(plan, A.layout)
    settings = settings.on(A.dtype)
    reference = make_reference(chosen, A)
    checks = compare_products(A, reference)
    x, info, _ = run_solver(A, b, settings, Stages())
    if info.converged:
        checks += _solution_checks(A, b, x, info, reference, settings)
    reference.close()
    nnz, profile = A.nnz_global, gather_profile(world)
    if world.rank == 0:
        facts = {
            "file": file,
            "against": reference.name,
            "rows": A.layout.n_global,
            "nnz": nnz,
            "ranks": world.size,
            "iterations": info.iterations,
        }
        _report(checks, info, facts, profile, as_json)
    return _code(checks, info)


def _solution_checks(
    A: DSparseMatrix,
    b: torch.Tensor,
    x: torch.Tensor,
    info: SolveInfo,
    reference: Reference,
    settings: Settings,
) -> list[Check]:
    """**Collective.**"""
    from hpc_sla.reference.compare import compare_solutions

    rtol, atol = settings.rtol, settings.atol
    assert rtol is not None
    checks: list[Check] = []
    for number, one in enumerate(info.columns or (info,)):
        # Room for one per cent more iterations than ours, and then some: a limit is no verdict.
        limit = settings.max_iterations or 2 * one.iterations + 1000
        right, ours = (v[:, number].contiguous() if v.dim() == 2 else v for v in (b, x))
        theirs = reference.solve(
            right.detach().cpu().numpy().astype("f8"),
            info.method,
            settings.precond,
            rtol,
            atol,
            limit,
        )
        found = compare_solutions(A, right, ours, one.iterations, reference, theirs, rtol, atol)
        name = f" of column {number}" if info.columns else ""
        checks += [replace(check, name=check.name + name) for check in found]
    return checks


def _code(checks: Sequence[Check], info: SolveInfo) -> int:
    if not all(check.ok for check in checks):
        return exits.FAILED
    return exits.OK if info.converged else exits.NOT_CONVERGED


def _report(
    checks: Sequence[Check],
    info: SolveInfo,
    facts: dict[str, Any],
    profile: dict[str, Any] | None,
    as_json: bool,
) -> None:
    from hpc_sla.report.run import finite

    verdict = {exits.OK: "ok", exits.FAILED: "disagree", exits.NOT_CONVERGED: info.status}
    status = verdict[_code(checks, info)]
    listed = [
        {
            "name": check.name,
            "difference": finite(check.difference),
            "tolerance": check.tolerance,
            "ok": check.ok,
            "note": check.note,
        }
        for check in checks
    ]
    summary = {"status": status, **facts, "checks": listed}
    conclude(summary, profile, as_json, lambda: _print_table(checks, info, facts))


def _print_table(checks: Sequence[Check], info: SolveInfo, facts: dict[str, Any]) -> None:
    from hpc_sla.report.tables import count, print_table

    rows = [
        [
            check.name,
            f"{check.difference:.3g}",
            f"{check.tolerance:.3g}",
            "ok" if check.ok else "FAIL",
            check.note,
        ]
        for check in checks
    ]
    if not info.converged:
        rows.append(["solution", "-", "-", "-", f"not compared: our solve ended {info.status}"])
    size = f"{count(facts['rows'])} rows, {count(facts['nnz'])} entries, {facts['ranks']} rank(s)"
    print_table(
        f"verify {facts['file']} against {facts['against']}: {size}",
        ("what", "difference", "tolerance", "", ""),
        rows,
        right=(1, 2),
    )

"""The same rows through PETSc or SciPy; do they agree?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from hpc_sla.cli import exits
from hpc_sla.cli.asked import SolverOptions, VerifyOptions
from hpc_sla.cli.record import conclude, gather_profile, log_input
from hpc_sla.cli.run.plan import plan_run
from hpc_sla.cli.run.solver import check_solver_names, run_solver, with_rtol
from hpc_sla.cli.run.stages import Stages
from hpc_sla.distributed.world import World
from hpc_sla.linear import SolveInfo
from hpc_sla.reference import choose, make_reference
from hpc_sla.reference.base import Reference
from hpc_sla.reference.compare import Check, compare_products, compare_solutions
from hpc_sla.reference.krylov import names_for_petsc
from hpc_sla.report.tables import count, finite, print_table
from hpc_sla.sparse.matrix import DSparseMatrix


def run(world: World, asked: VerifyOptions) -> int:
    """Do what ``verify`` does; the exit code. **Collective.**"""
    check_solver_names(asked.method, asked.precond)
    plan = world.on_root(lambda: plan_run(asked.file, asked.rhs, "", world.size))
    log_input(plan)
    chosen = world.on_root(lambda: choose(asked.against, plan.n_rows))
    A = plan.system.matrix(world)
    b = plan.system.right_hand_side(A.layout)
    solver = with_rtol(asked, A.dtype)
    reference = make_reference(chosen, A)
    checks = compare_products(A, reference)
    x, info, _ = run_solver(A, b, solver, Stages())
    if info.converged:
        checks += _solution_checks(A, b, x, info, reference, solver)
    reference.close()
    nnz, profile = A.nnz_global, gather_profile(world)
    if world.rank == 0:
        facts = {
            "file": asked.file,
            "against": reference.name,
            "rows": A.layout.n_global,
            "nnz": nnz,
            "ranks": world.size,
            "iterations": info.iterations,
        }
        _report(checks, info, facts, profile, asked.as_json)
    return _code(checks, info)


def _solution_checks(
    A: DSparseMatrix,
    b: torch.Tensor,
    x: torch.Tensor,
    info: SolveInfo,
    reference: Reference,
    solver: SolverOptions,
) -> list[Check]:
    """**Collective.**"""
    rtol, atol = solver.rtol, solver.atol
    assert rtol is not None
    named = "auto" not in (solver.method, solver.precond)
    names = solver.method, solver.precond
    if not named:
        names = names_for_petsc(info.method, info.precond)
    checks: list[Check] = []
    for number, one in enumerate(info.columns or (info,)):
        # Room for one per cent more iterations than ours, and then some: a limit is no verdict.
        limit = solver.max_iterations or 2 * one.iterations + 1000
        right, ours = (v[:, number].contiguous() if v.dim() == 2 else v for v in (b, x))
        theirs = reference.solve(
            right.detach().cpu().numpy().astype("f8"), *names, rtol, atol, limit
        )
        iterations = one.iterations if named else None
        found = compare_solutions(A, right, ours, iterations, reference, theirs, rtol, atol)
        if not named and not theirs.converged:
            # Nobody asked for that method: it says nothing of our solution.
            note = f"not compared: {reference.name}'s {' + '.join(names)} ended {theirs.reason}"
            found[-1] = Check("solution", 0.0, 0.0, note)
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

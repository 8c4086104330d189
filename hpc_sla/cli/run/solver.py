"""The linear solve of a command, and what is said of it: for ``solve``, ``grad`` and ``verify``."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import torch

from hpc_sla.checkpoint.checkpoint import Checkpoint
from hpc_sla.cli.asked import SolverOptions
from hpc_sla.cli.run.plan import Plan
from hpc_sla.cli.run.result import provenance
from hpc_sla.cli.run.stages import Stages
from hpc_sla.distributed.world import World
from hpc_sla.errors import InputError
from hpc_sla.linear import LinearSolver, SolveInfo, default_rtol
from hpc_sla.linear.choices import AUTO
from hpc_sla.linear.methods import make_method
from hpc_sla.precond import CHOICES
from hpc_sla.report.progress import LiveLine
from hpc_sla.report.tables import finite
from hpc_sla.sparse.matrix import DSparseMatrix


def check_solver_names(method: str, precond: str) -> None:
    """Refuse an unknown method, preconditioner or its option before reading.

    Raises
    ------
    InputError
        Naming those there are.
    """
    for field, name, make in (
        ("--method", method, make_method),
        ("--precond", precond, CHOICES.make),
    ):
        try:
            if name != AUTO:
                make(name)
        except InputError as error:
            raise of_option(error, field) from error


def of_option(error: InputError, option: str) -> InputError:
    """The error of a value, with the option's name before that of what is wrong. Local."""
    inner = error.field if error.field and ":" in error.field else ""
    return InputError(error.problem, field=f"{option} {inner}".rstrip(), remedy=error.remedy)


def with_rtol(asked: SolverOptions, dtype: torch.dtype) -> SolverOptions:
    """The same for a matrix of that dtype, which decides rtol where it was left open. Local."""
    return asked if asked.rtol is not None else replace(asked, rtol=default_rtol(dtype))


def solve_arguments(asked: SolverOptions) -> dict[str, Any]:
    """What `solve` is to be called with. Local."""
    return {
        "method": asked.method,
        "precond": asked.precond,
        "rtol": asked.rtol,
        "atol": asked.atol,
        "max_iterations": asked.max_iterations,
        "dtol": asked.dtol,
    }


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
    asked: SolverOptions,
    stages: Stages,
    checkpoint: Checkpoint | None = None,
) -> tuple[torch.Tensor, SolveInfo, LinearSolver]:
    """Solve with a live line, timing set-up and iteration apart. **Collective.**

    Where rtol is None it is the default, and what rounding leaves will do: see `solve`.
    """
    scale = float(A.layout.norm(b).max())
    target = with_rtol(asked, A.dtype).rtol
    assert target is not None
    with LiveLine(A.world.rank, scale, target) as line:
        watch = _SetUpWatch(line, stages)
        solver = LinearSolver(A, **solve_arguments(asked), called="solve")
        x, info = solver.solve(b, callback=watch, checkpoint=checkpoint)
        watch.end()
    return x, info, solver


def attributes(world: World, plan: Plan, asked: SolverOptions, info: SolveInfo) -> dict[str, Any]:
    """What a result says about the solve. Local."""
    limit, normal = asked.max_iterations, info.normal_residual
    return {
        "status": info.status,
        "iterations": info.iterations,
        "relative_residual": info.relative_residual,
        **({} if normal is None else {"normal_residual": normal}),
        "residual_norm": info.residual_norm,
        **column_figures(info),
        **({} if info.backward_error is None else {"backward_error": info.backward_error}),
        "method": info.method,
        "method_reason": info.reason,
        "precond": info.precond,
        "rtol": asked.rtol,
        "atol": asked.atol,
        "dtol": asked.dtol,
        "max_iterations": "default" if limit is None else limit,
        "rhs": plan.rhs,
        "ranks": world.size,
        "device": world.device.type,
        "transport": world.transport.name,
        "input": plan.input,
        "input_digest": plan.digest,
        **provenance(),
    }


def column_figures(info: SolveInfo) -> dict[str, Any]:
    """Figures of each of several right-hand sides; all others are of the worst."""
    if not info.columns:
        return {}
    return {
        "statuses": [one.status for one in info.columns],
        "column_iterations": [one.iterations for one in info.columns],
        "relative_residuals": [finite(one.relative_residual) for one in info.columns],
    }

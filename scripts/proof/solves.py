"""What is measured of a solve: an iteration, the whole with its set-up, memory; is it one."""

from __future__ import annotations

import math
from typing import Any

import torch
from measure import ENOUGH, Peak, least, timed
from plan import Plan
from stencil import relative_residual

import hpc_sla as hs
from hpc_sla.problems import distribute, make

AMG_LENGTHS = (2, 6)
NEVER = 1e-14
"""A relative tolerance that is not reached in as many iterations."""

FIRST_BYTES = 443.0
"""A row, on the device: the published code's, until ours are measured. On the host likewise."""

FIRST_ITERATIONS = 3.0
"""Of CG with Jacobi, by points along a side, until ours are counted."""

ROOM = 0.9
"""The part of the free memory that is taken."""


def warm_up(world: hs.World) -> None:
    """Load, and compile, whatever the first solve of a process does. **Collective.**"""
    A = distribute(make("poisson2d:n=33"), world)
    b = torch.ones(A.layout.n_owned, dtype=torch.float64, device=world.device)
    for precond in ("amg", "jacobi"):
        hs.solve(A, b, "cg", precond)


def between_lengths(
    world: hs.World, plan: Plan, A: hs.DSparseMatrix, precond: str
) -> dict[str, Any]:
    """Seconds of an iteration of CG, from solves of two lengths. **Collective.**"""
    n = round(A.shape[0] ** 0.5)
    short, long = plan.lengths
    lengths = AMG_LENGTHS if precond == "amg" else (min(short, n), min(long, 2 * n))
    generator = torch.Generator(world.device).manual_seed(1 + world.rank)
    noise = torch.randn(
        A.layout.n_owned, dtype=torch.float64, device=world.device, generator=generator
    )
    solver = hs.LinearSolver(A, "cg", precond, rtol=NEVER)
    solver.set_up()
    solver.max_iterations = lengths[0]
    solver.solve(noise)
    times, done = [], []
    for length in lengths:
        solver.max_iterations = length
        seconds, _, (_, info) = least(world, lambda: solver.solve(noise), plan.repeats)
        times.append(seconds)
        done.append(info.iterations)
    spent, steps = times[1] - times[0], done[1] - done[0]
    known = spent > 0 and steps > 0  # a busy machine's clock may say that more took less
    return {"lengths": done, "seconds_per_iteration": spent / steps if known else math.nan}


def predicted(facts: dict[str, Any], iterations: float) -> float:
    """Seconds of so many, by `between_lengths`; 0 where that could not tell."""
    slope = facts["seconds_per_iteration"]
    return 0.0 if math.isnan(slope) else slope * iterations


def whole(
    world: hs.World,
    plan: Plan,
    A: hs.DSparseMatrix,
    b: torch.Tensor,
    precond: str,
    rtol: float,
    peak: Peak,
) -> dict[str, Any]:
    """Set-up and solve, of the repeat whose sum is least; and whether x is right. **Collective.**

    Parameters
    ----------
    world, plan
    A : DSparseMatrix
        `poisson2d`, rows in order.
    b : torch.Tensor [n_owned]
    precond : str
    rtol : float
        Asked for.
    peak : Peak
        From before the matrix.
    """
    best: dict[str, Any] = {}
    spent, repeats = 0.0, 0
    x, info = b, None
    while repeats < plan.repeats and spent < ENOUGH:
        x, info = b, None  # else the last solution would count as memory, and the last solver
        peak.again()
        solver = hs.LinearSolver(A, "cg", precond, rtol=rtol)
        setup, _ = timed(world, solver.set_up)
        solve, (x, info) = timed(world, lambda s=solver: s.solve(b))
        held = peak.bytes()
        total = setup + solve
        repeats, spent = repeats + 1, spent + total
        if not best or total < best["total_seconds"]:
            best = {"setup_seconds": setup, "solve_seconds": solve, "total_seconds": total}
        best |= {"peak_bytes": held, "peak_bytes_per_row": held and held / A.shape[0]}
        del solver
    n = round(A.shape[0] ** 0.5)
    residual = relative_residual(world, n, A.layout.start, x, b)
    return {
        **best,
        "repeats": repeats,
        "status_told": info.status,
        "iterations": info.iterations,
        "residual": residual,
        # The stencil sums in another order than the product.
        "solved": bool(info.converged and residual <= rtol * 1.001),
    }

"""Time whole solves of small systems beside PETSc, in turn: where the interpreter is what costs.

mpiexec -n 2 python scripts/bench_small.py poisson2d:n=10 poisson2d:n=32 poisson2d:n=100

CG with Jacobi, rtol 1e-8, a right-hand side of ones, everything set up before; float64, the same
rows on the same ranks. `solver`: a LinearSolver's solve; `solve`: hs.solve, which sets up each
time; `backward`: the gradients of ||x||^2 in A and b after it; `nothing`: a solve of b = 0, which
is the fixed cost of a call; `V-cycle`: one application of multigrid (amg). PETSc: KSPSolve with the
unpreconditioned norm. Medians over laps in turn, microseconds of the slowest rank.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import torch

import hpc_sla as hs
from hpc_sla.problems import distribute, make
from hpc_sla.reference.petsc import PetscMatrix, available

RTOL = 1e-8


def contenders(world: hs.World, spec: str) -> tuple[int, dict[str, Callable[[], Any]]]:
    """Rows, and what is to be timed. **Collective.**"""
    A = distribute(make(spec), world)
    b = torch.ones(A.layout.n_owned, dtype=torch.float64, device=world.device)
    solver = hs.LinearSolver(A, "cg", "jacobi", RTOL)
    solver.solve(b)
    zero, out = torch.zeros_like(b), torch.empty_like(b)
    M = hs.AMG().on(A)
    leaf, rhs = A.values.clone().requires_grad_(), b.clone().requires_grad_()
    trained = hs.LinearSolver(A.with_values(leaf), "cg", "jacobi", RTOL)

    def forward() -> torch.Tensor:
        x, _ = trained.solve(rhs)
        return world.all_sum(x.square().sum())

    graph: list[torch.Tensor] = []

    def backward() -> None:
        graph.pop().backward()

    def prepare() -> None:
        graph.append(forward())

    jobs: dict[str, Any] = {
        "solver": lambda: solver.solve(b),
        "solve": lambda: hs.solve(A, b, "cg", "jacobi", rtol=RTOL),
        "backward": (prepare, backward),
        "nothing": lambda: solver.solve(zero),
        "V-cycle": lambda: M.apply(b, out),
    }
    if available():
        matrix = PetscMatrix.from_matrix(A)
        ksp = matrix.solver("cg", "jacobi", RTOL, 0.0, 100_000).ksp
        right = matrix.vector(b.cpu().numpy())
        x = right.duplicate()
        jobs["PETSc"] = lambda: ksp.solve(right, x)
        jobs["PETSc"]()
        found = solver.solve(b)[0].cpu().numpy()
        assert np.abs(found - x.getArray()).max(initial=0) < 1e-4 * np.abs(found).max(
            initial=1e-300
        )
    return A.shape[0], jobs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("sources", nargs="+", help="generators, such as poisson2d:n=32")
    parser.add_argument("--laps", type=int, default=7)
    options = parser.parse_args()
    world = hs.World()
    for spec in options.sources:
        rows, jobs = contenders(world, spec)
        times: dict[str, list[float]] = {name: [] for name in jobs}
        for lap in range(options.laps + 1):
            for name, job in list(jobs.items())[:: 1 if lap % 2 else -1]:
                prepare, run = job if isinstance(job, tuple) else (None, job)
                count, spent = 0, 0.0
                # The same number on every rank: decided by the slowest.
                while count < 2 or (spent < 0.05 and count < 200):
                    if prepare:
                        prepare()
                    world.barrier()
                    begin = time.perf_counter()
                    run()
                    spent = world.max(spent + time.perf_counter() - begin)
                    count += 1
                if lap:
                    times[name].append(spent / count)
        if world.rank == 0:
            petsc = median(times["PETSc"]) if "PETSc" in times else float("nan")
            print(f"{spec}: {rows} rows, {world.size} rank(s)")
            for name, laps in times.items():
                each = median(laps)
                print(f"  {name:10} {each * 1e6:9.1f} us {each / petsc:8.2f} of PETSc's solve")


if __name__ == "__main__":
    main()

"""Time CG with our multigrid beside PETSc's CG with GAMG on one matrix, in turn.

mpiexec -n 2 python scripts/bench_amg.py poisson2d:n=1000 poisson3d:n=100
mpiexec -n 2 python scripts/bench_amg.py poisson2d:n=1000 --ours amg:cycle=W --update

Set-up and solve of the preconditioner only: both have the matrix. Right-hand side of ones, rtol
1e-8, float64. `--update` also times `AMG.update` beside a fresh set-up.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch

import hpc_sla as hs
from hpc_sla import problems
from hpc_sla.observe.memory import peak_rss_bytes
from hpc_sla.precond import AMG, make_preconditioner
from hpc_sla.reference.krylov import counterpart
from hpc_sla.reference.petsc import PetscMatrix, load

RTOL = 1e-8


def timed(world: hs.World, function: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of the slowest rank, and the result. **Collective.**"""
    world.barrier()
    begin = time.perf_counter()
    result = function()
    return world.max(time.perf_counter() - begin), result


def race(world: hs.World, source: str, spec: str, laps: int, update: bool, petsc: bool) -> None:
    """Lap after lap, then a line of medians. **Collective.**"""
    A = problems.distribute(problems.make(source), world)
    b = torch.ones(A.layout.n_owned, dtype=A.dtype)
    ours: list[tuple[float, float]] = []
    theirs: list[tuple[float, float]] = []
    updates: dict[str, list[float]] = {"prolongators": [], "aggregates": []}
    their_iterations, complexity = 0, 0.0
    matrix = PetscMatrix.from_matrix(A) if petsc else None
    for _ in range(laps):
        set_up, M = timed(world, lambda: make_preconditioner(spec, A))
        solve, (_, info) = timed(world, lambda M=M: hs.solve(A, b, "cg", M, rtol=RTOL))
        ours.append((set_up, solve))
        assert isinstance(M, AMG)
        complexity = M.operator_complexity
        if update:
            for keep, seconds in updates.items():
                seconds.append(timed(world, lambda M=M, keep=keep: M.update(A, keep=keep))[0])
        levels, iterations, status = M.levels, info.iterations, info.status
        del M
        if matrix is not None:
            set_up, ksp = timed(world, lambda: their_set_up(matrix))
            right, x = matrix.vector(b.numpy()), matrix.vector(b.numpy())
            solve, _ = timed(world, lambda k=ksp, r=right, x=x: k.solve(r, x))
            theirs.append((set_up, solve))
            their_iterations = ksp.getIterationNumber()
            for thing in (ksp, right, x):
                thing.destroy()
    peak = world.sum(peak_rss_bytes()) / 2**30
    if world.rank:
        return
    a, c = (median(lap[i] for lap in ours) for i in (0, 1))
    held = sum(level.bytes for level in levels) / A.shape[0]
    print(f"{source}: {A.shape[0]} rows, {world.size} ranks, medians of {laps} laps")
    print(
        f"  {spec}: {a:.3f} + {c:.3f} = {a + c:.3f} s, {iterations} iterations ({status}), "
        f"{len(levels)} levels, operator complexity {complexity:.2f}, {held:.0f} B a row; "
        f"peak of all ranks {peak:.2f} GiB"
    )
    if theirs:
        d, e = (median(lap[i] for lap in theirs) for i in (0, 1))
        print(
            f"  PETSc GAMG: {d:.3f} + {e:.3f} = {d + e:.3f} s, {their_iterations} iterations\n"
            f"  ratios: set-up {a / d:.2f}, solve {c / e:.2f}, both {(a + c) / (d + e):.2f}"
        )
    for keep, seconds in updates.items():
        if seconds:
            print(f"  update keeping {keep}: {median(seconds) / a:.2f} of a fresh set-up")


def their_set_up(matrix: PetscMatrix) -> Any:
    """A KSP with GAMG, ready to solve. **Collective.**"""
    ksp = counterpart(load(), matrix.mat, "cg", "amg", RTOL, 0.0, 1000).ksp
    ksp.setUp()
    return ksp


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sources", nargs="+")
    parser.add_argument("--ours", default="amg")
    parser.add_argument("--laps", type=int, default=3)
    parser.add_argument("--update", action="store_true")
    parser.add_argument("--no-petsc", action="store_true")
    given = parser.parse_args()
    world = hs.World(device="cpu")
    # Imports and first calls are not what is compared.
    warm = problems.distribute(problems.make("poisson2d:n=40"), world)
    hs.solve(warm, torch.ones(warm.layout.n_owned, dtype=warm.dtype), "cg", "amg")
    for source in given.sources:
        race(world, source, given.ours, given.laps, given.update, not given.no_petsc)


if __name__ == "__main__":
    main()

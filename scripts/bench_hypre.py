"""Time PETSc's CG with hypre's BoomerAMG, to be put beside scripts/bench_amg.py.

mpiexec -n 2 python3 scripts/bench_hypre.py 2 1000
mpiexec -n 2 python3 scripts/bench_hypre.py 3 100 -pc_hypre_boomeramg_strong_threshold 0.5

Poisson in so many dimensions with so many points on a side. Needs a petsc4py with hypre, such as
Debian's python3-petsc4py-real with Debian's python3 and Open MPI, and nothing of hpc_sla. Rows,
right-hand side and tolerance are the other script's: ones, rtol 1e-8, ||b - A x|| itself.
"""

from __future__ import annotations

import argparse
import sys
import time
from statistics import median

import petsc4py

_options = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
_options.add_argument("dimensions", type=int, choices=[2, 3])
_options.add_argument("n", type=int, help="points on a side")
_options.add_argument("--precond", default="hypre")
_options.add_argument("--laps", type=int, default=3)
options, others = _options.parse_known_args()
petsc4py.init([sys.argv[0], *others])

from petsc4py import PETSc  # noqa: E402
from petsc_poisson import poisson  # noqa: E402


def lap(A: PETSc.Mat) -> tuple[float, float, int]:
    """Seconds of the set-up and of the solve, and iterations."""
    comm = PETSc.COMM_WORLD
    x, b = A.createVecs()
    b.set(1.0)
    ksp = PETSc.KSP().create(comm)
    ksp.setOperators(A)
    ksp.setType("cg")
    ksp.getPC().setType(options.precond)
    ksp.setNormType(PETSc.KSP.NormType.UNPRECONDITIONED)
    ksp.setTolerances(rtol=1e-8, max_it=500)
    ksp.setFromOptions()
    comm.barrier()
    start = time.perf_counter()
    ksp.setUp()
    comm.barrier()
    ready = time.perf_counter()
    ksp.solve(b, x)
    comm.barrier()
    end = time.perf_counter()
    found = ksp.getIterationNumber()
    for thing in (ksp, x, b):
        thing.destroy()
    return ready - start, end - ready, found


def main() -> None:
    A = poisson(options.n, options.dimensions)
    laps = [lap(A) for _ in range(options.laps)]
    set_up, solve = (median(times) for times in list(zip(*laps, strict=True))[:2])
    PETSc.Sys.Print(
        f"poisson{options.dimensions}d:n={options.n}: PETSc CG with {options.precond}, "
        f"medians of {options.laps} laps: {set_up:.3f} + {solve:.3f} = {set_up + solve:.3f} s, "
        f"{laps[0][2]} iterations"
    )


if __name__ == "__main__":
    main()

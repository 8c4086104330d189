"""Time SLEPc's LOBPCG on poisson2d, to be put beside scripts/bench_eigsh.py.

mpiexec -n 2 python3 scripts/bench_slepc.py 300 gamg
mpiexec -n 2 python3 scripts/bench_slepc.py 1000 hypre --block 8

Needs petsc4py and slepc4py, such as Debian's python3-slepc4py-real with Debian's python3 and Open
MPI, and nothing of hpc_sla. The goal is the same: ||A v - w v|| <= tol |w|, each pair by itself.
Any other PETSc option may follow, such as -st_pc_gamg_threshold 0.05. Set-up of the preconditioner
is told apart; each lap starts afresh.
"""

from __future__ import annotations

import argparse
import sys
import time

import numpy as np
import slepc4py

_options = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
_options.add_argument("n", type=int, help="points on a side")
_options.add_argument("precond", help="a PETSc preconditioner: gamg, hypre (BoomerAMG)")
_options.add_argument("-k", type=int, default=6)
_options.add_argument("--tol", type=float, default=1e-8)
_options.add_argument("--block", type=int, help="vectors iterated on; SLEPc's default: k")
_options.add_argument("--repeats", type=int, default=3)
options, others = _options.parse_known_args()
slepc4py.init([sys.argv[0], *others])

from petsc4py import PETSc  # noqa: E402
from petsc_poisson import poisson  # noqa: E402
from slepc4py import SLEPc  # noqa: E402


def lap(A: PETSc.Mat) -> tuple[float, float, SLEPc.EPS]:
    """Seconds in all, seconds of the set-up, and the solver."""
    comm = PETSc.COMM_WORLD
    E = SLEPc.EPS().create(comm)
    E.setOperators(A)
    E.setProblemType(SLEPc.EPS.ProblemType.HEP)
    E.setType("lobpcg")
    E.setWhichEigenpairs(SLEPc.EPS.Which.SMALLEST_REAL)
    E.setDimensions(options.k)
    E.setTolerances(options.tol, 500)
    E.setConvergenceTest(SLEPc.EPS.Conv.REL)
    if options.block:
        E.setLOBPCGBlockSize(options.block)
    ksp = E.getST().getKSP()
    ksp.setType("preonly")
    ksp.getPC().setType(options.precond)
    E.setFromOptions()
    comm.barrier()
    start = time.perf_counter()
    E.setUp()
    ksp.setUp()
    comm.barrier()
    ready = time.perf_counter() - start
    E.solve()
    comm.barrier()
    return time.perf_counter() - start, ready, E


def main() -> None:
    A = poisson(options.n, 2)
    laps = []
    for _ in range(options.repeats):
        total, ready, E = lap(A)
        laps.append((total, ready))
    told = f"{E.getConverged()} converged, {E.getIterationNumber()} iterations"
    told += f", residual {max(E.computeError(i, 0) for i in range(options.k)):.1e}"
    values = [E.getEigenvalue(i).real for i in range(options.k)]
    step = np.sin(np.arange(1, options.k + 1) * np.pi / (2 * options.n + 2)) ** 2 * 4
    exact = np.sort(np.add.outer(step, step).ravel())[: options.k]
    told += f", values off by {abs(np.array(values) / exact - 1).max():.0e}"
    seconds = " ".join(f"{total:.2f} (set-up {ready:.2f})" for total, ready in laps)
    PETSc.Sys.Print(
        f"SLEPc, {options.precond}, block {E.getLOBPCGBlockSize()}: {seconds} s, {told}"
    )


if __name__ == "__main__":
    main()

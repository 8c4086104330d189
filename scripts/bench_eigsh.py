"""Time eigsh; on rank 0 alone also SciPy's LOBPCG with a pyamg preconditioner.

mpiexec -n 2 python scripts/bench_eigsh.py poisson2d:n=300
mpiexec -n 2 python scripts/bench_eigsh.py poisson2d:n=1000 --repeats 2
python scripts/bench_eigsh.py poisson2d:n=300 --scipy

Ours stops where ||A v - w v|| <= tol |w|, each pair by itself. SciPy's tolerance is one number for
all pairs: it gets tol times the smallest eigenvalue wanted, and, as a looser goal, tol itself.
Set-up of the preconditioner is told apart; medians of the repeats are printed, and ours one by one.
SLEPc's LOBPCG beside it: scripts/bench_slepc.py.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from pathlib import Path
from statistics import median

import numpy as np
import torch

import hpc_sla as hs
from hpc_sla.cli.prepare import load_source, write_partitioned
from hpc_sla.precond import make_preconditioner


def ours(A: hs.DSparseMatrix, options: argparse.Namespace) -> tuple[str, np.ndarray]:
    """**Collective.**"""
    world, laps = A.world, []
    for _ in range(options.repeats):
        world.barrier()
        start = time.perf_counter()
        M = make_preconditioner(options.precond, A)
        ready = world.max(time.perf_counter() - start)
        start = time.perf_counter()
        w, _, info = hs.eigsh(A, options.k, precond=M, tol=options.tol, guard=options.guard)
        laps.append((ready + world.max(time.perf_counter() - start), ready))
    total, ready = map(median, zip(*laps, strict=True))
    told = f"{info.status}, {info.iterations} iterations; laps"
    told += "".join(f" {lap:.2f}" for lap, _ in laps)
    return f"eigsh, {world.size} rank(s): {total:.2f} s (set-up {ready:.2f}), {told}", w.numpy()


def scipys(matrix, w: np.ndarray, options: argparse.Namespace) -> list[str]:
    import pyamg
    from scipy.sparse.linalg import lobpcg

    lines = []
    width = options.k + (max(2, options.k // 5) if options.guard is None else options.guard)
    start_block = np.random.default_rng(0).standard_normal((matrix.shape[0], width))
    for tol in (options.tol * w[0], options.tol):
        laps = []
        for _ in range(options.repeats):
            start = time.perf_counter()
            M = pyamg.smoothed_aggregation_solver(matrix).aspreconditioner()
            ready = time.perf_counter() - start
            with warnings.catch_warnings(record=True) as raised:
                warnings.simplefilter("always")
                values, vectors, history = lobpcg(
                    matrix, start_block, M=M, tol=tol, largest=False, maxiter=200,
                    retResidualNormsHistory=True,
                )  # fmt: skip
            laps.append((time.perf_counter() - start, ready))
        total, ready = map(median, zip(*laps, strict=True))
        values, vectors = values[: options.k], vectors[:, : options.k]
        residual = np.linalg.norm(matrix @ vectors - vectors * values, axis=0).max()
        error = abs(values - w).max() / w[0]
        lines.append(
            f"scipy + pyamg, {width} columns, tol {tol:.1e}: {total:.2f} s (set-up {ready:.2f}), "
            f"{len(history)} iterations, residual {residual:.1e}, differs by {error:.0e}"
            + (", warned" if raised else "")
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("source", help="a generator such as poisson2d:n=300")
    parser.add_argument("-k", type=int, default=6)
    parser.add_argument("--precond", default="amg")
    parser.add_argument("--tol", type=float, default=1e-8)
    parser.add_argument("--guard", type=int)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--scipy", action="store_true", help="time SciPy's, too, on rank 0")
    options = parser.parse_args()
    world = hs.World()
    with tempfile.TemporaryDirectory() as folder:
        path = world.comm.bcast(str(Path(folder) / "matrix.h5"))
        source = load_source(options.source) if world.rank == 0 else None
        if source is not None:
            write_partitioned(source, path, world.size, "metis")
        world.barrier()
        A = hs.DSparseMatrix.from_hdf5(path, world)
        with torch.no_grad():
            line, w = ours(A, options)
        if source is not None:
            print(line)
            print("eigenvalues", *(f"{value:.10g}" for value in w))
            if options.scipy:
                print(*scipys(source.matrix, w, options), sep="\n")
        world.barrier()


if __name__ == "__main__":
    main()

"""Time our own solvers beside each other on one matrix, in turn: seconds an iteration, and ratios.

mpiexec -n 4 python scripts/bench_solvers.py poisson2d:n=100 cg pipelined_cg
mpiexec -n 2 python scripts/bench_solvers.py poisson2d:n=1000 cg cg@8

A contender is METHOD[:OPTION=VALUE,...][+PRECOND[:...]][@COLUMNS]; jacobi and one right-hand side
unless told. Beside PETSc: `python -m hpc_sla bench --method ... --precond ...`.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch

import hpc_sla as hs
from hpc_sla.cli.prepare import load_source, write_partitioned


@dataclass(frozen=True)
class Contender:
    name: str
    method: str
    precond: str
    columns: int

    @classmethod
    def parse(cls, text: str) -> Contender:
        solver, _, columns = text.partition("@")
        method, _, precond = solver.partition("+")
        return cls(text, method, precond or "jacobi", int(columns or 0))


def lap(A: hs.DSparseMatrix, contender: Contender, iterations: int) -> float:
    """Seconds an iteration of the slowest rank. **Collective.**"""
    generator = torch.Generator().manual_seed(A.world.rank)
    shape = (A.layout.n_owned, contender.columns) if contender.columns else (A.layout.n_owned,)
    b = torch.rand(shape, dtype=torch.float64, generator=generator).to(A.device)
    hs.solve(A, b, contender.method, contender.precond, max_iterations=3)  # first uses
    A.world.barrier()
    start = time.perf_counter()
    _, info = hs.solve(
        A, b, contender.method, contender.precond, rtol=1e-14, max_iterations=iterations
    )
    return A.world.max(time.perf_counter() - start) / info.iterations


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("source", help="a generator such as poisson2d:n=1000, or a matrix file .h5")
    parser.add_argument("contenders", nargs="+", type=Contender.parse)
    parser.add_argument("--iterations", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    world = hs.World()
    with tempfile.TemporaryDirectory() as folder:
        path = options.source
        if not Path(path).exists():
            path = world.comm.bcast(str(Path(folder) / "matrix.h5"))
            world.on_root(
                lambda: (
                    write_partitioned(load_source(options.source), path, world.size, "metis")
                    and None
                )
            )
        A = hs.DSparseMatrix.from_hdf5(path, world)
        world.barrier()
    times: dict[str, list[float]] = {c.name: [] for c in options.contenders}
    for number in range(options.repeats):
        for contender in options.contenders[:: 1 if number % 2 == 0 else -1]:
            times[contender.name].append(lap(A, contender, options.iterations))
    if world.rank == 0:
        first = median(next(iter(times.values())))
        print(f"{options.source}, {A.layout.n_global} rows, {world.size} rank(s), {world.device}")
        for name, seconds in times.items():
            middle = median(seconds)
            print(f"{name:30} {1e6 * middle:10.1f} us an iteration   {middle / first:6.3f}")


if __name__ == "__main__":
    main()

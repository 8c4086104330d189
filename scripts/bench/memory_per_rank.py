"""Peak memory per rank of each step of a job, with as many rows a rank on any number of ranks.

    python scripts/bench/memory_per_rank.py                     # every step
    python scripts/bench/memory_per_rank.py --ranks 1 2 4 8 --rows 100000 --steps read setup solve

What is told is the largest resident size (VmHWM) of the busiest rank, beyond what it had when the
step began: Python, its libraries, MPI, a small run of the same step, and what it is given (the
matrix, say, of a solve). A job that scales has a flat line. A step is a function of `STEPS`, which
takes the communicator, a folder that all see, the number of rows and a partitioner, and returns
what is to be measured; the file that it reads `prepare` makes before, on one process.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

TIMEOUT_SECONDS = 1800
SMALL = 1000
MANY = "multilevel"


def side(rows: int) -> int:
    """Of a square grid of about so many points."""
    return max(2, round(rows**0.5))


Work = Callable[[], object]


def partition(comm: Any, source: str, output: Path, method: str) -> Work:
    """What `partition` does under mpiexec. **Collective.**"""

    def work() -> None:
        from hpc_sla.cli.prepare_rows import load_source_rows, write_partitioned_rows
        from hpc_sla.messages.peers import Peers

        with Peers(comm) as peers:
            rows = load_source_rows(peers, source, ["manufactured"])
            write_partitioned_rows(peers, rows, output, comm.size, method)

    return work


def of_generator(comm: Any, folder: Path, rows: int, method: str) -> Work:
    return partition(comm, f"poisson2d:n={side(rows)}", folder / "out.h5", method)


def of_file(suffix: str) -> Callable[..., Work]:
    def prepared(comm: Any, folder: Path, rows: int, method: str) -> Work:
        return partition(comm, str(folder / f"{rows}{suffix}"), folder / "out.h5", method)

    return prepared


def to_hdf5(comm: Any, folder: Path, rows: int, method: str) -> Work:
    import hpc_sla as hs
    from hpc_sla.problems import make

    world = hs.World(comm=comm, device="cpu", transport="mpi")
    A = hs.problems.distribute(make(f"poisson2d:n={side(rows)}"), world)
    return lambda: A.to_hdf5(folder / "out.h5")


def read(comm: Any, folder: Path, rows: int, method: str) -> Work:
    import hpc_sla as hs

    world = hs.World(comm=comm, device="cpu", transport="mpi")
    path = folder / f"{rows}{PARTITIONED}"

    def work() -> tuple[hs.DSparseMatrix, Any]:
        A = hs.DSparseMatrix.from_hdf5(path, world)
        return A, hs.read_rhs(path, "ones", A.layout)

    return work


def setup(comm: Any, folder: Path, rows: int, method: str) -> Work:
    import hpc_sla as hs

    A, _ = read(comm, folder, rows, method)()
    return lambda: hs.LinearSolver(A, "cg", "amg").set_up()


def solve(comm: Any, folder: Path, rows: int, method: str) -> Work:
    import hpc_sla as hs

    A, b = read(comm, folder, rows, method)()
    solver = hs.LinearSolver(A, "cg", "amg").set_up()
    return lambda: solver.solve(b)


def write(comm: Any, folder: Path, rows: int, method: str) -> Work:
    from hpc_sla.cli.run.result import write_result

    A, b = read(comm, folder, rows, method)()
    return lambda: write_result(str(folder / "result.h5"), {"x": (A.layout, b)}, [1.0], {}, {})


def resume(comm: Any, folder: Path, rows: int, method: str) -> Work:
    """Reading a checkpoint, and the solve from there."""
    import hpc_sla as hs

    A, b = read(comm, folder, rows, method)()
    path = folder / f"{rows}.ckpt.h5"
    stopped = hs.LinearSolver(A, "cg", "amg", max_iterations=3)
    stopped.solve(b, checkpoint=hs.Checkpoint(path, every="1iterations"))
    solver = hs.LinearSolver(A, "cg", "amg").set_up()
    return lambda: solver.solve(b, checkpoint=hs.Checkpoint(path, resume=True))


STEPS: dict[str, Callable[..., Work]] = {
    "generator": of_generator,
    "npz": of_file(".npz"),
    "deflated": of_file(".deflated.npz"),
    "petsc": of_file(".petsc"),
    "mtx": of_file(".mtx"),
    "h5": of_file(".h5"),
    "to_hdf5": to_hdf5,
    "read": read,
    "setup": setup,
    "solve": solve,
    "write": write,
    "resume": resume,
}
OF_A_JOB = ("read", "setup", "solve", "write", "resume")
PARTITIONED = ".partitioned.h5"
SUFFIXES = {name: f".{name}" for name in ("npz", "petsc", "mtx", "h5")}
SUFFIXES["deflated"] = ".deflated.npz"


def prepare(folder: Path, step: str, rows: int, ranks: int) -> None:
    """Write what a step reads, on one process."""
    if step in OF_A_JOB:
        from hpc_sla.cli.prepare import load_source, write_partitioned

        source = load_source(f"poisson2d:n={side(rows)}")
        write_partitioned(source, folder / f"{rows}{PARTITIONED}", ranks, "metis")
        return
    import numpy as np

    from hpc_sla.problems import make
    from hpc_sla.storage.matrix_writer import write_matrix

    if step not in SUFFIXES:
        return
    path = folder / f"{rows}{SUFFIXES[step]}"
    matrix = make(f"poisson2d:n={side(rows)}").matrix()
    n = matrix.shape[0]
    if step in ("npz", "deflated"):
        import scipy.sparse as sp

        sp.save_npz(path, matrix, compressed=step == "deflated")
    elif step == "mtx":
        import scipy.io

        scipy.io.mmwrite(path, matrix)
    elif step == "petsc":
        lengths = np.diff(matrix.indptr)
        with open(path, "wb") as file:
            for words in ([1211216, n, n, matrix.nnz], lengths, matrix.indices):
                file.write(np.asarray(words).astype(">i4").tobytes())
            file.write(matrix.data.astype(">f8").tobytes())
    else:
        cuts = np.array([0, n])
        write_matrix(path, matrix, cuts, np.arange(n), {"manufactured": np.ones(n)})


def measure(step: str, folder: Path, rows: int, method: str) -> None:
    """Run a step on all ranks, and print what each held. **Collective.**"""
    from mpi4py import MPI

    from hpc_sla.observe.memory import peak_rss_bytes, release_free_memory, reset_peak, rss_bytes

    comm = MPI.COMM_WORLD
    STEPS[step](comm, folder, SMALL, method)()
    work = STEPS[step](comm, folder, rows, method)
    gc.collect()
    release_free_memory()
    trouble = reset_peak()
    before = rss_bytes() or 0
    comm.Barrier()
    work()
    held = comm.gather((before, peak_rss_bytes() - before))
    if held is not None:
        if trouble:
            raise SystemExit(trouble)
        print(json.dumps(held))


def launch(step: str, ranks: int, folder: Path, rows: int, method: str) -> list[list[int]]:
    """Bytes before and beyond, a pair for each rank."""
    mpiexec = Path(sys.executable).with_name("mpiexec")
    start = [str(mpiexec) if mpiexec.exists() else "mpiexec", "-n", str(ranks), sys.executable]
    work = [__file__, "--measure", step, "--folder", str(folder), "--rows", str(rows)]
    done = subprocess.run(
        [*start, *work, "--method", method],
        stdout=subprocess.PIPE,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "MPIR_CVAR_ENABLE_HEAVY_YIELD": "1"},
    )
    found: list[list[int]] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", nargs="+", choices=list(STEPS), default=list(STEPS))
    parser.add_argument("--ranks", nargs="+", type=int, default=[1, 2, 4, 8])
    parser.add_argument("--rows", type=int, default=100_000, help="a rank")
    parser.add_argument("--method", default=MANY)
    parser.add_argument("--measure", choices=list(STEPS), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.measure:
        measure(asked.measure, asked.folder, asked.rows, asked.method)
        return
    print(f"{asked.rows} rows a rank; bytes a row of the busiest rank, beyond what it began with")
    print(f"{'step':>10} " + " ".join(f"{ranks:>5} rank(s)" for ranks in asked.ranks))
    for step in asked.steps:
        line = []
        for ranks in asked.ranks:
            folder = Path(tempfile.mkdtemp(prefix="hpc_sla-"))
            try:
                rows = asked.rows * ranks
                for size in (SMALL, rows):
                    # In a process of its own, which gives its memory back.
                    code = "import memory_per_rank as m, pathlib, sys; m.prepare(pathlib.Path"
                    code += "(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))"
                    subprocess.run(
                        [sys.executable, "-c", code, str(folder), step, str(size), str(ranks)],
                        cwd=Path(__file__).parent,
                        check=True,
                    )
                held = launch(step, ranks, folder, rows, asked.method)
                share = side(rows) ** 2 / ranks
                line.append(max(beyond for _, beyond in held) / share)
            finally:
                shutil.rmtree(folder)
        print(f"{step:>10} " + " ".join(f"{value:13.0f}" for value in line), flush=True)


if __name__ == "__main__":
    main()

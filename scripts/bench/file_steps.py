"""Peak memory of each rank as it reads a matrix, writes a result, and saves and resumes a solve.

    for p in 1 2 4 8; do mpiexec -n $p python scripts/bench/file_steps.py --rows 200000; done

What is told of each step is the largest resident size (VmHWM) beyond what the rank had when the
step began, of the busiest rank and of rank 0, in bytes a row of its own. Each step has run before,
on a small matrix. With as many rows a rank on any number of ranks, the lines are flat where a job
scales. Parts have every so-many-th thousand of rows, the worst for output: all ranks have rows of
every block.
"""

from __future__ import annotations

import argparse
import gc
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import hpc_sla as hs
from hpc_sla.cli.run.result import write_result
from hpc_sla.observe.memory import peak_rss_bytes, release_free_memory, reset_peak, rss_bytes

SMALL = 2000
STEPS: dict[str, Callable[[Any, Path, dict[str, Any]], None]] = {}


def step(function: Callable[[Any, Path, dict[str, Any]], None]) -> Any:
    """Its name in the table is its own."""
    STEPS[function.__name__] = function
    return function


@step
def read(world: Any, path: Path, kept: dict[str, Any]) -> None:
    """A matrix file, and its right-hand side."""
    from hpc_sla.problems.system import NamedSystem

    system = NamedSystem(str(path), "ones", False)
    kept["A"] = system.matrix(world)
    kept["b"] = system.right_hand_side(kept["A"].layout)


@step
def result(world: Any, path: Path, kept: dict[str, Any]) -> None:
    """x, as `solve` writes it."""
    write_result(f"{path}.result.h5", {"x": (kept["A"].layout, kept["b"])}, [1.0], {}, {})


def solve(path: Path, kept: dict[str, Any], **options: Any) -> None:
    checkpoint = hs.Checkpoint(f"{path}.ckpt", "5iterations", **options)
    most = 12 if options else 6
    hs.solve(
        kept["A"], kept["b"], method="cg", precond="jacobi", max_iterations=most,
        checkpoint=checkpoint,
    )  # fmt: skip


@step
def checkpoint(world: Any, path: Path, kept: dict[str, Any]) -> None:
    """Six iterations of cg, one of them saved."""
    solve(path, kept)


@step
def resume(world: Any, path: Path, kept: dict[str, Any]) -> None:
    """Going on from there."""
    solve(path, kept, resume=True)


def prepare(path: Path, rows: int, parts: int) -> None:
    """A file of a tridiagonal matrix whose parts are every so-many-th row. Serial."""
    import scipy.sparse as sp

    from hpc_sla.partition import order_by_part, reorder
    from hpc_sla.storage.matrix_writer import write_matrix

    second = sp.diags_array([-1.0, 2.5, -1.0], offsets=[-1, 0, 1], shape=(rows, rows))
    permutation, offsets = order_by_part(np.arange(rows) // 1000 % parts, parts)
    matrix = reorder(sp.csr_array(second), permutation)
    write_matrix(path, matrix, offsets, permutation, {"ones": np.ones(rows)})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=200_000, help="a rank")
    parser.add_argument("--folder", type=Path, help="that all ranks see; default: a temporary one")
    options = parser.parse_args()
    world = hs.World(device="cpu")
    with tempfile.TemporaryDirectory(dir=options.folder) as own:
        folder = Path(world.comm.bcast(own))
        n = options.rows * world.size
        for rows in (SMALL * world.size, n):
            # In a process of its own, which gives its memory back.
            world.on_root(lambda rows=rows: _apart(folder / f"{rows}.h5", rows, world.size))
        small: dict[str, Any] = {}
        kept: dict[str, Any] = {}
        for name, run in STEPS.items():
            run(world, folder / f"{SMALL * world.size}.h5", small)
            gc.collect()
            release_free_memory()
            trouble = reset_peak()
            before = rss_bytes() or 0
            world.barrier()
            run(world, folder / f"{n}.h5", kept)
            held = world.gather_objects((peak_rss_bytes() - before) / options.rows)
            if held is not None:
                shown = trouble or f"busiest {max(held):7.1f}   rank 0 {held[0]:7.1f}"
                print(f"{world.size} rank(s)  {name:>10}  {shown}  bytes a row", flush=True)
        world.barrier()


def _apart(path: Path, rows: int, parts: int) -> None:
    import multiprocessing

    process = multiprocessing.get_context("fork").Process(target=prepare, args=(path, rows, parts))
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit("the matrix could not be made")


if __name__ == "__main__":
    main()

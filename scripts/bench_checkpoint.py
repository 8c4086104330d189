"""What checkpoints cost cg: of its time at one a minute, and in bytes a row.

mpiexec -n 2 python scripts/bench_checkpoint.py poisson2d:n=1000 --every 5s

Solves the same system without and with checkpoints, in turn. The cost of one is what the runs with
them took longer, by the number of checkpoints; the share is that cost in a minute.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from statistics import median

import hpc_sla as hs
from hpc_sla.cli.prepare import load_source, write_partitioned

MINUTE = 60.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("source", help="a generator such as poisson2d:n=1000")
    parser.add_argument("--method", default="cg")
    parser.add_argument("--precond", default="jacobi")
    parser.add_argument("--every", default="5s")
    parser.add_argument("--rtol", type=float, default=1e-8)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--folder", default=".", help="where checkpoints go")
    options = parser.parse_args()
    world = hs.World()
    with tempfile.TemporaryDirectory(dir=options.folder) as own:
        folder = Path(world.comm.bcast(own))
        path = str(folder / "matrix.h5")
        world.on_root(
            lambda: (
                write_partitioned(load_source(options.source), path, world.size, "metis") and None
            )
        )
        A = hs.DSparseMatrix.from_hdf5(path, world)
        b = hs.read_rhs(path, "ones", A.layout)

        def lap(checkpoint: hs.Checkpoint | None) -> tuple[float, int]:
            world.barrier()
            start = time.perf_counter()
            _, info = hs.solve(
                A, b, options.method, options.precond, options.rtol, checkpoint=checkpoint
            )
            return world.max(time.perf_counter() - start), info.iterations

        plain: list[float] = []
        watched: list[float] = []
        saving: list[tuple[float, int, float]] = []

        made, iterations = hs.Checkpoint(None), 0

        def without() -> None:
            plain.append(lap(None)[0])

        def asking() -> None:
            watched.append(lap(hs.Checkpoint(None))[0])

        def saving_too() -> None:
            nonlocal made, iterations
            made = hs.Checkpoint(folder / "bench.ckpt.h5", options.every)
            seconds, iterations = lap(made)
            saving.append((seconds, made.written, world.max(made.seconds)))

        lap(None)  # first uses
        for turn in range(options.repeats):
            # Each first, second and third in turn: a machine's clock drifts.
            ways = [without, asking, saving_too]
            for way in ways[turn % 3 :] + ways[: turn % 3]:
                way()
        world.barrier()
    if world.rank == 0:
        least = median(plain)
        number = sum(n for _, n, _ in saving) / len(saving)
        each = (median(s for s, _, _ in saving) - least) / max(number, 1)
        own_clock = sum(s for _, _, s in saving) / max(sum(n for _, n, _ in saving), 1)
        print(
            json.dumps(
                {
                    "source": options.source,
                    "rows": A.layout.n_global,
                    "ranks": world.size,
                    "cores": len(os.sched_getaffinity(0)),
                    "iterations": iterations,
                    "seconds_without": round(least, 3),
                    "seconds_only_asking": round(median(watched), 3),
                    "seconds_with": round(median(s for s, _, _ in saving), 3),
                    "checkpoints_a_run": number,
                    "seconds_each": round(each, 4),
                    "seconds_each_by_its_clock": round(own_clock, 4),
                    "percent_at_one_a_minute": round(100 * max(each, own_clock) / MINUTE, 3),
                    "bytes_a_row": round(made.bytes / A.layout.n_global, 2),
                }
            )
        )


if __name__ == "__main__":
    main()

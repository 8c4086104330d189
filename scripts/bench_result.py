"""What writing a large result adds to each rank's memory, and how long it takes.

mpiexec -n 4 python scripts/bench_result.py --rows 20000000
mpiexec -n 4 python scripts/bench_result.py --rows 2000000 --order same --columns 3

A slab is a rank's share of the vector: rows / ranks * columns * 8 bytes. Each rank's peak is the
kernel's (VmHWM), set back just before writing; what it adds is told beyond what was resident then,
the vector itself and its row numbers among it. The rows are in random order over the ranks, the
worst that a partition can do, or with --order same in the file's.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time

import h5py
import numpy as np
import torch

import hpc_sla as hs
from hpc_sla.cli.run.result import write_result
from hpc_sla.observe.memory import peak_rss_bytes, release_free_memory, reset_peak, rss_bytes
from hpc_sla.partition.offsets import even_offsets


def shuffled(n: int, start: int, stop: int) -> np.ndarray:
    """Rows ``start:stop`` of a permutation of n that needs no memory: k -> a k + c mod n."""
    a = 1 + int(n * 0.6180339887)
    while np.gcd(a, n) != 1:
        a += 1
    k = np.arange(start, stop, dtype=np.int64)
    return (k * a + 12345) % n


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=20_000_000)
    parser.add_argument("--columns", type=int, default=1)
    parser.add_argument("--order", choices=["random", "same"], default="random")
    parser.add_argument("--folder", help="Where to write. Default: a temporary folder.")
    options = parser.parse_args()
    world = hs.World(device="cpu")
    n, k = options.rows, options.columns
    offsets = even_offsets(n, world.size)
    start, stop = (int(row) for row in offsets[world.rank : world.rank + 2])
    rows = shuffled(n, start, stop) if options.order == "random" else np.arange(start, stop)
    layout = hs.RowLayout(world, offsets, rows)
    x = torch.from_numpy(np.sqrt(rows.astype(np.float64)))
    x = x if k == 1 else x[:, None].repeat(1, k)
    folder = tempfile.mkdtemp(dir=options.folder) if world.rank == 0 else ""
    path = world.comm.bcast(os.path.join(folder, "result.h5"))
    # What every write needs once, of any size: h5py's and MPI's own.
    small = hs.RowLayout.even(1000, world)
    nothing = torch.zeros(small.n_owned, dtype=torch.float64)
    write_result(path, {"x": (small, nothing)}, [1.0], {}, {})
    release_free_memory()
    refused = reset_peak()
    before = rss_bytes() or 0
    world.barrier()
    begin = time.perf_counter()
    write_result(path, {"x": (layout, x)}, [1.0], {}, {})
    seconds = time.perf_counter() - begin
    told = world.gather_objects((peak_rss_bytes() - before, seconds))
    if told is None:
        return
    slab = -(-n // world.size) * k * 8
    print(
        f"{n} rows x {k}, {world.size} rank(s), slab {slab / 2**20:.1f} MiB, {options.order} order"
    )
    for rank, (added, _) in enumerate(told):
        shown = refused or f"adds {added / 2**20:.1f} MiB, {added / slab:.2f} slabs"
        print(f"rank {rank}: {shown}")
    slowest = max(seconds for _, seconds in told)
    print(
        f"{slowest:.2f} s, {n * k * 8 / slowest / 2**20:.0f} MiB/s, {os.path.getsize(path)} bytes"
    )
    with h5py.File(path) as file:
        for first in (0, n // 2, max(n - 1000, 0)):
            found = file["x"][first : first + 1000]
            wanted = np.sqrt(np.arange(first, first + len(found), dtype=np.float64))
            assert (found == (wanted if k == 1 else wanted[:, None])).all()
    os.unlink(path)
    os.rmdir(folder)


if __name__ == "__main__":
    main()

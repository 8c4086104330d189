"""What each rank of `solve` asks of the system for its matrix file: opens, reads and bytes.

    python scripts/bench/file_operations.py FILE.h5 --ranks 1 8

Needs strace. Beside what is read stands what the rank's rows take in the file.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import h5py

from hpc_sla.partition.offsets import offsets_for

_CALLS = "openat,read,pread64,preadv,preadv2,lseek"
_CALL = re.compile(r"^(?:\d+ +)?(\w+)\(.*\) += (-?\d+)")


def rows_bytes(path: Path, rank: int, ranks: int) -> int:
    """Of a rank's rows: matrix, row numbers and a right-hand side."""
    with h5py.File(path) as file:
        offsets = offsets_for(file["part_offsets"][:], ranks)
        first, last = int(offsets[rank]), int(offsets[rank + 1])
        begin, end = (int(file["indptr"][row]) for row in (first, last))
        entry = file["indices"].dtype.itemsize + file["data"].dtype.itemsize
        row = file["rhs/ones"].dtype.itemsize + 8
        if "coordinates" in file:
            row += file["coordinates"].nbytes // len(file["coordinates"])
        return (end - begin) * entry + (last - first) * row + 8 * (last - first + 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path, help="a matrix file with a right-hand side `ones`")
    parser.add_argument("--ranks", nargs="+", type=int, default=[1, 8])
    options = parser.parse_args()
    path = options.file.resolve()
    mpiexec = Path(sys.executable).with_name("mpiexec")
    for ranks in options.ranks:
        with tempfile.TemporaryDirectory() as folder:
            noted = Path(folder)
            script = f'exec strace -f --seccomp-bpf -P "$1" -e trace={_CALLS} '
            script += f'-o {noted}/$PMI_RANK "$2" -m hpc_sla solve "$1" --rhs ones '
            script += "--max-iterations 3 --method cg --precond jacobi -o "
            script += f"{noted}/r.h5"
            subprocess.run(
                [mpiexec, "-n", str(ranks), "sh", "-c", script, "sh", path, sys.executable],
                check=False,
                stdout=subprocess.DEVNULL,
                timeout=1200,
            )
            for rank in range(ranks):
                calls = [
                    (found[1], int(found[2]))
                    for line in (noted / str(rank)).read_text().splitlines()
                    if (found := _CALL.match(line))
                ]
                opens = sum(name == "openat" for name, _ in calls)
                reads = [got for name, got in calls if "read" in name]
                print(
                    f"{ranks} rank(s), rank {rank}: {opens} open(s), {len(reads)} reads, "
                    f"{sum(reads)} bytes; its rows take {rows_bytes(path, rank, ranks)}",
                    flush=True,
                )


if __name__ == "__main__":
    main()

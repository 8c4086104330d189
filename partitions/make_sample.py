"""Make the sample matrix file: 2D Poisson, 16 x 16 points, 4 METIS parts, two right-hand sides.

    python partitions/make_sample.py [OUTPUT.h5]

Running it again gives the same content (`content_sha256`), bit for bit.
"""

from __future__ import annotations

import sys
from pathlib import Path

from hpc_sla import problems
from hpc_sla.partition import order_by_part, partition, reorder
from hpc_sla.storage.matrix_writer import write_matrix

SAMPLE = Path(__file__).resolve().parent / "poisson2d-16x16-p4.h5"


def make_sample(path: Path = SAMPLE) -> None:
    """Write the sample to `path`."""
    problem = problems.make("poisson2d:n=16")
    matrix = problem.matrix()
    permutation, part_offsets = order_by_part(partition(matrix, 4), 4, matrix)
    b, x_exact = problems.rhs_manufactured(matrix)
    write_matrix(
        path,
        reorder(matrix, permutation),
        part_offsets,
        permutation,
        rhs={"ones": problems.rhs_ones(matrix), "manufactured": b[permutation]},
        solutions={"manufactured": x_exact[permutation]},
        coordinates=problem.coordinates(0, problem.n_rows)[permutation],
        attributes={"source": problem.spec, "partition_method": "metis"},
    )


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else SAMPLE
    make_sample(target)
    print(f"wrote {target}")

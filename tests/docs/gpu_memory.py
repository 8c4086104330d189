"""What a solve on a GPU allocates, counted on CPU tensors: the table of docs/gpu.md.

`python -m tests.docs.gpu_memory` prints it; with the side of a larger grid behind it that one's,
its levels in the form that their sizes give them.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import pytest
import torch

import hpc_sla as hs
from hpc_sla import problems
from hpc_sla.kernels import accuracy, device_matrix, slices
from hpc_sla.precond import jacobi
from hpc_sla.precond.amg.device import arrays
from tests.linear.emulated_device import Allocated, on_device

N = 46
"""A side of the grid."""

PIECE = 20
"""What is made piece by piece is made in so many: a piece stays as large, and rows are many."""

PRECONDS = {"jacobi": "jacobi", "amg": "amg:coarse_size=30"}
"""By their names in the table; a coarsest level of 500 rows has an inverse of 2 MB, nothing beside
many rows."""


@dataclass
class Memory:
    """Bytes a row, at most at a time: until the matrix is there, in set-up, in the solve.

    Attributes
    ----------
    matrix, kept : float
        What the matrix takes, and what it and the solver do once all is over; b and x not included.
    """

    made: float
    set_up: float
    solved: float
    matrix: float
    kept: float


def counted(precond: str, n: int = N) -> Memory:
    """Of `poisson2d` in float64, by cg."""
    with pytest.MonkeyPatch.context() as patch:
        on_device(patch)
        rows = n * n
        patch.setattr(slices, "_COLUMNS", -(-5 * rows // (slices.HEIGHT * PIECE)))
        patch.setattr(arrays, "ROOM", 10 * rows // PIECE)
        patch.setattr(accuracy, "PIECE", -(-rows // PIECE))
        if n == N:  # multigrid's levels stand for such as have many rows
            patch.setattr(device_matrix, "FEWEST_ROWS", 1)
        patch.setattr(jacobi, "CONSTANT_FROM", 1)
        problem, peaks = problems.make(f"poisson2d:n={n}"), []
        found = Allocated()

        def peak() -> None:
            peaks.append(found.peak / rows)
            found.peak = 0

        with found:
            A = problems.distribute(problem, hs.World.serial("cpu"))
            peak()
            matrix = found.now / rows
            b = torch.sin(torch.arange(rows, dtype=torch.float64))
            solver = hs.LinearSolver(A, "cg", PRECONDS[precond], rtol=0.3)
            solver.set_up()
            peak()
            x, info = solver.solve(b)
            peak()
            assert info.converged and A.held.sliced is not None
            kept = (found.now - 2 * 8 * rows) / rows
            assert len(x) == rows
        return Memory(*peaks, matrix, kept)


def table(counts: dict[str, Memory]) -> str:
    """As Markdown."""
    lines = [
        "| bytes a row | matrix made | set up | solved | matrix alone | matrix and solver, kept |",
        "|---|---|---|---|---|---|",
    ]
    for name, found in counts.items():
        told = " | ".join(f"{number:.0f}" for number in vars(found).values())
        lines.append(f"| `cg` + `{name}` | {told} |")
    return "\n".join(lines)


if __name__ == "__main__":
    side = int(sys.argv[1]) if len(sys.argv) > 1 else N
    print(table({name: counted(name, side) for name in PRECONDS}))

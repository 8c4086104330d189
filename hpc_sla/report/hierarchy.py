"""The levels of a multigrid preconditioner, as a table."""

from __future__ import annotations

from typing import IO

from hpc_sla.precond.amg import AMG
from hpc_sla.report.tables import print_table


def print_hierarchy(M: AMG, file: IO[str] | None = None) -> None:
    """Print rows, nonzeros, ranks and bytes of each level, and the complexities. Local.

    Everything printed is replicated: call it on one rank.
    """
    rows = [
        (
            str(depth),
            f"{level.rows:,}",
            f"{level.nonzeros:,}",
            f"{level.nonzeros / max(1, level.rows):.1f}",
            str(level.ranks),
            f"{level.bytes / 2**20:.1f}",
        )
        for depth, level in enumerate(M.levels)
    ]
    held = sum(level.bytes for level in M.levels) / max(1, M.levels[0].rows)
    print_table(
        f"{M.name}: operator complexity {M.operator_complexity:.2f}, grid complexity "
        f"{M.grid_complexity:.2f}, {held:.0f} bytes a row",
        ("level", "rows", "nonzeros", "a row", "ranks", "MiB"),
        rows,
        right=range(6),
        file=file,
    )

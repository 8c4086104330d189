"""Which cells there are to fill."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backends import BACKENDS
from libraries import LIBRARIES
from published import TABLE1, TABLE2

REPEATS = 3
"""Of what takes less than a second."""

GRADIENTS = 34
"""Points along a side in Table 3: enough rows for torch-sla to take a sparse eigensolver."""

QUICK_GRADIENTS = 12


@dataclass(frozen=True)
class Options:
    """What was asked for.

    Attributes
    ----------
    memory : float
        Bytes of one case.
    device : str
        `cpu` or `cuda`.
    venv : Path
        torch-sla's environment.
    """

    quick: bool
    max_rows: int | None
    limit: float
    memory: float
    backends: tuple[str, ...]
    ranks: tuple[int, ...]
    tables: tuple[int, ...]
    threads: int
    device: str
    venv: Path


def plan(options: Options) -> list[dict[str, Any]]:
    """The cells, in the order in which they are tried: by table and size."""
    cells: list[dict[str, Any]] = []
    most = options.max_rows or TABLE1[-1].n ** 2
    same = {"repeats": REPEATS, "device": options.device}
    if 1 in options.tables:
        for size in TABLE1[: 1 if options.quick else None]:
            if size.n**2 <= most:
                line = {"table": 1, "n": size.n, "rows": size.n**2, "rtol": size.residual, **same}
                cells += [{**line, "backend": name, "ranks": 0} for name in options.backends]
    if 2 in options.tables:
        several = [name for name in options.backends if BACKENDS[name].ranks]
        for size in TABLE2[: 1 if options.quick else None]:
            if size.n**2 <= most:
                line = {"table": 2, "n": size.n, "rows": size.n**2, "rtol": size.residual, **same}
                cells += [
                    {**line, "backend": name, "ranks": ranks}
                    for ranks in options.ranks
                    for name in several
                ]
    n = QUICK_GRADIENTS if options.quick else GRADIENTS
    if 3 in options.tables and n * n <= most:
        cells += [
            {"table": 3, "library": name, "n": n, "rows": n * n}
            for name in LIBRARIES
            if any(BACKENDS[key].theirs == (name == "torch-sla") for key in options.backends)
        ]
    return cells

"""Run the cells, each in a process of its own; keep what each finds.

One after the other, or two at a time where no times are wanted (`--quick`).
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Hashable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import bounded
import their_environment
from backends import BACKENDS
from case import MEMORY, SOLVED
from launch import mpiexec
from planned import Options
from record import write

HERE = Path(__file__).resolve().parent
PATHS = (HERE, HERE.parent / "proof", HERE.parent, HERE.parent.parent)
"""Where the cases find their modules, and this package."""

MISSING, NOT_RUN = "not available", "not run"

ENDS = (bounded.OVER_TIME, MEMORY, bounded.FAILED, MISSING)
"""After these a solver is not tried on a larger system."""


class Campaign:
    """All cells of a run.

    Parameters
    ----------
    options : Options
    cells : list of dict
        Of `plan`.
    output : Path
    facts : dict
        What is told beside the cells.
    """

    def __init__(
        self, options: Options, cells: list[dict[str, Any]], output: Path, facts: dict[str, Any]
    ) -> None:
        self.options, self.cells, self.output = options, cells, output
        self.found: dict[str, Any] = {**facts, "complete": False, "cells": []}
        self.ended: dict[Hashable, dict[str, Any]] = {}
        self.theirs: Path | None = None
        self.why_not_theirs = ""

    def run(self) -> dict[str, Any]:
        """Fill them; the JSON is written after each."""
        start = time.monotonic()
        if any(self._theirs(cell) for cell in self.cells):
            self._their_environment()
        with ThreadPoolExecutor(2) as pool:
            each = pool.map if self.options.quick else map
            for filled, seconds in each(self._timed, self.cells):
                self.found["cells"].append(filled)
                self.found["seconds"] = time.monotonic() - start
                self.found["complete"] = len(self.found["cells"]) == len(self.cells)
                write(self.output / "report.json", self.found)
                _say(filled, seconds)
        return self.found

    def _timed(self, cell: dict[str, Any]) -> tuple[dict[str, Any], float]:
        before = time.monotonic()
        return {**cell, **self._fill(cell)}, time.monotonic() - before

    def _their_environment(self) -> None:
        try:
            self.theirs = their_environment.ensure(self.options.venv)
            self.found["torch_sla"] = their_environment.describe(self.theirs)
        except their_environment.UnavailableError as error:
            self.why_not_theirs = str(error)
            self.found["torch_sla"] = f"torch-sla is not available: {error}"

    def _fill(self, cell: dict[str, Any]) -> dict[str, Any]:
        """Run one, or say why not."""
        theirs = self._theirs(cell)
        if theirs and self.theirs is None:
            return {"status": MISSING, "reason": self.why_not_theirs}
        if not theirs and cell["table"] == 1:
            reason = BACKENDS[cell["backend"]].why_not(self.options.device)
            if reason:
                return {"status": MISSING, "reason": reason}
        series = (cell["table"], cell.get("backend"), cell.get("ranks"))
        before = self.ended.get(series)
        if before:
            return {"status": NOT_RUN, "reason": f"{before['status']} at {before['rows']:,} rows"}
        name = "-".join(str(cell[key]) for key in NAMED if key in cell)
        path = self.output / "logs" / f"{name}.json"
        path.unlink(missing_ok=True)
        told = bounded.run(
            self._command(cell, path),
            path,
            self.options.limit,
            self.options.memory,
            self._environment(cell),
        )
        if told["status"] in ENDS:
            self.ended[series] = {**cell, **told}
        return told

    def _theirs(self, cell: dict[str, Any]) -> bool:
        if cell["table"] == 3:
            return bool(cell["library"] == "torch-sla")
        return BACKENDS[cell["backend"]].theirs

    def _command(self, cell: dict[str, Any], path: Path) -> list[str]:
        theirs = self._theirs(cell)
        python = str(self.theirs) if theirs else sys.executable
        words = [json.dumps(cell), str(path)]
        if cell["table"] == 3:
            return [python, str(HERE / "gradient_case.py"), *words]
        ranks = str(cell["ranks"])
        if cell["table"] == 2 and theirs:
            torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", ranks]
            return [python, *torchrun, str(HERE / "their_ranks.py"), *words]
        launcher = [mpiexec(), "-n", ranks] if cell["table"] == 2 else []
        return [*launcher, python, str(HERE / "case.py"), *words]

    def _environment(self, cell: dict[str, Any]) -> dict[str, str]:
        # Table 3 is of small systems, and of no times: threads would only wait for each other.
        processes = cell["ranks"] if cell["table"] < 3 else self.options.threads
        threads = max(1, self.options.threads // max(1, processes))
        paths = [*map(str, PATHS), *filter(None, [os.environ.get("PYTHONPATH")])]
        return {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(paths),
            "PYTHONUNBUFFERED": "1",
            "OMP_NUM_THREADS": str(threads),
        }


NAMED = ("table", "backend", "library", "ranks", "n")
"""What tells a cell from the others, and names its log."""


def _say(cell: dict[str, Any], took: float) -> None:
    what = cell.get("backend") or cell["library"]
    on = f" on {cell['ranks']} rank(s)" if cell.get("ranks") else ""
    said = f"table {cell['table']}, {cell['rows']:,} rows, {what}{on}: {cell['status']}"
    said += f" in {cell['seconds']:.3g} s" if cell["status"] == SOLVED and "seconds" in cell else ""
    said += f" ({cell['reason']})" if cell["reason"] else ""
    print(f"{said} [{took:.0f} s]", file=sys.stderr, flush=True)

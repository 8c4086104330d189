"""Run many command lines in one launch, and note what each rank returned and printed.

``python driver.py CASES.json`` on any number of ranks. Loading torch on every rank takes seconds,
a refused command line milliseconds. ``main`` returns what ``python -m hpc_sla`` exits with.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import traceback
from pathlib import Path

from mpi4py import MPI

from hpc_sla.cli import main


def run(arguments: list[str], hidden: list[str]) -> dict[str, object]:
    kept = {name: sys.modules.get(name) for name in hidden}
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment]
    out, err = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(arguments)
    except BaseException:
        traceback.print_exc(file=err)
        code = -1
    finally:
        for name, module in kept.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module
    return {"code": code, "stdout": out.getvalue(), "stderr": err.getvalue()}


def drive(path: Path) -> None:
    cases = json.loads(path.read_text())
    told = []
    for case in cases:
        told.append(run(case["arguments"], case.get("hidden", [])))
        if told[-1]["code"] == -1:
            break
    path.with_suffix(f".{MPI.COMM_WORLD.rank}.out").write_text(json.dumps(told))


if __name__ == "__main__":
    drive(Path(sys.argv[1]))

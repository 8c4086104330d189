"""Many command lines through one launch, and what each of them came to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.launch import launch_python

CG = ["--method", "cg", "--precond", "jacobi"]
"""For what is said of iterations: where nothing is named there may be one or none."""

DRIVER = Path(__file__).with_name("driver.py")


@dataclass(frozen=True)
class Outcome:
    """What one command line returned on every rank, and what rank 0 printed."""

    codes: list[int]
    stdout: str
    stderr: str
    others: str

    @property
    def json(self) -> dict[str, Any]:
        """The one JSON object on stdout."""
        (line,) = self.stdout.splitlines()
        answer: dict[str, Any] = json.loads(line)
        return answer


def run_cases(
    ranks: int,
    cases: Mapping[str, list[str]],
    cwd: Path,
    timeout: float = 200,
    hidden: Mapping[str, list[str]] | None = None,
) -> dict[str, Outcome]:
    """Run each case's arguments on `ranks` ranks, in one launch.

    Parameters
    ----------
    ranks : int
    cases : dict of name to command-line arguments
    cwd : path
        Also where the driver's own files go.
    timeout : float
        Seconds for all of them.
    hidden : dict of name to module names, optional
        Modules that a case is to find not installed.
    """
    hidden = hidden or {}
    path = cwd / "cases.json"
    path.write_text(
        json.dumps(
            [
                {"arguments": [str(a) for a in arguments], "hidden": hidden.get(name, [])}
                for name, arguments in cases.items()
            ]
        )
    )
    done = launch_python(ranks, str(DRIVER), str(path), timeout=timeout, cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr
    told = [json.loads(path.with_suffix(f".{rank}.out").read_text()) for rank in range(ranks)]
    outcomes = {}
    for name, by_rank in zip(cases, zip(*told, strict=True), strict=False):
        outcomes[name] = Outcome(
            codes=[one["code"] for one in by_rank],
            stdout=by_rank[0]["stdout"],
            stderr=by_rank[0]["stderr"],
            others="".join(one["stdout"] + one["stderr"] for one in by_rank[1:]),
        )
    return outcomes

"""The corpus script: small systems from end to end, and the figures of outcomes made up here."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.launch import REPOSITORY, environment

SCRIPT = REPOSITORY / "scripts" / "bench" / "corpus.py"


def corpus(folder, *arguments: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "-o", "runs.jsonl", *arguments],
        cwd=folder,
        env=environment(1),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stderr
    return done


def lines(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "runs.jsonl").read_text().splitlines()]


def test_solves_and_goes_on(tmp_path):
    pytest.importorskip("pyamg")
    which = ["--only", "example_(knot|square)", "--ranks", "2", "--peers", "superlu"]
    corpus(tmp_path, *which)
    found = {(line["system"], line["who"]): line for line in lines(tmp_path)}
    assert set(found) == {
        (f"example_{name}-s", who) for name in ("knot", "square") for who in ("ours", "superlu")
    }
    ours = found["example_knot-s", "ours"]
    assert (ours["rows"], ours["ranks"], ours["error"]) == (239, 2, "")
    assert ours["converged"] and ours["residual"] <= 1e-8 and ours["method"] != "auto"
    assert found["example_knot-s", "superlu"]["residual"] <= 1e-10
    corpus(tmp_path, *which, "--peers", "none", "--no-ours")
    assert len(lines(tmp_path)) == 4
    again = corpus(tmp_path, *which)
    assert again.stderr.count("rank(s)") == 0  # all of it is in the file
    assert "same choice" not in again.stdout  # of 1 and 4 ranks
    assert "solved by ours on 2 rank(s): 2 of 2" in again.stdout


def test_a_run_that_does_not_end_costs_itself_only(tmp_path):
    corpus(tmp_path, "--only", "queues-s", "--ranks", "1", "--peers", "none", "--timeout", "0.2")
    (line,) = lines(tmp_path)
    assert line["error"] == "no end within 0.2 s"


def run(system: str, who: str, residual: float, seconds: float, ranks: int = 1, **more) -> dict:
    size = 30_000 if system.endswith("-l") else 5_000
    return {
        "system": system, "who": who, "ranks": ranks, "named": {}, "error": "", "kind": "",
        "rows": size, "entries": size, "residual": residual, "seconds": seconds, "cpu": seconds,
        "converged": True, "status": "converged", "iterations": 3, "method": "cg",
        "precond": "amg", **more,
    }  # fmt: skip


def test_figures_of_made_up_outcomes(tmp_path):
    made = [
        run("poisson_2d-s", "ours", 1e-9, 3.0),
        run("poisson_2d-s", "ours", 1e-9, 3.0, ranks=4, precond="jacobi"),
        run("poisson_2d-s", "superlu", 1e-12, 2.0),
        run("poisson_2d-s", "gamg", 1e-9, 1.0),
        run("poisson_2d-s", "petsc", 2e-8, 0.1),
        run("poisson_2d-l", "ours", 9e-9, 1.0),
        run("poisson_2d-l", "ours", 9e-9, 1.0, ranks=4),
        run("poisson_2d-l", "superlu", 1e-12, 8.0),
        run("poisson_2d-l", "gamg", 1e-9, 4.0),
        run("poisson_2d-l", "petsc", 2e-8, 0.1),  # fast, and not there
        run("queues-s", "ours", 1e-3, 1.0),  # and says it has converged
        run("queues-s", "petsc", 1e-9, 1.0),
        run("upwind-s", "ours", 1e-3, 1.0, converged=False, status="stagnated"),
    ]
    failed = {"system": "upwind-s", "who": "petsc", "error": "no end within 1 s"}
    failed |= {"ranks": 1, "kind": "", "rows": 5000, "entries": 5000, "named": {}}
    (tmp_path / "runs.jsonl").write_text("\n".join(map(json.dumps, [*made, failed])))
    said = corpus(tmp_path, "--table").stdout
    for figure in (
        "solved by ours on 1 rank(s): 2 of 4 (50.0 %)",
        "solved by ours on 4 rank(s): 2 of 2 (100.0 %)\n",
        "solved by petsc on 1 rank(s): 1 of 4 (25.0 %); 2 more to 1e-6, converged by its own",
        "solved by any peer on 1 rank: 3 of 4 (75.0 %)",
        "of what any peer solves, solved by ours on 1 rank(s): 2 of 3 (66.7 %)",
        "points above petsc on 1 rank(s): +25.0",  # 2 of 4 to 1 of 4
        "20000 rows or more, over the best peer that solves: median 0.25 of 1",
        "less than 20000 rows, over SuperLU: median 1.50 of 1",
        "same choice on 1 and 4 ranks: 1 of 2",
        "not solved by ours on 1 rank(s), though by a peer: queues-s",
        "false converged: 1\n",
        "*** FALSE converged *** queues-s on 1 rank(s): 1.00e-03 by cg + amg",
    ):
        assert figure in said, said


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [(["--kinds", "nonsense"], "there is no kind nonsense")],
)
def test_explains_wrong_usage(arguments, complaint, tmp_path):
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *arguments], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode != 0 and complaint in done.stderr

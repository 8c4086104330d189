"""The proof for machines with GPUs, run small on the CPU, beside figures from elsewhere."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
import scipy.sparse.linalg
import torch

from tests.launch import REPOSITORY, environment

SCRIPTS = REPOSITORY / "scripts"
PARTS = [
    ("machine", 2), ("correctness", 1), ("correctness", 2), ("table1", 1), ("table2", 1),
    ("table2", 2), ("peers", 1),
]  # fmt: skip

SPOILED = """
# Every solution is off by a ten-thousandth.
import hpc_sla.linear.linear_solver as module

right = module.LinearSolver.solve

def wrong(self, *arguments, **named):
    x, info = right(self, *arguments, **named)
    return x * 1.0001, info

module.LinearSolver.solve = wrong
"""


def prove(folder: Path, *arguments: str, python_path: Path | None = None):
    """Run the programme; how it ended, and what it wrote."""
    env = environment(1)
    if python_path is not None:
        env["PYTHONPATH"] = os.pathsep.join([str(python_path), env["PYTHONPATH"]])
    done = subprocess.run(
        [sys.executable, str(SCRIPTS / "proof" / "proof.py"), "--small", *arguments],
        cwd=folder,
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=1400,
    )
    written = folder / "gpu_proof.json"
    return done, json.loads(written.read_text()) if written.exists() else None


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """All parts, with time enough for a machine that does other things, too."""
    done, found = prove(tmp_path_factory.mktemp("proof"), "--minutes", "60")
    assert done.returncode == 0, done.stdout + done.stderr
    return done, found


def part(found: dict, name: str, ranks: int) -> dict:
    (one,) = [p for p in found["parts"] if (p["part"], p["ranks"]) == (name, ranks)]
    return one


def laplacian(n: int) -> sp.csr_array:
    """From SciPy alone."""
    line = sp.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(n, n))
    return sp.csr_array(sp.kronsum(line, line))


def steps_of_cg(A: sp.csr_array, rtol: float) -> int:
    """The textbook's, on ones; Jacobi changes nothing of it where the diagonal is constant."""
    r = np.ones(A.shape[0])
    p, rho, target, steps = r, r @ r, rtol * np.linalg.norm(r), 0
    while np.linalg.norm(r) > target:
        q = A @ p
        r = r - rho / (p @ q) * q
        rho, before = r @ r, rho
        p, steps = r + rho / before * p, steps + 1
    return steps


# The small run

pytestmark = pytest.mark.timeout(1500)


def test_the_small_run_does_all_parts(small):
    done, found = small
    assert found["schema"] == "hpc_sla.gpu_proof/1"
    assert (found["verdict"], found["complete"], found["small"]) == ("PASS", True, True)
    assert [(p["part"], p["ranks"]) for p in found["parts"]] == PARTS
    assert {p["status"] for p in found["parts"]} == {"PASS"} and found["failures"] == []
    assert done.stdout.splitlines()[-2].startswith("PASS after")
    head = ["git", "rev-parse", "HEAD"]
    told = subprocess.run(head, cwd=REPOSITORY, capture_output=True, text=True)
    assert found["commit"] == (told.stdout.strip() or "unknown")
    facts = part(found, "machine", 2)["facts"]
    assert facts["packages"]["torch"] == torch.__version__ and facts["card"] is None
    assert part(found, "machine", 2)["rows"][0]["triad_tb_per_second"] > 0


def keys(found: object) -> set[str]:
    """Of all objects within, but for packages by name, and what a device tells of itself."""
    if isinstance(found, list):
        return set().union(*map(keys, found))
    if not isinstance(found, dict):
        return set()
    inner = (value for key, value in found.items() if key not in ("packages", "devices"))
    return set(found).union(*map(keys, inner))


def test_every_key_is_documented(small):
    text = (REPOSITORY / "docs" / "gpu.md").read_text()
    told = set(re.findall(r"`(\w+)(?:\[\])?`", text))
    assert keys(small[1]) <= told


@pytest.mark.parametrize(("ranks", "transport"), [(1, "mpi"), (2, "gloo")])
def test_its_solutions_are_scipys(small, ranks, transport):
    found = part(small[1], "correctness", ranks)
    assert found["facts"]["transport"] == transport
    checks = {check["name"]: check for check in found["checks"]}
    assert {check["status"] for check in checks.values()} == {"PASS"}
    A = laplacian(31)
    b = np.random.default_rng(7).standard_normal(A.shape[0])
    norm = np.linalg.norm(scipy.sparse.linalg.spsolve(A.tocsc(), b))
    for bits, within in (("float64", 1e-7), ("float32", 5e-3)):
        for precond in ("jacobi", "chebyshev", "amg"):
            for method in ("cg", "minres", "bicgstab", "gmres", "pipelined_cg"):
                check = checks[f"poisson2d, {bits}: {method} + {precond}"]
                assert check["solution_norm"] == pytest.approx(norm, rel=within)
                assert 0 < check["residual"] <= check["residual_allowed"]
                assert 0 < check["error"] <= check["error_allowed"]
    for method in ("cg", "minres", "bicgstab", "pipelined_cg"):
        assert checks[f"in bursts as step by step: {method} + jacobi"]["largest_difference"] == 0
    assert "the same bits again: gradient" in checks


@pytest.mark.parametrize("ranks", [1, 2])
def test_its_gradients_are_those_of_an_inverse(small, ranks):
    """Of w . A^-1 b in a direction, by the dense formula."""
    A = laplacian(15).toarray()
    i = np.arange(len(A))
    b = np.random.default_rng(7).standard_normal(len(A))
    x, adjoint = np.linalg.solve(A, b), np.linalg.solve(A, np.cos(i.astype(float)))
    turn = (np.cos(1.0 + i)[:, None] + np.cos(1.0 + i)) * (A != 0)
    slope = adjoint @ np.sin(1.0 + i) - adjoint @ turn @ x
    checks = [c for c in part(small[1], "correctness", ranks)["checks"] if "gradients" in c["name"]]
    assert len(checks) == 3
    for check in checks:
        assert check["directional_derivative"] == pytest.approx(slope, rel=1e-8)
        assert max(check[f"from_{of}"] for of in ("scipy_rhs", "scipy_values")) < 1e-8


def test_table_1_counts_what_it_says(small):
    rows = part(small[1], "table1", 1)["rows"]
    assert [(row["n"], row["precond"]) for row in rows] == [
        (41, "amg"), (41, "jacobi"), (100, "amg"), (100, "jacobi"),
    ]  # fmt: skip
    for row in rows:
        A = laplacian(row["n"])
        assert (row["status"], row["rows"], row["nnz"]) == ("PASS", A.shape[0], A.nnz)
        assert 0 < row["residual"] <= row["rtol"] * 1.001
        assert row["total_seconds"] == pytest.approx(row["setup_seconds"] + row["solve_seconds"])
        if row["precond"] == "jacobi":
            assert abs(row["iterations"] - steps_of_cg(A, row["rtol"])) <= 1
            plain = A.nnz * 12 + A.shape[0] * (4 + 8 * 12)
            assert row["bytes_per_iteration_csr"] == plain
            assert 8 * 12 * A.shape[0] < row["bytes_per_iteration"] <= plain
            slope = row["seconds_per_iteration"]  # None where the clock could not tell
            if slope:
                assert row["tb_per_second_csr"] == pytest.approx(plain / slope / 1e12)


@pytest.mark.parametrize("ranks", [1, 2])
def test_table_2_counts_what_it_says(small, ranks):
    rows = part(small[1], "table2", ranks)["rows"]
    sides = {1: [50, 41, 100], 2: [71, 41, 100]}[ranks]  # 2500 rows a rank
    assert [row["n"] for row in rows] == [n for n in sides for _ in range(2)]
    for row in rows:
        assert (row["status"], row["nnz"]) == ("PASS", laplacian(row["n"]).nnz)
        assert row["residual"] <= row["rtol"] * 1.001
        # A rank needs the line of the grid before its rows, or after them.
        assert row["halo_max"] == (row["n"] if ranks > 1 else 0)
        assert row["halo_seconds"] > 0 and row["reduction_seconds"] > 0


def test_others_and_what_is_published(small):
    _, found = small
    rows = {row["peer"]: row for row in part(found, "peers", 1)["rows"]}
    for name in ("hpc_sla cg + amg", "hpc_sla cg + jacobi", "plain torch.mv CG"):
        assert rows[name]["status"] == "PASS" and 0 < rows[name]["residual"] < 1.1e-6
    for name in ("cuDSS Cholesky", "AmgX cg + aggregation amg"):
        assert rows[name]["status"] == "SKIP" and rows[name]["reason"] == "needs a GPU"
    table = part(found, "table1", 1)["rows"]
    assert [(r["table"], r["rows"], r["precond"]) for r in found["ratios"]] == [
        ("table1", 10_000, "amg"), ("table1", 10_000, "jacobi"),
    ]  # fmt: skip
    for ratio, row in zip(found["ratios"], table[2:], strict=True):
        assert ratio["ours_over_published"] == pytest.approx(row["total_seconds"] / 0.020)
    assert {goal["status"] for goal in found["goals"]} == {"NOT JUDGED"}
    assert {e["ranks"] for e in found["efficiencies"]} == {2}


def test_a_wrong_answer_is_told(tmp_path):
    (tmp_path / "spoiled").mkdir()
    (tmp_path / "spoiled" / "sitecustomize.py").write_text(SPOILED)
    which = ["--only", "correctness,table1", "--ranks", "1", "--minutes", "60"]
    done, found = prove(tmp_path, *which, python_path=tmp_path / "spoiled")
    assert done.returncode == 1 and found["verdict"] == "FAIL" and found["complete"]
    assert done.stdout.splitlines()[-2].startswith("FAIL after")
    statuses = {c["name"]: c["status"] for c in part(found, "correctness", 1)["checks"]}
    assert statuses["poisson2d, float64: cg + amg"] == "FAIL"
    assert statuses["gradients: cg + jacobi"] == "FAIL"
    assert statuses["the same bits again: cg + jacobi"] == "PASS"  # they are, wrong as they are
    assert {row["status"] for row in part(found, "table1", 1)["rows"]} == {"FAIL"}
    assert any("table1 on 1: n=41, cg + amg" in line for line in found["failures"])
    assert found["ratios"] == []  # the time of a wrong answer is none


# The command line


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--no-such-option"], "--no-such-option"),
        (["--only", "table3"], "there is no part 'table3'"),
        (["--ranks", "1,two"], "'1,two' is not a list of rank counts"),
        (["--ranks", "0"], "'0' is not a list of rank counts"),
        (["--minutes", "nan"], "'nan' is not a number of minutes"),
        (["-o"], "expected one argument"),
        (["--small", "more"], "more"),
    ],
)
def test_bad_options_end_before_the_set_up(arguments, complaint, tmp_path):
    done = subprocess.run(
        ["bash", str(SCRIPTS / "gpu_proof.sh"), *arguments],
        cwd=tmp_path,
        env={**os.environ, "HPC_SLA_VENV": str(tmp_path / "environment")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2 and complaint in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_help_needs_no_set_up(tmp_path):
    done = subprocess.run(
        ["bash", str(SCRIPTS / "gpu_proof.sh"), "--small", "--help"],
        env={**os.environ, "HPC_SLA_VENV": str(tmp_path / "environment")},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0 and "--minutes" in done.stdout
    assert not (tmp_path / "environment").exists()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        pytest.param(
            [],
            "torch sees no GPU; --small",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
        ),
        (["--small", "-o", "none/there.json"], "none' does not exist"),
    ],
)
def test_what_cannot_be_begun(arguments, complaint, tmp_path):
    done = subprocess.run(
        [sys.executable, str(SCRIPTS / "proof" / "proof.py"), *arguments],
        cwd=tmp_path,
        env=environment(1),
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 2 and complaint in done.stderr

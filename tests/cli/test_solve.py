"""`solve` end to end, launched as a user launches it."""

from __future__ import annotations

import json
import os
import pty
import threading
from pathlib import Path

import numpy as np
import pytest

from hpc_sla.cli import exits, main
from hpc_sla.cli.prepare import Source, load_source, write_partitioned
from hpc_sla.storage.result_file import read_result
from tests.cli.cases import CG, Outcome, run_cases
from tests.launch import launch

RTOL = 1e-8
KEYS = {
    "status",
    "iterations",
    "relative_residual",
    "backward_error",
    "rows",
    "nnz",
    "ranks",
    "device",
    "transport",
    "seconds",
    "peak_rss_bytes_max",
    "result",
}


def terminal_reader() -> tuple[int, list[bytes], threading.Thread]:
    """A terminal to write to, and what was written to it."""
    master, slave = pty.openpty()
    read: list[bytes] = []

    def drain() -> None:
        try:
            while piece := os.read(master, 65536):
                read.append(piece)
        except OSError:  # the last writer has closed it
            pass
        finally:
            os.close(master)

    thread = threading.Thread(target=drain)
    thread.start()
    return slave, read, thread


def test_the_default_run_on_a_terminal(tmp_path: Path) -> None:
    slave, read, thread = terminal_reader()
    try:
        done = launch(4, "solve", "--json", cwd=tmp_path, stderr=slave)
    finally:
        os.close(slave)
    thread.join()
    shown = b"".join(read).decode()

    assert done.returncode == 0, shown
    assert "made poisson2d-n256-p4.h5 from poisson2d:n=256: METIS, 4 part(s)" in shown
    assert "\r\x1b[2K  iteration " in shown
    assert shown.endswith("\r\x1b[2K")  # the live line is gone at the end

    (line,) = done.stdout.splitlines()
    told = json.loads(line)
    assert set(told) == KEYS
    assert set(told["seconds"]) == {"read", "setup", "solve", "write", "total"}
    assert told["status"] == "converged"
    assert told["relative_residual"] <= RTOL
    assert (told["rows"], told["nnz"], told["ranks"]) == (65536, 326656, 4)
    assert told["transport"] in ("mpi", "nccl")
    stages = sum(told["seconds"][name] for name in ("read", "setup", "solve", "write"))
    assert 0 < stages <= told["seconds"]["total"]
    assert told["peak_rss_bytes_max"] > 10_000_000

    result = read_result(tmp_path / told["result"])
    assert told["result"] == "poisson2d-n256-p4.result.h5"
    about = result.attributes
    matrix = load_source("poisson2d:n=256").matrix
    # In the user's order: the matrix, never partitioned, is satisfied by it.
    residual = np.linalg.norm(1.0 - matrix @ result.x) / 256
    assert residual == pytest.approx(told["relative_residual"], rel=1e-3)
    for name in ("read", "setup", "solve"):
        assert about[f"seconds_{name}"] == told["seconds"][name]
    assert about["iterations"] == told["iterations"] == len(result.residual_history) - 1
    assert about["input"] == str(tmp_path / "poisson2d-n256-p4.h5")
    assert len(about["input_digest"]) == 64
    assert about["command"] == "python -m hpc_sla solve --json"
    for name in ("hpc_sla", "torch", "numpy", "scipy", "mpi4py", "mpi", "h5py", "python"):
        assert about[f"version_{name}"] not in ("", "unknown")
    for name in ("status", "method", "precond", "rtol", "atol", "ranks", "device", "date", "rhs"):
        assert name in about


@pytest.fixture(scope="module")
def solved(
    outcomes: tuple[Path, dict[str, Outcome]],
) -> tuple[Path, dict[str, np.ndarray]]:
    """One file of 4 parts, solved on several rank counts; on 3 of them with the other cases."""
    folder, told = outcomes
    assert told["3"].codes == [0, 0, 0]
    # Alone it needs no launcher, nor a process of its own.
    assert main(["solve", str(folder / "a.h5"), "-o", str(folder / "1.h5")]) == 0
    for run, ranks in (("4", 4), ("4 again", 4), ("5", 5)):
        done = launch(ranks, "solve", "a.h5", "-o", f"{run}.h5", cwd=folder)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""  # in a log there is no live line
    runs = ("1", "3", "4", "4 again", "5")
    return folder, {run: read_result(folder / f"{run}.h5").x for run in runs}


@pytest.mark.parametrize("run", ["1", "3", "5"])
def test_the_same_answer_on_any_number_of_ranks(
    solved: tuple[Path, dict[str, np.ndarray]], run: str
) -> None:
    _, answers = solved
    difference = np.linalg.norm(answers[run] - answers["4"])
    assert difference <= 10 * RTOL * np.linalg.norm(answers["4"])


def test_bitwise_the_same_twice(solved: tuple[Path, dict[str, np.ndarray]]) -> None:
    folder, answers = solved
    np.testing.assert_array_equal(answers["4"], answers["4 again"])
    np.testing.assert_array_equal(
        read_result(folder / "4.h5").residual_history,
        read_result(folder / "4 again.h5").residual_history,
    )


def write(path: Path, matrix: object, parts: int, **rhs: np.ndarray) -> None:
    import scipy.sparse as sp

    matrix = sp.csr_array(matrix)
    vectors = rhs or {"ones": np.ones(matrix.shape[0])}
    write_partitioned(Source("test", matrix, rhs=vectors), path, parts, "contiguous")


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Outcome]]:
    folder = tmp_path_factory.mktemp("cases")
    write_partitioned(load_source("anisotropic2d:n=40,epsilon=0.01"), folder / "a.h5", 4, "metis")
    known = load_source("poisson2d:n=20", ("manufactured",))
    write_partitioned(known, folder / "known.h5", 2, "rcb")
    write(folder / "tiny.h5", np.array([[2.0, -1.0], [-1.0, 2.0]]), 1)
    write(folder / "empty-row.h5", np.diag([1.0, 0.0, 2.0, 3.0, 4.0]), 2)
    write(folder / "indefinite.h5", np.array([[1.0, 2.0], [2.0, 1.0]]), 2, b=np.eye(2)[0])
    write(folder / "zero.h5", np.diag([1.0, 2.0]), 1, zero=np.zeros(2))
    single = load_source("poisson2d:n=20")
    single.matrix = single.matrix.astype(np.float32)
    write_partitioned(single, folder / "single.h5", 5, "metis")
    cases = {
        "3": ["solve", "a.h5", "-o", "3.h5"],
        "known": ["solve", "known.h5"],
        "explain": ["solve", "a.h5", "--explain", "-o", "explain.h5"],
        "explain json": ["solve", "a.h5", "--explain", "--json", "-o", "explain.h5"],
        "limit": ["solve", "known.h5", *CG, "--max-iterations", "3", "-o", "limit.h5", "--json"],
        "no iterations": [
            "solve",
            "known.h5",
            *CG,
            "--max-iterations",
            "0",
            "-o",
            "none.h5",
            "--json",
        ],
        "more ranks than rows": ["solve", "tiny.h5", "--json"],
        "empty row": ["solve", "empty-row.h5", "--json"],
        "indefinite": ["solve", "indefinite.h5", *CG, "--json"],
        "zero right-hand side": ["solve", "zero.h5", "--json"],
        "single": ["solve", "single.h5", "--rtol", "1e-4", "--json"],
        "atol": ["solve", "known.h5", "--rtol", "0", "--atol", "1e-3", "-o", "atol.h5", "--json"],
        "no preconditioner": ["solve", "known.h5", "--precond", "none", "--json"],
        "gloo": ["solve", "known.h5", "--device", "cpu", "--transport", "gloo", "--json"],
        "generated": ["solve", "elasticity3d:n=4,nu=0.4", "--rhs", "manufactured"],
        "generated json": ["solve", "convection2d:n=9", "--json", "-o", "generated.h5"],
        "help": ["solve", "--help"],
        "version": ["--version"],
    }
    return folder, run_cases(3, cases, folder)


def test_more_ranks_than_rows(outcomes: tuple[Path, dict[str, Outcome]]) -> None:
    folder, told = outcomes
    assert told["more ranks than rows"].codes == [0, 0, 0]
    np.testing.assert_allclose(read_result(folder / "tiny.result.h5").x, [1.0, 1.0])


@pytest.mark.parametrize("case", ["limit", "no iterations", "indefinite", "empty row"])
def test_not_converged_is_code_3_and_the_result_is_written(
    outcomes: tuple[Path, dict[str, Outcome]], case: str
) -> None:
    folder, told = outcomes
    assert told[case].codes == [3, 3, 3], told[case]
    summary = told[case].json
    assert summary["status"] != "converged"
    assert read_result(folder / summary["result"]).attributes["status"] == summary["status"]
    if case in ("limit", "no iterations"):
        assert summary["status"] == "max_iterations"
        assert summary["iterations"] == {"limit": 3, "no iterations": 0}[case]


@pytest.mark.parametrize(
    "case", ["zero right-hand side", "single", "atol", "no preconditioner", "gloo"]
)
def test_converges(outcomes: tuple[Path, dict[str, Outcome]], case: str) -> None:
    folder, told = outcomes
    assert told[case].codes == [0, 0, 0], told[case]
    assert told[case].stderr == told[case].others == ""
    summary = told[case].json
    assert summary["transport"] == ("gloo" if case == "gloo" else summary["transport"])
    x = read_result(folder / summary["result"]).x
    assert x.dtype == (np.float32 if case == "single" else np.float64)


@pytest.mark.parametrize(
    ("given", "code"), [([], exits.OK), (["--rtol", "1e-5"], exits.NOT_CONVERGED)]
)
def test_what_rounding_leaves_in_single_precision(tmp_path, monkeypatch, given, code) -> None:
    """As of `hpc_sla.solve`: it will do where rtol is left open."""
    n = 100
    matrix = 2 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1)
    smooth = np.sin(np.pi * np.arange(1, n + 1) / (n + 1))
    write(tmp_path / "s.h5", matrix.astype(np.float32), 1, b=smooth.astype(np.float32))
    monkeypatch.chdir(tmp_path)
    assert main(["solve", "s.h5", *given]) == code


def test_the_table_a_person_reads(outcomes: tuple[Path, dict[str, Outcome]]) -> None:
    _, told = outcomes
    outcome = told["known"]
    assert outcome.codes == [0, 0, 0]
    assert outcome.stdout.isascii()
    for word in ("problem", "partition", "edge cut", "halo", "neighbours", "balance", "rank(s)"):
        assert word in outcome.stdout
    for word in ("converged in", "true residual", "peak memory", "known.result.h5", "total"):
        assert word in outcome.stdout
    # The file knows the solution of its manufactured right-hand side.
    (line,) = [line for line in outcome.stdout.splitlines() if "known solution" in line]
    assert float(line.split("|")[2].split()[0]) < 1e-6


def test_of_a_generator_each_rank_makes_its_own_rows(
    outcomes: tuple[Path, dict[str, Outcome]],
) -> None:
    folder, told = outcomes
    outcome = told["generated"]
    assert outcome.codes == [0, 0, 0] and outcome.others == ""
    (line,) = [line for line in outcome.stdout.splitlines() if "known solution" in line]
    assert float(line.split("|")[2].split()[0]) < 1e-6
    source = load_source("elasticity3d:n=4,nu=0.4", ["manufactured"])
    found = read_result(folder / "elasticity3d-n4-nu0.4.result.h5")
    np.testing.assert_allclose(found.x, source.solutions["manufactured"], rtol=1e-6, atol=1e-9)
    assert found.attributes["input"] == "elasticity3d:n=4,nu=0.4"
    other = told["generated json"]
    assert other.codes == [0, 0, 0]
    x = read_result(folder / "generated.h5").x
    np.testing.assert_allclose(load_source("convection2d:n=9").matrix @ x, 1.0, rtol=1e-7)


def test_what_explain_tells(outcomes: tuple[Path, dict[str, Outcome]]) -> None:
    """What the matrix is, what was chosen and why, what comes next; in JSON the same lines."""
    _, told = outcomes
    lines = told["explain json"].json["explained"]
    for word in ("symmetric, to", "positive diagonal", "chosen: the matrix is", "where it fails:"):
        assert any(word in line for line in lines), lines
    assert "\n".join(lines) in told["explain"].stdout
    assert "explained" not in told["3"].stdout and told["explain"].others == ""


@pytest.mark.parametrize("case", ["help", "version"])
def test_only_rank_0_answers(outcomes: tuple[Path, dict[str, Outcome]], case: str) -> None:
    _, told = outcomes
    assert told[case].codes == [0, 0, 0]
    assert "hpc_sla" in told[case].stdout
    assert told[case].others == ""

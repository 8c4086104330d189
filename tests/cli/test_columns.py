"""Right-hand sides of one column and of several, and points of nodes, by the command line."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
import scipy.sparse as sp
from scipy.sparse.linalg import spsolve

from hpc_sla.cli import main
from hpc_sla.storage.importers import read_source
from hpc_sla.storage.matrix_file import MatrixFile
from hpc_sla.storage.result_file import read_result
from tests.cli.cases import CG, run_cases

N = 36


@pytest.fixture
def matrix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> sp.csr_array:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(3)
    random = sp.random_array((N, N), density=0.1, rng=rng, format="csr")
    A = sp.csr_array(random + random.T + 10 * sp.eye_array(N))
    sp.save_npz("a.npz", A)
    block = np.random.default_rng(4).standard_normal((N, 3))
    block[:, 2] = 0  # at once
    for name, values in {"block": block, "column": block[:, :1], "plain": block[:, 0]}.items():
        np.save(f"{name}.npy", values)
    scipy.io.mmwrite("market.mtx", block, precision=17)
    return A


def test_each_shape_is_kept_or_is_a_vector(matrix: sp.csr_array) -> None:
    given = ["block.npy", "column.npy", "plain.npy", "market.mtx"]
    rhs = [word for name in given for word in ("--rhs", name)]
    assert main(["partition", "a.npz", "-o", "p.h5", *rhs]) == 0
    with MatrixFile("p.h5") as file:
        assert file.parts == 1
    found = read_source("p.h5").rhs_by_name
    block = np.load("block.npy")
    for name, values in {
        "block": block,
        "column": block[:, 0],
        "plain": block[:, 0],
        "market": block,
    }.items():
        np.testing.assert_array_equal(found[name], values)


WRONG = {
    "a row": (np.ones((1, N)), [f"(1, {N})", f"Transpose it, to ({N}, 1)"]),
    "rows": (np.ones((3, N)), [f"(3, {N})", f"Transpose it, to ({N}, 3)"]),
    "too short": (np.ones(N - 1), [f"({N - 1},)", f"the matrix has {N} rows"]),
    "too long": (np.ones((N + 1, 2)), [f"({N + 1}, 2)", f"({N}, k)"]),
    "no column": (np.ones((N, 0)), ["no column"]),
    "a number": (np.ones(()), ["shape ()"]),
    "three dimensions": (np.ones((N, 1, 1)), [f"({N}, 1, 1)"]),
    "text": (np.full(N, "a"), ["<U1"]),
}


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.parametrize("option", ["--rhs", "--target"])
def test_other_shapes(
    matrix: sp.csr_array, capsys: pytest.CaptureFixture[str], case: str, option: str
) -> None:
    values, words = WRONG[case]
    np.save("b.npy", values)
    assert main(["partition", "a.npz", "-o", "p.h5"]) == 0
    command = ["partition", "a.npz", "-o", "q.h5", "--rhs", "b.npy"]
    if option == "--target":
        command = ["grad", "p.h5", "--loss", "misfit", "--target", "b.npy"]
    assert main(command) == 2
    (line,) = capsys.readouterr().err.splitlines()
    for word in ("b.npy", *words):
        assert word in line, line


@pytest.mark.parametrize("ranks", [3])
def test_solve_grad_and_verify_of_columns(matrix: sp.csr_array, ranks: int) -> None:
    assert main(["partition", "a.npz", "-o", "p.h5", "--parts", "2", "--rhs", "block.npy"]) == 0
    with h5py.File("p.h5", "r+") as file:  # of another program
        n = len(file["rhs/block"])
        file["rhs/narrow"] = np.ones((n, 1))
        file["rhs/none"] = np.ones((n, 0))
    tight = ["--rtol", "1e-12", "--json"]
    outcomes = run_cases(
        ranks,
        {
            "solve": ["solve", "p.h5", "--rhs", "block", "-o", "x.h5", *tight],
            "table": ["solve", "p.h5", "--rhs", "block", "-o", "y.h5"],
            "short": [
                "solve",
                "p.h5",
                "--rhs",
                "block",
                "-o",
                "y.h5",
                *CG,
                "--max-iterations",
                "1",
            ],
            "saved": ["solve", "p.h5", "--rhs", "block", "-o", "y.h5", "--checkpoint", "c.h5"],
            "narrow": ["solve", "p.h5", "--rhs", "narrow", "-o", "narrow.h5", *tight],
            "none": ["solve", "p.h5", "--rhs", "none"],
            "gmres": ["verify", "p.h5", "--rhs", "block", "--method", "gmres", *tight]
            + ["--against", "scipy"],
            "cg": ["verify", "p.h5", "--rhs", "block", "--against", "scipy"],
            **{
                loss: ["grad", "p.h5", "--rhs", "block", "--loss", loss, "-o", f"{loss}.h5"]
                + [*tight, "--check"]
                for loss in ("sum", "norm2")
            },
            "misfit": ["grad", "p.h5", "--rhs", "block", "--loss", "misfit", "-o", "misfit.h5"]
            + [*tight, "--check", "--target", "block.npy"],
            "other target": ["grad", "p.h5", "--rhs", "block", "--loss", "misfit"]
            + ["--target", "plain.npy"],
            "bench": ["bench", "p.h5", "--rhs", "block"],
        },
        Path.cwd(),
    )
    codes = {name: set(outcome.codes) for name, outcome in outcomes.items()}
    refused = ("none", "other target", "bench")
    expected = {name: {2 if name in refused else 3 if name == "short" else 0} for name in codes}
    assert codes == expected, outcomes
    assert "columns" in outcomes["bench"].stderr or "petsc4py" in outcomes["bench"].stderr
    assert "right-hand side block of 3 columns" in outcomes["table"].stdout
    assert "3 of 3 converged" in outcomes["table"].stdout

    block = np.load("block.npy")
    dense = matrix.toarray()
    x = np.linalg.solve(dense, block)
    found = read_result("x.h5")
    assert found.x.shape == (N, 3)
    np.testing.assert_allclose(found.x, x, rtol=1e-10, atol=1e-13)
    answer = outcomes["solve"].json
    assert answer["statuses"] == ["converged"] * 3
    assert answer["column_iterations"][2] == 0 < answer["column_iterations"][0]
    assert max(answer["relative_residuals"]) == answer["relative_residual"] < 1e-12
    assert json.loads(found.attributes["statuses"]) == ["converged"] * 3
    assert read_result("narrow.h5").x.shape == (N,)
    np.testing.assert_allclose(read_result("narrow.h5").x, spsolve(matrix, np.ones(N)))

    names = [check["name"] for check in outcomes["gmres"].json["checks"]]
    assert [name for name in names if name.startswith("solution")] == [
        f"solution of column {k}" for k in range(3)
    ]

    cotangents = {
        "sum": np.ones_like(x),
        "norm2": x / np.linalg.norm(x),
        "misfit": x - block,
    }
    rows, columns = matrix.nonzero()
    for loss, cotangent in cotangents.items():
        assert outcomes[loss].json["check"]["ok"]
        y = np.linalg.solve(dense.T, cotangent)
        result = read_result(f"{loss}.h5")
        np.testing.assert_allclose(result.vectors["rhs_gradient"], y, rtol=1e-8, atol=1e-10)
        of_matrix = result.matrix_gradient.toarray()
        np.testing.assert_allclose(
            of_matrix[rows, columns], -(y @ x.T)[rows, columns], rtol=1e-8, atol=1e-10
        )


@pytest.mark.parametrize("method", ["contiguous", "rcb"])
def test_a_point_for_each_node(
    matrix: sp.csr_array, capsys: pytest.CaptureFixture[str], method: str
) -> None:
    points = np.random.default_rng(0).random((N // 3, 2))
    np.save("nodes.npy", points)
    np.save("line.npy", points[:, 0])
    start = ["partition", "a.npz", "-o", "p.h5", "--parts", "2", "--method", method]
    assert main([*start, "--block-size", "3", "--coordinates", "nodes.npy"]) == 0
    np.testing.assert_array_equal(read_source("p.h5").coordinates, points.repeat(3, axis=0))
    assert main([*start, "--block-size", "3", "--coordinates", "line.npy"]) == 0
    assert read_source("p.h5").coordinates.shape == (N, 1)
    for block in ([], ["--block-size", "2"]):
        assert main([*start, *block, "--coordinates", "nodes.npy"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert f"nodes.npy: --coordinates: has shape ({N // 3}, 2)" in line
        assert "--block-size" in line


def test_parts(matrix: sp.csr_array, capsys: pytest.CaptureFixture[str]) -> None:
    """As many as rows at the most: what is more would be empty, and not end."""
    assert main(["partition", "a.npz", "-o", "p.h5", "--parts", str(N)]) == 0
    for parts in (N + 1, 10_000_000, 2**62, 2**63):
        assert main(["partition", "a.npz", "-o", "p.h5", "--parts", str(parts)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "--parts" in line
        assert f"Give at most {N}" in line
    with MatrixFile("p.h5") as file:
        assert file.parts == N

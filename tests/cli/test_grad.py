"""`grad`, on three ranks: files beside the dense formula, checks that agree and that do not."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from hpc_sla.cli.files import MANUFACTURED, ONES
from hpc_sla.cli.prepare import load_source, write_partitioned
from hpc_sla.storage.result_file import read_result
from tests.cli.cases import CG, Outcome, run_cases

RANKS = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("grad")
    for name, spec in (("poisson", "poisson2d:n=9"), ("convection", "convection2d:n=8")):
        write_partitioned(
            load_source(spec, (MANUFACTURED, ONES)), folder / f"{name}.h5", 2, "metis"
        )
    np.save(folder / "target.npy", np.linspace(0, 1, 64))
    np.savez(
        folder / "tall.npz",
        format=b"csr",
        shape=(6, 3),
        data=np.arange(1.0, 10.0),
        indices=np.array([0, 1, 1, 2, 0, 2, 0, 1, 2]),
        indptr=np.array([0, 2, 4, 6, 7, 8, 9]),
    )
    write_partitioned(load_source(str(folder / "tall.npz")), folder / "tall.h5", 2, "contiguous")
    return folder


@pytest.fixture(scope="module")
def outcomes(folder) -> dict[str, Outcome]:
    poisson, convection = ["grad", "poisson.h5"], ["grad", "convection.h5", "--rhs", "ones"]
    misfit = ["--loss", "misfit"]
    cases = {
        "norm2": [*poisson, "--rhs", "ones", "--rtol", "1e-12", "--check", "--json"],
        "table": [*poisson, "--rhs", "ones", "--check", "-o", "table.h5"],
        "stored": [*poisson, *misfit, "--rhs", "ones", "--target", "manufactured", "-o", "s.h5"],
        "sum": [*convection, "--loss", "sum", "--method", "gmres", "--rtol", "1e-12", "--json"],
        "file": [*convection, *misfit, "--target", "target.npy", "--method", "auto", "--check"]
        + ["--json", "-o", "file.h5", "--rtol", "1e-12"],
        "tall": ["grad", "tall.h5", "--method", "lsqr", "--check", "--rtol", "1e-12", "--json"],
        "generated": ["grad", "poisson2d:n=9", "--rtol", "1e-12", "--check", "--json"],
        "generated misfit": ["grad", "poisson2d:n=9", *misfit, "--target", "manufactured"]
        + ["--check", "--rtol", "1e-12", "--json", "-o", "misfit.h5"],
        "unknown target": ["grad", "poisson2d:n=9", *misfit],
        "loose": [*poisson, *CG, "--rhs", "ones", "--adjoint-rtol", "0.5", "--check", "-o", "l.h5"],
        "forward limit": [*poisson, *CG, "--rhs", "ones", "--max-iterations", "2", "-o", "f.h5"],
        "backward limit": [*poisson, *CG, *misfit, "--rhs", "ones", "--target", "manufactured"]
        + ["--adjoint-rtol", "1e-30", "-o", "b.h5", "--json"],
        "no target": [*convection, "--loss", "sum", "--target", "ones"],
        "not stored": [*convection, *misfit],
        "no loss": [*poisson, "--loss", "product"],
        "info": ["info", "table.h5"],
    }
    return run_cases(RANKS, cases, folder)


def _dense(folder, name, rhs, loss, method=None):
    """The matrix, x, and both gradients, from the file alone."""
    with h5py.File(folder / f"{name}.h5") as f:
        rows, n = f["permutation"][:], len(f["permutation"])
        columns = f["column_permutation"][:] if "column_permutation" in f else rows
        indptr, indices, data = f["indptr"][:], f["indices"][:], f["data"][:]
        stored = np.zeros((n, len(columns)))
        stored[np.repeat(np.arange(n), np.diff(indptr)), indices] = data
        A = np.zeros_like(stored)
        A[np.ix_(rows, columns)] = stored
        b = np.zeros(n)
        b[rows] = f[f"rhs/{rhs}"][:]
    x = np.linalg.lstsq(A, b, rcond=None)[0]
    w = np.linalg.solve(A.T @ A, loss(x))
    y = A @ w
    return A, x, np.outer(b - A @ x, w) - np.outer(y, x), y


@pytest.mark.parametrize(
    ("case", "name", "loss"),
    [
        ("norm2", "poisson", lambda x: x / np.linalg.norm(x)),
        ("generated", "poisson", lambda x: x / np.linalg.norm(x)),
        ("sum", "convection", lambda x: np.ones_like(x)),
        ("file", "convection", lambda x: x - np.linspace(0, 1, 64)),
        ("tall", "tall", lambda x: x / np.linalg.norm(x)),
    ],
)
def test_the_file_has_the_gradients_in_the_users_order(outcomes, folder, case, name, loss):
    told = outcomes[case]
    assert told.codes == [0] * RANKS, told.stderr
    assert told.others == ""
    A, x, of_a, of_b = _dense(folder, name, "ones", loss)
    result = read_result(folder / told.json["result"])
    np.testing.assert_allclose(result.x, x, atol=1e-9 * abs(x).max())
    np.testing.assert_allclose(result.vectors["rhs_gradient"], of_b, atol=1e-8 * abs(of_b).max())
    found = result.matrix_gradient
    assert np.array_equal(found.toarray() != 0, A != 0) and found.has_sorted_indices
    expected = of_a * (A != 0)
    np.testing.assert_allclose(found.toarray(), expected, atol=1e-8 * abs(expected).max())
    np.testing.assert_allclose(told.json["matrix_gradient_norm"], np.linalg.norm(found.data))
    assert result.attributes["loss"] == told.json["loss"]
    assert result.attributes["adjoint_status"] == "converged"


@pytest.mark.parametrize("case", ["norm2", "generated", "generated misfit", "file", "tall"])
def test_the_check_agrees(outcomes, case):
    check = outcomes[case].json["check"]
    assert check["ok"] and check["error"] < 1e-6
    assert {one["direction"] for one in check["directions"]} == {"matrix", "rhs", "both"}
    assert len({one["step"] for one in check["directions"]}) >= 5


def test_the_check_disagrees_with_a_gradient_that_is_wrong(outcomes):
    assert outcomes["loose"].codes == [1] * RANKS
    assert "check: DISAGREES" in outcomes["loose"].stdout


def test_tables_for_people(outcomes):
    told = outcomes["table"].stdout
    assert outcomes["table"].codes == [0] * RANKS
    assert "check: agrees" in told and "| direction" in told and "backward solve" in told
    assert outcomes["stored"].codes == [0] * RANKS and "misfit = " in outcomes["stored"].stdout
    assert outcomes["info"].codes[0] == 0 and "rhs_gradient, x" in outcomes["info"].stdout


def test_a_solve_that_does_not_converge(outcomes, folder):
    assert outcomes["forward limit"].codes == [3] * RANKS
    assert outcomes["backward limit"].codes == [3] * RANKS
    assert outcomes["backward limit"].json["status"] == "stagnated"
    for name, status in (("f.h5", None), ("b.h5", "stagnated")):
        result = read_result(folder / name)
        assert result.matrix_gradient is None and list(result.vectors) == ["x"]
        assert result.attributes.get("adjoint_status") == status


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("no target", "sum has no target"),
        ("not stored", "no solution by that name"),
        ("unknown target", "Choose manufactured"),
        ("no loss", "product"),
    ],
)
def test_bad_input(outcomes, case, message):
    told = outcomes[case]
    assert told.codes == [2] * RANKS and told.stdout == "" and told.others == ""
    assert message in told.stderr

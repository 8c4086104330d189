"""`eigsh` on three ranks: files beside LAPACK, exit codes, refusals."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
import scipy.linalg
import scipy.sparse as sp

from hpc_sla.cli.prepare import load_source, write_partitioned
from hpc_sla.storage.result_file import read_result
from tests.cli.cases import Outcome, run_cases

RANKS = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("eigsh")
    for name, spec in (("poisson", "poisson2d:n=14"), ("convection", "convection2d:n=8")):
        write_partitioned(load_source(spec), folder / f"{name}.h5", 2, "metis")
    for name, matrix in (("mass", mass_matrix(14)), ("minus", -mass_matrix(14))):
        sp.save_npz(folder / f"{name}.npz", matrix)
        write_partitioned(
            load_source(str(folder / f"{name}.npz")), folder / f"{name}.h5", 5, "metis"
        )
    return folder


def mass_matrix(n: int) -> sp.csr_matrix:
    """Of bilinear elements, with more entries than the stiffness has."""
    one = sp.diags_array([1.0, 4.0, 1.0], offsets=[-1, 0, 1], shape=(n, n)) / 6
    return sp.csr_matrix(sp.kron(one, one))


@pytest.fixture(scope="module")
def outcomes(folder) -> dict[str, Outcome]:
    poisson = ["eigsh", "poisson.h5"]
    cases = {
        "json": [*poisson, "-k", "5", "--precond", "amg", "--json"],
        "largest": [*poisson, "-k", "2", "--which", "largest", "--precond", "auto", "-o", "l.h5"],
        "made": ["eigsh", "poisson2d:n=6", "-k", "3", "--json"],
        "limit": [*poisson, "--max-iterations", "2", "--json", "-o", "limit.h5"],
        "unsymmetric": ["eigsh", "convection.h5"],
        "k": [*poisson, "-k", "0"],
        "too many": [*poisson, "-k", "197"],
        "precond": [*poisson, "--precond", "amgx"],
        "tol": [*poisson, "--tol", "-1"],
        "generator": ["eigsh", "poison2d:n=6"],
        "mass": [*poisson, "--mass", "mass.h5", "-k", "4", "--json", "-o", "mass.modes.h5"],
        "made mass": [*poisson, "--mass", "poisson2d:n=14", "-k", "2", "--json", "-o", "m.h5"],
        "minus": [*poisson, "--mass", "minus.h5"],
        "other rows": [*poisson, "--mass", "convection.h5"],
        "onto the mass": [*poisson, "--mass", "mass.h5", "-o", "mass.h5"],
    }
    return run_cases(RANKS, cases, folder)


def spectrum(n: int) -> np.ndarray:
    source = load_source(f"poisson2d:n={n}")
    return np.linalg.eigvalsh(source.matrix.toarray())


def test_result_file_in_the_users_order(folder, outcomes):
    assert outcomes["json"].codes == [0] * RANKS
    answer = outcomes["json"].json
    assert answer["result"] == "poisson.modes.h5" and answer["status"] == "converged"
    matrix = load_source("poisson2d:n=14").matrix
    found = read_result(folder / answer["result"])
    w, V = found.eigenvalues, found.vectors["modes"]
    assert V.shape == (196, 5) and w.tolist() == answer["eigenvalues"]
    np.testing.assert_allclose(w, spectrum(14)[:5], rtol=1e-9)
    np.testing.assert_allclose(matrix @ V, V * w, atol=1e-6)
    residual = np.linalg.norm(matrix @ V - V * w, axis=0)
    np.testing.assert_allclose(answer["residual_norms"], residual, rtol=1e-4, atol=1e-14)
    attributes = found.attributes
    assert attributes["k"] == 5 and attributes["precond"].startswith("amg")
    with h5py.File(folder / answer["result"]) as file:
        dimensions = {"row", "column", "iteration"}
        assert set(file) - dimensions == {"modes", "eigenvalues", "residual_history"}
        assert file.attrs["status"].decode() == "converged"


def test_a_mass_of_another_partition_and_pattern(folder, outcomes):
    assert outcomes["mass"].codes == [0] * RANKS
    K, M = load_source("poisson2d:n=14").matrix, mass_matrix(14)
    found = read_result(folder / "mass.modes.h5")
    expected = scipy.linalg.eigvalsh(K.toarray(), M.toarray())[:4]
    np.testing.assert_allclose(found.eigenvalues, expected, rtol=1e-8)
    V = found.vectors["modes"]
    np.testing.assert_allclose(V.T @ M @ V, np.eye(4), atol=1e-10)
    with h5py.File(folder / "mass.h5") as file:
        assert found.attributes["mass"].endswith("mass.h5")
        assert found.attributes["mass_digest"] == file.attrs["content_sha256"].decode()
    np.testing.assert_allclose(outcomes["made mass"].json["eigenvalues"], 1.0, rtol=1e-10)


def test_largest_with_a_table(folder, outcomes):
    outcome = outcomes["largest"]
    assert outcome.codes == [0] * RANKS
    for word in ("pair 2", "lobpcg", "l.h5"):
        assert word in outcome.stdout
    found = read_result(folder / "l.h5")
    np.testing.assert_allclose(found.eigenvalues, spectrum(14)[:-3:-1], rtol=1e-9)


def test_made_from_a_generator(outcomes):
    assert outcomes["made"].codes == [0] * RANKS
    assert outcomes["made"].json["result"] == "poisson2d-n6.modes.h5"
    np.testing.assert_allclose(outcomes["made"].json["eigenvalues"], spectrum(6)[:3], rtol=1e-12)


def test_the_result_is_written_at_the_limit(folder, outcomes):
    assert outcomes["limit"].codes == [3] * RANKS
    assert outcomes["limit"].json["statuses"] == ["max_iterations"] * 6
    assert read_result(folder / "limit.h5").attributes["status"] == "max_iterations"


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("unsymmetric", "not symmetric"),
        ("k", "-k: is 0"),
        ("too many", "196"),
        ("precond", "--precond"),
        ("tol", "--tol"),
        ("generator", "poisson2d"),
        ("minus", "B: is not positive definite"),
        ("other rows", "64 rows"),
        ("onto the mass", "same file as mass.h5 of --mass"),
    ],
)
def test_refusals(outcomes, name, told):
    assert outcomes[name].codes == [2] * RANKS
    assert told in outcomes[name].stderr and not outcomes[name].stdout

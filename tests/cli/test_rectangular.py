"""Rectangular matrices on the command line: who takes them, who refuses, what is written."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
import scipy.sparse as sp

from hpc_sla.cli import exits, main, solve
from hpc_sla.cli.asked import SolveOptions
from hpc_sla.cli.checkpointing import Guard
from hpc_sla.cli.prepare import Source, write_partitioned
from hpc_sla.cli.run import plan
from hpc_sla.cli.run.solve import run
from hpc_sla.errors import InputError
from hpc_sla.linear import METHODS
from hpc_sla.reference import petsc
from hpc_sla.storage.importers import read_source
from hpc_sla.storage.matrix_file import MatrixFile
from hpc_sla.storage.result_file import read_result
from tests.cli.cases import Outcome, run_cases

RANKS = 2


def tall(m: int = 30, n: int = 12) -> sp.csr_array:
    """Full rank, whatever the chance."""
    rng = np.random.default_rng(m)
    return sp.csr_array(
        sp.random_array((m, n), density=0.2, rng=rng) + 3 * sp.eye_array(m, n, format="csr")
    )


def write_petsc(path: Path, matrix: sp.csr_array) -> None:
    header = np.array([1211216, *matrix.shape, matrix.nnz], dtype=">i4")
    lengths = np.diff(matrix.indptr).astype(">i4")
    indices, data = matrix.indices.astype(">i4"), matrix.data.astype(">f8")
    path.write_bytes(b"".join(a.tobytes() for a in (header, lengths, indices, data)))


@pytest.mark.parametrize("method", ["metis", "contiguous", "rcb"])
@pytest.mark.parametrize("suffix", [".mtx", ".npz", ".petsc", ".h5"])
@pytest.mark.parametrize("shape", [(30, 12), (12, 30)])
def test_partition_and_info(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    shape: tuple[int, int],
    suffix: str,
    method: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    matrix, name = tall(*shape), f"a{suffix}"
    if suffix == ".mtx":
        scipy.io.mmwrite(name, matrix, precision=17)
    elif suffix == ".npz":
        sp.save_npz(name, matrix)
    elif suffix == ".petsc":
        write_petsc(Path(name), matrix)
    else:
        write_partitioned(
            Source("test", matrix, rhs={"b": np.ones(shape[0])}), name, 2, "contiguous"
        )
    b, points = np.arange(float(shape[0])), np.random.default_rng(0).random((shape[0], 2))
    np.save("b.npy", b)
    np.save("c.npy", points)
    options = ["--rhs", "b.npy", "--rhs", "manufactured", "--coordinates", "c.npy"]
    done = main(["partition", name, "-o", "p.h5", "--parts", "3", "--method", method, *options])
    out, err = capsys.readouterr()
    assert (done, err) == (0, "")
    for word in (f"{shape[0]} x {shape[1]}", "rows per part", "columns per part", "edge cut"):
        assert word in out

    found = read_source("p.h5")
    np.testing.assert_allclose(found.matrix.toarray(), matrix.toarray(), rtol=1e-15)
    np.testing.assert_array_equal(found.rhs_by_name["b"], b)
    np.testing.assert_array_equal(found.coordinates, points)
    exact = found.solution_by_name["manufactured"]
    assert exact.shape == (shape[1],)
    np.testing.assert_allclose(matrix @ exact, found.rhs_by_name["manufactured"])
    with MatrixFile("p.h5") as file:
        assert file.parts == len(file.column_part_offsets) - 1 == 3

    assert main(["info", "p.h5"]) == 0
    out, _ = capsys.readouterr()
    for word in (f"{shape[0]} x {shape[1]}", "3, rows per part", "columns per part"):
        assert word in out


def test_a_square_files_columns_are_not_told_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(tmp_path / "p.h5")
    assert main(["partition", "poisson2d:n=6", "-o", path, "--parts", "2"]) == 0
    assert main(["info", path]) == 0
    assert "columns per part" not in capsys.readouterr().out
    with h5py.File(path) as file:
        assert file.attrs["version"] == 1 and "column_permutation" not in file


@pytest.mark.parametrize("method", [*METHODS, "gmres:restart=5", None])
def test_only_least_squares_methods_plan_for_rectangular_files(
    tmp_path: Path, method: str | None
) -> None:
    path = str(tmp_path / "tall.h5")
    write_partitioned(Source("test", tall(), rhs={"b": np.ones(30)}), path, 2, "metis")
    assert plan.needs_square(method) == (method not in ("auto", "lsqr", "lsmr"))
    if not plan.needs_square(method):
        assert plan.plan_run(path, None, "", 2, method).n_rows == 30
        return
    with pytest.raises(InputError) as caught:
        plan.plan_run(path, None, "", 2, method)
    assert caught.value.file == path and caught.value.remedy
    assert "the matrix is 30 x 12" in str(caught.value)
    assert (method or "this command") in str(caught.value)


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    folder = tmp_path_factory.mktemp("rectangular")
    source = Source("test", tall(), rhs={"b": np.ones(30)})
    write_partitioned(source, folder / "tall.h5", 2, "metis")
    cases = {
        "solve": ["solve", "tall.h5", "--method", "cg"],
        "verify": ["verify", "tall.h5", "--against", "scipy"],
        "bench": ["bench", "tall.h5"],
    }
    if not petsc.available():
        del cases["bench"]
    return run_cases(RANKS, cases, folder)


@pytest.mark.parametrize("case", ["solve", "verify", "bench"])
def test_refused_with_code_2(outcomes: dict[str, Outcome], case: str) -> None:
    if case not in outcomes:
        pytest.skip("petsc4py is not installed")
    outcome = outcomes[case]
    assert outcome.codes == [2] * RANKS, outcome
    assert outcome.stdout == outcome.others == ""
    (line,) = outcome.stderr.splitlines()
    for word in ("tall.h5", "30 x 12", "square"):
        assert word in line


@pytest.mark.mpi
@pytest.mark.parametrize(("parts", "as_json"), [(1, True), (2, False), (3, True), (5, False)])
@pytest.mark.parametrize("shape", [(30, 12), (12, 30), (5, 1), (1, 5)])
def test_solve_writes_x_in_the_users_column_order(
    world, tmp_path_factory, capsys, shape, parts, as_json
):  # type: ignore[no-untyped-def]
    folder = world.comm.bcast(str(tmp_path_factory.mktemp("solve")) if world.rank == 0 else None)
    path, output = f"{folder}/a.h5", f"{folder}/x.h5"
    matrix = tall(*shape)
    exact = np.random.default_rng(1).standard_normal(shape[1])
    if shape[0] < shape[1]:
        exact = np.linalg.pinv(matrix.toarray()) @ matrix @ exact
    source = Source("test", matrix, rhs={"b": matrix @ exact}, solutions={"b": exact})
    if world.rank == 0:
        write_partitioned(source, path, parts, "metis")
    world.barrier()
    arguments = [path, "--method", "lsqr", "--precond", "none", "--rtol", "1e-13", "-o", output]
    arguments += ["--json"] if as_json else []
    asked = SolveOptions(**solve.command.make_context("solve", arguments).params)
    with Guard(None, "10min", False) as guard:
        assert run(world, asked, guard) == exits.OK
    np.testing.assert_allclose(read_result(output).x, exact, rtol=1e-8, atol=1e-9)
    told = world.comm.bcast(capsys.readouterr().out)
    if as_json:
        assert json.loads(told)["rows"] == shape[0]
    else:
        assert f"{shape[0]} x {shape[1]}, {matrix.nnz} entries" in told
        (line,) = [line for line in told.splitlines() if "known solution" in line]
        assert float(line.split("|")[2].split()[0]) < 1e-8

"""`partition` and `info`: serial, and without loading torch."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
import scipy.sparse as sp

from hpc_sla.cli import main
from hpc_sla.errors import InputError
from hpc_sla.problems import make, rigid_body_modes
from hpc_sla.storage.importers import read_source
from hpc_sla.storage.matrix_file import MatrixFile
from hpc_sla.storage.matrix_writer import write_matrix
from hpc_sla.storage.result_file import ResultWriter
from tests.launch import REPOSITORY, launch, launch_python


@pytest.fixture
def matrix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> sp.csr_array:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(3)
    random = sp.random_array((30, 30), density=0.1, rng=rng, format="csr")
    return sp.csr_array(random + random.T + 30 * sp.eye_array(30))


def run(*arguments: str) -> int:
    return main([str(argument) for argument in arguments])


@pytest.mark.parametrize("method", ["metis", "rcb", "contiguous"])
def test_generator(matrix: object, capsys: pytest.CaptureFixture[str], method: str) -> None:
    assert run("partition", "poisson2d:n=8", "-o", "p.h5", "--parts", 3, "--method", method) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.isascii()
    for word in ("edge cut", "halo", "neighbours", "balance", method, "64 rows"):
        assert word in out
    with MatrixFile("p.h5") as file:
        assert (file.parts, file.rhs_names, file.has_coordinates) == (3, ("ones",), True)
    assert (read_source("p.h5").matrix != read_source_of("poisson2d:n=8")).nnz == 0


def read_source_of(spec: str) -> sp.csr_array:
    from hpc_sla.problems import make

    return make(spec).matrix()


@pytest.mark.parametrize("suffix", [".mtx", ".npz"])
def test_files(matrix: sp.csr_array, suffix: str) -> None:
    name = f"a{suffix}"
    if suffix == ".mtx":
        scipy.io.mmwrite(name, matrix, precision=17)
    else:
        sp.save_npz(name, matrix)
    b = np.arange(30.0)
    np.save("b.npy", b)
    points = np.random.default_rng(0).random((30, 3))
    np.save("c.npy", points)
    options = ["--rhs", "b.npy", "--rhs", "ones", "--rhs", "manufactured"]
    options += ["--coordinates", "c.npy", "--method", "rcb"]
    assert run("partition", name, "-o", "p.h5", "--parts", 4, *options) == 0

    found = read_source("p.h5")
    np.testing.assert_array_equal(found.matrix.toarray(), matrix.toarray())
    np.testing.assert_array_equal(found.coordinates, points)
    np.testing.assert_array_equal(found.rhs_by_name["b"], b)
    np.testing.assert_array_equal(found.rhs_by_name["ones"], np.ones(30))
    exact = found.solution_by_name["manufactured"]
    np.testing.assert_allclose(matrix @ exact, found.rhs_by_name["manufactured"])


def test_again_with_other_parts(matrix: object) -> None:
    spec = ["poisson2d:n=6", "--rhs", "manufactured"]
    assert run("partition", *spec, "-o", "p.h5", "--parts", 2) == 0
    assert run("partition", "p.h5", "-o", "q.h5", "--parts", 5) == 0
    with MatrixFile("q.h5") as file:
        assert (file.parts, file.rhs_names) == (5, ("manufactured",))
        assert file.solution_names == ("manufactured",)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["missing.mtx"], "missing.mtx: no such file"),
        (["poison2d:n=8"], "Did you mean poisson2d?"),
        (["poisson2d:m=8"], "parameter 'm'"),
        (["poisson2d:n=0"], "n"),
        (["poisson2d:n=8", "--parts", "0"], "--parts"),
        (["poisson2d:n=8", "--rhs", "short.npy"], "short.npy"),
        (["poisson2d:n=8", "--rhs", "short.npy", "--rhs", "short.npy"], "short.npy"),
        (["poisson2d:n=8", "--rhs", "ones", "--rhs", "ones"], "'ones'"),
        (["poisson2d:n=8", "--coordinates", "short.npy"], "short.npy"),
        (["a.npz", "--method", "rcb"], "--coordinates"),
        (["cube.npz"], "cube.npz"),
    ],
)
def test_bad_input(
    matrix: sp.csr_array, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    sp.save_npz("a.npz", matrix)
    sp.save_npz("cube.npz", sp.coo_array(np.ones(5)))
    np.save("short.npy", np.ones(3))
    Path("p.h5").write_text("kept")
    parts = [] if "--parts" in arguments else ["--parts", "2"]
    assert run("partition", *arguments, *parts, "-o", "p.h5") == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1, err
    assert said in err
    assert Path("p.h5").read_text() == "kept"


def test_info(matrix: object, capsys: pytest.CaptureFixture[str]) -> None:
    with ResultWriter("r.h5", 2, np.float64) as writer:
        writer.write_slab("x", 0, np.array([1.0, 2.0]))
        writer.finish([1.0, 1e-9], {"status": "converged", "iterations": 1, "seconds_solve": 0.25})
    sample = next((REPOSITORY / "partitions").glob("*.h5"))
    for path, words in (
        (sample, ("256", "float64", "ones")),
        ("r.h5", ("converged after 1", "solve 0.25 s", "x")),
    ):
        assert run("info", path) == 0
        out, err = capsys.readouterr()
        assert err == ""
        assert 8 <= len(out.splitlines()) <= 17
        for word in words:
            assert word in out


def test_info_of_something_else(matrix: object, capsys: pytest.CaptureFixture[str]) -> None:
    Path("t.h5").write_text("text")
    assert run("info", "t.h5") == 2
    assert "not an HDF5 file" in capsys.readouterr().err


def test_torch_and_mpi_stay_unloaded(tmp_path: Path) -> None:
    program = (
        "import sys; from hpc_sla.cli import main; code = main(sys.argv[1:]);"
        "assert main(['--help']) == 0 and main(['info', 'p.h5']) == 0;"
        "print('loaded', [m for m in ('torch', 'mpi4py') if m in sys.modules]); sys.exit(code)"
    )
    done = launch_python(
        0, "-c", program, "partition", "poisson2d:n=8", "-o", "p.h5", "--parts", "2", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "loaded []"


def test_help_loads_nothing_to_compute_with(tmp_path: Path) -> None:
    program = (
        "import sys; from hpc_sla.cli import COMMANDS, main; assert main(['--help']) == 0;"
        "assert all(main([name, '--help']) == 0 for name in COMMANDS);"
        "heavy = ('torch', 'mpi4py', 'scipy', 'numpy', 'h5py', 'rich');"
        "print('loaded', [m for m in heavy if m in sys.modules])"
    )
    done = launch_python(0, "-c", program, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "loaded []"


def test_under_a_launcher_rank_0_does_it(tmp_path: Path) -> None:
    done = launch(3, "partition", "poisson2d:n=8", "-o", "p.h5", "--parts", "3", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("edge cut") == 1
    done = launch(3, "info", "none.h5", cwd=tmp_path)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1


def test_every_generator_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    from hpc_sla.problems import signatures

    assert run("partition", "--generators") == 0
    out, err = capsys.readouterr()
    assert err == ""
    lines = out.splitlines()
    assert tuple(lines[::2]) == signatures()
    assert all(line.startswith("    ") and len(line) <= 100 for line in lines[1::2])


def test_block_size(matrix: sp.csr_array, capsys: pytest.CaptureFixture[str]) -> None:
    sp.save_npz("a.npz", matrix)
    assert run("partition", "a.npz", "-o", "p.h5", "--parts", 4, "--block-size", 5) == 0
    assert run("info", "p.h5") == 0
    assert "unknowns per node | 5 " in capsys.readouterr().out
    with MatrixFile("p.h5") as file:
        nodes = file.read_permutation(0, 30).reshape(6, 5)
        assert (nodes == nodes[:, :1] + np.arange(5)).all()
        assert (nodes[:, 0] % 5 == 0).all()
    assert (read_source("p.h5").matrix != matrix).nnz == 0
    assert run("partition", "p.h5", "-o", "q.h5", "--parts", 3, "--block-size", 1) == 0
    with MatrixFile("q.h5") as file:
        assert file.block_size == 1
    assert run("partition", "a.npz", "-o", "q.h5", "--parts", 4, "--block-size", 4) == 2
    assert "--block-size: is 4, which does not divide 30 rows" in capsys.readouterr().err


def test_nodes_and_near_nullspace(matrix: object, capsys: pytest.CaptureFixture[str]) -> None:
    problem = make("elasticity3d:n=3")
    n, points = problem.n_rows, problem.coordinates(0, problem.n_rows)
    sp.save_npz("a.npz", sp.csr_array(problem.matrix()))
    np.save("c.npy", points[::3])
    given = ["--coordinates", "c.npy", "--near-nullspace", "rigid_body"]
    assert run("partition", "a.npz", "-o", "p.h5", "--parts", 4, *given) == 0
    out = capsys.readouterr().out
    assert "3 (found in the pattern" in out and "6 vector(s)" in out
    assert run("partition", "p.h5", "-o", "q.h5", "--parts", 3) == 0
    modes = rigid_body_modes(points)
    for path in ("p.h5", "q.h5"):
        with MatrixFile(path) as file:
            assert file.block_size == 3 and file.says_block_size
            assert file.digest == file.compute_digest()
            rows = file.read_permutation(0, n)
            np.testing.assert_array_equal(file.read_near_nullspace(0, n), modes[rows])
    assert run("info", "q.h5") == 0
    assert "near-nullspace" in capsys.readouterr().out
    np.save("b.npy", np.arange(float(n)))
    np.save("thin.npy", np.ones((n, 0)))
    assert run("partition", "a.npz", "-o", "r.h5", "--near-nullspace", "b.npy") == 0
    with MatrixFile("r.h5") as file:
        rows = file.read_permutation(0, n)
        np.testing.assert_array_equal(file.read_near_nullspace(0, n)[:, 0], rows)
        digest = file.digest
    assert run("partition", "a.npz", "-o", "r.h5") == 0
    with MatrixFile("r.h5") as file:
        assert file.digest != digest and not file.has_near_nullspace
    capsys.readouterr()
    for wrong, words in (
        (["--near-nullspace", "rigid_body"], "--near-nullspace: rigid-body modes need the points"),
        ([*given, "--block-size", 1], "c.npy"),
        (["--near-nullspace", "c.npy"], "c.npy: --near-nullspace"),
        (["--near-nullspace", "none.npy"], "none.npy"),
        (["--coordinates", "thin.npy"], "thin.npy: --coordinates: has shape (144, 0): no column"),
    ):
        assert run("partition", "a.npz", "-o", "r.h5", *wrong) == 2
        assert words in capsys.readouterr().err
    with h5py.File("q.h5", "r+") as file:
        file["near_nullspace"][2, 1] = np.nan
    with MatrixFile("q.h5") as file, pytest.raises(InputError, match="/near_nullspace"):
        file.read_near_nullspace(0, n)
    for field in ("near_nullspace", "coordinates"):
        with h5py.File("q.h5", "r+") as file:
            del file[field]
            file[field] = np.ones((n, 0))
        assert run("info", "q.h5") == run("partition", "q.h5", "-o", "r.h5") == 2
        assert f"/{field}: has shape ({n}, 0): no column" in capsys.readouterr().err
        with h5py.File("q.h5", "r+") as file:
            del file[field]
        thin = {field: np.ones((n, 0))}
        with pytest.raises(InputError, match=f"/{field}.*no column"):
            plain = sp.csr_matrix(problem.matrix()), np.array([0, n]), np.arange(n)
            write_matrix("r.h5", *plain, {}, **thin)


def test_a_file_that_does_not_say_what_a_node_is(
    matrix: object, capsys: pytest.CaptureFixture[str]
) -> None:
    """As versions wrote it that had no such attribute: looked for anew."""
    problem = make("elasticity3d:n=3")
    sp.save_npz("a.npz", sp.csr_array(problem.matrix()))
    assert run("partition", "a.npz", "-o", "p.h5", "--parts", 2) == 0
    with h5py.File("p.h5", "r+") as file:
        del file.attrs["block_size"]
    with MatrixFile("p.h5") as old:
        assert not old.says_block_size and old.block_size == 1
    capsys.readouterr()
    assert run("partition", "p.h5", "-o", "q.h5", "--parts", 3) == 0
    assert "3 (found in the pattern" in capsys.readouterr().out
    with MatrixFile("q.h5") as file:
        assert file.says_block_size and file.block_size == 3


@pytest.mark.parametrize(
    ("spec", "given", "expected"),
    [
        ("neumann2d:n=5", [], ["manufactured"]),
        ("jumps2d:n=5", [], ["manufactured"]),
        ("graph_laplacian:n=9,shift=0", ["--rhs", "ones"], ["ones"]),
        ("graph_laplacian:n=9", [], ["ones"]),
        ("elasticity3d:n=1", ["--rhs", "ones", "--rhs", "manufactured"], ["manufactured", "ones"]),
    ],
)
def test_right_hand_side_of_a_generator(
    matrix: object, spec: str, given: list[str], expected: list[str]
) -> None:
    assert run("partition", spec, "-o", "p.h5", "--parts", 2, *given) == 0
    with MatrixFile("p.h5") as file:
        assert sorted(file.rhs_names) == expected
        n = file.n_rows
        if "manufactured" in expected:
            indptr, indices, data = file.read_rows(0, n)
            stored = sp.csr_array((data, indices, indptr), shape=(n, n))
            b, x = file.read_rhs("manufactured", 0, n), file.read_solution("manufactured", 0, n)
            np.testing.assert_allclose(stored @ x, b, atol=1e-9 * abs(b).max())

"""`partition` on several ranks: the file that one process writes, and its words where it fails."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
import scipy.sparse as sp

from hpc_sla.cli import main
from hpc_sla.storage.importers import read_source
from hpc_sla.storage.matrix_file import MatrixFile
from tests.launch import launch
from tests.storage.files import random_content, random_square, read_everything

SCATTERED = np.random.default_rng(0).permutation(15 * 15)


def alone(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def a_matrix() -> sp.csr_array:
    """Positive definite, in a numbering that says nothing, which parts are ordered anew for."""
    from hpc_sla.problems import make

    return sp.csr_array(make("poisson2d:n=15").matrix()[SCATTERED][:, SCATTERED])


def write_sources() -> dict[str, list[str]]:
    """Files of all kinds in the current folder; each name with its further options."""
    matrix = a_matrix()
    n = matrix.shape[0]
    sp.save_npz("a.npz", matrix)
    scipy.io.mmwrite("a.mtx", matrix, precision=17)
    np.save("b.npy", np.arange(float(n)))
    scipy.io.mmwrite("two.mtx", np.random.default_rng(1).random((n, 2)), precision=17)
    np.save("points.npy", np.random.default_rng(2).random((n, 2)))
    np.save("of_nodes.npy", np.random.default_rng(3).random((n // 3, 3)))
    random_content(5).write(Path("own.h5"), block_size=1)
    vectors = ["--rhs", "b.npy", "--rhs", "two.mtx", "--rhs", "manufactured", "--rhs", "ones"]
    points = ["--coordinates", "points.npy"]
    nodes = ["--block-size", "3", "--coordinates", "of_nodes.npy"]
    return {
        "a.npz": [*vectors, *points],
        "a.mtx": ["--rhs", "manufactured", *nodes, "--near-nullspace", "rigid_body"],
        "own.h5": [],
        "poisson2d:n=9": ["--rhs", "manufactured", "--near-nullspace", "constants"],
        "elasticity3d:n=3": ["--rhs", "manufactured", "--rhs", "ones"],
        "neumann2d:n=7": [],
    }


@pytest.mark.parametrize(("ranks", "parts"), [(2, 5), (3, 3), (4, 2)])
def test_the_same_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ranks: int, parts: int
) -> None:
    monkeypatch.chdir(tmp_path)
    sources = write_sources()
    for k, (source, options) in enumerate(sources.items()):
        if k % 3 != ranks - 2:  # a third of them on each number of ranks
            continue
        options = [*options, "--method", "contiguous", "--parts", str(parts)]
        assert alone("partition", source, "-o", "alone.h5", *options) == 0
        done = launch(ranks, "partition", source, "-o", "p.h5", *options, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        one, other = read_everything(Path("alone.h5")), read_everything(Path("p.h5"))
        if parts >= ranks or source != "a.mtx":
            assert one["digest"] == other["digest"], source
        with MatrixFile("p.h5") as file:
            assert file.compute_digest() == file.digest
            assert file.parts == parts
        for name in ("block_size", "partition_method", "source"):
            with h5py.File("alone.h5") as a, h5py.File("p.h5") as b:
                assert a.attrs[name] == b.attrs[name]
        assert table(done.stdout)["edge cut"]


def table(text: str) -> dict[str, str]:
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    return {row[0].strip(): row[1].strip() for row in rows if len(row) == 2}


@pytest.mark.parametrize("method", ["multilevel", "sfc", "rcb", "metis"])
def test_methods(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    """Whatever the parts are, it is the matrix; and `solve` takes it on any number of ranks."""
    monkeypatch.chdir(tmp_path)
    write_sources()
    options = ["--parts", "4", "--method", method, "--coordinates", "points.npy"]
    done = launch(3, "partition", "a.npz", "-o", "p.h5", *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    said = table(done.stdout)["method"]
    assert said.startswith("multilevel" if method == "metis" else method)
    found = read_source("p.h5")
    np.testing.assert_array_equal(found.matrix.toarray(), a_matrix().toarray())
    np.testing.assert_array_equal(found.coordinates, np.load("points.npy"))
    with MatrixFile("p.h5") as file:
        sizes = np.diff(file.part_offsets)
        assert sizes.max() <= 1.15 * sizes.mean()
    if method == "multilevel":
        solved = launch(2, "solve", "p.h5", "-o", "r.h5", "--json", cwd=tmp_path)
        assert solved.returncode == 0, solved.stderr
        assert json.loads(solved.stdout)["rows"] == 225


@pytest.mark.parametrize("method", ["multilevel", "sfc"])
def test_methods_of_many_ranks_on_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert alone("partition", "poisson2d:n=12", "-o", "p.h5", "--parts", 3, "--method", method) == 0
    found = read_source("p.h5")
    from hpc_sla.problems import make

    assert (found.matrix != make("poisson2d:n=12").matrix()).nnz == 0


BAD = [
    ["missing.mtx"],
    ["poison2d:n=8"],
    ["a.npz", "--parts", "0"],
    ["a.npz", "--parts", "1000"],
    ["a.npz", "--rhs", "short.npy"],
    ["a.npz", "--rhs", "b.npy", "--rhs", "b.npy"],
    ["a.npz", "--coordinates", "short.npy"],
    ["a.npz", "--block-size", "7"],
    ["a.npz", "--method", "rcb"],
    ["a.npz", "--near-nullspace", "rigid_body"],
    ["bad.mtx"],
    ["cut.npz"],
]


def test_bad_input_is_said_once_and_in_the_same_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_sources()
    np.save("short.npy", np.ones(3))
    Path("bad.mtx").write_text("%%MatrixMarket matrix coordinate real general\n2 2 1\n3 1 1\n")
    Path("cut.npz").write_bytes(Path("a.npz").read_bytes()[:-40])
    Path("p.h5").write_text("kept")
    for k, arguments in enumerate(BAD):
        parts = [] if "--parts" in arguments else ["--parts", "2"]
        assert alone("partition", *arguments, *parts, "-o", "p.h5") == 2
        expected = capsys.readouterr().err
        if k % 2:  # every second one: a launch takes seconds
            continue
        done = launch(2, "partition", *arguments, *parts, "-o", "p.h5", cwd=tmp_path)
        assert (done.returncode, done.stdout) == (2, "")
        # Without coordinates each advises a method of its own.
        assert done.stderr == expected.replace("--method metis", "--method multilevel"), arguments
    assert Path("p.h5").read_text() == "kept"


def test_rectangular_matrices_are_for_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sp.save_npz("wide.npz", sp.csr_array(random_square(n=6).toarray()[:, :4]))
    done = launch(2, "partition", "wide.npz", "-o", "p.h5", cwd=tmp_path)
    assert done.returncode == 2
    assert "6 x 4" in done.stderr and "without mpiexec" in done.stderr
    assert not Path("p.h5").exists()

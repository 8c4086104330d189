"""The format page and the sample are true."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import numpy as np
import pytest

from hpc_sla import problems
from hpc_sla.storage.importers import read_source
from hpc_sla.storage.matrix_file import MatrixFile
from hpc_sla.storage.result_file import ResultWriter
from tests.storage.files import assert_identical, read_everything

FOLDER = Path(__file__).parents[2] / "partitions"
SAMPLE = FOLDER / "poisson2d-16x16-p4.h5"


@pytest.fixture
def programs():
    text = (FOLDER / "README.md").read_text()
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def test_the_pages_programs_run_and_agree_with_the_page(programs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write, read, read_result = programs
    exec(write, {})
    found = read_source("example.h5")
    yours = 2 * np.eye(4) - np.eye(4, k=1) - np.eye(4, k=-1)
    np.testing.assert_array_equal(found.matrix.toarray(), yours)
    np.testing.assert_array_equal(found.rhs, [1, 2, 3, 4])
    np.testing.assert_allclose(np.linalg.solve(yours, found.rhs), [4, 7, 8, 6])
    capsys.readouterr()
    exec(read, {})
    printed = capsys.readouterr().out
    assert printed == "2 4 [0 2 5] [2 3 0 2 3] [ 2. -1. -1. -1.  2.] [0 1]\n"
    with ResultWriter("result.h5", 4, "f8") as writer:
        writer.write_slab("x", 0, np.array([4.0, 7.0, 8.0, 6.0]))
        writer.finish([1.0], {"status": "converged"})
    space = {}
    exec(read_result, space)
    assert space["x"].tolist() == [4, 7, 8, 6]
    assert space["history"].tolist() == [1]
    assert "converged" in capsys.readouterr().out


def test_the_pages_stored_matrix_is_the_permuted_one():
    text = (FOLDER / "README.md").read_text()
    block = text.split("A_stored = ")[1].split("indptr")[0]
    rows = [line.split("]")[0].strip(" [") for line in block.splitlines()[:4]]
    stored = np.array([[float(word) for word in row.split()] for row in rows])
    yours = 2 * np.eye(4) - np.eye(4, k=1) - np.eye(4, k=-1)
    p = [2, 3, 0, 1]
    np.testing.assert_array_equal(stored, yours[np.ix_(p, p)])


def test_the_sample_is_what_its_script_makes(tmp_path):
    make = runpy.run_path(str(FOLDER / "make_sample.py"))["make_sample"]
    make(tmp_path / "sample.h5")
    assert_identical(read_everything(tmp_path / "sample.h5"), read_everything(SAMPLE))


def test_the_sample_is_the_matrix_it_says():
    problem = problems.make("poisson2d:n=16")
    found = read_source(SAMPLE)
    assert abs(found.matrix - problem.matrix()).max() == 0
    np.testing.assert_array_equal(found.coordinates, problem.coordinates(0, 256))
    np.testing.assert_array_equal(found.rhs_by_name["ones"], np.ones(256))
    x = found.solution_by_name["manufactured"]
    np.testing.assert_array_equal(found.rhs_by_name["manufactured"], found.matrix @ x)
    with MatrixFile(SAMPLE) as file:
        assert file.attributes["source"] == "poisson2d:n=16"
        assert np.diff(file.part_offsets).tolist() == [64] * 4
        assert file.compute_digest() == file.digest

"""Results come back as they were written, or not at all."""

from __future__ import annotations

import os

import numpy as np
import pytest

from hpc_sla.errors import InputError
from hpc_sla.storage.result_file import ResultWriter, describe, read_result
from tests.storage.files import assert_message, edit, replace


@pytest.fixture
def path(tmp_path):
    return tmp_path / "result.h5"


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("columns", [None, 3])
@pytest.mark.parametrize("n", [1, 300_001])
def test_slabs_in_any_order(path, n, columns, dtype):
    rng = np.random.default_rng(0)
    shape = (n,) if columns is None else (n, columns)
    x = rng.random(shape).astype(dtype)
    history = rng.random(17)
    cuts = np.unique([0, *rng.integers(0, n, 20), n])
    with ResultWriter(path, n, dtype, columns=columns) as writer:
        for k in rng.permutation(len(cuts) - 1):
            writer.write_slab("x", cuts[k], x[cuts[k] : cuts[k + 1]])
        assert not path.exists()
        writer.finish(history, {"status": "converged", "rtol": 1e-8, "ranks": 4})
        assert path.exists()
    found = read_result(path)
    assert found.x.dtype == dtype
    np.testing.assert_array_equal(found.x, x)
    np.testing.assert_array_equal(found.residual_history, history)
    assert found.attributes == {"status": "converged", "rtol": 1e-8, "ranks": 4}
    assert os.listdir(path.parent) == ["result.h5"]


def test_several_vectors(path):
    with ResultWriter(path, 2, "f8", names=("x", "r")) as writer:
        writer.write_slab("x", 0, np.array([1.0, 2.0]))
        writer.write_slab("r", 0, np.array([3.0, np.nan]))  # a failed solve's result is kept
        writer.finish([], {})
    found = read_result(path)
    assert sorted(found.vectors) == ["r", "x"]
    assert found.x is found.vectors["x"]
    np.testing.assert_array_equal(found.vectors["r"], [3.0, np.nan])


def test_no_rows(path):
    with ResultWriter(path, 0, "f8") as writer:
        writer.write_slab("x", 0, np.zeros(0))
        writer.finish([0.0], {})
    assert read_result(path).x.shape == (0,)


def test_non_contiguous_slabs(path):
    x = np.arange(20.0)[::2]
    with ResultWriter(path, 10, "f8") as writer:
        writer.write_slab("x", 0, x)
        writer.finish([], {})
    np.testing.assert_array_equal(read_result(path).x, x)


def test_describe_does_not_read_the_vectors(path, monkeypatch):
    with ResultWriter(path, 9, "f4", columns=2) as writer:
        writer.write_slab("x", 0, np.ones((9, 2), dtype="f4"))
        writer.finish([2.0, 1.0], {"method": "cg"})
    from hpc_sla.storage import result_file

    read = []
    slab = result_file.read_slab
    monkeypatch.setattr(
        result_file, "read_slab", lambda item, *rest: read.append(item.name) or slab(item, *rest)
    )
    summary = describe(path)
    assert read == ["/residual_history"]
    assert summary.n_rows == 9
    assert summary.dtype == np.float32
    assert summary.shapes == {"x": (9, 2)}
    assert summary.residual_history.tolist() == [2.0, 1.0]
    assert summary.attributes == {"method": "cg"}


@pytest.mark.parametrize("how", ["left early", "raised", "refused"])
def test_unfinished_leaves_the_old_file(path, how):
    path.write_text("before")

    def run():
        with ResultWriter(path, 4, "f8") as writer:
            writer.write_slab("x", 0, np.ones(2))
            if how == "raised":
                raise KeyError(how)
            if how == "refused":
                writer.finish([], {})

    if how == "left early":
        run()
    else:
        with pytest.raises((KeyError, ValueError), match=r"raised|not every row"):
            run()
    assert path.read_text() == "before"
    assert os.listdir(path.parent) == ["result.h5"]


def test_misuse_is_told(path):
    with ResultWriter(path, 4, "f8") as writer:
        for start, slab in ((2, np.ones(3)), (-1, np.ones(1)), (0, np.ones((1, 1)))):
            with pytest.raises(ValueError, match="do not fit"):
                writer.write_slab("x", start, slab)
        with pytest.raises(KeyError):
            writer.write_slab("y", 0, np.ones(4))
        writer.write_slab("x", 0, np.ones(4))
        writer.finish([], {})
        with pytest.raises(ValueError, match="finished"):
            writer.finish([], {})
    with pytest.raises(TypeError):
        ResultWriter(path, 4, "i8")
    with pytest.raises(ValueError, match="taken"):
        ResultWriter(path, 4, "f8", names=("residual_history",))


def test_missing_folder(tmp_path):
    path = tmp_path / "none" / "result.h5"
    with pytest.raises(InputError) as caught:
        ResultWriter(path, 4, "f8")
    assert_message(caught.value, path, None, "does not exist")


@pytest.mark.parametrize(
    ("change", "field", "words"),
    [
        (lambda f: f.__delitem__("x"), "/x", ["missing"]),
        (lambda f: f.__delitem__("residual_history"), "/residual_history", ["missing"]),
        (lambda f: replace(f, "x", np.ones(3)), "/x", ["3 rows where 4"]),
        (lambda f: replace(f, "x", np.ones(4, dtype="i8")), "/x", ["wrong dtype int64"]),
        (lambda f: f.attrs.__setitem__("version", 3), "version", ["is 3", "versions up to 2"]),
        (lambda f: f.attrs.__setitem__("format", "hpc_sla.matrix"), "format", ["a matrix file"]),
    ],
)
def test_bad_results(path, change, field, words):
    with ResultWriter(path, 4, "f8") as writer:
        writer.write_slab("x", 0, np.ones(4))
        writer.finish([], {})
    edit(path, change)
    for read in (read_result, describe):
        with pytest.raises(InputError) as caught:
            read(path)
        assert_message(caught.value, path, field, *words)

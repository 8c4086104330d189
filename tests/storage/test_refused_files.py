"""Files that are not what is wanted, or cannot be read: the message says which, and what to do."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import h5py
import numpy as np
import pytest
import scipy.sparse as sp

from hpc_sla.checkpoint.file import CheckpointFile, check_replaceable
from hpc_sla.errors import InputError
from hpc_sla.storage.attributes import kind_of
from hpc_sla.storage.hdf5 import AccessError, reading
from hpc_sla.storage.matrix_file import MatrixFile
from hpc_sla.storage.matrix_writer import write_matrix
from hpc_sla.storage.result_file import ResultWriter, describe, read_result
from hpc_sla.storage.result_vectors import ResultVectors
from tests.storage.files import (
    as_ordinary_user,
    assert_message,
    attribute,
    edit,
    random_content,
    without,
)


@pytest.fixture
def path(tmp_path):
    return random_content(0).write(tmp_path / "matrix.h5")


@pytest.mark.parametrize("opener", [MatrixFile, kind_of])
class TestNotAMatrixFile:
    def test_missing(self, tmp_path, opener):
        with pytest.raises(InputError) as caught:
            opener(tmp_path / "none.h5")
        assert_message(caught.value, tmp_path / "none.h5", None, "no such file", "partition")

    def test_folder(self, tmp_path, opener):
        with pytest.raises(InputError) as caught:
            opener(tmp_path)
        assert_message(caught.value, tmp_path, None, "is a folder")

    def test_device(self, opener):
        with pytest.raises(InputError) as caught:
            opener("/dev/zero")
        assert_message(caught.value, "/dev/zero", None, "not a regular file")

    def test_below_a_file(self, path, opener):
        with pytest.raises(InputError) as caught:
            opener(path / "none.h5")
        assert_message(caught.value, path / "none.h5", None, "cannot be opened")

    def test_unreadable(self, opener):
        with as_ordinary_user() as folder:
            path = random_content(0).write(folder / "matrix.h5")
            path.chmod(0)
            with pytest.raises(InputError) as caught:
                opener(path)
        assert_message(caught.value, path, None, "cannot be opened: Permission denied")

    @pytest.mark.parametrize("content", [b"", b"%%MatrixMarket matrix\n" * 50, b"\x89HDF"])
    def test_not_hdf5(self, tmp_path, opener, content):
        path = tmp_path / "other.h5"
        path.write_bytes(content)
        with pytest.raises(InputError) as caught:
            opener(path)
        assert_message(caught.value, path, None, "is not an HDF5 file")

    def test_truncated(self, path, opener):
        path.write_bytes(path.read_bytes()[:-100])
        with pytest.raises(InputError) as caught:
            opener(path)
        assert_message(caught.value, path, None, "is truncated", "Copy the file again")

    def test_hdf5_but_not_ours(self, tmp_path, opener):
        path = tmp_path / "other.h5"
        with h5py.File(path, "w") as file:
            file["data"] = np.ones(3)
        with pytest.raises(InputError) as caught:
            opener(path)
        assert_message(caught.value, path, "format", "not a file of hpc_sla")

    def test_newer(self, path, opener):
        edit(path, attribute("version", 7))
        with pytest.raises(InputError) as caught:
            opener(path)
        assert_message(caught.value, path, "version", "is 7")


def test_kinds(path, tmp_path):
    result = tmp_path / "result.h5"
    with ResultWriter(result, 1, "f8") as writer:
        writer.write_slab("x", 0, np.ones(1))
        writer.finish([], {})
    assert kind_of(path) == "matrix"
    assert kind_of(result) == "result"
    with pytest.raises(InputError) as caught:
        MatrixFile(result)
    assert_message(caught.value, result, "format", "is a result file", "a matrix file is needed")


@pytest.mark.parametrize("opener", [read_result, describe, ResultVectors])
def test_where_a_result_is_wanted_the_remedy_is_one(path, tmp_path, opener):
    (tmp_path / "text.h5").write_text("text")
    for name, problem in (
        ("matrix.h5", "is a matrix file, and a result file is needed"),
        ("none.h5", "no such file"),
        ("text.h5", "is not an HDF5 file"),
    ):
        with pytest.raises(InputError, match=problem) as caught:
            opener(tmp_path / name)
        assert "solve" in caught.value.remedy
        assert "partition" not in caught.value.remedy


WRITER = """
import os, sys, h5py
file = h5py.File(sys.argv[1], "r+", libver="latest")
file.attrs["here"] = 1
file.flush()
print("open", flush=True)
sys.stdin.read()
os._exit(0)  # without closing it
"""


def test_open_elsewhere_is_not_damaged(tmp_path):
    path = tmp_path / "m.h5"
    with h5py.File(path, "w", libver="latest") as file:
        file["data"] = np.ones(3)
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with writer:
        assert writer.stdout.readline() == "open\n"
        for opener in (MatrixFile, kind_of, read_result, CheckpointFile, check_replaceable):
            with pytest.raises(AccessError) as caught:
                opener(path)
            assert_message(caught.value, path, None, "open for writing in another program", "Close")
        writer.stdin.close()
    with pytest.raises(AccessError, match="h5clear"):  # as it was left
        MatrixFile(path)


@pytest.mark.parametrize(
    ("error", "problem", "remedy"),
    [
        (OSError("Unable to open file (unable to lock file, errno = 11)"), "is locked", "Close it"),
        (OSError(errno.EMFILE, "x"), "Too many open files", "ulimit -n"),
        (OSError(errno.EIO, "x"), "Input/output error", "disk"),
        (OSError(errno.ESTALE, "x"), "Stale file handle", "network"),
        (PermissionError(errno.EACCES, "x"), "Permission denied", "permissions"),
        (OSError("bad superblock"), "its header is damaged", "Copy"),
    ],
)
def test_the_cause_is_told(path, monkeypatch, error, problem, remedy):
    def refuse(*_, **__):
        raise error

    monkeypatch.setattr(h5py, "File", refuse)
    with pytest.raises(InputError, match=problem) as caught:
        MatrixFile(path)
    assert remedy in caught.value.remedy
    monkeypatch.undo()
    if isinstance(error.errno, int):
        with pytest.raises(AccessError, match=problem) as caught, reading(path, "/data"):
            raise error
        assert remedy in caught.value.remedy


def test_no_such_right_hand_side(path):
    with MatrixFile(path) as file, pytest.raises(InputError) as caught:
        file.read_rhs("c", 0, 1)
    assert_message(caught.value, path, "/rhs/c", "no right-hand side", "It has: b, two.")
    edit(path, lambda file: file.__delitem__("rhs"))
    with MatrixFile(path) as file, pytest.raises(InputError) as caught:
        file.read_rhs("b", 0, 1)
    assert_message(caught.value, path, "/rhs/b", "no right-hand side at all")


def test_no_coordinates(path):
    edit(path, without("coordinates"))
    with MatrixFile(path) as file, pytest.raises(InputError) as caught:
        file.read_coordinates(0, 1)
    assert_message(caught.value, path, "/coordinates", "has no coordinates")


def test_rows_that_are_not_there(path):
    with MatrixFile(path) as file:
        for r0, r1 in ((-1, 3), (3, 2), (0, 41)):
            with pytest.raises(IndexError):
                file.read_rows(r0, r1)


EYE = sp.eye_array(3, format="csr")
TALL = {
    "matrix": sp.eye_array(3, 2, format="csr"),
    "column_part_offsets": np.array([0, 2]),
    "column_permutation": np.arange(2),
}


@pytest.mark.parametrize(
    ("arguments", "field", "words"),
    [
        ({"matrix": EYE.astype(np.int64)}, "/data", ["wrong dtype int64"]),
        ({"matrix": EYE * np.nan}, "/data", ["nan"]),
        ({"part_offsets": np.array([0, 2])}, "/part_offsets", ["3 rows"]),
        ({"permutation": np.array([0, 1, 1])}, "/permutation", ["repeats a row"]),
        ({"permutation": np.array([1, 2, 3])}, "/permutation", ["value 3"]),
        ({"permutation": np.arange(2)}, "/permutation", ["shape (2,)"]),
        ({"rhs": {"b": np.ones(4)}}, "/rhs/b", ["shape (4,)", "3 rows"]),
        ({"rhs": {"b": np.ones(3) * 1j}}, "/rhs/b", ["wrong dtype complex128"]),
        ({"rhs": {"b": np.array([1, 2, np.inf])}}, "/rhs/b", ["inf"]),
        ({"rhs": {"a/b": np.ones(3)}}, "/rhs", ["'a/b'"]),
        ({"coordinates": np.ones(3)}, "/coordinates", ["shape (3,)"]),
        ({**TALL, "solutions": {"b": np.ones(3)}}, "/solution/b", ["shape (3,)", "2 columns"]),
        ({**TALL, "column_permutation": np.zeros(2)}, "/column_permutation", ["repeats a column"]),
        ({**TALL, "column_part_offsets": np.array([0, 3])}, "/column_part_offsets", ["2 columns"]),
        (
            {**TALL, "column_part_offsets": np.array([0, 1, 2])},
            "/column_part_offsets",
            ["2 parts", "has 1"],
        ),
        ({"coordinates": np.full((3, 2), np.nan)}, "/coordinates", ["nan"]),
    ],
)
def test_the_writer_refuses_what_the_reader_would(tmp_path, arguments, field, words):
    path = tmp_path / "matrix.h5"
    path.write_text("was here before")
    good = {
        "matrix": EYE,
        "part_offsets": np.array([0, 3]),
        "permutation": np.arange(3),
        "rhs": {},
    }
    with pytest.raises(InputError) as caught:
        write_matrix(path, **{**good, **arguments})
    assert_message(caught.value, path, field, *words)
    assert path.read_text() == "was here before"
    assert os.listdir(tmp_path) == ["matrix.h5"]

"""Every bad matrix file gives one clear message: the file, the field, the remedy."""

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
    edit,
    random_content,
    read_everything,
    replace,
)


@pytest.fixture
def path(tmp_path):
    return random_content(0).write(tmp_path / "matrix.h5")


def changed(name, change):
    """An edit that stores ``change(values)`` in the place of `name`."""

    def apply(file):
        values = file[name][()]
        replace(file, name, change(values))

    return apply


def at(index, value):
    def apply(values):
        values[index] = value
        return values

    return changed_copy(apply)


def changed_copy(apply):
    return lambda values: apply(values.copy())


def attribute(name, value):
    return lambda file: file.attrs.__setitem__(name, value)


def without(name):
    return lambda file: file.__delitem__(name)


def swap_in_row(values_of):
    """Two columns of one row in the wrong order."""

    def apply(file):
        indptr, indices = file["indptr"][()], file["indices"][()]
        start = int(indptr[np.flatnonzero(np.diff(indptr) >= 2)[-1]])
        indices[start : start + 2] = values_of(indices[start : start + 2])
        replace(file, "indices", indices)

    return apply


def soft_link(file):
    file.move("data", "elsewhere")
    file["data"] = h5py.SoftLink("/elsewhere")


def external_link(file):
    del file["data"]
    file["data"] = h5py.ExternalLink("other.h5", "/data")


def external_storage(file):
    shape, dtype = file["data"].shape, file["data"].dtype
    del file["data"]
    file.create_dataset("data", shape, dtype, external=[("values.raw", 0, 8 * shape[0])])


def virtual(file):
    shape, dtype = file["data"].shape, file["data"].dtype
    del file["data"]
    layout = h5py.VirtualLayout(shape, dtype)
    layout[:] = h5py.VirtualSource("other.h5", "data", shape)
    file.create_virtual_dataset("data", layout)


def soft_linked_group(file):
    file.move("rhs", "elsewhere")
    file["rhs"] = h5py.SoftLink("/elsewhere")


def never_written(**options):
    def apply(file):
        shape, dtype = file["data"].shape, file["data"].dtype
        del file["data"]
        file.create_dataset("data", shape, dtype, chunks=(16,), **options)

    return apply


def huge(file):
    del file["rhs/b"]
    file.create_dataset("rhs/b", (40, 10**13), np.float64, chunks=(1, 1000))


def hole(file):
    """A missing chunk that padding at the edges makes up for in bytes."""
    values = np.random.default_rng(0).random((40, 3))
    del file["rhs/two"]
    item = file.create_dataset("rhs/two", (40, 3), np.float64, chunks=(20, 2))
    item[:, :2] = values[:, :2]
    item[:20, 2:] = values[:20, 2:]


def hidden_link(file):
    """A user-defined kind of link, which only a plugin could follow."""
    file.move("data", "elsewhere")
    file["data"] = h5py.ExternalLink("/dev/zero", "/")


def wrong_sums(file):
    file["rhs/b"].attrs["crc32_rows"] = np.int64(7)


def edited(file):
    file["rhs/b"][3] = 17.0


def large_chunks(file):
    del file["rhs/b"]
    file.create_dataset("rhs/b", (40,), np.float64, chunks=(2**24,), maxshape=(None,))


N = 40
BAD = {
    # name: (edit, field, words in the message)
    "no format": (lambda f: f.attrs.__delitem__("format"), "format", ["not written for hpc_sla"]),
    "other format": (attribute("format", "netcdf"), "format", ["not written for hpc_sla"]),
    "newer version": (attribute("version", 3), "version", ["version 3", "newer hpc_sla"]),
    "version 0": (attribute("version", 0), "version", ["version 0"]),
    "no version": (lambda f: f.attrs.__delitem__("version"), "version", ["missing"]),
    "text for a version": (attribute("version", "one"), "version", ["'one'"]),
    "fractional rows": (attribute("n_rows", 40.5), "n_rows", ["40.5"]),
    "infinite rows": (attribute("n_rows", np.inf), "n_rows", ["inf"]),
    "too many rows": (attribute("n_rows", np.uint64(2**63)), "n_rows", ["9223372036854775808"]),
    "far too many rows": (attribute("n_rows", 1e300), "n_rows", ["1e+300", "64 bits"]),
    "too many columns": (attribute("n_cols", np.uint64(2**64 - 1)), "n_cols", ["64 bits"]),
    "several versions": (attribute("version", [1, 2]), "version", ["[1, 2]"]),
    "a table of versions": (attribute("version", np.eye(9)), "version", ["..., not a whole"]),
    "a complex version": (attribute("version", 1j), "version", ["1j"]),
    "no value for a version": (attribute("version", h5py.Empty("f8")), "version", ["whole"]),
    "true rows": (attribute("n_rows", True), "n_rows", ["True"]),
    "several formats": (attribute("format", [1, 2]), "format", ["not written for hpc_sla"]),
    "a number for a format": (attribute("format", 3), "format", ["not written for hpc_sla"]),
    "blocks without end": (attribute("block_size", np.uint64(2**63)), "block_size", ["64 bits"]),
    "several blocks": (attribute("block_size", [1, 2]), "block_size", ["[1, 2]"]),
    "negative rows": (attribute("n_rows", -1), "n_rows", ["-1"]),
    "more rows than there are": (attribute("n_rows", 41), "/indptr", ["41", "42"]),
    "no data": (without("data"), "/data", ["missing"]),
    "no indptr": (without("indptr"), "/indptr", ["missing"]),
    "no permutation": (without("permutation"), "/permutation", ["missing"]),
    "no part_offsets": (without("part_offsets"), "/part_offsets", ["missing"]),
    "indptr starts at 1": (changed("indptr", lambda v: v + 1), "/indptr", ["runs from 1"]),
    "indptr falls": (changed("indptr", at(20, 0)), "/indptr", ["not monotone", "row 19"]),
    "indptr overshoots": (changed("indptr", at(20, 10**6)), "/indptr", ["not monotone"]),
    "indptr below zero": (changed("indptr", at(1, -1)), "/indptr", ["not monotone", "row 0"]),
    "indptr too long": (changed("indptr", lambda v: np.append(v, v[-1])), "/indptr", ["42"]),
    "column too large": (changed("indices", at(7, N)), "/indices", ["value 40", "0 to 39"]),
    "column below zero": (changed("indices", at(7, -3)), "/indices", ["value -3"]),
    "columns out of order": (swap_in_row(lambda v: v[::-1]), "/indices", ["do not ascend"]),
    "column twice": (swap_in_row(lambda v: v[[0, 0]]), "/indices", ["do not ascend"]),
    "NaN": (changed("data", at(5, np.nan)), "/data", ["nan", "position 5"]),
    "Inf": (changed("data", at(5, -np.inf)), "/data", ["-inf", "position 5"]),
    "NaN in a right-hand side": (changed("rhs/b", at(3, np.nan)), "/rhs/b", ["nan"]),
    "Inf in several": (changed("rhs/two", at((3, 1), np.inf)), "/rhs/two", ["inf"]),
    "NaN in coordinates": (changed("coordinates", at((3, 1), np.nan)), "/coordinates", ["nan"]),
    "integer data": (
        changed("data", lambda v: v.astype(np.int64)),
        "/data",
        ["wrong dtype int64", "float64 or float32"],
    ),
    "complex data": (changed("data", lambda v: v * 1j), "/data", ["wrong dtype complex128"]),
    "text for data": (changed("data", lambda v: v.astype("S5")), "/data", ["wrong dtype"]),
    "float columns": (changed("indices", lambda v: v * 1.0), "/indices", ["wrong dtype float64"]),
    "32-bit indptr": (changed("indptr", np.int32), "/indptr", ["wrong dtype int32", "int64"]),
    "single right-hand side": (changed("rhs/b", np.float32), "/rhs/b", ["wrong dtype float32"]),
    "one value short": (changed("data", lambda v: v[:-1]), "/indices", ["rows where"]),
    "short right-hand side": (changed("rhs/b", lambda v: v[:-1]), "/rhs/b", ["39", "40"]),
    "data as a column": (changed("data", lambda v: v[None]), "/data", ["shape (1,"]),
    "rhs a dataset": (lambda f: replace(f, "rhs", np.ones(40)), "/rhs", ["not a group"]),
    "scalar data": (lambda f: replace(f, "data", 1.0), "/data", ["shape ()"]),
    "data a group": (lambda f: (f.pop("data"), f.create_group("data")), "/data", ["a group"]),
    "parts in disorder": (changed("part_offsets", lambda v: v[::-1]), "/part_offsets", ["divide"]),
    "parts overlap": (changed("part_offsets", at(1, 41)), "/part_offsets", ["divide"]),
    "parts end early": (changed("part_offsets", at(-1, 39)), "/part_offsets", ["40 rows"]),
    "no parts": (changed("part_offsets", lambda v: v[:0]), "/part_offsets", ["divide"]),
    "permutation from 1": (
        changed("permutation", lambda v: v + 1),
        "/permutation",
        ["value 40", "count from 0"],
    ),
    "soft link": (soft_link, "/data", ["soft or external link"]),
    "soft link to a group": (soft_linked_group, "/rhs", ["soft or external link"]),
    "external link": (external_link, "/data", ["soft or external link"]),
    "external storage": (external_storage, "/data", ["another file"]),
    "link to a device": (hidden_link, "/data", ["soft or external link"]),
    "a hole in a dataset": (hole, "/rhs/two", ["declares 960 bytes but 960 are stored"]),
    "sums of other blocks": (wrong_sums, "/rhs/b", ["crc32 does not fit"]),
    "edited in place": (edited, "/rhs/b", ["checksum mismatch in rows 0 to 39", "'crc32'"]),
    "virtual dataset": (virtual, "/data", ["another file"]),
    "never written": (never_written(), "/data", ["declares", "0 are stored"]),
    "never written, compressed": (never_written(compression="gzip"), "/data", ["0 are stored"]),
    "terabytes declared": (huge, "/rhs/b", ["declares 3200000000000000 bytes"]),
    "large chunks": (large_chunks, "/rhs/b", ["chunks of 134217728 bytes"]),
    "columns of a square matrix": (
        lambda f: replace(f, "column_permutation", np.arange(N)),
        "/column_permutation",
        ["rectangular matrices only"],
    ),
    "unusual filter": (
        lambda f: replace(f, "data", f["data"][()], compression="lzf"),
        "/data",
        ["filter 32000"],
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_content(path, case):
    change, field, words = BAD[case]
    edit(path, change)
    with pytest.raises(InputError) as caught:
        read_everything(path)
    assert_message(caught.value, path, field, *words)


def test_a_link_is_not_followed_to_see_what_is_there(tmp_path, monkeypatch):
    """Not even to ask whether its target exists: that would open the other file."""
    other, path = tmp_path / "other.h5", tmp_path / "result.h5"
    with ResultWriter(path, 2, "f8") as writer:
        writer.write_slab("x", 0, np.ones(2))
        writer.finish([1.0], {})
    with h5py.File(other, "w") as file:
        file["v"] = np.ones(2)
    for name in ("eigenvalues", "matrix_gradient", "y"):
        with h5py.File(path, "r+") as file:
            file[name] = h5py.ExternalLink(str(other), "/v")
        with pytest.raises(InputError, match=f"/{name}.*soft or external link"):
            read_result(path)
        with h5py.File(path, "r+") as file:
            del file[name]


def test_escapes_of_a_terminal_are_shown_not_sent(path, capsys):
    from hpc_sla.cli import main

    def change(file):
        file.attrs["source"] = "\x1b]0;title\x07\nrow"
        file["rhs/b\x1b[2J"] = file["rhs/b"][()]

    edit(path, change)
    assert main(["info", str(path)]) == 0
    assert main(["partition", str(path), "-o", str(path), "--parts", "2", "--rhs", "\x1b.npy"]) == 2
    told = capsys.readouterr()
    assert "\x1b" not in told.out + told.err
    assert "\\x1b[2J" in told.out


RECTANGULAR_BAD = {
    "columns without an order": (without("column_permutation"), "/column_permutation", ["missing"]),
    "columns without parts": (without("column_part_offsets"), "/column_part_offsets", ["missing"]),
    "too few columns": (
        lambda f: replace(f, "column_permutation", np.arange(9)),
        "/column_permutation",
        ["9", "10"],
    ),
    "column out of range": (
        lambda f: replace(f, "column_permutation", np.arange(1, 11)),
        "/column_permutation",
        ["value 10"],
    ),
    "columns not divided": (
        lambda f: replace(f, "column_part_offsets", np.array([0, 5, 4, 10])),
        "/column_part_offsets",
        ["10 columns into parts"],
    ),
    "other parts of columns": (
        lambda f: replace(f, "column_part_offsets", np.array([0, 4, 10])),
        "/column_part_offsets",
        ["2 parts", "/part_offsets has 3"],
    ),
    "solution by rows": (
        lambda f: replace(f, "solution/b", np.ones(40)),
        "/solution/b",
        ["40", "10"],
    ),
}


@pytest.mark.parametrize("case", RECTANGULAR_BAD)
def test_bad_columns(tmp_path, case):
    change, field, words = RECTANGULAR_BAD[case]
    path = random_content(0, n_cols=10).write(tmp_path / "tall.h5")
    read_everything(path)
    edit(path, change)
    with pytest.raises(InputError) as caught:
        read_everything(path)
    assert_message(caught.value, path, field, *words)


def test_the_good_file_is_good(path):
    read_everything(path)


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
        assert_message(caught.value, path, "format", "not written for hpc_sla")

    def test_newer(self, path, opener):
        edit(path, attribute("version", 7))
        with pytest.raises(InputError) as caught:
            opener(path)
        assert_message(caught.value, path, "version", "version 7")


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

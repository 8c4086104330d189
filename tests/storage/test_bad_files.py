"""Every bad matrix file gives one clear message: the file, the field, the remedy."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from hpc_sla.errors import InputError
from hpc_sla.storage.result_file import ResultWriter, read_result
from tests.storage.files import (
    assert_message,
    attribute,
    edit,
    random_content,
    read_everything,
    replace,
    without,
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
    "no format": (lambda f: f.attrs.__delitem__("format"), "format", ["not a file of hpc_sla"]),
    "other format": (attribute("format", "netcdf"), "format", ["not a file of hpc_sla"]),
    "newer version": (attribute("version", 3), "version", ["is 3", "newer hpc_sla"]),
    "version 0": (attribute("version", 0), "version", ["is 0", "start at 1"]),
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
    "several formats": (attribute("format", [1, 2]), "format", ["not a file of hpc_sla"]),
    "a number for a format": (attribute("format", 3), "format", ["not a file of hpc_sla"]),
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
    "a hole in a dataset": (hole, "/rhs/two", ["has 3 of its 4 chunks"]),
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
        ["for rectangular matrices"],
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

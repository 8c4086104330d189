"""What was written is what is read, slab by slab, whoever wrote it."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import h5py
import numpy as np
import pytest
import scipy.sparse as sp

from hpc_sla.storage.matrix_file import MatrixFile
from hpc_sla.storage.matrix_writer import write_matrix
from tests.storage.files import assert_identical, random_content, read_everything, replace


@pytest.fixture
def path(tmp_path):
    return tmp_path / "matrix.h5"


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("n_cols", [40, 57])
@pytest.mark.parametrize("seed", range(3))
def test_any_cut_into_slabs_gives_the_whole(path, seed, n_cols, dtype):
    content = random_content(seed, 40, dtype, n_cols=n_cols)
    content.write(path)
    cuts = np.sort(np.random.default_rng(seed).integers(0, 41, 6))
    cuts = [0, *cuts, 40]  # with empty slabs among them
    with MatrixFile(path) as file:
        assert (file.n_rows, file.n_cols, file.nnz) == (40, n_cols, content.matrix.nnz)
        assert file.dtype == dtype
        assert file.parts == 3
        np.testing.assert_array_equal(file.part_offsets, content.part_offsets)
        blocks = []
        for r0, r1 in zip(cuts[:-1], cuts[1:], strict=True):
            indptr, indices, data = file.read_rows(r0, r1)
            assert (indptr.dtype, indices.dtype, data.dtype) == (np.int64, np.int32, dtype)
            assert indptr[0] == 0
            blocks.append(sp.csr_array((data, indices, indptr), shape=(r1 - r0, n_cols)))
            np.testing.assert_array_equal(file.read_rhs("b", r0, r1), content.rhs["b"][r0:r1])
            np.testing.assert_array_equal(file.read_rhs("two", r0, r1), content.rhs["two"][r0:r1])
            np.testing.assert_array_equal(file.read_permutation(r0, r1), content.permutation[r0:r1])
            np.testing.assert_array_equal(file.read_coordinates(r0, r1), content.coordinates[r0:r1])
        whole = sp.vstack(blocks)
        assert (whole.toarray() == content.matrix.toarray()).all()
        assert file.rhs_names == ("b", "two")
        assert file.solution_names == ("b",)
        square = n_cols == 40
        assert file.square == square
        np.testing.assert_array_equal(
            file.column_part_offsets,
            content.part_offsets if square else content.column_part_offsets,
        )
        order = content.permutation if square else content.column_permutation
        for c0, c1 in ((0, 0), (0, n_cols), (3, 17), (n_cols, n_cols)):
            np.testing.assert_array_equal(file.read_column_permutation(c0, c1), order[c0:c1])
            np.testing.assert_array_equal(
                file.read_solution("b", c0, c1), content.solutions["b"][c0:c1]
            )
        if not square:
            with pytest.raises(IndexError, match="columns 3:58 of a matrix of 57 columns"):
                file.read_solution("b", 3, 58)


def test_only_a_rectangular_file_needs_version_2(path):
    for n_cols, version in ((40, 1), (57, 2)):
        random_content(0, n_cols=n_cols).write(path)
        with h5py.File(path) as file:
            assert file.attrs["version"] == version
            assert ("column_permutation" in file) == ("column_part_offsets" in file)
            assert ("column_permutation" in file) == (version == 2)


def test_a_rectangular_file_may_say_nothing_of_its_columns(path):
    content = random_content(0, n_cols=7)
    content.column_part_offsets = content.column_permutation = None
    content.write(path)
    with MatrixFile(path) as file:
        assert file.column_part_offsets.tolist() == [0, 2, 4, 7]
        assert file.read_column_permutation(2, 7).tolist() == [2, 3, 4, 5, 6]
        assert file.compute_digest() == file.digest
    with h5py.File(path) as file:
        assert file.attrs["version"] == 1


@pytest.mark.parametrize(("n", "n_cols"), [(0, 0), (1, 1), (5, 5), (3, 0)])
def test_matrices_without_entries(path, n, n_cols):
    matrix = sp.csr_array((n, n_cols), dtype=np.float64)
    write_matrix(path, matrix, np.array([0, n]), np.arange(n), {"b": np.zeros(n)})
    with MatrixFile(path) as file:
        indptr, indices, data = file.read_rows(0, n)
        np.testing.assert_array_equal(indptr, np.zeros(n + 1))
        assert len(indices) == len(data) == 0
        assert file.read_rhs("b", 0, n).shape == (n,)
        assert not file.has_coordinates


def test_attributes_come_back(path):
    given = {
        "count": 3,
        "share": 0.25,
        "yes": True,
        "text": "π/2",
        "empty": "",
        "long": "x" * 100_000,
        "array": np.arange(3),
        "nested": {"b": [1, None], "a": "q"},
    }
    random_content(0).write(path, **given)
    with MatrixFile(path) as file:
        found = file.attributes
    assert found == {**given, "array": [0, 1, 2], "nested": '{"a": "q", "b": [1, null]}'}
    assert isinstance(found["yes"], bool)
    assert isinstance(found["count"], int)


def test_text_is_of_fixed_length(path):
    """HDF5 keeps the variable sort where no checksum looks."""
    random_content(0).write(path, text="here", empty="", nested={})
    with h5py.File(path) as file:
        for name in file.attrs:
            kind = h5py.check_string_dtype(file.attrs.get_id(name).dtype)
            assert kind is None or kind.length is not None, name


def test_writer_sorts_and_adds_up_without_touching_its_argument(path):
    indptr, indices, data = [0, 3, 4], [1, 0, 1], [1.0, 2.0, 4.0]
    matrix = sp.csr_array((data + [8.0], indices + [0], indptr), shape=(2, 2))
    write_matrix(path, matrix, np.array([0, 2]), np.arange(2), {})
    with MatrixFile(path) as file:
        indptr, indices, data = file.read_rows(0, 2)
    assert (indptr.tolist(), indices.tolist(), data.tolist()) == ([0, 2, 3], [0, 1, 0], [2, 5, 8])
    assert matrix.indices.tolist() == [1, 0, 1, 0]


def digest_by_the_book(path):
    """The digest as the format page words it, with nothing but h5py and hashlib."""
    with h5py.File(path) as file:
        names = []
        file.visititems(lambda name, item: names.append(name) if hasattr(item, "shape") else None)
        state = hashlib.sha256()
        shape = f"{file.attrs['n_rows']} {file.attrs['n_cols']}"
        version = int(file.attrs.get("content_digest_version", 1))
        state.update(f"hpc_sla.matrix {'2 ' * (version == 2)}{shape}\n".encode("ascii"))
        for name in sorted(names):
            values = file[name][()]
            kind = {"f": "float", "i": "int"}[values.dtype.kind] + str(8 * values.itemsize)
            lengths = "x".join(str(length) for length in values.shape)
            state.update(f"/{name} {kind} {lengths}\n".encode("ascii"))
            little = values.astype(values.dtype.newbyteorder("<"))
            if version == 1:
                state.update(little.tobytes())
                continue
            rows = int(file[name].attrs.get("crc32_rows", 1))
            for start in range(0, len(values), rows):
                block = hashlib.sha256(little[start : start + rows].tobytes()).hexdigest()
                state.update(f"{block}\n".encode("ascii"))
        return state.hexdigest()


@pytest.mark.parametrize("n_cols", [40, 23])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_digest_is_the_documented_one(path, dtype, n_cols):
    random_content(1, dtype=dtype, n_cols=n_cols).write(path)
    with MatrixFile(path) as file:
        assert file.digest == digest_by_the_book(path) == file.compute_digest()


def test_digest_of_many_blocks(path):
    """Rows of 1 MiB and more a block, which none of the small files has."""
    n = 300_000
    matrix = sp.eye_array(n, format="csr")
    write_matrix(path, matrix, np.array([0, 5, n]), np.arange(n)[::-1], {"b": np.ones((n, 3))})
    with h5py.File(path) as file:
        assert len(file["rhs/b"].attrs["crc32"]) > 5
    with MatrixFile(path) as file:
        assert file.digest == digest_by_the_book(path) == file.compute_digest()


def test_a_file_of_before_keeps_its_digest(path):
    random_content(1).write(path)
    with h5py.File(path, "r+") as file:
        del file.attrs["content_digest_version"]
    old = digest_by_the_book(path)
    with h5py.File(path, "r+") as file:
        assert file.attrs["content_sha256"].decode() != old
        file.attrs["content_sha256"] = old
    with MatrixFile(path) as file:
        assert file.digest == file.compute_digest() == old


def test_digest_tells_every_part_of_the_content(path):
    def digest(**changes):
        content = random_content(2)
        for name, value in changes.items():
            setattr(content, name, value)
        content.write(path)
        with MatrixFile(path) as file:
            return file.digest

    content = random_content(2)
    wider = sp.csr_array(content.matrix)
    wider.resize((40, 41))
    wide = {"matrix": wider, "solutions": {}}
    columns = {"column_part_offsets": np.array([0, 1, 2, 41])}
    digests = [
        digest(),
        digest(matrix=content.matrix * 2),
        digest(**wide),
        digest(**wide, **columns, column_permutation=np.arange(41)),
        digest(**wide, **columns, column_permutation=np.arange(41)[::-1]),
        digest(
            **wide, column_part_offsets=np.array([0, 0, 2, 41]), column_permutation=np.arange(41)
        ),
        digest(matrix=content.matrix.astype(np.float32)),
        digest(part_offsets=np.array([0, 40])),
        digest(permutation=np.arange(40)),
        digest(rhs={"c": content.rhs["b"]}),
        digest(rhs={"b": -content.rhs["b"]}),
        digest(solutions={}),
        digest(coordinates=None),
    ]
    assert len(set(digests)) == len(digests)
    assert digest() == digests[0]


def test_digest_and_bytes_do_not_depend_on_when_or_in_what_order(path, tmp_path):
    content = random_content(3)
    first = content.write(path, a=1, b=2).read_bytes()
    assert content.write(tmp_path / "again.h5", a=1, b=2).read_bytes() == first


def plain(file, name, values):
    replace(file, name, values)


def big_endian(file, name, values):
    replace(file, name, values.astype(values.dtype.newbyteorder(">")))


def compressed(file, name, values):
    chunks = (min(7, len(values)), *values.shape[1:])
    replace(file, name, values, chunks=chunks, compression="gzip", shuffle=True, fletcher32=True)


def extendible(file, name, values):
    replace(file, name, values, chunks=(64, *values.shape[1:]), maxshape=(None, *values.shape[1:]))


@pytest.mark.parametrize("store", [plain, big_endian, compressed, extendible])
@pytest.mark.parametrize("libver", ["earliest", "latest"])
def test_files_by_other_writers(tmp_path, store, libver):
    ours = random_content(4).write(tmp_path / "ours.h5")
    theirs = tmp_path / "theirs.h5"
    with h5py.File(ours) as source, h5py.File(theirs, "w", libver=libver) as target:
        target.attrs["format"] = "hpc_sla.matrix"  # variable length
        target.attrs["version"] = 1.0  # as MATLAB would
        target.attrs["n_rows"] = np.array([40.0])
        target.attrs["n_cols"] = np.int32(40)

        def copy(name, item):
            if isinstance(item, h5py.Dataset):
                store(target, name, item[()])

        source.visititems(copy)
    expected = read_everything(ours)
    found = read_everything(theirs)
    assert found["digest"] == ""
    with MatrixFile(theirs) as file:
        found["digest"] = file.compute_digest()
    assert_identical(found, expected)


def test_a_matlab_file_has_a_block_of_its_own_in_front(tmp_path):
    ours = random_content(5).write(tmp_path / "ours.h5")
    theirs = tmp_path / "theirs.h5"
    with h5py.File(ours) as source, h5py.File(theirs, "w", userblock_size=512) as target:
        for name in source:
            source.copy(name, target)
        for name, value in source.attrs.items():
            target.attrs[name] = value
    assert_identical(read_everything(theirs), read_everything(ours))


def test_columns_past_32_bits(path):
    n_cols = 2**31 + 5
    columns = np.array([0, n_cols - 1], dtype=np.int64)
    matrix = sp.csr_array(([1.0, 2.0], columns, [0, 2]), shape=(1, n_cols))
    write_matrix(path, matrix, np.array([0, 1]), np.arange(1), {})
    with MatrixFile(path) as file:
        _, indices, _ = file.read_rows(0, 1)
    assert indices.dtype == np.int64
    np.testing.assert_array_equal(indices, columns)


def test_reading_a_slab_takes_little_more_than_the_slab(tmp_path):
    """Peak resident memory, so that HDF5's own buffers count too."""
    n = 300_000
    diagonals = [np.full(n, value) for value in (-1.0, -1.0, 4.0, -1.0, -1.0)]
    matrix = sp.csr_array(sp.dia_array((diagonals, [-500, -1, 0, 1, 500]), shape=(n, n)))
    path = tmp_path / "matrix.h5"
    write_matrix(path, matrix, np.array([0, n]), np.arange(n), {"b": np.ones(n)})
    script = """
import sys
from hpc_sla.storage.matrix_file import MatrixFile
def peak():
    with open("/proc/self/status") as status:
        return next(1024 * int(line.split()[1]) for line in status if line.startswith("VmHWM"))
with MatrixFile(sys.argv[1]) as file:
    file.read_rows(0, 1000), file.read_rhs("b", 0, 1000), file.read_permutation(0, 1000)
    before = peak()
    n = file.n_rows
    kept = [*file.read_rows(0, n), file.read_rhs("b", 0, n), file.read_permutation(0, n)]
    print(peak() - before - sum(array.nbytes for array in kept))
"""
    out = subprocess.run(
        [sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True
    )
    assert int(out.stdout) < 8_000_000


@pytest.mark.parametrize("locking", [None, True, False])
def test_the_file_may_be_open_elsewhere_in_the_process(path, locking):
    content = random_content(6)
    content.write(path)
    with h5py.File(path, locking=locking), MatrixFile(path) as file:
        assert file.nnz == content.matrix.nnz


def test_where_the_file_system_has_no_locks(path, monkeypatch):
    random_content(6).write(path)
    opened = h5py.File

    def without_locks(*args, locking=None, **options):
        if locking is not False:
            raise OSError(38, "unable to lock file, errno = 38")
        return opened(*args, locking=locking, **options)

    monkeypatch.setattr("hpc_sla.storage.hdf5.h5py.File", without_locks)
    with MatrixFile(path) as file:
        assert file.n_rows == 40

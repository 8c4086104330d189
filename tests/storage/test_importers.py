"""Matrices and vectors from other programs' files are the ones those programs wrote."""

from __future__ import annotations

import gzip
import io
import os
import warnings

import h5py
import numpy as np
import pytest
import scipy.io
import scipy.sparse as sp
import torch

import hpc_sla as hs
from hpc_sla.direct import factorize
from hpc_sla.errors import InputError
from hpc_sla.partition import order_by_part, reorder, stored_order
from hpc_sla.storage.importers import read_source, read_vector
from hpc_sla.storage.matrix_market import read_matrix_market
from hpc_sla.storage.matrix_writer import write_matrix
from tests.storage.files import (
    as_ordinary_user,
    assert_message,
    edit,
    random_content,
    replace,
)


def random_square(seed=0, n=30, density=0.15):
    return sp.random_array((n, n), density=density, rng=np.random.default_rng(seed), format="csr")


def assert_same(imported, dense):
    matrix = imported.matrix
    assert isinstance(matrix, sp.csr_array)
    assert matrix.has_canonical_format
    np.testing.assert_array_equal(matrix.toarray(), dense)


@pytest.mark.parametrize("suffix", [".mtx", ".mtx.gz", ".MTX"])
def test_matrix_market(tmp_path, suffix):
    matrix = random_square()
    path = tmp_path / f"m{suffix}"
    text = tmp_path / "text.mtx"
    scipy.io.mmwrite(text, matrix)
    content = text.read_bytes()
    path.write_bytes(gzip.compress(content) if suffix.endswith("gz") else content)
    assert_same(read_source(path), matrix.toarray())


MARKET = {
    "symmetric": ("coordinate real symmetric", "3 3 3\n1 1 4\n2 1 -1\n3 3 2.5"),
    "skew": ("coordinate real skew-symmetric", "3 3 1\n3 1 2"),
    "pattern": ("coordinate pattern general", "3 3 2\n1 3\n3 2"),
    "pattern symmetric": ("coordinate pattern symmetric", "3 3 2\n1 1\n3 2"),
    "integer": ("coordinate integer general", "3 3 2\n1 3 7\n3 2 -1"),
    "duplicates": ("coordinate real general", "3 3 3\n1 3 1\n3 2 5\n1 3 2"),
    "dense": ("array real general", "3 3\n1\n0\n0\n0\n2\n0\n3\n0\n4"),
    "empty": ("coordinate real general", "3 3 0"),
    "wide": ("coordinate real general", "2 3 2\n1 1 1\n2 3 4"),
    "tall": ("array integer general", "3 1\n1\n2\n3"),
}
MEANING = {
    "symmetric": [[4, -1, 0], [-1, 0, 0], [0, 0, 2.5]],
    "skew": [[0, 0, -2], [0, 0, 0], [2, 0, 0]],
    "pattern": [[0, 0, 1], [0, 0, 0], [0, 1, 0]],
    "pattern symmetric": [[1, 0, 0], [0, 0, 1], [0, 1, 0]],
    "integer": [[0, 0, 7], [0, 0, 0], [0, -1, 0]],
    "duplicates": [[0, 0, 3], [0, 0, 0], [0, 5, 0]],
    "wide": [[1, 0, 0], [0, 0, 4]],
    "tall": [[1], [2], [3]],
    "dense": [[1, 0, 3], [0, 2, 0], [0, 0, 4]],
    "empty": np.zeros((3, 3)),
}


@pytest.mark.parametrize("kind", MARKET)
def test_matrix_market_by_hand(tmp_path, kind):
    header, body = MARKET[kind]
    path = tmp_path / "m.mtx"
    path.write_text(f"%%MatrixMarket matrix {header}\n% a comment\n{body}\n")
    assert_same(read_source(path), np.array(MEANING[kind], dtype=float))
    assert read_source(path).matrix.dtype == np.float64


def test_matrix_market_without_a_last_newline_or_with_blank_lines(tmp_path):
    path = tmp_path / "m.mtx"
    path.write_bytes(market(GENERAL, "%\n\n2 2 2\n1 1 1\n\n  2\t1  3e0 \r\n\n"))
    expected = np.array([[1.0, 0], [3, 0]])
    assert_same(read_source(path), expected)
    path.write_bytes(market(GENERAL, "2 2 2\n1 1 1\n2 1 3")[:-1])
    assert_same(read_source(path), expected)


def test_scipy_never_sees_a_last_line_without_an_end(tmp_path, monkeypatch):
    """Of some such lines it dies."""
    seen = []
    read = scipy.io.mmread
    monkeypatch.setattr(
        "hpc_sla.storage.matrix_market.scipy.io.mmread",
        lambda source: seen.append(source.read()) or read(io.BytesIO(seen[0])),
    )
    path = tmp_path / "m.mtx"
    path.write_bytes(market(GENERAL, "2 2 1\n1 1 1.924846186248762")[:-1])
    read_matrix_market(os.fspath(path))
    assert seen[0].endswith(b"\n1 1 1.924846186248762\n")


@pytest.mark.parametrize("form", ["csr", "csc", "coo", "bsr", "dia"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int32, bool])
@pytest.mark.parametrize("container", [sp.csr_array, sp.csr_matrix])
def test_npz(tmp_path, form, dtype, container):
    matrix = container((random_square() > 0.5).astype(dtype)).asformat(form)
    sp.save_npz(tmp_path / "m.npz", matrix)
    found = read_source(tmp_path / "m.npz")
    assert_same(found, matrix.toarray())
    assert found.matrix.dtype == (np.float32 if dtype is np.float32 else np.float64)
    assert found.rhs is None
    assert found.coordinates is None


SMALL = {
    # dtype: a value, of which three make more than the type can hold (or tell apart)
    "i1": 100,
    "u1": 200,
    "i2": 30000,
    ">i2": 30000,
    "u2": 60000,
    "i4": 2**31 - 1,
    "?": True,
    "i8": 2**62,
    "u8": 2**63,
    "f2": 60000.0,
    ">f4": 1.5,
    ">f8": 1.5,
    "g": 1.5,
    "f4": 1.5,
}


def repeated(form, dtype):
    """Arrays of [[3 v, 0], [0, v]], the first entry in three pieces."""
    arrays = {"data": np.full(4, SMALL[dtype]).astype(dtype), "shape": np.array([2, 2])}
    if form == "coo":
        return {**arrays, "row": np.array([0, 0, 1, 0]), "col": np.array([0, 0, 1, 0])}
    return {**arrays, "indices": np.array([0, 0, 0, 1]), "indptr": np.array([0, 3, 4])}


@pytest.mark.parametrize("form", ["coo", "csr", "csc"])
@pytest.mark.parametrize("dtype", SMALL)
def test_repeated_entries_are_summed_as_floats(tmp_path, form, dtype):
    value, arrays = float(SMALL[dtype]), repeated(form, dtype)
    expected = [[3 * value, 0], [0, value]]
    (tmp_path / "m.npz").write_bytes(npz(**arrays, format=form.encode()))
    found = read_source(tmp_path / "m.npz")
    assert_same(found, expected)
    assert found.matrix.dtype == (np.float32 if dtype.endswith("f4") else np.float64)


@pytest.mark.parametrize("form", ["coo", "csr", "csc"])
@pytest.mark.parametrize("dtype", [dtype for dtype in SMALL if dtype[0] not in ">f"] + ["f4"])
def test_repeated_entries_of_scipy_matrices_are_summed_as_floats(form, dtype):
    value, arrays = float(SMALL[dtype]), repeated(form, dtype)
    index = ("row", "col") if form == "coo" else ("indices", "indptr")
    index = tuple(arrays[name] for name in index)
    make = {"coo": sp.coo_array, "csr": sp.csr_array, "csc": sp.csc_array}[form]
    index = (index,) if form == "coo" else index
    matrix = make((arrays["data"], *index), shape=(2, 2))
    expected = [[3 * value, 0], [0, value]]
    world = hs.World.serial("cpu")
    ours = [
        hs.DSparseMatrix.from_scipy(matrix, world).local_csr(),
        hs.SparseTensor.from_scipy(matrix).to_scipy(),
    ]
    for found in ours:
        assert found.dtype == (np.float32 if dtype == "f4" else np.float64)
        np.testing.assert_array_equal(found.toarray(), expected)
    b = torch.tensor([3 * value, value], dtype=torch.from_numpy(ours[0].data).dtype)
    np.testing.assert_allclose(factorize(matrix).solve(b), [1, 1], rtol=1e-6)


@pytest.mark.parametrize(
    ("dtype", "word"),
    [("c8", "complex64"), ("c16", "complex128"), ("S1", "S1"), ("m8[s]", "timedelta64")],
)
def test_npz_of_other_than_real_numbers(tmp_path, dtype, word):
    arrays = {**COO, "data": np.zeros(2, dtype=dtype)}
    (tmp_path / "m.npz").write_bytes(npz(**arrays, row=np.array([0, 0]), col=np.array([0, 0])))
    with pytest.raises(InputError, match="Only real numbers") as caught:
        read_source(tmp_path / "m.npz")
    assert word in str(caught.value)


@pytest.mark.parametrize("name", ["row", "col", "shape"])
def test_npz_with_indices_that_are_no_integers(tmp_path, name):
    """SciPy would cut 0.7 down to 0."""
    arrays = {**COO, "row": np.array([0, 1]), "col": np.array([0, 1])}
    arrays[name] = arrays[name] + 0.7
    (tmp_path / "m.npz").write_bytes(npz(**arrays))
    with pytest.raises(InputError) as caught:
        read_source(tmp_path / "m.npz")
    assert_message(caught.value, tmp_path / "m.npz", name, "float64 values, not integers")


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_npy_headers_of_every_version(tmp_path, version):
    with open(tmp_path / "v.npy", "wb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        np.lib.format.write_array(file, np.arange(3.0), version=version)
    assert read_vector(tmp_path / "v.npy").tolist() == [0, 1, 2]


@pytest.mark.parametrize("parts", [1, 3])
def test_our_own_file_comes_back_in_the_users_order(tmp_path, parts):
    rng = np.random.default_rng(0)
    matrix, n = random_square(), 30
    permutation, part_offsets = order_by_part(rng.integers(0, parts, n), parts)
    permutation[:5] = np.roll(permutation[:5], 2)
    b, two, x, points = rng.random(n), rng.random((n, 2)), rng.random(n), rng.random((n, 3))
    path = tmp_path / "m.h5"
    write_matrix(
        path,
        reorder(matrix, permutation),
        part_offsets,
        permutation,
        {"b": b[permutation], "two": two[permutation]},
        points[permutation],
        solutions={"b": x[permutation]},
    )
    found = read_source(path)
    assert_same(found, matrix.toarray())
    np.testing.assert_array_equal(found.rhs, b)
    np.testing.assert_array_equal(found.rhs_by_name["two"], two)
    np.testing.assert_array_equal(found.solution_by_name["b"], x)
    np.testing.assert_array_equal(found.coordinates, points)


@pytest.mark.parametrize("written_columns", [True, False])
@pytest.mark.parametrize("shape", [(30, 12), (12, 30)])
def test_our_own_rectangular_file_comes_back_in_the_users_order(tmp_path, shape, written_columns):
    rng = np.random.default_rng(1)
    matrix = sp.csr_array(sp.random_array(shape, density=0.2, rng=rng))
    order = stored_order(matrix, rng.integers(0, 3, shape[0]), 3)
    columns = order.column_permutation if written_columns else np.arange(shape[1])
    b, x = rng.random(shape[0]), rng.random(shape[1])
    write_matrix(
        tmp_path / "m.h5",
        reorder(matrix, order.permutation, columns),
        order.part_offsets,
        order.permutation,
        {"b": b[order.permutation]},
        solutions={"b": x[columns]},
        column_part_offsets=order.column_part_offsets if written_columns else None,
        column_permutation=columns if written_columns else None,
    )
    found = read_source(tmp_path / "m.h5")
    assert_same(found, matrix.toarray())
    np.testing.assert_array_equal(found.rhs, b)
    np.testing.assert_array_equal(found.solution_by_name["b"], x)


def test_a_rectangular_file_written_by_the_page(tmp_path):
    """Rows 1, 2, 0 and columns 3, 0, 2, 1 of a 3 x 4 matrix in two parts, with h5py alone."""
    yours = np.array([[0.0, 5, 0, 7], [1, 0, 0, 2], [0, 0, 3, 4]])
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file.attrs["format"], file.attrs["version"] = "hpc_sla.matrix", 2
        file.attrs["n_rows"], file.attrs["n_cols"] = 3, 4
        file["indptr"] = np.array([0, 2, 4, 6])
        file["indices"] = np.array([0, 1, 0, 2, 0, 3], dtype=np.int32)
        file["data"] = np.array([2.0, 1, 4, 3, 7, 5])
        file["part_offsets"], file["permutation"] = np.array([0, 2, 3]), np.array([1, 2, 0])
        file["column_part_offsets"] = np.array([0, 3, 4])
        file["column_permutation"] = np.array([3, 0, 2, 1])
        file["rhs/b"] = yours[[1, 2, 0]] @ np.arange(4.0)
        file["solution/b"] = np.array([3.0, 0, 2, 1])
    found = read_source(tmp_path / "m.h5")
    assert_same(found, yours)
    np.testing.assert_array_equal(found.solution_by_name["b"], np.arange(4.0))
    np.testing.assert_array_equal(found.rhs, yours @ np.arange(4.0))


def test_a_repeated_column_is_refused(tmp_path):
    path = random_content(0, n_cols=10).write(tmp_path / "m.h5")
    edit(path, lambda file: replace(file, "column_permutation", np.zeros(10, dtype=np.int64)))
    with pytest.raises(InputError) as caught:
        read_source(path)
    assert_message(caught.value, path, "/column_permutation", "repeats a column")


@pytest.mark.parametrize("suffix", [".npy", ".mtx", ".mtx.gz"])
@pytest.mark.parametrize("shape", [(7,), (7, 3)])
def test_vectors(tmp_path, suffix, shape):
    values = np.random.default_rng(0).random(shape)
    path = tmp_path / f"v{suffix}"
    if suffix == ".npy":
        np.save(path, values)
    else:
        text = tmp_path / "text.mtx"
        scipy.io.mmwrite(text, values.reshape(7, -1), precision=17)
        content = text.read_bytes()
        path.write_bytes(gzip.compress(content) if suffix.endswith("gz") else content)
    found = read_vector(path, 7)
    assert found.shape == shape
    np.testing.assert_array_equal(found, values)


def test_a_sparse_matrix_market_vector(tmp_path):
    path = tmp_path / "v.mtx"
    path.write_text("%%MatrixMarket matrix coordinate real general\n4 1 2\n2 1 5\n4 1 -1\n")
    assert read_vector(path).tolist() == [0, 5, 0, -1]


@pytest.mark.parametrize(("dtype", "read_as"), [("f4", "f4"), (">f8", "f8"), ("i2", "f8")])
def test_vector_dtypes(tmp_path, dtype, read_as):
    np.save(tmp_path / "v.npy", np.arange(3).astype(dtype))
    found = read_vector(tmp_path / "v.npy")
    assert found.dtype == np.dtype(read_as)
    assert found.dtype.isnative


def market(header, body):
    return f"%%MatrixMarket matrix {header}\n{body}\n".encode()


def npz(**arrays):
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def npy(values, **options):
    stream = io.BytesIO()
    np.save(stream, values, **options)
    return stream.getvalue()


GENERAL = "coordinate real general"
CSR = {"format": b"csr", "shape": np.array([2, 2]), "data": np.ones(2)}
COO = {"format": b"coo", "shape": np.array([2, 2]), "data": np.ones(2)}
COMPLEX = market("coordinate complex general", "2 2 1\n1 1 1 2")
BAD_MATRICES = {
    # name: (file name, content, words in the message)
    "empty mtx": ("m.mtx", b"", ["line 1", "not a MatrixMarket header"]),
    "not matrix market": ("m.mtx", b"1 2 3\n", ["not a MatrixMarket header"]),
    "cut short": ("m.mtx", market(GENERAL, "2 2 2\n1 1 1"), ["2 entries are announced, 1 are"]),
    "row out of range": ("m.mtx", market(GENERAL, "2 2 1\n3 1 1"), ["line 3", "row", "'3 1 1'"]),
    "row 0": ("m.mtx", market(GENERAL, "2 2 1\n0 1 1"), ["line 3", "row", "'0 1 1'"]),
    "words for numbers": ("m.mtx", market(GENERAL, "2 2 1\n1 1 one"), ["line 3", "'one' is not"]),
    "complex": ("m.mtx", COMPLEX, ["complex", "real"]),
    "NaN": ("m.mtx", market(GENERAL, "2 2 1\n1 1 nan"), ["nan", "finite"]),
    "half an index": ("m.mtx", market(GENERAL, "2 2 1\n1.5 1 1"), ["line 3", "'1.5' is no row"]),
    "zero byte": ("m.mtx", market(GENERAL, "2 2 1\n1 1 0.\x001"), ["line 3", "is not a number"]),
    "cut inside a line": (
        "m.mtx",
        market(GENERAL, "2 2 2\n1 1 1\n2 ")[:-1],
        ["line 4", "1 numbers instead of 3"],
    ),
    "too many": (
        "m.mtx",
        market(GENERAL, "2 2 0\n1 1 1"),
        ["0 entries are announced, there are more"],
    ),
    "no sizes": ("m.mtx", market(GENERAL, "% 2 2 0"), ["no line with the 3 sizes"]),
    "negative sizes": ("m.mtx", market(GENERAL, "-2 -2 0"), ["no line with the 3 sizes"]),
    "hermitian": ("m.mtx", market("coordinate complex hermitian", "1 1 0"), ["complex"]),
    "unknown header": ("m.mtx", market("coordinate real round", "1 1 0"), ["round"]),
    "skew and wide": ("m.mtx", market("coordinate real skew-symmetric", "1 2 0"), ["1 x 2"]),
    "not gzip": ("m.mtx.gz", market(GENERAL, "2 2 1\n1 1 1"), [".mtx.gz file"]),
    "gzip cut short": ("m.mtx.gz", gzip.compress(market(GENERAL, "2 2 0"))[:-9], [".mtx.gz file"]),
    "not a zip": ("m.npz", b"PK nonsense", [".npz file"]),
    "other npz": ("m.npz", npz(a=np.ones(3)), [".npz file"]),
    "a npy by name npz": ("m.npz", npy(np.ones(3)), [".npz file"]),
    "pickle": ("m.npz", npz(**CSR, indptr=np.array([0, 1, None], dtype=object)), [".npz file"]),
    "csr out of range": (
        "m.npz",
        npz(**CSR, indices=np.array([0, 10**6]), indptr=np.array([0, 1, 2])),
        [".npz file"],
    ),
    "csr negative": (
        "m.npz",
        npz(**CSR, indices=np.array([0, -1]), indptr=np.array([0, 1, 2])),
        [".npz file"],
    ),
    "csr not monotone": (
        "m.npz",
        npz(**CSR, indices=np.array([0, 1]), indptr=np.array([0, 9, 2])),
        [".npz file"],
    ),
    "coo out of range": (
        "m.npz",
        npz(**COO, row=np.array([0, 10**6]), col=np.array([0, 1])),
        [".npz file"],
    ),
    "unknown suffix": ("m.csv", b"1,2", ["'.csv'", ".mtx"]),
    "no suffix": ("matrix", b"1,2", ["''", ".mtx"]),
    "not hdf5": ("m.h5", b"1,2", ["is not an HDF5 file"]),
}
BAD_VECTORS = {
    "pickle": ("v.npy", npy(np.array([1, None], dtype=object), allow_pickle=True), [".npy file"]),
    "cut short": ("v.npy", npy(np.ones(9))[:-1], [".npy file"]),
    "empty": ("v.npy", b"", [".npy file"]),
    "npz by name npy": ("v.npy", npz(a=np.ones(3)), ["is not a .npy file"]),
    "text": ("v.npy", npy(np.array(["a"])), ["<U1", "real"]),
    "complex": ("v.npy", npy(np.ones(2) * 1j), ["complex128"]),
    "three dimensions": ("v.npy", npy(np.ones((2, 2, 2))), ["shape (2, 2, 2)"]),
    "scalar": ("v.npy", npy(np.float64(1)), ["shape ()"]),
    "Inf": ("v.npy", npy(np.array([1, np.inf])), ["inf", "position 1"]),
    "unknown suffix": ("v.txt", b"1", ["'.txt'", ".npy"]),
}


@pytest.mark.parametrize("case", BAD_MATRICES)
def test_bad_matrices(tmp_path, case):
    name, content, words = BAD_MATRICES[case]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_source(path)
    assert_message(caught.value, path, caught.value.field, *words)


@pytest.mark.parametrize("case", BAD_VECTORS)
def test_bad_vectors(tmp_path, case):
    name, content, words = BAD_VECTORS[case]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_vector(path)
    assert_message(caught.value, path, caught.value.field, *words)


@pytest.mark.parametrize("read", [read_source, read_vector])
@pytest.mark.parametrize("name", ["none.mtx", "none.petsc", "."])
def test_missing(tmp_path, read, name):
    with pytest.raises(InputError) as caught:
        read(tmp_path / name)
    assert caught.value.remedy


def test_unreadable():
    with as_ordinary_user() as folder:
        path = folder / "m.mtx"
        path.write_bytes(market(GENERAL, "1 1 1\n1 1 1"))
        path.chmod(0)
        with pytest.raises(InputError) as caught:
            read_source(path)
    assert caught.value.file == os.fspath(path)


def test_a_vector_of_the_wrong_length(tmp_path):
    np.save(tmp_path / "v.npy", np.ones(3))
    with pytest.raises(InputError) as caught:
        read_vector(tmp_path / "v.npy", 4)
    assert_message(caught.value, tmp_path / "v.npy", None, "3 rows", "has 4")


@pytest.mark.parametrize("suffix", [".mtx", ".mtx.gz", ".npz", ".npy"])
def test_random_damage_never_escapes_as_another_error(tmp_path, suffix):
    """There are no checksums here: a changed number may pass, a traceback may not."""
    matrix = random_square()
    good = tmp_path / f"good{suffix}"
    if suffix == ".npz":
        sp.save_npz(good, matrix)
    elif suffix == ".npy":
        np.save(good, matrix.data)
    else:
        scipy.io.mmwrite(tmp_path / "text.mtx", matrix)
        content = (tmp_path / "text.mtx").read_bytes()
        good.write_bytes(gzip.compress(content) if suffix == ".mtx.gz" else content)
    content = good.read_bytes()
    rng = np.random.default_rng(3)
    for _ in range(60):
        spoilt = bytearray(content)
        spoilt[int(rng.integers(0, min(len(content), 2000)))] ^= int(rng.integers(1, 256))
        if rng.random() < 0.3:
            spoilt = spoilt[: int(rng.integers(0, len(content)))]
        path = tmp_path / f"spoilt{suffix}"
        path.write_bytes(spoilt)
        try:
            (read_vector if suffix == ".npy" else read_source)(path)
        except InputError as error:
            assert error.file == os.fspath(path)

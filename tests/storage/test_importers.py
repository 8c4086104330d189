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
    COO,
    GENERAL,
    assert_message,
    edit,
    market,
    npz,
    random_content,
    random_square,
    replace,
)


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

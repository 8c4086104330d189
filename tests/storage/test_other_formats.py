"""MATLAB's files and other programs' HDF5 are read as they were meant, or refused."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
import scipy.io
import scipy.sparse as sp

from hpc_sla.errors import InputError
from hpc_sla.storage import limits
from hpc_sla.storage.importers import read_source, read_vector
from tests.storage.files import DENSE, dense, random_content, refused

# ---- MATLAB


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("dtype", ["f8", "?"])
def test_mat(tmp_path, compressed, dtype):
    path = tmp_path / "m.MAT"
    a = sp.csc_array(DENSE.astype(dtype))
    options = {"do_compression": compressed, "appendmat": False}
    scipy.io.savemat(path, {"K": a, "note": "text", "b": np.ones((3, 1))}, **options)
    found = read_source(path)
    np.testing.assert_array_equal(found.matrix.toarray(), a.toarray())
    assert found.rhs.tolist() == [1, 1, 1]
    assert read_vector(path).tolist() == [1, 1, 1]
    scipy.io.savemat(path, {"K": 2 * a, "A": a, "b": np.ones((1, 4))}, **options)
    np.testing.assert_array_equal(dense(path), a.toarray())
    assert read_source(path).rhs is None
    for b in (np.arange(3.0), sp.csc_array(np.arange(3.0)[:, None])):  # SciPy makes a row of [n]
        for content in ({"K": a, "b": b}, {"Problem": {"A": a, "b": b}}):
            scipy.io.savemat(path, content, **options)
            assert read_source(path).rhs.tolist() == [0, 1, 2]
    problem = {"title": "x", "A": a, "b": np.arange(3.0)[:, None], "aux": {"c": np.eye(2)}}
    scipy.io.savemat(path, {"Problem": problem}, **options)
    found = read_source(path)
    np.testing.assert_array_equal(found.matrix.toarray(), a.toarray())
    assert found.rhs.tolist() == [0, 1, 2]


def test_hdf5_of_another_program_is_told_what_is_read(tmp_path):
    """And not to be made a matrix file by the very command that was asked to."""
    path = tmp_path / "other.h5"
    with h5py.File(path, "w") as file:
        file["x"] = np.ones(3)
    refused(path, "holds no sparse matrix", "save_npz")


def test_mat_files_that_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "m.mat"
    a = sp.csc_array(DENSE)
    scipy.io.savemat(path, {"K": a, "L": a})
    refused(path, "several sparse matrices (K, L)", "save(")
    scipy.io.savemat(path, {"K": DENSE})
    refused(path, "no sparse matrix (but K)", "sparse(A)")
    scipy.io.savemat(path, {"K": a * 1j})
    refused(path, "complex", "Only real")
    scipy.io.savemat(path, {"K": a, "L": a})
    refused(path, "0 full arrays", read=read_vector)
    path.write_bytes(b"MATLAB 5.0 MAT-file" + bytes(200))
    refused(path)
    path.write_bytes(b"")
    refused(path)
    scipy.io.savemat(path, {"K": a}, format="4")
    refused(path, "version 4", "-v7")
    scipy.io.savemat(path, {"A": sp.csc_array(np.ones((400, 400)))}, do_compression=True)
    monkeypatch.setattr(limits, "machine_memory", lambda: 1 << 20)
    refused(path, "the machine has 1048576")


@pytest.mark.parametrize("dtype", ["f8", "f4", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8"])
def test_full_arrays_of_mat(tmp_path, dtype):
    path = tmp_path / "m.mat"
    b = np.arange(6).reshape(3, 2).astype(dtype)
    scipy.io.savemat(path, {"rhs": b, "long name of a text": "x" * 5000})
    np.testing.assert_array_equal(read_vector(path), b)


@pytest.mark.parametrize("compressed", [False, True])
def test_damaged_mat(tmp_path, compressed):
    path = tmp_path / "m.mat"
    content = {"A": sp.csc_array(DENSE), "b": np.ones((3, 1)), "Problem": {"A": DENSE}}
    scipy.io.savemat(path, content, do_compression=compressed)
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(150):
        spoilt = bytearray(content)
        spoilt[int(rng.integers(124, len(content)))] ^= int(rng.integers(1, 256))
        path.write_bytes(spoilt[: int(rng.integers(100, 2 * len(content)))])
        for read in (read_source, read_vector):
            try:
                read(path)
            except InputError as error:
                assert error.file == str(path)


# ---- HDF5 of other programs


def matlab73(path, name="A", a=DENSE, userblock=512, **changes):
    """As save('-v7.3') has it."""
    csc = sp.csc_array(a)
    parts = {"data": csc.data, "ir": csc.indices.astype("u8"), "jc": csc.indptr.astype("u8")}
    with h5py.File(path, "a", userblock_size=userblock) as file:
        group = file.create_group(name)
        group.attrs["MATLAB_class"] = np.bytes_("double")
        group.attrs["MATLAB_sparse"] = np.uint64(a.shape[0])
        for key, values in {**parts, **changes}.items():
            group[key] = values
    return path


def anndata(path, a=DENSE, form="csr", name="X", old=False, **changes):
    m = sp.csr_array(a).asformat(form)
    parts = {"data": m.data.astype("f4"), "indices": m.indices, "indptr": m.indptr}
    with h5py.File(path, "a") as file:
        group = file.create_group(name)
        group.attrs["h5sparse_format" if old else "encoding-type"] = form + "_matrix" * (not old)
        group.attrs["h5sparse_shape" if old else "shape"] = changes.pop("shape", m.shape)
        for key, values in {**parts, **changes}.items():
            group.create_dataset(key, data=values, compression="gzip")
        file.require_group("obs")
    return path


@pytest.mark.parametrize("suffix", [".mat", ".h5", ".hdf5", ".H5"])
@pytest.mark.parametrize("name", ["A", "K", "Problem/A"])
def test_matlab_73_and_petsc_groups(tmp_path, suffix, name):
    wide = np.array([[1.0, 0, 0, 2], [0, 0, 3, 0]])
    path = matlab73(tmp_path / f"m{suffix}", name, wide)
    np.testing.assert_array_equal(dense(path), wide)
    empty = matlab73(tmp_path / f"e{suffix}", name, np.zeros((2, 3)))
    np.testing.assert_array_equal(dense(empty), np.zeros((2, 3)))


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("form", ["csr", "csc"])
@pytest.mark.parametrize("suffix", [".h5ad", ".h5"])
def test_anndata(tmp_path, suffix, form, old):
    wide = np.array([[1.0, 0, 0, 2], [0, 0, 3, 0]])
    path = anndata(tmp_path / f"m{suffix}", wide, form, old=old)
    found = read_source(path)
    np.testing.assert_array_equal(found.matrix.toarray(), wide)
    assert found.matrix.dtype == np.float32


def test_small_integers_of_anndata_do_not_wrap(tmp_path):
    path = tmp_path / "m.h5ad"
    counts = {"data": np.array([200, 200], "u1"), "indices": [0, 0], "indptr": [0, 2, 2]}
    anndata(path, np.zeros((2, 2)), **counts)
    np.testing.assert_array_equal(dense(path), [[400, 0], [0, 0]])


def test_other_hdf5_that_is_refused(tmp_path):
    path = tmp_path / "m.h5ad"
    with h5py.File(path, "w") as file:
        file["X"] = DENSE
    refused(path, "no sparse matrix")
    for k, (changes, words) in enumerate(
        [
            ({"indices": np.array([0, 2, 1, 9])}, ["is not a valid sparse matrix"]),
            ({"indptr": np.array([0, 9, 3, 4])}, ["is not a valid sparse matrix"]),
            ({"shape": np.array([3, 10**15])}, ["the machine has"]),
            ({"shape": np.array([2**63, 3], "u8")}, ["shape"]),
            ({"shape": 3}, ["shape 3"]),
            ({"shape": "wide"}, ["shape wide"]),
            ({"data": np.ones(4) * 1j}, ["wrong dtype complex128"]),
            ({"indices": np.zeros(4)}, ["wrong dtype float64"]),
        ]
    ):
        refused(anndata(tmp_path / f"{k}.h5ad", **changes), *words)
    path = tmp_path / "two.h5"
    matlab73(matlab73(path, "K"), "L")
    refused(path, "several sparse matrices (K, L)")
    path = tmp_path / "link.h5"
    matlab73(path, "K")
    with h5py.File(path, "r+") as file:
        file["A"] = h5py.SoftLink("/K")
        file["B"] = h5py.ExternalLink("other.h5", "/K")
    np.testing.assert_array_equal(dense(path), DENSE)
    refused(matlab73(tmp_path / "u.h5", ir=np.full(4, 2**63, "u8")), "holds 9223372036854775808")


def test_our_own_files_are_not_taken_for_others(tmp_path):
    content = random_content(0)
    path = content.write(tmp_path / "m.h5")
    with h5py.File(path, "r+") as file:
        file.create_group("A").attrs["MATLAB_sparse"] = 3
    assert read_source(path).rhs_by_name.keys() == {"b", "two"}


# ---- what stays unread


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("m.csv", ["numpy.loadtxt", "scipy.sparse.save_npz"]),
        ("m.TXT", ["numpy.loadtxt"]),
        ("m.dat", ["rename it to .petsc", "numpy.loadtxt"]),
        ("m.pkl", ["where you trust it"]),
        ("m.zip", ["unpack"]),
        ("m.npz.gz", ["unpack"]),
        ("m.vtk", ["scipy.sparse.save_npz"]),
    ],
)
def test_other_suffixes_say_what_to_convert_with(tmp_path, name, words):
    path = tmp_path / name
    path.write_bytes(b"")
    error = refused(path, *words)
    assert ".mtx" in str(error)
    assert ".tar.gz" in str(error)
    refused(tmp_path / "v.rb", "numpy.save", ".npy", read=read_vector)

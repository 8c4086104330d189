"""Bad files of other programs: one message each, that names the file, the place and the remedy."""

from __future__ import annotations

import gzip
import os

import numpy as np
import pytest
import scipy.io
import scipy.sparse as sp

from hpc_sla.errors import InputError
from hpc_sla.storage.importers import read_source, read_vector
from tests.storage.files import (
    COO,
    CSR,
    GENERAL,
    as_ordinary_user,
    assert_message,
    market,
    npy,
    npz,
    random_square,
)

COMPLEX = market("coordinate complex general", "2 2 1\n1 1 1 2")
BAD_MATRICES = {
    # name: (file name, content, words in the message)
    "empty mtx": ("m.mtx", b"", ["line 1", "not a MatrixMarket header"]),
    "not matrix market": ("m.mtx", b"1 2 3\n", ["not a MatrixMarket header"]),
    "cut short": (
        "m.mtx",
        market(GENERAL, "2 2 2\n1 1 1"),
        ["2 entries, and there are 1"],
    ),
    "row out of range": ("m.mtx", market(GENERAL, "2 2 1\n3 1 1"), ["line 3", "row", "'3 1 1'"]),
    "row 0": ("m.mtx", market(GENERAL, "2 2 1\n0 1 1"), ["line 3", "row", "'0 1 1'"]),
    "words for numbers": ("m.mtx", market(GENERAL, "2 2 1\n1 1 one"), ["line 3", "'one' is not"]),
    "complex": ("m.mtx", COMPLEX, ["complex", "real"]),
    "NaN": ("m.mtx", market(GENERAL, "2 2 1\n1 1 nan"), ["nan", "finite"]),
    "half an index": ("m.mtx", market(GENERAL, "2 2 1\n1.5 1 1"), ["line 3", "'1.5' is not a row"]),
    "zero byte": ("m.mtx", market(GENERAL, "2 2 1\n1 1 0.\x001"), ["line 3", "is not a number"]),
    "cut inside a line": (
        "m.mtx",
        market(GENERAL, "2 2 2\n1 1 1\n2 ")[:-1],
        ["line 4", "1 numbers instead of 3"],
    ),
    "too many": (
        "m.mtx",
        market(GENERAL, "2 2 0\n1 1 1"),
        ["announces 0 entries, and there are more"],
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

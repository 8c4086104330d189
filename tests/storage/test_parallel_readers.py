"""Files read by many ranks give what one process reads, bit for bit."""

from __future__ import annotations

import gzip
import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import scipy.sparse as sp

from tests.collective import everywhere
from tests.storage.files import market, npy, random_content, random_square
from tests.storage.test_other_formats import anndata, matlab73
from tests.storage.test_petsc_binary import mat, vec
from tests.storage.together import (
    alone,
    differences,
    on_root,
    repeated,
    small_blocks,  # noqa: F401 - a fixture
    together,
)

pytestmark = pytest.mark.mpi


def a_market(kind, n=23):
    rng = np.random.default_rng(5)
    full = random_square(n=n, density=0.2).toarray()
    form, values, symmetry = kind.split()
    if symmetry == "symmetric":
        full = full + full.T
    if symmetry == "skew-symmetric":
        full = full - full.T
    lines = []
    for j in range(n):
        for i in range(0 if symmetry == "general" else j + (symmetry[1] == "k"), n):
            value = int(100 * full[i, j]) if values == "integer" else float(full[i, j])
            if form == "array":
                lines.append(f"{value!r}")
            elif full[i, j]:
                lines.append(f"{i + 1} {j + 1}" + ("" if values == "pattern" else f" {value!r}"))
    count = len(lines)
    if form == "coordinate":
        rng.shuffle(lines)
        lines.insert(3, "% a comment")
        lines.insert(7, "")
    sizes = f"{n} {n} {count}" if form == "coordinate" else f"{n} {n}"
    return market(kind, "\n".join([f"% {'long ' * 9}", sizes, *lines]))


KINDS = [
    f"{form} {values} {symmetry}"
    for form in ("coordinate", "array")
    for values in ("real", "integer", "pattern")
    for symmetry in ("general", "symmetric", "skew-symmetric")
    if values != "pattern" or (form == "coordinate" and symmetry != "skew-symmetric")
]


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("suffix", [".mtx", ".mtx.gz"])
@pytest.mark.parametrize("kind", KINDS)
def test_matrix_market(world, folder, kind, suffix):
    path = folder / f"m{suffix}"
    text = a_market(kind)
    on_root(world, lambda: path.write_bytes(gzip.compress(text) if suffix[4:] else text))
    found = together(world, path)
    assert everywhere(world, differences(found, alone(path)) == [])
    assert len(found["data"]) > 20


@pytest.mark.usefixtures("small_blocks")
def test_matrix_market_that_is_rectangular_repeats_entries_and_has_no_last_newline(world, folder):
    path = folder / "m.mtx"
    coo = repeated(1, (9, 31), 400)

    def write():
        scipy.io.mmwrite(path, coo, precision=17)
        path.write_bytes(path.read_bytes().rstrip())

    on_root(world, write)
    assert everywhere(world, differences(together(world, path), alone(path)) == [])


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int16])
@pytest.mark.parametrize("form", ["csr", "csc", "coo", "bsr", "dia"])
def test_npz(world, folder, form, dtype, compressed):
    path = folder / "m.npz"

    def write():
        if form == "coo":
            matrix = repeated(2, (26, 38), 500)
        elif form == "dia":
            diagonals = np.random.default_rng(3).integers(-2, 3, (4, 30))
            matrix = sp.dia_array((diagonals, [-7, 3, 0, 12]), shape=(26, 28))
        else:
            rows = sp.csr_array(random_square(4, n=36))
            matrix = rows.tobsr((3, 2)) if form == "bsr" else rows.asformat(form)
        matrix = matrix.copy()
        matrix.data = (matrix.data * 10).astype(dtype)
        sp.save_npz(path, matrix, compressed=compressed)

    on_root(world, write)
    found = together(world, path)
    assert everywhere(world, differences(found, alone(path)) == [])
    assert len(found["data"]) > 20


def test_npz_by_hand(world, folder):
    """Rows unsorted and with entries given twice; arrays longer than the pointers say."""
    path = folder / "m.npz"
    rng = np.random.default_rng(6)
    n, counts = 17, rng.integers(0, 30, 17)
    indptr = np.concatenate([[0], np.cumsum(counts)])
    arrays = {
        "format": b"csr",
        "shape": np.array([n, n]),
        "indptr": indptr,
        "indices": rng.integers(0, n, indptr[-1] + 5).astype("i4"),
        "data": rng.standard_normal(indptr[-1] + 5),
    }
    for save in (np.savez, np.savez_compressed):
        on_root(world, lambda save=save: save(path, **arrays))
        assert everywhere(world, differences(together(world, path), alone(path)) == [])


@pytest.mark.parametrize("wide", [False, True])
def test_petsc(world, folder, wide):
    path = folder / "m.petsc"
    matrix = sp.csr_array(random_square(7, n=29))
    lengths = np.diff(matrix.indptr)
    arguments = (29, 29, matrix.nnz, lengths, matrix.indices, matrix.data)
    content = mat(wide, *arguments) + vec(wide, np.arange(29.0)) + vec(wide)
    on_root(world, lambda: path.write_bytes(content))
    found = together(world, path)
    assert everywhere(world, differences(found, alone(path)) == [])
    assert len(found["rhs_by_name/b"]) == 29


@pytest.mark.parametrize("form", ["csr", "csc", "matlab", "empty"])
def test_hdf5_of_other_programs(world, folder, form):
    path = folder / "m.h5"
    full = random_square(8, n=21).toarray()[:, :18]

    def write():
        if form in ("csr", "csc"):
            anndata(path, full, form)
        else:
            matlab73(path, "A", full if form == "matlab" else np.zeros((5, 3)))

    on_root(world, write)
    assert everywhere(world, differences(together(world, path), alone(path)) == [])


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_matrix_files_come_back_in_the_users_order(world, folder, dtype):
    path = folder / "m.h5"
    on_root(world, lambda: random_content(9, n=43, dtype=dtype).write(path, block_size=1))
    found = together(world, path)
    assert everywhere(world, differences(found, alone(path)) == [])
    assert found["coordinates"] is not None and "solution_by_name/b" in found


def test_what_is_read_on_rank_0_and_handed_out(world, folder):
    path = folder / "m.mat"
    matrix = random_square(10, n=19)
    on_root(world, lambda: scipy.io.savemat(path, {"A": matrix, "b": np.arange(19.0)}))
    assert everywhere(world, differences(together(world, path), alone(path)) == [])


def test_fewer_rows_than_ranks(world, folder):
    for name, write in (
        ("m.npz", lambda p: sp.save_npz(p, sp.csr_array(np.array([[2.0]])))),
        ("c.npz", lambda p: sp.save_npz(p, sp.csc_array(np.array([[0.0, 2.0]])))),
        ("m.mtx", lambda p: scipy.io.mmwrite(p, sp.coo_array(np.array([[2.0]])))),
        ("m.petsc", lambda p: p.write_bytes(mat(False, 1, 1, 1, (1,), (0,), (2.0,)))),
        ("no.npz", lambda p: sp.save_npz(p, sp.csr_array((0, 0)))),
    ):
        path = folder / name
        on_root(world, lambda write=write, path=path: write(path))
        assert everywhere(world, differences(together(world, path), alone(path)) == []), name


def test_readers_leave_paths_alone(world, folder):
    """A path may be a Path, or text."""
    path = folder / "m.npz"
    on_root(world, lambda: sp.save_npz(path, random_square(18)))
    one, other = together(world, str(path)), together(world, Path(path))
    assert everywhere(world, differences(one, other) == [])


def fortran(array):
    """The same values, columns one after another, and a header that says so."""
    stream = io.BytesIO()
    about = {"descr": array.dtype.str, "fortran_order": True, "shape": array.shape}
    np.lib.format.write_array_header_1_0(stream, about)
    return stream.getvalue() + array.tobytes(order="F")


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("form", ["csr", "coo", "dia", "bsr"])
def test_npz_whose_columns_come_one_after_another(world, folder, form, compression):
    """Of one dimension an array is both. Blocks are more here than their pointers say."""
    rng = np.random.default_rng(8)
    values = rng.standard_normal((3, 26)) if form == "dia" else rng.standard_normal((70, 3, 2))
    indptr = np.sort(rng.integers(0, 68, 9))
    indptr[0] = 0
    indices = rng.integers(0, 13, 70)
    if form == "csr":
        arrays = {"data": values.ravel(), "indices": rng.integers(0, 26, 420), "indptr": 6 * indptr}
        made, shape = sp.csr_array, (8, 26)
        expected = made((arrays["data"], arrays["indices"], arrays["indptr"]), shape=shape)
    elif form == "coo":
        coords = np.stack([rng.integers(0, 24, 420), rng.integers(0, 26, 420)])
        arrays, shape = {"data": values.ravel(), "coords": coords}, (24, 26)
        expected = sp.coo_array((values.ravel(), tuple(coords)), shape=shape)
    elif form == "dia":
        arrays, shape = {"data": values, "offsets": np.array([-7, 3, 0])}, (24, 26)
        expected = sp.dia_array((values, arrays["offsets"]), shape=shape)
    else:
        arrays, shape = {"data": values, "indices": indices, "indptr": indptr}, (24, 26)
        expected = sp.bsr_array((values, indices, indptr), shape=shape)
    path = folder / "m.npz"

    def write():
        with zipfile.ZipFile(path, "w", compression) as archive:
            archive.writestr("format.npy", npy(np.array(form.encode())))
            archive.writestr("shape.npy", fortran(np.array(shape)))
            for name, array in arrays.items():
                archive.writestr(f"{name}.npy", fortran(array))

    on_root(world, write)
    found = together(world, path)
    assert everywhere(world, differences(found, alone(path)) == [])
    whole = sp.csr_array(
        (found["data"], found["indices"], np.append(0, np.cumsum(found["counts"]))), shape=shape
    )
    np.testing.assert_allclose(whole.toarray(), expected.toarray(), atol=1e-14)

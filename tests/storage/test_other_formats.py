"""Archives, Harwell-Boeing, MATLAB, other programs' HDF5: read as they were meant, or refused."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile

import h5py
import numpy as np
import pytest
import scipy.io
import scipy.sparse as sp

from hpc_sla.errors import InputError
from hpc_sla.storage import archive, limits
from hpc_sla.storage.importers import read_source, read_vector
from tests.storage.files import random_content

DENSE = np.array([[4.0, 0, -1], [0, 2.5, 0], [7, 0, 0]])
SYMMETRIC = np.array([[4.0, -1, 0], [-1, 4, -1], [0, -1, 4]])


def dense(path):
    return read_source(path).matrix.toarray()


def refused(path, *words, read=read_source, file=None):
    with pytest.raises(InputError) as caught:
        read(path)
    assert caught.value.remedy
    assert caught.value.file == str(file or path)
    for word in words:
        assert word in str(caught.value)
    return caught.value


# ---- archives


def mtx(a, **options):
    stream = io.BytesIO()
    scipy.io.mmwrite(stream, sp.coo_array(a) if a.shape[0] == a.shape[1] else a, **options)
    return stream.getvalue()


def tar(path, members, mode="w:gz", kind=tarfile.REGTYPE):
    with tarfile.open(path, mode) as made:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size, member.type = len(content), kind
            made.addfile(member, io.BytesIO(content))
    return path


@pytest.mark.parametrize(
    ("suffix", "mode"),
    [
        (".tar.gz", "w:gz"),
        (".tgz", "w:gz"),
        (".TAR.GZ", "w:gz"),
        (".tar", "w:"),
        (".tar.bz2", "w:bz2"),
        (".tar.xz", "w:xz"),
    ],
)
def test_the_matrix_inside_an_archive(tmp_path, suffix, mode):
    path = tar(tmp_path / f"some{suffix}", {"A/A.mtx": mtx(DENSE)}, mode)
    np.testing.assert_array_equal(dense(path), DENSE)
    assert read_source(path).rhs is None


def test_an_archive_of_the_suitesparse_collection(tmp_path):
    members = {
        "bus/bus_b.mtx": mtx(np.array([[1.0], [2], [3]])),
        "bus/bus_x.mtx": mtx(np.eye(2)),
        "bus/readme.txt": b"about",
        "bus/bus.mtx": mtx(SYMMETRIC, symmetry="symmetric"),
    }
    found = read_source(tar(tmp_path / "renamed.tar.gz", members))
    np.testing.assert_array_equal(found.matrix.toarray(), SYMMETRIC)
    assert found.rhs.tolist() == [1, 2, 3]
    flat = {name.partition("/")[2]: content for name, content in members.items()}
    np.testing.assert_array_equal(dense(tar(tmp_path / "bus.tar.gz", flat)), SYMMETRIC)
    refused(tar(tmp_path / "other.tar.gz", flat), "3 matrices", "bus_x.mtx", "Unpack it")


def test_archives_that_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "a.tar.gz"
    refused(tar(path, {"a/readme": b""}), "no .mtx file")
    refused(tar(path, {"a/a.mtx": mtx(DENSE)[:-9]}), "a/a.mtx", file=f"{path}/a/a.mtx")
    member = {"a/a.mtx": b""}
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE):
        refused(tar(path, member, kind=kind), "no .mtx file")
    content = tar(path, {"a/a.mtx": mtx(DENSE)}).read_bytes()
    path.write_bytes(content[: len(content) // 2])
    refused(path)
    path.write_bytes(gzip.compress(gzip.decompress(content)[:700]))
    refused(path)
    path.write_bytes(b"no archive")
    refused(path, ".tar.gz file")
    monkeypatch.setattr(archive, "_MOST_MEMBERS", 3)
    refused(tar(path, {f"{k}.mtx": b"" for k in range(4)}), "more than 3 members")


def test_nothing_of_an_archive_reaches_the_disk(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outside = {"../out.mtx": mtx(DENSE)}
    (tmp_path / "in").mkdir()
    np.testing.assert_array_equal(dense(tar(tmp_path / "in" / "a.tar.gz", outside)), DENSE)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a.tar.gz", "in"]


def test_an_archive_whose_header_is_a_bomb(tmp_path):
    member = tarfile.TarInfo("long name")
    path = tmp_path / "a.tar.gz"
    for member.type in (tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.XGLTYPE):
        member.size = 1 << 40
        path.write_bytes(gzip.compress(member.tobuf(tarfile.GNU_FORMAT) + bytes(1 << 20)))
        refused(path, "declares a header of")


def test_an_xz_dictionary_that_does_not_fit(tmp_path, monkeypatch):
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 256 << 20}]
    path = tmp_path / "m.mtx.xz"
    path.write_bytes(lzma.compress(mtx(DENSE), filters=filters))
    np.testing.assert_array_equal(dense(path), DENSE)
    monkeypatch.setattr("hpc_sla.storage.compressed.machine_memory", lambda: 16 << 20)
    refused(path, "more memory")


# ---- Harwell-Boeing


def boeing(kind, shape, starts, rows, values, formats="(4I3)           (4I3)           ", rhs=""):
    """A file by hand; `formats` and `values` as they are to stand there."""
    rows_text, starts_text = (
        "\n".join("".join(f"{i:3d}" for i in part) for part in zip_lines(numbers, 4))
        for numbers in (rows, starts)
    )
    value_format, body = values
    lines = [
        f"{'a title':<72}{'KEY':<8}",
        f"{9:14d}{1:14d}{1:14d}{1:14d}" + (f"{1:14d}" if rhs else ""),
        f"{kind:<14}{shape[0]:14d}{shape[1]:14d}{len(rows):14d}{0:14d}",
        f"{formats}{value_format:<20}{value_format if rhs else '':<20}",
        *([f"F             {1:14d}{0:14d}"] if rhs else []),
        starts_text,
        rows_text,
        *([body] if body else []),
        *([rhs] if rhs else []),
    ]
    return "\n".join(lines) + "\n"


def zip_lines(numbers, count):
    return [numbers[k : k + count] for k in range(0, len(numbers), count)]


CASES = {
    # DENSE by columns; SYMMETRIC's lower triangle
    "rua": (DENSE, [1, 3, 4, 5], [1, 3, 2, 1], ""),
    "rsa": (SYMMETRIC, [1, 3, 5, 6], [1, 2, 2, 3, 3], "     4.0     -1.     4.0    -1.0\n     4.0"),
}


@pytest.mark.parametrize("packed", ["", ".gz", ".bz2", ".xz"])
@pytest.mark.parametrize("suffix", [".rb", ".hb", ".RB", "own"])
@pytest.mark.parametrize("kind", ["rua", "rsa"])
def test_harwell_boeing(tmp_path, kind, suffix, packed):
    expected, starts, rows, body = CASES[kind]
    value_format = "(4E9.2)" if kind == "rua" else "(4F8.1)"
    if kind == "rua":
        body = " 0.40E+01 0.70D+010.250+001-1.00E+00"
    text = boeing(kind, (3, 3), starts, rows, (value_format, body))
    pack = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}[packed]
    path = tmp_path / f"m{suffix.replace('own', '.' + kind)}{packed}"
    path.write_bytes(pack(text.encode()))
    np.testing.assert_array_equal(dense(path), expected)


def test_numbers_without_blanks_between_them(tmp_path):
    """Splitting at blanks, SciPy's reader sees 12 and 3-4."""
    path = tmp_path / "m.rua"
    path.write_text(boeing("RUA", (2, 1), [1, 3], [1, 2], ("(2E11.3)", " -1.500E-99-2.500-100")))
    np.testing.assert_array_equal(dense(path), [[-1.5e-99], [-2.5e-100]])
    path.write_text(
        boeing("rua", (2, 1), [1, 3], [1, 2], ("(1P,2D12.3)", " -1.500D+001 2.500D+00"))
    )
    np.testing.assert_array_equal(dense(path), [[-15], [2.5]])


def test_patterns_integers_skew_and_right_hand_sides(tmp_path):
    path = tmp_path / "m.rb"
    path.write_text(boeing("psa", (2, 2), [1, 3, 3], [1, 2], ("", "")))
    np.testing.assert_array_equal(dense(path), [[1, 1], [1, 0]])
    path.write_text(boeing("iua", (2, 2), [1, 2, 3], [1, 2], ("(2I4)", "  12  -7")))
    np.testing.assert_array_equal(dense(path), [[12, 0], [0, -7]])
    path.write_text(boeing("rza", (2, 2), [1, 2, 2], [2], ("(2F4.1)", " 1.5")))
    np.testing.assert_array_equal(dense(path), [[0, -1.5], [1.5, 0]])
    path.write_text(boeing("rra", (1, 2), [1, 2, 3], [1, 1], ("(2F4.1)", " 1.5 2.5")))
    np.testing.assert_array_equal(dense(path), [[1.5, 2.5]])
    text = boeing("rua", (2, 2), [1, 2, 3], [1, 2], ("(2F4.1)", " 1.5 2.5"), rhs=" 8.0 9.0")
    path.write_text(text)
    assert read_source(path).rhs.tolist() == [8, 9]


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("exponents", [[0], [-120, -3, 0, 5, 30], [-30, 150]])
def test_what_scipy_writes_as_harwell_boeing(tmp_path, dtype, exponents):
    """Of either sign, with exponents of two and three digits: a character narrower than it says."""
    rng = np.random.default_rng(0)
    for n in (1, 2, 3, 20):
        a = sp.random_array((n, n), density=0.4, rng=rng, format="csc") + sp.eye_array(n)
        a = sp.csc_array(a)
        a.data = rng.standard_normal(len(a.data)) * 10.0 ** rng.choice(exponents, len(a.data))
        if dtype is np.float32:
            a.data = np.clip(a.data, -1e38, 1e38)
        a = a.astype(dtype)
        scipy.io.hb_write(tmp_path / "m.rua", a)
        rtol = 1e-15 if dtype is np.float64 else 1e-6
        np.testing.assert_allclose(dense(tmp_path / "m.rua"), a.toarray(), rtol=rtol, atol=1e-44)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kind": "cua"}, ["complex"]),
        ({"kind": "rse"}, ["element matrices", "Assemble"]),
        ({"kind": "xyz"}, ["'xyz'"]),
        ({"kind": "rsa", "shape": (2, 3)}, ["2 x 3"]),
        ({"kind": "rsa", "starts": [1, 2, 3], "rows": [2, 1]}, ["both triangles", "rua"]),
        ({"kind": "rza"}, ["diagonal"]),
        ({"starts": [1, 2, 4]}, ["pointers"]),
        ({"starts": [1, 4, 3]}, ["pointers"]),
        ({"starts": [2, 2, 3]}, ["pointers"]),
        ({"rows": [1, 3]}, ["outside 1 to 2"]),
        ({"rows": [0, 1]}, ["outside 1 to 2"]),
        ({"values": ("(2F4.1)", " 1.5")}, ["line 7"]),
        ({"values": ("(2F4.1)", " 1.51.2.")}, ["'1.2.' is not a number", "line 7"]),
        ({"values": ("(2F4.1)", " 1.5 nan")}, ["'nan' is not a finite number"]),
        ({"values": ("(2F4.1)", "****1.50")}, ["'****'", "too wide"]),
        ({"values": ("(2F4.1)", " 1.5  15")}, ["'15' means different things"]),
        ({"values": ("(2F4.1)", " 1.5 2.5 3.5")}, ["more than 2 numbers"]),
        ({"values": ("(2F4.1)", " 12.5 3.5")}, ["'5 3.' is not a number"]),
        ({"values": ("(2Z4)", " 1.5 2.5")}, ["formats"]),
        ({"values": ("(1P2F4.1)", " 1.5 2.5")}, ["'1.5' means different things"]),
        ({"kind": "iua", "values": ("(2F4.1)", " 1.5 2.5")}, ["'1.5' is not an integer"]),
    ],
)
def test_harwell_boeing_that_is_refused(tmp_path, changes, words):
    good = {
        "kind": "rua",
        "shape": (2, 2),
        "starts": [1, 2, 3],
        "rows": [1, 2],
        "values": ("(2F4.1)", " 1.5 2.5"),
    }
    path = tmp_path / "m.rb"
    path.write_text(boeing(**good))
    np.testing.assert_array_equal(dense(path), [[1.5, 0], [0, 2.5]])
    path.write_text(boeing(**{**good, **changes}))
    refused(path, *words)


def test_damaged_harwell_boeing(tmp_path):
    content = boeing("rsa", (3, 3), *CASES["rsa"][1:3], ("(4F8.1)", CASES["rsa"][3])).encode()
    rng = np.random.default_rng(0)
    path = tmp_path / "m.rsa"
    for _ in range(80):
        spoilt = bytearray(content)
        spoilt[int(rng.integers(0, len(content)))] = int(rng.integers(1, 256))
        path.write_bytes(spoilt[: int(rng.integers(0, 2 * len(content)))])
        try:
            read_source(path)
        except InputError as error:
            assert error.file == str(path)


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

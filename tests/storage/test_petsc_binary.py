"""PETSc's binary files, against bytes packed by hand and against PETSc itself."""

from __future__ import annotations

import importlib.util
import os
import struct
import subprocess
import sys

import numpy as np
import pytest
import scipy.sparse as sp

from hpc_sla.errors import InputError
from hpc_sla.storage.importers import read_source, read_vector
from tests.storage.files import assert_message

# [[10, 0, 20], [0, 0, 0], [0, -1.5, 0]]
DENSE = np.array([[10, 0, 20], [0, 0, 0], [0, -1.5, 0]])


def integers(wide, *values):
    return struct.pack(">" + ("q" if wide else "i") * len(values), *values)


def reals(*values):
    return struct.pack(">" + "d" * len(values), *values)


def mat(wide, rows=3, columns=3, entries=3, lengths=(2, 0, 1), indices=(0, 2, 1), values=None):
    numbers = (10, 20, -1.5) if values is None else values
    header = integers(wide, 1211216, rows, columns, entries)
    return header + integers(wide, *lengths) + integers(wide, *indices) + reals(*numbers)


def vec(wide, values=(1.0, 2.0, 3.0)):
    return integers(wide, 1211214, len(values)) + reals(*values)


def pairs(wide, values=(1.0, 2.0, 3.0)):
    """A Vec of a PETSc with complex scalars."""
    return integers(wide, 1211214, len(values)) + reals(*(x for v in values for x in (v, 0.0)))


def single(content, count):
    """The same of a PETSc in single precision: the last `count` numbers are float32."""
    numbers = np.frombuffer(content[-8 * count :], ">f8")
    return content[: -8 * count] + numbers.astype(">f4").tobytes()


def index_set(wide, values=(0, 1, 2)):
    return integers(wide, 1211218, len(values), *values)


@pytest.fixture(params=[".petsc", ".bin", ".PETSC"])
def path(request, tmp_path):
    return tmp_path / f"m{request.param}"


@pytest.mark.parametrize("wide", [False, True])
class TestByHand:
    def test_matrix(self, path, wide):
        path.write_bytes(mat(wide))
        path.with_name(path.name + ".info").write_text("-matload_block_size 1\n")
        found = read_source(path)
        np.testing.assert_array_equal(found.matrix.toarray(), DENSE)
        assert found.matrix.data.dtype.isnative
        assert found.rhs is None

    def test_unsorted_and_repeated_columns(self, path, wide):
        path.write_bytes(mat(wide, lengths=(3, 0, 0), indices=(2, 0, 2)))
        found = read_source(path).matrix
        np.testing.assert_array_equal(found.toarray(), [[20, 0, 8.5], [0] * 3, [0] * 3])
        assert found.has_canonical_format

    def test_matrix_and_vectors(self, path, wide):
        path.write_bytes(mat(wide) + vec(wide) + vec(wide, (7.0, 8.0, 9.0)))
        assert read_source(path).rhs.tolist() == [1, 2, 3]

    def test_vector_alone(self, path, wide):
        path.write_bytes(vec(wide))
        assert read_vector(path).tolist() == [1, 2, 3]

    def test_rectangular(self, path, wide):
        path.write_bytes(mat(wide, columns=5) + vec(wide))
        found = read_source(path)
        path.write_bytes(mat(wide))
        square = read_source(path).matrix.toarray()
        np.testing.assert_array_equal(found.matrix.toarray(), np.pad(square, ((0, 0), (0, 2))))
        assert found.rhs.tolist() == [1, 2, 3]

    def test_no_entries(self, path, wide):
        path.write_bytes(mat(wide, entries=0, lengths=(0, 0, 0), indices=(), values=()))
        assert read_source(path).matrix.nnz == 0

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            (lambda w: b"", ["ends inside the class id"]),
            (lambda w: mat(w)[:-1], ["ends inside the values", "24 bytes", "23 left"]),
            (lambda w: mat(w)[:30], ["ends inside"]),
            (lambda w: mat(w) + b"\0", ["ends inside the class id"]),
            (lambda w: mat(w) + vec(w)[:-1], ["ends inside the values"]),
            (lambda w: mat(w) + mat(w), ["1211216", "a vector begins with 1211214"]),
            (lambda w: vec(w), ["1211214", "a matrix begins with 1211216"]),
            (lambda w: mat(w) + vec(w, (1.0,)), ["right-hand side has 1 rows", "matrix 3"]),
            (lambda w: mat(w, entries=-1), ["dense"]),
            (lambda w: mat(w, rows=-3), ["declares -3 x 3"]),
            (lambda w: mat(w, entries=2**31 - 1, lengths=(2**31 - 1, 0, 0)), ["ends inside"]),
            (lambda w: mat(w, rows=2**31 - 1), ["ends inside the row lengths"]),
            (lambda w: mat(w, lengths=(2, 0, 0)), ["do not add up"]),
            (lambda w: mat(w, lengths=(4, -2, 1)), ["do not add up"]),
            (lambda w: mat(w, indices=(0, 3, 1)), ["outside 0 to 2"]),
            (lambda w: mat(w, indices=(0, -1, 1)), ["outside 0 to 2"]),
            (lambda w: mat(w, values=(1, float("nan"), 2)), ["nan", "finite"]),
            (lambda w: mat(w) + vec(w, (1.0, float("inf"), 2.0)), ["inf", "finite"]),
            (lambda w: np.arange(9, dtype="<i4").tobytes(), ["a matrix begins with"]),
            (lambda w: mat(w, values=(1, 0, 2, 0, 3, 0)), ["complex"]),
            (lambda w: single(mat(w), 3), ["single-precision"]),
            (lambda w: mat(w, values=(1, 0, 2, 0, 3, 0)) + pairs(w), ["complex"]),
            (lambda w: single(mat(w), 3) + single(vec(w), 3), ["single-precision"]),
            (lambda w: mat(w) + pairs(w), ["ends with 24 bytes"]),
            (lambda w: mat(w) + vec(w) + b"more", ["ends with 4 bytes"]),
            (lambda w: mat(w) + vec(w) + vec(w)[:-1], ["ends with"]),
        ],
    )
    def test_bad(self, path, wide, content, words):
        path.write_bytes(content(wide))
        with pytest.raises(InputError) as caught:
            read_source(path)
        assert_message(caught.value, path, caught.value.field, *words)

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            (lambda w: pairs(w), ["complex", "16 bytes each", "real scalars"]),
            (lambda w: pairs(w) + pairs(w), ["complex"]),
            (lambda w: single(vec(w), 3), ["single-precision", "4 bytes each"]),
            (lambda w: single(vec(w), 3) + single(vec(w), 3), ["single-precision"]),
            (lambda w: vec(w) + vec(w), ["several objects", "file of its own"]),
            (lambda w: vec(w) + mat(w), ["several objects"]),
            (lambda w: vec(w) + index_set(w), ["several objects"]),
            (lambda w: vec(w) + b"\0", ["ends with 1 bytes"]),
            (lambda w: vec(w) + bytes(8), ["ends with 8 bytes"]),
            (lambda w: vec(w) + reals(1.0, 2.0), ["ends with 16 bytes"]),
            (lambda w: vec(w, (1.0, 2.0, 3.0, 4.0))[:-8], ["ends inside the values"]),
            (lambda w: integers(w, 1211214, -3), ["-3 rows"]),
            (lambda w: mat(w) + vec(w), ["a vector begins with 1211214"]),
        ],
    )
    def test_bad_vectors(self, path, wide, content, words):
        path.write_bytes(content(wide))
        with pytest.raises(InputError) as caught:
            read_vector(path)
        assert_message(caught.value, path, caught.value.field, *words)

    def test_an_empty_vector(self, path, wide):
        path.write_bytes(vec(wide, ()))
        assert read_vector(path).shape == (0,)

    def test_random_damage(self, path, wide):
        good = mat(wide) + vec(wide)
        rng = np.random.default_rng(0)
        for _ in range(80):
            spoilt = bytearray(good)
            spoilt[int(rng.integers(0, len(good)))] ^= int(rng.integers(1, 256))
            path.write_bytes(spoilt[: int(rng.integers(0, 2 * len(good)))])
            for read in (read_source, read_vector):
                try:
                    read(path)
                except InputError as error:
                    assert error.file == os.fspath(path)


WRITER = """
import sys
import numpy as np
from petsc4py import PETSc

with np.load(sys.argv[1]) as given:
    matrix = PETSc.Mat().createAIJ(
        (len(given["b"]), len(given["b"])),
        csr=(
            given["indptr"].astype(PETSc.IntType),
            given["indices"].astype(PETSc.IntType),
            given["data"],
        ),
    )
    b = PETSc.Vec().createWithArray(given["b"])
    viewer = PETSc.Viewer().createBinary(sys.argv[2], "w")
    matrix.view(viewer)
    b.view(viewer)
    viewer.destroy()
"""


def test_what_petsc_wrote(tmp_path):
    pytest.importorskip("petsc4py", reason="PETSc is not installed")
    rng = np.random.default_rng(0)
    matrix = sp.csr_array(sp.random_array((50, 50), density=0.1, rng=rng))
    b = rng.random(50)
    given = tmp_path / "given.npz"
    np.savez(given, indptr=matrix.indptr, indices=matrix.indices, data=matrix.data, b=b)
    path = tmp_path / "m.petsc"
    # In a process of its own: initialising PETSc here would initialise MPI for every test.
    subprocess.run([sys.executable, "-c", WRITER, str(given), str(path)], check=True, timeout=300)
    found = read_source(path)
    np.testing.assert_array_equal(found.matrix.toarray(), matrix.toarray())
    np.testing.assert_array_equal(found.rhs, b)


@pytest.fixture(scope="module")
def petscs_own_writer():
    """PETSc's script for its format, which writes every kind of build's files."""
    petsc = pytest.importorskip("petsc", reason="PETSc is not installed")
    place = os.path.join(petsc.get_petsc_dir(), "lib", "petsc", "bin", "PetscBinaryIO.py")
    spec = importlib.util.spec_from_file_location("PetscBinaryIO", place)
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, os.path.dirname(place))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(os.path.dirname(place))
    return module


@pytest.mark.parametrize("indices", ["32bit", "64bit"])
@pytest.mark.parametrize(
    ("precision", "complex_scalars", "word"),
    [
        ("double", False, ""),
        ("single", False, "single"),
        ("double", True, "complex"),
        ("single", True, "complex numbers of single"),
    ],
)
def test_files_of_other_builds(
    tmp_path, petscs_own_writer, indices, precision, complex_scalars, word
):
    io = petscs_own_writer.PetscBinaryIO(
        precision=precision, indices=indices, complexscalars=complex_scalars
    )
    matrix = sp.csr_matrix(DENSE)
    b = np.array([1.0, 2, 1]).view(petscs_own_writer.Vec)
    io.writeBinaryFile(str(tmp_path / "b.petsc"), [b])
    with open(tmp_path / "A.petsc", "wb") as file:
        io.writeMatSciPy(file, matrix)
        io.writeVec(file, b)
    if not word:
        np.testing.assert_array_equal(read_source(tmp_path / "A.petsc").matrix.toarray(), DENSE)
        assert read_source(tmp_path / "A.petsc").rhs.tolist() == [1, 2, 1]
        assert read_vector(tmp_path / "b.petsc").tolist() == [1, 2, 1]
        return
    for read, name in ((read_source, "A.petsc"), (read_vector, "b.petsc")):
        with pytest.raises(InputError, match=word):
            read(tmp_path / name)

"""What a file declares and does not have is refused before memory is asked for."""

from __future__ import annotations

import gzip
import io
import resource
import zipfile

import numpy as np
import pytest

from hpc_sla.errors import InputError
from hpc_sla.storage import limits
from hpc_sla.storage.importers import read_source, read_vector
from hpc_sla.storage.matrix_file import MatrixFile
from tests.storage.files import edit, random_content, replace

LARGE = 10**14


@pytest.fixture(autouse=True)
def little_memory():
    """Whatever is asked for in earnest fails, whether or not it would be used."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + (1 << 30), hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def npy(shape: tuple[int, ...], data: bytes = b"", descr: str = "<f8") -> bytes:
    stream = io.BytesIO()
    header = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, header)
    return stream.getvalue() + data


def npz(path, **members: bytes) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)


def array(values, dtype) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.asarray(values, dtype))
    return stream.getvalue()


def refused(read, path, *words):
    with pytest.raises(InputError) as caught:
        read(path)
    assert caught.value.file == str(path)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (npy((LARGE,)), "bytes are declared"),
        (npy((3,), bytes(16)), "bytes are declared"),
        (npy((1,), bytes(16)), "bytes are declared"),
        (npy((-1,)), "shape"),
        (npy((1,), b"cos\nsystem\n.", "|O"), "Python objects"),
        (b"\x93NUMPY\x07\x00", "cannot be read"),
    ],
)
def test_npy(tmp_path, content, words):
    path = tmp_path / "v.npy"
    path.write_bytes(content)
    refused(read_vector, path, words)


def test_npz_that_declares_more_than_it_has(tmp_path):
    path = tmp_path / "a.npz"
    parts = {
        "format": array(b"csr", "S3"),
        "indices": array([0], "i4"),
        "indptr": array([0, 1], "i4"),
        "data": array([1.0], "f8"),
        "shape": array([1, 1], "i8"),
    }
    npz(path, **parts)
    assert read_source(path).matrix.shape == (1, 1)
    npz(path, **{**parts, "data": npy((LARGE,))})
    refused(read_source, path, "bytes are declared")
    npz(path, **{**parts, "shape": array([LARGE, LARGE], "i8")})
    refused(read_source, path, "the machine has")
    npz(path, **{**parts, "shape": array([3, 1], "i8")})
    refused(read_source, path, "index pointer size")
    npz(path, **{**parts, "format": array(b"csc", "S3"), "shape": array([LARGE, 1], "i8")})
    refused(read_source, path, "the machine has")
    npz(path, **{**parts, "format": npy((1,), b"cos\nsystem\n.", "|O")})
    refused(read_source, path, "Python objects")


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    path = tmp_path / "a.npz"
    npz(path, data=npy((1 << 22,), bytes(8 << 22)))
    assert path.stat().st_size < 1 << 17
    monkeypatch.setattr(limits, "machine_memory", lambda: 16 << 20)
    refused(read_source, path, "33554", "the machine has 16777216")


def test_a_line_without_an_end(tmp_path):
    path = tmp_path / "a.mtx.gz"
    with gzip.open(path, "wb", 1) as stream:
        stream.write(b"%%MatrixMarket matrix coordinate real general\n2 2 1\n")
        for _ in range(64):
            stream.write(b" " * (1 << 20))
    refused(read_source, path, "longer than")


@pytest.mark.parametrize(
    "text",
    [
        f"coordinate real general\n{LARGE} 1 1\n1 1 1.0\n",
        f"coordinate real general\n1 1 {LARGE}\n1 1 1.0\n",
        f"array real general\n{LARGE} 1\n1.0\n",
    ],
)
def test_matrix_market(tmp_path, text):
    path = tmp_path / "a.mtx"
    path.write_text(f"%%MatrixMarket matrix {text}")
    refused(read_source, path, "the machine has")


def test_petsc(tmp_path):
    path = tmp_path / "a.petsc"
    path.write_bytes(np.array([1211216, 2**30, 1, 1], ">i4").tobytes())
    refused(read_source, path, "are declared")
    # Row lengths whose sum goes around 64 bits and comes back.
    words = [1211216, 4, 2, 2, 2**62, 2**62, 2**62, 2**62 + 2, 0, 1]
    path.write_bytes(np.array(words, ">i8").tobytes() + bytes(16))
    refused(read_source, path, "do not add up")


def test_columns_that_nothing_in_the_file_backs(tmp_path):
    path = random_content(0, n_cols=50).write(tmp_path / "m.h5")

    def change(file):
        file.attrs["n_cols"] = LARGE
        for name in ("column_part_offsets", "column_permutation", "solution"):
            del file[name]

    edit(path, change)
    with MatrixFile(path) as file:
        refused(lambda _: file.read_column_permutation(0, LARGE), path, "n_cols")


def test_compressed_zeros_that_would_not_fit(tmp_path, monkeypatch):
    path = random_content(0).write(tmp_path / "m.h5")
    edit(
        path,
        lambda file: replace(
            file, "rhs/two", np.zeros((40, 1 << 18)), chunks=(1, 1 << 17), compression="gzip"
        ),
    )
    assert path.stat().st_size < 1 << 20
    monkeypatch.setattr(limits, "machine_memory", lambda: 16 << 20)
    with MatrixFile(path) as file:
        assert file.read_rhs("two", 0, 4).shape == (4, 1 << 18)
        refused(lambda _: file.read_rhs("two", 0, 40), path, "/rhs/two", "the machine has")


def test_no_reader_takes_pickles():
    """Nothing in the package loads what could run code."""
    import re
    from pathlib import Path

    import hpc_sla

    for path in Path(hpc_sla.__file__).parent.rglob("*.py"):
        text = path.read_text()
        assert not re.search(r"^\s*(import|from) (pickle|marshal|shelve|dill|joblib)", text, re.M)
        assert not re.search(r"\beval\(|\bexec\(|allow_pickle=True", text), path
        for call in re.findall(r"np\.load\([^)]*\)", text):
            assert "allow_pickle=False" in call, path
        for call in re.findall(r"torch\.load\([^)]*\)", text):
            assert "weights_only=True" in call, path


def test_the_limit_is_the_machines():
    assert 1 << 28 < limits.machine_memory() < 1 << 62

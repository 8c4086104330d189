"""Matrices inside archives are read as they are, or refused."""

from __future__ import annotations

import gzip
import io
import lzma
import tarfile

import numpy as np
import pytest
import scipy.io
import scipy.sparse as sp

from hpc_sla.storage import archive
from hpc_sla.storage.importers import read_source
from tests.storage.files import DENSE, SYMMETRIC, dense, refused


def mtx(a, **options):
    stream = io.BytesIO()
    scipy.io.mmwrite(stream, sp.coo_array(a) if a.shape[0] == a.shape[1] else a, **options)
    return stream.getvalue()


def tar(path, members, mode="w:gz", kind=tarfile.REGTYPE):
    with tarfile.open(path, mode) as archive_file:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size, member.type = len(content), kind
            archive_file.addfile(member, io.BytesIO(content))
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
    refused(tar(path, {"a/readme": b""}), "no .mtx or .rb file")
    refused(tar(path, {"a/a.mtx": mtx(DENSE)[:-9]}), "a/a.mtx", file=f"{path}/a/a.mtx")
    member = {"a/a.mtx": b""}
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE):
        refused(tar(path, member, kind=kind), "no .mtx or .rb file")
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

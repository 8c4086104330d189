"""Files take their names whole or not at all."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from hpc_sla.errors import InputError
from hpc_sla.storage.atomic import check_writable, replacing
from tests.storage.files import as_ordinary_user, assert_message


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "file"
    path.write_text("before")
    return path


def test_new_content_takes_the_name_at_the_end(path):
    with replacing(path) as temporary:
        temporary.write_text("after")
        assert path.read_text() == "before"
        assert temporary.parent == path.parent
    assert path.read_text() == "after"
    assert os.listdir(path.parent) == ["file"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_on_failure_the_old_content_stays(path, error):
    with pytest.raises(error), replacing(path) as temporary:
        temporary.write_text("half")
        raise error
    assert path.read_text() == "before"
    assert os.listdir(path.parent) == ["file"]


def test_a_file_that_was_not_there(tmp_path):
    with pytest.raises(ValueError, match="now"), replacing(tmp_path / "file"):
        raise ValueError("now")
    assert os.listdir(tmp_path) == []
    with replacing(tmp_path / "file") as temporary:
        temporary.write_text("x")
    assert os.listdir(tmp_path) == ["file"]


def test_two_writers_do_not_share_a_temporary(path):
    with replacing(path) as one, replacing(path) as other:
        assert one != other


KILLED = """
import os, signal, sys
from hpc_sla.storage.atomic import PendingFile
PendingFile(sys.argv[1]).temporary.write_text("half")
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_next_writer_removes_what_a_killed_one_left(path, tmp_path):
    """And neither what one that lives is writing, nor what only looks alike."""
    subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False)
    (left,) = tmp_path.glob(".file.*.part")
    others = [tmp_path / ".file2.0123456789ab.part", tmp_path / ".file.mine.part"]
    for other in others:
        other.write_text("somebody's")
    with replacing(path) as one:
        one.write_text("one")
        assert not left.exists()
        with replacing(path) as other:
            other.write_text("other")
            assert one.exists()
        check_writable(path)
        assert one.exists()
    assert path.read_text() == "one"
    assert set(os.listdir(tmp_path)) == {"file", *(other.name for other in others)}


def test_permissions_are_those_of_any_new_file(path):
    old = os.umask(0o027)
    try:
        with replacing(path) as temporary:
            temporary.write_text("x")
    finally:
        os.umask(old)
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_link_keeps_pointing_where_it_did(path, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(path)
    with replacing(link) as temporary:
        temporary.write_text("after")
    assert link.is_symlink()
    assert path.read_text() == "after"


def test_the_longest_name_there_can_be(tmp_path):
    path = tmp_path / ("n" * 255)
    with replacing(path) as temporary:
        temporary.write_text("x")
    assert path.read_text() == "x"


def enter(path):
    with replacing(path):
        raise AssertionError("got in")


@pytest.mark.parametrize("attempt", [enter, check_writable])
class TestRefusals:
    def test_missing_folder(self, attempt, tmp_path):
        path = tmp_path / "none" / "file"
        with pytest.raises(InputError) as caught:
            attempt(path)
        assert_message(caught.value, path, None, "the folder", "does not exist")

    def test_folder(self, attempt, tmp_path):
        with pytest.raises(InputError) as caught:
            attempt(tmp_path)
        assert_message(caught.value, tmp_path, None, "is a folder")

    def test_below_a_file(self, attempt, path):
        with pytest.raises(InputError) as caught:
            attempt(path / "file")
        assert_message(caught.value, path / "file", None, "cannot be written")

    def test_device(self, attempt):
        with pytest.raises(InputError) as caught:
            attempt("/dev/null")
        assert_message(caught.value, "/dev/null", None, "not a regular file")

    def test_unwritable_folder(self, attempt):
        with as_ordinary_user() as folder:
            folder = folder / "closed"
            folder.mkdir(mode=0o555)
            with pytest.raises(InputError) as caught:
                attempt(folder / "file")
        assert_message(caught.value, folder / "file", None, "permission denied", "writable")


def test_checking_leaves_nothing_and_touches_nothing(path, tmp_path):
    check_writable(path)
    check_writable(tmp_path / "new")
    assert os.listdir(tmp_path) == ["file"]
    assert path.read_text() == "before"


FULL_DISC = """
import resource, sys
import numpy as np, scipy.sparse as sp
from hpc_sla.errors import InputError
from hpc_sla.storage.matrix_writer import write_matrix
from hpc_sla.storage.result_file import ResultWriter

resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
n = 400_000
try:
    write_matrix(sys.argv[1], sp.eye_array(n, format="csr"), np.array([0, n]), np.arange(n), {})
except InputError as error:
    print(error)
try:
    with ResultWriter(sys.argv[1], n, "f8") as writer:
        for start in range(0, n, 1000):
            writer.write_slab("x", start, np.ones(1000))
        writer.finish([1.0], {})
except InputError as error:
    print(error)
"""


def test_a_full_disc(path):
    """HDF5 left to itself crashes the process here."""
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISC, str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    for line in lines:
        assert line.startswith(f"{path}: cannot be written: file too large. Make room")
    assert path.read_text() == "before"
    assert os.listdir(path.parent) == ["file"]

"""A damaged file gives a clear error or, where nothing was lost, the very same answer."""

from __future__ import annotations

import os

import h5py
import numpy as np
import pytest

from hpc_sla.errors import InputError
from hpc_sla.storage.matrix_file import MatrixFile
from tests.storage import damage
from tests.storage.damage_files import (
    checksummed,
    foreign,
    many_blocks,
    many_chunks,
    read_whole_result,
    rectangular,
    result,
    small,
)
from tests.storage.files import assert_identical, read_everything

FILES = {
    "small": (small, read_everything),
    "rectangular": (rectangular, read_everything),
    "many blocks": (many_blocks, read_everything),
    "many chunks": (many_chunks, read_everything),
    "result": (result, read_whole_result),
}


@pytest.fixture(scope="module", params=FILES)
def good(request, tmp_path_factory):
    make, read = FILES[request.param]
    path = tmp_path_factory.mktemp("good") / "good.h5"
    make(path)
    return path.read_bytes(), read, read(path)


def same_or_told(path, content, read, expected):
    """Whether the damage was noticed; anything but an InputError or the same bits fails."""
    path.write_bytes(content)
    try:
        found = read(path)
    except InputError as error:
        assert error.file == os.fspath(path)
        assert error.remedy
        assert "\n" not in str(error)
        return True
    assert_identical(found, expected)
    return False


def spots(content, rng, count):
    """Half of them anywhere, half of them in bookkeeping: near the signatures HDF5 puts there."""
    anywhere = rng.integers(0, len(content), count // 2)
    marks = [
        i
        for word in (b"OHDR", b"OCHK", b"FAHD", b"FADB", b"FRHP", b"FHDB", b"BTHD", b"\x89HDF")
        for i in find_all(content, word)
    ]
    near = rng.choice(marks, count - len(anywhere)) + rng.integers(0, 120, count - len(anywhere))
    return np.concatenate([anywhere, np.minimum(near, len(content) - 1)])


def find_all(content, word):
    start = content.find(word)
    while start >= 0:
        yield start
        start = content.find(word, start + 1)


def test_flipped_bytes(good, tmp_path):
    content, read, expected = good
    rng = np.random.default_rng(20)
    noticed = 0
    for place in spots(content, rng, 60):
        spoilt = bytearray(content)
        spoilt[place] ^= rng.integers(1, 256)
        noticed += same_or_told(tmp_path / "spoilt.h5", spoilt, read, expected)
    assert noticed > 30  # the rest fell on bytes that nothing uses


def test_truncation(good, tmp_path):
    content, read, expected = good
    rng = np.random.default_rng(21)
    lengths = [*rng.integers(0, len(content), 20), len(content) - 1, 8, 48]
    for length in lengths:
        assert same_or_told(tmp_path / "short.h5", content[:length], read, expected), length


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    path = tmp_path_factory.mktemp("large") / "large.h5"
    many_blocks(path)
    return path


def test_blocks_of_zeros(large, tmp_path):
    """What a crashed file system leaves, within chunks."""
    content, expected = large.read_bytes(), read_everything(large)
    rng = np.random.default_rng(22)
    noticed = 0
    for start in rng.integers(0, len(content) - 4096, 20):
        spoilt = content[:start] + bytes(4096) + content[start + 4096 :]
        noticed += same_or_told(tmp_path / "zeros.h5", spoilt, read_everything, expected)
    assert noticed > 15


def test_a_block_of_zeros_is_told(large, tmp_path):
    with h5py.File(large) as file:
        item = file["rhs/b"]
        place = item.id.get_offset()
        size = int(item.attrs["crc32_rows"]) * item.shape[1] * item.dtype.itemsize
    spoilt = bytearray(large.read_bytes())
    spoilt[place : place + size] = bytes(size)
    path = tmp_path / "zeros.h5"
    path.write_bytes(spoilt)
    with MatrixFile(large) as file:
        assert file.compute_digest() == file.digest
    with MatrixFile(path) as file:
        assert file.read_rhs("b", 30_000, 30_100).any()  # of another block
        for first, last in ((0, 1), (1000, 30_000), (0, file.n_rows)):
            with pytest.raises(InputError, match="checksum mismatch in rows 0 to 21844"):
                file.read_rhs("b", first, last)
    with h5py.File(path, "r+") as file:
        del file["rhs/b"].attrs["crc32"]  # as in files of other programs
    with MatrixFile(path) as file:
        assert not file.read_rhs("b", 0, 1000).any()
        assert file.compute_digest() != file.digest


@pytest.mark.parametrize("name", ["data", "indices", "indptr", "permutation", "rhs/b"])
def test_a_flipped_byte_of_a_dataset_is_its_checksums_business(tmp_path, name):
    path = tmp_path / "matrix.h5"
    small(path)
    with h5py.File(path) as file:
        place = file[name].id.get_offset()
    spoilt = bytearray(path.read_bytes())
    spoilt[place + 9] ^= 0x10
    path.write_bytes(spoilt)
    with pytest.raises(InputError) as caught:
        read_everything(path)
    assert caught.value.field == f"/{name}"
    assert "checksum mismatch" in str(caught.value)
    assert "Copy the file again" in str(caught.value)


CASES = 252


@pytest.mark.slow
def test_hundreds_of_damaged_files(tmp_path):
    """Never a wrong answer, a crash, a hang, or an error that is not for the user."""
    counts = damage.tally(checksummed(), range(CASES), tmp_path)
    print(dict(counts))
    assert counts["clear error"] + counts["right answer"] == CASES, counts
    assert counts["clear error"] > CASES * 3 // 4


@pytest.mark.slow
def test_damaged_files_of_other_programs(tmp_path):
    """They have no checksums, and may come to say something else; nothing worse."""
    counts = damage.tally(foreign(), range(168), tmp_path)
    assert not counts.keys() - {"clear error", "right answer", "wrong answer"}, counts
    assert counts["clear error"] > 80


def test_the_tally_sees_what_must_not_be(tmp_path, monkeypatch):
    def hangs(path):
        while True:
            pass

    path = tmp_path / "x.h5"
    path.touch()
    every = lambda found: bool(found)  # noqa: E731
    assert damage.outcome(lambda path: {}, path, every) == "wrong answer"
    assert damage.outcome(lambda path: {"x": 1}, path, every) == "right answer"
    assert damage.outcome(lambda path: {}["x"], path, every) == "traceback"
    assert damage.outcome(lambda path: os.kill(os.getpid(), 11), path, every) == "crash"
    monkeypatch.setattr(damage, "SECONDS", 0.2)  # of the others none hangs, however slow
    assert damage.outcome(hangs, path, every) == "hang"

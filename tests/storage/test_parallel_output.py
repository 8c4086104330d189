"""A file that all ranks write is as one that a single process wrote, or it is not there."""

from __future__ import annotations

import errno
import os
import traceback
import zlib

import h5py
import numpy as np
import pytest

from hpc_sla.errors import InputError
from hpc_sla.storage import block_sums, parallel_output
from hpc_sla.storage.crc32 import joined
from hpc_sla.storage.hdf5 import FLOATS, INT64, dataset, open_read, read_slab
from hpc_sla.storage.parallel_output import ParallelOutput
from tests.collective import everywhere

N = 1003
RNG = np.random.default_rng(5)
CONTENT = {
    "x": RNG.random((N, 3)),
    "group/y": RNG.random(N).astype(np.float32),
    "group/rows": RNG.integers(0, 2**40, 17),
    "no rows": np.empty(0),
    "no columns": np.empty((5, 0)),
}
DATASETS = {name: (array.shape, array.dtype) for name, array in CONTENT.items()}


def cuts(name: str, size: int, seed: int) -> np.ndarray:
    """Where ranks begin, some with nothing."""
    n = len(CONTENT[name])
    inner = np.random.default_rng([seed, n]).integers(0, n + 1, size - 1)
    return np.sort(np.concatenate([[0], inner, [n]]))


def write_all(output: ParallelOutput, rank: int, size: int, seed: int = 0) -> None:
    """All rows, in pieces that are not those of the sums, the last ones first."""
    for name, array in CONTENT.items():
        first, last = cuts(name, size, seed)[rank : rank + 2]
        for start in reversed(range(first, last, 100)):
            output.write(name, start, array[start : min(start + 100, last)])


def check(path, block_bytes: int) -> None:
    with open_read(path) as file:
        assert file.attrs["format"] == "mine"
        for name, array in CONTENT.items():
            item = dataset(file, name, (*FLOATS, *INT64), ndim=(1, 2))
            np.testing.assert_array_equal(read_slab(item, 0, len(array)), array)
            part = slice(2, max(2, len(array) // 2))
            np.testing.assert_array_equal(read_slab(item, part.start, part.stop), array[part])
            if array.size:
                rows = int(item.attrs["crc32_rows"])
                assert rows == max(1, min(len(array), block_bytes // array[0].nbytes))
                sums = [
                    zlib.crc32(array[k : k + rows].tobytes()) for k in range(0, len(array), rows)
                ]
                assert item.attrs["crc32"].tolist() == sums
                assert item.id.get_offset()


def good(path, block_bytes: int) -> bool:
    """`check`, without leaving other ranks alone."""
    try:
        check(path, block_bytes)
    except (AssertionError, InputError):
        traceback.print_exc()
        return False
    return True


@pytest.mark.mpi
@pytest.mark.parametrize("block_bytes", [200, 1 << 20])
@pytest.mark.parametrize("writers", ["ranks", "nodes"])
@pytest.mark.parametrize("unseen", [False, True])
def test_all_ranks_write_one_file(world, folder, monkeypatch, writers, block_bytes, unseen):
    """With the sums of a single process, whatever the cuts; also where ranks do not see it."""
    monkeypatch.setattr(block_sums, "_BLOCK", block_bytes)
    monkeypatch.setattr(parallel_output, "_WINDOW_BYTES", 1000)
    hide(monkeypatch, unseen and world.rank % 2 == 1)
    path, comm = folder / "file.h5", world.comm
    if world.rank == 0:
        monkeypatch.setenv("HPC_SLA_WRITERS", writers)
    for seed in range(3):
        with ParallelOutput(path, comm, DATASETS, writers if seed else None) as output:
            write_all(output, world.rank, world.size, seed)
            if seed:
                output.flush()
            size = output.finish(lambda out: out.file.attrs.__setitem__("format", "mine"))
        assert everywhere(world, size == os.path.getsize(path))
        assert everywhere(world, good(path, block_bytes) and os.listdir(folder) == ["file.h5"])
        world.barrier()


def hide(monkeypatch, hidden: bool) -> None:
    """What another rank has made is not there."""
    real = os.open

    def open_here(path, flags, *rest, **options):
        if hidden and str(path).endswith(".part"):
            raise FileNotFoundError(errno.ENOENT, "No such file or directory")
        return real(path, flags, *rest, **options)

    monkeypatch.setattr(parallel_output.os, "open", open_here)


def test_without_mpi(tmp_path):
    with ParallelOutput(tmp_path / "file.h5", None, DATASETS) as output:
        write_all(output, 0, 1)
        output.finish(lambda out: out.file.attrs.__setitem__("format", "mine"))
        with pytest.raises(ValueError, match="finished"):
            output.finish()
    check(tmp_path / "file.h5", 1 << 20)


def full_disc(monkeypatch, call: str) -> None:
    def fail(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(parallel_output.os, call, fail)


def refuse(out):
    raise InputError("is refused")


@pytest.mark.mpi
@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("pwrite", "no space left on device"),
        ("fsync", "no space left on device"),
        ("complete", "is refused"),
        ("a row is missing", "not every row was written once of x"),
        ("a row comes twice", "not every row was written once of x"),
        ("left", None),
        ("HPC_SLA_WRITERS", "is 'everybody'"),
    ],
)
def test_one_rank_fails_and_all_hear_of_it(world, folder, monkeypatch, what, words):
    path, last = folder / "file.h5", world.size - 1
    if world.rank == 0:
        path.write_text("before")
    caught = None
    if what == "HPC_SLA_WRITERS" and world.rank == 0:
        monkeypatch.setenv(what, "everybody")
    try:
        with ParallelOutput(path, world.comm, DATASETS) as output:
            if what in ("pwrite", "fsync") and world.rank == last:
                full_disc(monkeypatch, what)
            if what == "a row is missing":
                output._sums["x"]._pieces.clear()
                output.write("x", 1, CONTENT["x"][1:2])
            else:
                write_all(output, world.rank, world.size)
            if what == "a row comes twice" and world.rank == last:
                output.write("x", 1, CONTENT["x"][1:2])
            if what != "left":
                output.finish(refuse if what == "complete" else None)
    except ValueError as error:
        caught = error
    monkeypatch.undo()
    told = str(caught) if words else ""
    assert everywhere(world, (caught is None) == (words is None) and (words or "") in told)
    if what in ("pwrite", "fsync"):
        where = f"[on rank {last}]" if last else ""
        assert everywhere(world, isinstance(caught, InputError) and where in told)
        assert everywhere(world, told.startswith(str(path)))
    world.barrier()
    assert everywhere(world, path.read_text() == "before")
    assert everywhere(world, os.listdir(folder) == ["file.h5"])


@pytest.mark.mpi
def test_a_folder_that_is_not_there(world, folder):
    with pytest.raises(InputError, match="does not exist"):
        ParallelOutput(folder / "none" / "file.h5", world.comm, DATASETS)
    assert everywhere(world, os.listdir(folder) == [])


def test_rows_that_do_not_fit(tmp_path):
    with ParallelOutput(tmp_path / "file.h5", None, DATASETS) as output:
        for start, slab in ((N - 2, np.ones((3, 3))), (-1, np.ones((1, 3))), (0, np.ones((1, 2)))):
            with pytest.raises(ValueError, match="do not fit"):
                output.write("x", start, slab)
    assert os.listdir(tmp_path) == []


def test_sums_of_a_large_dataset_are_few():
    shape = (10**12,)
    assert block_sums.block_rows(shape, np.float64) * 8 <= 64 << 20
    assert block_sums.block_rows((10**10,), np.float64) * (1 << 15) >= 10**10 - (1 << 15)
    assert block_sums.block_rows((10**6,), np.float64) * 8 == 1 << 20


def test_sums_of_two_runs():
    rng = np.random.default_rng(0)
    for a, b in rng.integers(0, 3000, (50, 2)):
        one, other = rng.bytes(a), rng.bytes(b)
        assert joined(zlib.crc32(one), zlib.crc32(other), b) == zlib.crc32(one + other)


def test_other_programs_read_it(tmp_path):
    with ParallelOutput(tmp_path / "file.h5", None, DATASETS) as output:
        write_all(output, 0, 1)
        output.finish()
    with h5py.File(tmp_path / "file.h5") as file:
        np.testing.assert_array_equal(file["x"][10:20], CONTENT["x"][10:20])
        assert file["x"].chunks is None

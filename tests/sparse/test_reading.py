"""Each rank opens a matrix file once and reads its rows once; together ranks see all damage."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

import hpc_sla as hs
from hpc_sla.cli.run.plan import plan_run
from hpc_sla.partition import order_by_part, reorder
from hpc_sla.sparse.from_hdf5 import open_together, read_rhs
from hpc_sla.storage import block_sums, hdf5, stored_rows
from hpc_sla.storage.matrix_file import MatrixFile
from hpc_sla.storage.matrix_writer import write_matrix
from tests.collective import dense, everywhere, full, random_matrix

pytestmark = pytest.mark.mpi
N = 61
ROWS = ("indptr", "indices", "data", "permutation", "rhs/b")


@pytest.fixture
def path(world, folder, monkeypatch):
    """A file in small blocks, which ranks share."""
    monkeypatch.setattr(block_sums, "_BLOCK", 2000)
    matrix = random_matrix(N, 0.2, 1)
    permutation, offsets = order_by_part(np.arange(N) % 5, 5)
    rhs = np.random.default_rng(1).standard_normal(N)
    path = folder / "m.h5"
    with world.agree():
        if world.rank == 0:
            write_matrix(path, reorder(matrix, permutation), offsets, permutation, {"b": rhs})
    return str(path)


class Count:
    """Of what goes to the system for files called .h5."""

    def __init__(self, monkeypatch):
        self.opens = self.read = 0
        opened, preadv, h5 = os.open, os.preadv, hdf5._open_with

        def open_(name, *args, **kw):
            self.opens += str(name).endswith(".h5")
            return opened(name, *args, **kw)

        def preadv_(*args):
            got = preadv(*args)
            self.read += got
            return got

        def h5_(*args):
            self.opens += 1
            return h5(*args)

        monkeypatch.setattr(stored_rows.os, "open", open_)
        monkeypatch.setattr(stored_rows.os, "preadv", preadv_)
        monkeypatch.setattr(hdf5, "_open_with", h5_)


def test_one_open_and_each_row_once(world, path, monkeypatch):
    count = Count(monkeypatch)
    plan = world.on_root(lambda: plan_run(path, None, "", world.size))
    A = plan.system.matrix(world)
    b = plan.system.right_hand_side(A.layout)
    monkeypatch.undo()
    assert everywhere(world, count.opens == 1)
    with h5py.File(path) as file:
        whole = sum(file[name].nbytes for name in ROWS)
        matrix = random_matrix(N, 0.2, 1)
        expected = full(A.layout, b)
        order, stored = file["permutation"][:], file["rhs/b"][:]
        assert everywhere(world, np.array_equal(expected[order], stored))
    # Where a rank's rows end is where the next one's begin: 8 bytes twice.
    assert world.comm.allreduce(count.read) == whole + 8 * (world.size - 1)
    np.testing.assert_array_equal(dense(A), matrix.toarray())


@pytest.mark.parametrize("name", ROWS)
def test_damage_of_a_block_that_ranks_share_is_heard_of_by_all(world, path, name):
    """Of any byte, on whichever rank."""
    clean = Path(path).read_bytes()
    with h5py.File(path) as file:
        item = file[name]
        offset, size, width = item.id.get_offset(), item.nbytes, item.dtype.itemsize
    world.barrier()
    for place in range(0, size, max(width, size // 5 // width * width)):
        if world.rank == 0:
            spoilt = bytearray(clean)
            spoilt[offset + place] ^= 1
            with open(path, "r+b") as stream:
                stream.write(spoilt)
        world.barrier()
        with pytest.raises(hs.InputError, match="checksum mismatch") as caught:
            A = hs.DSparseMatrix.from_hdf5(path, world)
            read_rhs(path, "b", A.layout)
        assert everywhere(world, caught.value.field == f"/{name}")
        world.barrier()


def test_ranks_with_copies_and_with_other_files(world, path, folder):
    mine = str(folder / f"copy{world.rank}.h5")
    shutil.copy(path, mine)
    A = hs.DSparseMatrix.from_hdf5(mine, world)
    np.testing.assert_array_equal(dense(A), random_matrix(N, 0.2, 1).toarray())
    if world.rank == world.size - 1:
        with h5py.File(mine, "r+") as file:
            file.attrs["content_sha256"] = "0" * 64
    world.barrier()
    if world.size > 1:
        with pytest.raises(hs.InputError, match="ranks read different files"):
            hs.DSparseMatrix.from_hdf5(mine, world)
    world.barrier()
    if world.rank == world.size - 1:
        os.remove(mine)
    with pytest.raises(hs.InputError, match="no such file"):
        hs.DSparseMatrix.from_hdf5(mine, world)


def test_no_rank_leaves_open_what_another_could_not(world, path, monkeypatch):
    join = MatrixFile.join

    def refused(self, *name):
        join(self, *name)
        if world.rank == world.size - 1:
            raise hs.InputError("refused", file=path)

    monkeypatch.setattr(MatrixFile, "join", refused)
    with pytest.raises(hs.InputError, match="refused") as caught:
        open_together(path, world)
    here = Path("/proc/self/fd")
    left = [file for file in os.listdir(here) if os.path.realpath(here / file) == path]
    assert everywhere(world, not left), caught


def test_a_file_in_chunks_is_read_by_hdf5(world, path, folder):
    """As earlier versions wrote it."""
    if world.rank == 0:
        with h5py.File(path, "r+") as file:
            values = file["data"][:]
            del file["data"]
            file.create_dataset("data", data=values, chunks=(7,), fletcher32=True)
    world.barrier()
    A = hs.DSparseMatrix.from_hdf5(path, world)
    np.testing.assert_array_equal(dense(A), random_matrix(N, 0.2, 1).toarray())

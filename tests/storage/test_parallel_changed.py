"""Files that are exchanged or written to while many ranks read them."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace

import h5py
import numpy as np
import pytest
import scipy.io
import scipy.sparse as sp

from hpc_sla.errors import InputError
from hpc_sla.messages.peers import Peers
from hpc_sla.storage.numpy_files import npz_headers
from hpc_sla.storage.parallel.local_rows import even_runs
from hpc_sla.storage.parallel.npz_members import MemberItems, members_of
from hpc_sla.storage.parallel.same_file import same_file
from tests.collective import everywhere
from tests.storage.files import random_content, random_square
from tests.storage.test_other_formats import anndata
from tests.storage.test_petsc_binary import mat, vec
from tests.storage.together import cut_for, message, on_root, rows_of_vector, together

pytestmark = pytest.mark.mpi

N = 40


def write(path, factor):
    """Files that differ in their values only."""
    matrix = sp.csr_array(random_square(13, n=N))
    matrix.data = factor * np.round(10 * matrix.data)
    name = path.name
    if name == "m.petsc":
        lengths = np.diff(matrix.indptr)
        path.write_bytes(mat(False, N, N, matrix.nnz, lengths, matrix.indices, matrix.data))
    elif name.endswith("npz"):
        sp.save_npz(path, matrix, compressed=name[0] == "m")
    elif name == "m.h5":
        random_content(14, n=N).write(path)
        with h5py.File(path, "r+") as file:
            file["copy"] = factor * np.ones(3)
    elif name == "m.h5ad":
        anndata(path, matrix.toarray())
    elif name == "b.npy":
        np.save(path, factor * np.arange(float(N)))
    elif name == "b.petsc":
        path.write_bytes(vec(False, factor * np.arange(float(N))))
    else:
        scipy.io.mmwrite(path, matrix)


def renamed(path, other):
    os.replace(other, path)


def written_to(path, other):
    shutil.copyfile(other, path)


NAMES = ["m.npz", "s.npz", "m.petsc", "m.h5", "m.h5ad", "m.mtx", "b.npy", "b.petsc"]


@pytest.mark.parametrize("change", [renamed, written_to])
@pytest.mark.parametrize("name", NAMES)
def test_a_file_is_not_read_half_from_one_and_half_from_another(world, folder, name, change):
    path, other = folder / name, folder / "other" / name
    on_root(world, lambda: (other.parent.mkdir(), write(path, 1.0), write(other, 2.0)))
    read = rows_of_vector if name[0] == "b" else together

    def cut(*arguments):
        """Asked for when the header has been read."""
        world.barrier()
        if world.rank == 0:
            change(path, other)
        world.barrier()
        return cut_for(world)(*arguments)

    said = message(lambda: read(world, path, cut))
    assert everywhere(world, "replaced or written to while it was read" in said), said
    assert everywhere(world, message(lambda: read(world, path)) == "")


@pytest.mark.several
def test_copies_of_nodes_that_differ(world, folder):
    if world.size == 1:
        pytest.skip("there is no other node")
    path = folder / f"{world.rank == 0}" / "b.npy"
    path.parent.mkdir(exist_ok=True)
    np.save(path, np.arange(5.0) + (world.rank == 0))
    found = []
    with Peers(world.comm) as peers:
        for name in (folder / "False" / "b.npy", path):
            world.barrier()
            try:
                with same_file(peers, str(name)):
                    pass
                found.append("")
            except InputError as error:
                found.append(str(error))
    assert everywhere(world, not found[0] and "different files" in found[1]), found


@pytest.mark.parametrize("compressed", [True, False])
def test_each_rank_compares_the_sum_that_rank_0_saw(world, folder, compressed):
    """Those in the archive would be right, of one that somebody has exchanged."""
    path = folder / "m.npz"
    on_root(world, lambda: sp.save_npz(path, random_square(1, n=N), compressed=compressed))
    with Peers(world.comm) as peers:
        member = members_of(str(path), npz_headers(path))["data"]
        cuts = even_runs(peers, MemberItems(peers, member).length)
        good = message(lambda: MemberItems(peers, member).part(cuts))
        other = replace(member, sum=member.sum ^ 1)
        bad = message(lambda: MemberItems(peers, other).part(cuts))
    assert everywhere(world, good == "" and "Bad CRC-32" in bad), (good, bad)

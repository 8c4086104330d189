"""Of bad files many ranks say what one process says, and no damage gives them another matrix."""

from __future__ import annotations

import gzip

import h5py
import numpy as np
import pytest
import scipy.io
import scipy.sparse as sp

from hpc_sla.errors import InputError
from hpc_sla.storage.importers import read_source, read_vector
from tests.collective import everywhere
from tests.storage.files import market, npy, random_content, random_square
from tests.storage.test_bad_imports import BAD_MATRICES, BAD_VECTORS
from tests.storage.test_other_formats import anndata
from tests.storage.test_parallel_readers import (
    alone,
    differences,
    on_root,
    rows_of_vector,
    together,
)
from tests.storage.test_petsc_binary import mat

pytestmark = pytest.mark.mpi


def message(read):
    try:
        read()
    except InputError as error:
        return str(error)
    return ""


def said_alike(world, one, other):
    """What all ranks raise is one message, that of a process alone."""
    found = message(one)
    return everywhere(world, found and found == message(other)), found


def test_bad_matrices(world, folder):
    for case, (name, content, _) in BAD_MATRICES.items():
        path = folder / name
        on_root(world, lambda path=path, content=content: path.write_bytes(content))
        good, found = said_alike(
            world, lambda path=path: together(world, path), lambda path=path: read_source(path)
        )
        assert good, (case, found)


def test_bad_vectors(world, folder):
    for case, (name, content, _) in BAD_VECTORS.items():
        path = folder / name
        on_root(world, lambda path=path, content=content: path.write_bytes(content))
        good, found = said_alike(
            world,
            lambda path=path: rows_of_vector(world, path),
            lambda path=path: read_vector(path),
        )
        assert good, (case, found)


def test_missing(world, folder):
    for name in ("none.mtx", "none.npz", ".", "m.xyz"):
        good, found = said_alike(
            world,
            lambda name=name: together(world, folder / name),
            lambda name=name: read_source(folder / name),
        )
        assert good, found


CHANGED = ["m.mtx", "m.mtx.gz", "m.npz", "s.npz", "m.petsc", "m.h5"]


@pytest.mark.parametrize("name", CHANGED)
def test_a_damaged_file_is_refused_or_is_what_one_process_reads(world, folder, name):
    """Cut, and flipped: no damage gives ranks another matrix."""
    path = folder / name
    matrix = sp.csr_array(random_square(13, n=25))

    def write():
        if name == "m.petsc":
            lengths = np.diff(matrix.indptr)
            path.write_bytes(mat(False, 25, 25, matrix.nnz, lengths, matrix.indices, matrix.data))
        elif name.endswith("npz"):
            sp.save_npz(path, matrix, compressed=name[0] == "m")
        elif name == "m.h5":
            random_content(14).write(path)
        else:
            scipy.io.mmwrite(folder / "plain.mtx", matrix)
            text = (folder / "plain.mtx").read_bytes()
            path.write_bytes(gzip.compress(text) if name.endswith("gz") else text)

    on_root(world, write)
    content = path.read_bytes()
    world.barrier()
    rng = np.random.default_rng(15)
    refused = 0
    for trial in range(12):
        damaged = bytearray(content)
        if trial % 3 == 0:
            del damaged[int(rng.integers(0, len(content))) :]
        else:
            damaged[int(rng.integers(0, len(content)))] ^= 1 << int(rng.integers(0, 8))
        on_root(world, lambda damaged=damaged: path.write_bytes(damaged))
        expected = message(lambda: read_source(path))
        found: list = []
        said = message(lambda found=found: found.append(together(world, path)))
        if expected:
            good = said == expected
        else:
            good = said == "" and differences(found[0], alone(path)) == []
        refused += bool(expected)
        assert everywhere(world, good), (trial, said, expected)
    assert refused


def test_ranks_find_damage_without_the_help_of_one_process(world, folder, monkeypatch):
    """As in a file that is too large to be read by one."""
    monkeypatch.setattr("hpc_sla.storage.parallel.source._READ_AGAIN", -1)
    last = market("coordinate real general", "9 9 9\n" + "1 1 1\n" * 8 + "1 x 1")
    path = folder / "m.mtx"
    on_root(world, lambda: path.write_bytes(last))
    found = message(lambda: together(world, path))
    assert everywhere(world, "line 11" in found and "'x' is not a row" in found), found
    both = market("coordinate real symmetric", "9 9 3\n2 1 1\n5 5 1\n1 2 1")
    on_root(world, lambda: path.write_bytes(both))
    found = message(lambda: together(world, path))
    assert everywhere(world, "line 5" in found and "(1, 2)" in found), found

    path = folder / "m.npz"

    def flip():
        sp.save_npz(path, random_square(16, n=40), compressed=False)
        content = bytearray(path.read_bytes())
        place = content.index(b"data.npy") + 200  # within the values
        content[place] ^= 1
        path.write_bytes(content)

    on_root(world, flip)
    found = message(lambda: together(world, path))
    assert everywhere(world, "Bad CRC-32" in found), found

    path = folder / "m.h5ad"
    on_root(world, lambda: anndata(path, np.eye(9), indices=np.array([0, 1, 2, 3, 4, 5, 6, 7, 9])))
    found = message(lambda: together(world, path))
    assert everywhere(world, "indices must be" in found), found


def test_a_value_that_is_not_finite_is_named_by_its_place_in_all(world, folder):
    path = folder / "b.npy"
    values = np.arange(30.0)
    values[26] = np.inf
    on_root(world, lambda: path.write_bytes(npy(values)))
    found = message(lambda: rows_of_vector(world, path))
    assert everywhere(world, "position 26" in found), found


def test_a_permutation_that_repeats_a_row(world, folder):
    path = folder / "m.h5"

    def write():
        random_content(17).write(path)
        with h5py.File(path, "r+") as file:
            rows = file["permutation"][:]
            rows[3] = rows[30]
            del file["permutation"]
            file["permutation"] = rows

    on_root(world, write)
    found = message(lambda: together(world, path))
    assert everywhere(world, "/permutation: repeats a row" in found), found

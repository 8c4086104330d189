"""`A.to_hdf5`: what is written is read back, on the same ranks and by one."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
import scipy.sparse as sp
import torch

import hpc_sla as hs
from hpc_sla.sparse.from_hdf5 import read_rhs
from hpc_sla.storage.importers import read_source
from hpc_sla.storage.matrix_file import MatrixFile
from tests.collective import MATRICES, dense, everywhere, full, on, spread

pytestmark = pytest.mark.mpi


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", MATRICES)
def test_read_back_equal(world, folder, name, dtype):
    matrix = MATRICES[name]()
    matrix = sp.csr_matrix(matrix, dtype=np.float32 if dtype == torch.float32 else np.float64)
    n = matrix.shape[0]
    A = hs.DSparseMatrix.from_scipy(matrix, world, block_size=1)
    rng = np.random.default_rng(1)
    b, two, x = rng.random(n), rng.random((n, 2)), rng.random(n)
    A.coordinates = spread(A.layout, rng.random((n, 3)))
    A.near_nullspace = spread(A.layout, rng.random((n, 2)))
    path = folder / "a.h5"
    rhs = {"b": spread(A.layout, b), "two": spread(A.layout, two)}
    A.to_hdf5(path, rhs, {"b": spread(A.layout, x)}, {"source": "a test"})

    again = hs.DSparseMatrix.from_hdf5(path, world)
    same = np.array_equal(again.layout.rows, A.layout.rows) and torch.equal(again.values, A.values)
    same &= torch.equal(again.coordinates, A.coordinates)
    same &= torch.equal(again.near_nullspace, A.near_nullspace)
    assert everywhere(world, same and again.dtype == dtype)
    assert again.unknowns.block_size == 1
    np.testing.assert_array_equal(dense(again), matrix.toarray())
    read = full(A.layout, read_rhs(path, "two", A.layout))
    np.testing.assert_array_equal(read, two.astype(matrix.dtype))

    alone = read_source(path)
    np.testing.assert_array_equal(alone.matrix.toarray(), matrix.toarray())
    np.testing.assert_array_equal(alone.rhs_by_name["b"], b.astype(matrix.dtype))
    np.testing.assert_array_equal(alone.solution_by_name["b"], x.astype(matrix.dtype))
    with MatrixFile(path) as file:
        assert file.parts == world.size
        assert file.attributes["source"] == "a test"
        assert file.compute_digest() == file.digest


def test_a_rectangular_matrix(world, folder):
    matrix = sp.random_array((31, 17), density=0.2, rng=np.random.default_rng(2), format="csr")
    A = hs.DSparseMatrix.from_scipy(matrix, world, partition="metis")
    path = folder / "a.h5"
    x = np.arange(17.0)
    A.to_hdf5(path, {"b": A @ spread(A.columns, x)}, {"b": spread(A.columns, x)})
    again = hs.DSparseMatrix.from_hdf5(path, world)
    np.testing.assert_array_equal(dense(again), matrix.toarray())
    assert everywhere(world, np.array_equal(again.columns.rows, A.columns.rows))
    np.testing.assert_array_equal(read_source(path).solution_by_name["b"], x)


def test_five_lines_of_h5py_make_sense_of_it(world, folder):
    matrix = MATRICES["random"]()
    A = hs.DSparseMatrix.from_scipy(matrix, world)
    A.to_hdf5(folder / "a.h5")
    with h5py.File(folder / "a.h5") as f:
        p = f["permutation"][:]
        stored = sp.csr_array((f["data"][:], f["indices"][:], f["indptr"][:]), shape=matrix.shape)
    found = np.zeros(matrix.shape)
    found[np.ix_(p, p)] = stored.toarray()
    np.testing.assert_array_equal(found, matrix.toarray())


def test_what_is_refused_leaves_the_file_that_was_there(world, folder):
    A = hs.DSparseMatrix.from_scipy(MATRICES["random"](), world)
    path = folder / "a.h5"
    A.to_hdf5(path)
    before = path.read_bytes()
    n = A.layout.n_owned
    infinite = torch.full((n,), float("inf" if world.rank == world.size - 1 else 1))
    for what, words in (
        (lambda: A.to_hdf5(path, {"b": on(world, np.ones(n + 1))}), "n"),
        (lambda: A.to_hdf5(path, {"b": infinite}), "/rhs/b: holds inf"),
        (lambda: A.to_hdf5(path, {"a/b": on(world, np.ones(n))}), "cannot be called 'a/b'"),
        (lambda: A.to_hdf5(folder / "none" / "a.h5"), "does not exist"),
    ):
        with pytest.raises(hs.InputError, match=words):
            what()
    assert everywhere(world, path.read_bytes() == before)
    assert everywhere(world, [p.name for p in folder.iterdir()] == ["a.h5"])

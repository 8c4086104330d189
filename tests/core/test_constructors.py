"""from_scipy, from_coo and from_hdf5 make the same matrix; bad input is refused everywhere."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch

import hpc_sla as hs
from hpc_sla.partition import order_by_part, partition, reorder
from hpc_sla.storage.matrix_writer import write_matrix
from tests.collective import (
    MATRICES,
    dense,
    distribute,
    everywhere,
    full,
    on,
    random_matrix,
    spread,
)

pytestmark = pytest.mark.mpi


def _triplets(matrix, mine):
    """The entries of the rows `mine`, shuffled, each split in two that must be summed."""
    coo = sp.coo_matrix(matrix)
    keep = np.isin(coo.row, mine)
    rows, cols, data = coo.row[keep], coo.col[keep], coo.data[keep]
    order = np.random.default_rng(0).permutation(2 * len(rows))
    twice = [np.concatenate([a, a])[order] for a in (rows, cols)]
    return *twice, np.concatenate([0.25 * data, 0.75 * data])[order]


OWNERS = {
    "contiguous": lambda n, rank, size: np.arange(n * rank // size, n * (rank + 1) // size),
    "uneven": lambda n, rank, size: (
        np.arange(n - size + 1) if rank == 0 else np.array([n - size + rank])
    ),
    "cyclic": lambda n, rank, size: np.arange(rank, n, size),
    "all on rank 0": lambda n, rank, size: np.arange(n if rank == 0 else 0),
}


@pytest.mark.parametrize("owner", OWNERS)
@pytest.mark.parametrize("name", MATRICES)
def test_from_coo_assembles_what_scipy_does(world, name, owner):
    matrix = MATRICES[name]()
    n = matrix.shape[0]
    mine = OWNERS[owner](n, world.rank, world.size)
    mine = mine[mine >= 0]
    rows, cols, data = _triplets(matrix, mine)
    A = hs.DSparseMatrix.from_coo(rows, cols, data, matrix.shape, world)
    np.testing.assert_allclose(dense(A), matrix.toarray(), atol=1e-15)
    x = np.random.default_rng(1).standard_normal(n)
    np.testing.assert_allclose(full(A.layout, A @ spread(A.layout, x)), matrix @ x, atol=1e-13)
    owned = np.concatenate(world.comm.allgather(A.layout.rows))
    assert np.array_equal(np.sort(owned), np.arange(n))
    assert everywhere(world, np.isin(np.unique(rows), A.layout.rows).all())


def test_from_coo_is_differentiable_in_its_values(world):
    matrix = random_matrix(13, 0.4, 3)
    rows, cols, data = _triplets(matrix, OWNERS["cyclic"](13, world.rank, world.size))
    values = on(world, data).requires_grad_()
    A = hs.DSparseMatrix.from_coo(rows, cols, values, matrix.shape, world)
    x = np.random.default_rng(2).standard_normal(13)
    t = spread(A.layout, x)
    A.layout.dot(t, A @ t).backward()
    assert everywhere(world, np.allclose(values.grad.cpu().numpy(), x[rows] * x[cols]))


def test_from_coo_refuses_a_row_of_two_ranks(world):
    if world.size == 1:
        pytest.skip("needs two ranks")
    with pytest.raises(hs.InputError, match="row 3 was passed by ranks"):
        hs.DSparseMatrix.from_coo([3], [3], [1.0], (5, 5), world)


def test_ranks_without_entries_follow_the_others_dtype(world):
    mine = [0, 1] if world.rank == 0 else []
    values = torch.tensor([1.0, 2.0], dtype=torch.float64) if mine else torch.tensor([])
    A = hs.DSparseMatrix.from_coo(mine, mine, values, (2, 2), world)
    assert everywhere(world, A.dtype == torch.float64)
    listed = hs.DSparseMatrix.from_coo(mine, mine, [1.0] * len(mine), (2, 2), world)
    assert everywhere(world, listed.dtype == torch.float64)


def test_ranks_that_differ_in_dtype_are_an_error_everywhere(world):
    if world.size == 1:
        pytest.skip("needs two ranks")
    dtype = torch.float32 if world.rank == 1 else torch.float64
    with pytest.raises(hs.InputError, match="ranks differ"):
        hs.DSparseMatrix.from_coo(
            [world.rank], [world.rank], torch.ones(1, dtype=dtype), (world.size,) * 2, world
        )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([5], [0], [1.0], (5, 5)), "index 5 is outside 0 to 4"),
        (([0], [-1], [1.0], (5, 5)), "index -1 is outside"),
        (([0], [0, 1], [1.0], (5, 5)), "do not make triplets"),
        (([0], [0], [1.0], (5, 4)), "not square"),
        (([0], [0], [1], (5, 5)), "not supported"),
        (([0.5], [0], [1.0], (5, 5)), "not integers"),
    ],
)
def test_bad_triplets_on_one_rank_are_an_error_on_all(world, arguments, message):
    last = world.rank == world.size - 1
    good = (np.empty(0, int), np.empty(0, int), np.empty(0), arguments[3])
    with pytest.raises(hs.InputError, match=message):
        hs.DSparseMatrix.from_coo(*(arguments if last else good), world)


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (np.eye(3), "SciPy sparse matrix"),
        (sp.csr_matrix((3, 4)), "not square"),
        (sp.csr_matrix(np.array([[np.nan]])), "NaN"),
        (sp.csr_matrix(np.array([[1j]])), "complex"),
    ],
)
def test_from_scipy_refuses_everywhere(world, matrix, message):
    with pytest.raises(hs.InputError, match=message):
        hs.DSparseMatrix.from_scipy(matrix if world.rank == 0 else None, world)


@pytest.fixture
def shared_path(world, tmp_path_factory):
    return world.comm.bcast(str(tmp_path_factory.mktemp("shared")) if world.rank == 0 else None)


@pytest.mark.parametrize("parts", [1, 2, 3, 5])
@pytest.mark.parametrize("name", ["random", "disconnected", "one row", "no entries"])
def test_from_hdf5_opens_any_part_count(world, shared_path, name, parts):
    matrix = MATRICES[name]()
    path = f"{shared_path}/a.h5"
    b = np.random.default_rng(4).standard_normal(matrix.shape[0])
    if world.rank == 0:
        permutation, offsets = order_by_part(partition(matrix, parts), parts)
        write_matrix(
            path, reorder(matrix, permutation), offsets, permutation, {"b": b[permutation]}
        )
    world.barrier()
    A = hs.DSparseMatrix.from_hdf5(path, world)
    np.testing.assert_array_equal(dense(A), matrix.toarray())
    rhs = hs.read_rhs(path, "b", A.layout)
    np.testing.assert_array_equal(full(A.layout, rhs), b)
    np.testing.assert_allclose(full(A.layout, A @ rhs), matrix @ b, atol=1e-13)
    assert hs.DSparseMatrix.from_hdf5(path, world, dtype=torch.float32).dtype == torch.float32


def test_a_missing_file_is_one_error_on_every_rank(world, shared_path):
    with pytest.raises(hs.InputError, match=r"nowhere\.h5") as caught:
        hs.DSparseMatrix.from_hdf5(f"{shared_path}/nowhere.h5", world)
    assert len(set(world.comm.allgather(str(caught.value)))) == 1


def test_the_matrix_of_rank_0_is_left_alone(world):
    matrix = MATRICES["random"]()
    before = matrix.copy()
    distribute(matrix, world)
    assert abs(matrix - before).nnz == 0 and np.array_equal(matrix.indices, before.indices)

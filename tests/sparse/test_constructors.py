"""from_scipy, from_coo and from_hdf5 make the same matrix; bad input is refused everywhere."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
import scipy.sparse as sp
import torch

import hpc_sla as hs
from hpc_sla.cli.prepare import Source, write_partitioned
from hpc_sla.partition import column_parts, even_offsets
from hpc_sla.partition.offsets import contiguous
from hpc_sla.storage.matrix_writer import write_matrix
from tests.collective import (
    ALL_SHAPES,
    MATRICES,
    RECTANGULAR,
    dense,
    distribute,
    everywhere,
    full,
    on,
    random_rectangular,
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
@pytest.mark.parametrize("name", ALL_SHAPES)
def test_from_coo_assembles_what_scipy_does(world, name, owner):
    matrix = ALL_SHAPES[name]()
    n = matrix.shape[0]
    mine = _mine(owner, n, world)
    rows, cols, data = _triplets(matrix, mine)
    A = hs.DSparseMatrix.from_coo(rows, cols, data, matrix.shape, world)
    np.testing.assert_allclose(dense(A), matrix.toarray(), atol=1e-15)
    x = np.random.default_rng(1).standard_normal(matrix.shape[1])
    np.testing.assert_allclose(full(A.layout, A @ spread(A.columns, x)), matrix @ x, atol=1e-13)
    owned = np.concatenate(world.comm.allgather(A.layout.rows))
    assert np.array_equal(np.sort(owned), np.arange(n))
    assert everywhere(world, np.isin(np.unique(rows), A.layout.rows).all())
    if matrix.shape[0] != matrix.shape[1]:
        even = even_offsets(matrix.shape[1], world.size)
        assert np.array_equal(A.columns.offsets, even)
        assert everywhere(
            world, np.array_equal(A.columns.rows, np.arange(*even[world.rank : world.rank + 2]))
        )


def _mine(owner, n, world):
    mine = OWNERS[owner](n, world.rank, world.size)
    return mine[mine >= 0]


@pytest.mark.parametrize("owner", OWNERS)
@pytest.mark.parametrize("name", RECTANGULAR)
def test_from_coo_with_columns_of_ones_own(world, name, owner):
    matrix = RECTANGULAR[name]()
    m, n = matrix.shape
    rows, cols, data = _triplets(matrix, _mine("cyclic", m, world))
    mine = _mine(owner, n, world)
    claimed = mine[mine % 5 != 4]  # some that nobody names
    shuffled = np.random.default_rng(0).permutation(claimed)
    A = hs.DSparseMatrix.from_coo(rows, cols, data, (m, n), world, columns=shuffled)
    np.testing.assert_allclose(dense(A), matrix.toarray(), atol=1e-15)
    owned = A.columns.rows
    assert everywhere(world, np.isin(claimed, owned).all() and (np.diff(owned) > 0).all())
    homes = even_offsets(n, world.size)
    orphans = np.setdiff1d(owned, claimed)
    assert everywhere(
        world, ((orphans >= homes[world.rank]) & (orphans < homes[world.rank + 1])).all()
    )
    y = np.random.default_rng(1).standard_normal(m)
    np.testing.assert_allclose(full(A.columns, A.T @ spread(A.layout, y)), matrix.T @ y, atol=1e-13)


def test_from_coo_refuses_bad_columns(world):
    nothing = ([], [], np.empty(0))
    with pytest.raises(hs.InputError, match="square matrix are owned as its rows"):
        hs.DSparseMatrix.from_coo(*nothing, (3, 3), world, columns=[])
    with pytest.raises(hs.InputError, match="index 4 is outside 0 to 3"):
        mine = [4] if world.rank == world.size - 1 else []
        hs.DSparseMatrix.from_coo(*nothing, (3, 4), world, columns=mine)
    if world.size > 1:
        with pytest.raises(hs.InputError, match="column 2 was passed by ranks") as caught:
            hs.DSparseMatrix.from_coo(*nothing, (3, 4), world, columns=[2])
        assert caught.value.field == "columns"
        with pytest.raises(hs.InputError, match="ranks differ"):
            mine = None if world.rank else []
            hs.DSparseMatrix.from_coo(*nothing, (3, 4), world, columns=mine)


@pytest.mark.parametrize("n", [13, 6, 20])
def test_from_coo_is_differentiable_in_its_values(world, n):
    matrix = random_rectangular(13, n, 0.4, 3)
    rows, cols, data = _triplets(matrix, OWNERS["cyclic"](13, world.rank, world.size))
    values = on(world, data).requires_grad_()
    A = hs.DSparseMatrix.from_coo(rows, cols, values, matrix.shape, world)
    y, x = np.random.default_rng(2).standard_normal((2, 20))
    A.layout.dot(spread(A.layout, y), A @ spread(A.columns, x)).backward()
    assert everywhere(world, np.allclose(values.grad.cpu().numpy(), y[rows] * x[cols]))


@pytest.mark.parametrize("name", RECTANGULAR)
def test_from_scipy_places_columns_as_asked(world, name):
    matrix = RECTANGULAR[name]()
    m, n = matrix.shape
    given = matrix if world.rank == 0 else None
    rank_of = np.random.default_rng(3).integers(0, world.size, n)
    for asked, expected in (
        (None, column_parts(matrix, contiguous(m, world.size), world.size)),
        ("majority", column_parts(matrix, contiguous(m, world.size), world.size)),
        ("contiguous", contiguous(n, world.size)),
        (rank_of, rank_of),
    ):
        A = hs.DSparseMatrix.from_scipy(given, world, column_partition=asked)
        rows = np.flatnonzero(contiguous(m, world.size) == world.rank)
        assert everywhere(world, np.array_equal(A.layout.rows, rows))
        assert everywhere(
            world, np.array_equal(A.columns.rows, np.flatnonzero(expected == world.rank))
        )
        np.testing.assert_array_equal(dense(A), matrix.toarray())


@pytest.mark.parametrize(
    ("shape", "partition", "message"),
    [
        ((3, 3), "majority", "square matrix are owned as its rows"),
        ((3, 4), "metis", "no column partition 'metis'"),
        ((3, 4), np.zeros(3, dtype=int), "needs 4 integers"),
        ((3, 4), np.full(4, 99), "ranks 99 to 99"),
        ((3, 4), np.zeros(4), "needs 4 integers"),
    ],
)
def test_from_scipy_refuses_bad_column_partitions(world, shape, partition, message):
    given = sp.csr_matrix(shape) if world.rank == 0 else None
    with pytest.raises(hs.InputError, match=message) as caught:
        hs.DSparseMatrix.from_scipy(given, world, column_partition=partition)
    assert caught.value.field == "column_partition"


def test_from_scipy_keeps_no_more_than_its_rows(world):
    """Of a numbering of all rows, as scattered ones have it, each rank its own."""
    owner = np.random.default_rng(4).integers(0, world.size, 60)
    given = sp.eye_array(60, format="csr") if world.rank == 0 else None
    rows = hs.DSparseMatrix.from_scipy(given, world, owner).layout.rows
    while rows.base is not None and isinstance(rows.base, np.ndarray):
        rows = rows.base
    assert everywhere(world, len(rows) == np.sum(owner == world.rank))


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
        (([0], [4], [1.0], (5, 4)), "index 4 is outside 0 to 3"),
        (([4], [0], [1.0], (4, 5)), "index 4 is outside 0 to 3"),
        (([], [], [], (5, -1)), "not the shape of a matrix"),
        (([], [], [], (5,)), "not the shape of a matrix"),
        (([], [], [], (3.7, 3)), "not the shape of a matrix"),
        (([], [], [], (3.0, 3)), "not the shape of a matrix"),
        (([], [], [], (True, 3)), "not the shape of a matrix"),
        (([], [], [], ("3", 3)), "not the shape of a matrix"),
        (([], [], [], "33"), "not the shape of a matrix"),
        (([], [], [], 3), "not the shape of a matrix"),
        (([], [], [], None), "not the shape of a matrix"),
        (([], [], [], (2**44, 2**44)), "is too large"),
        (([], [], [], (2**70, 3)), "is too large"),
        (([], [], [], (3, 2**62)), "is too large"),
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
        (np.eye(3), r"SciPy sparse matrix .*Pass scipy\.sparse\.csr_array"),
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
@pytest.mark.parametrize("name", ["random", "disconnected", "one row", "no entries", *RECTANGULAR])
def test_from_hdf5_opens_any_part_count(world, shared_path, name, parts):
    matrix = ALL_SHAPES[name]()
    path = f"{shared_path}/a.h5"
    rng = np.random.default_rng(4)
    b, x = (rng.standard_normal(count) for count in matrix.shape)
    if world.rank == 0:
        write_partitioned(Source("test", matrix, rhs={"b": b}), path, parts, "metis")
    world.barrier()
    A = hs.DSparseMatrix.from_hdf5(path, world)
    np.testing.assert_array_equal(dense(A), matrix.toarray())
    rhs = hs.read_rhs(path, "b", A.layout)
    np.testing.assert_array_equal(full(A.layout, rhs), b)
    np.testing.assert_allclose(full(A.layout, A @ spread(A.columns, x)), matrix @ x, atol=1e-13)
    np.testing.assert_allclose(full(A.columns, A.T @ rhs), matrix.T @ b, atol=1e-13)
    assert (A.columns is A.layout) == (matrix.shape[0] == matrix.shape[1])
    assert hs.DSparseMatrix.from_hdf5(path, world, dtype=torch.float32).dtype == torch.float32


def test_parts_keep_their_columns_on_any_rank_count(world, shared_path):
    """Block-diagonal parts, as many as the ranks or twice or half that: nothing to exchange."""
    for parts in {2 * world.size, world.size, max(world.size // 2, 1)}:
        path = f"{shared_path}/blocks-{parts}.h5"
        if world.rank == 0:
            blocks = [np.ones((9 + p % 2, 2 + 3 * (p % 3))) for p in range(parts)]
            matrix = sp.csr_array(sp.block_diag(blocks))
            cuts = [np.cumsum([0, *(b.shape[axis] for b in blocks)]) for axis in (0, 1)]
            write_matrix(
                path,
                matrix,
                cuts[0],
                np.arange(matrix.shape[0]),
                {},
                column_part_offsets=cuts[1],
                column_permutation=np.arange(matrix.shape[1]),
            )
        world.barrier()
        A = hs.DSparseMatrix.from_hdf5(path, world)
        if parts >= world.size:
            assert everywhere(world, A.n_halo == 0 and A.nnz_owned > 0)
            assert everywhere(world, A.columns.n_owned > 0)
        y = torch.ones(A.columns.n_owned, dtype=torch.float64)
        assert world.sum(float((A @ y).sum())) == A.nnz_global


def test_a_permutation_that_repeats_a_row_is_one_error(world, shared_path):
    """On another rank than the row itself, so that no rank could see it alone."""
    path = f"{shared_path}/repeated.h5"
    matrix = MATRICES["random"]()
    if world.rank == 0:
        write_partitioned(Source("test", matrix, rhs={}), path, 1, "contiguous")
        with h5py.File(path, "r+") as file:
            rows = file["permutation"][:]
            rows[0] = rows[-1]
            del file["permutation"]
            file["permutation"] = rows
    world.barrier()
    with pytest.raises(hs.InputError, match="/permutation: does not hold each of the numbers"):
        hs.DSparseMatrix.from_hdf5(path, world)


def test_a_missing_file_is_one_error_on_every_rank(world, shared_path):
    with pytest.raises(hs.InputError, match=r"nowhere\.h5") as caught:
        hs.DSparseMatrix.from_hdf5(f"{shared_path}/nowhere.h5", world)
    assert len(set(world.comm.allgather(str(caught.value)))) == 1


def test_the_matrix_of_rank_0_is_left_alone(world):
    matrix = MATRICES["random"]()
    before = matrix.copy()
    distribute(matrix, world)
    assert abs(matrix - before).nnz == 0 and np.array_equal(matrix.indices, before.indices)


@pytest.mark.parametrize("block_size", [None, 2])
def test_one_rank_keeps_the_users_order(world, block_size):
    """A vector in that order is as long as one in any other: it is to be right, too."""
    n, alone = 400, hs.World.serial("cpu")
    shuffled = np.random.default_rng(8).permutation(n)
    line = sp.diags_array([-1.0, 2.1, -1.0], offsets=[-1, 0, 1], shape=(n, n)).tocsr()
    matrix = sp.csr_matrix(line[shuffled][:, shuffled])
    if block_size:
        matrix = sp.csr_matrix(sp.kron(matrix, [[2.0, 1.0], [1.0, 2.0]]))
    b = np.random.default_rng(9).standard_normal(matrix.shape[0])
    A = hs.DSparseMatrix.from_scipy(matrix, alone, block_size=block_size)
    np.testing.assert_allclose((A @ torch.from_numpy(b)).numpy(), matrix @ b)
    for named in ("contiguous", np.zeros(matrix.shape[0], dtype=int)):
        same = hs.DSparseMatrix.from_scipy(matrix, alone, named, block_size=block_size)
        assert np.array_equal(same.layout.rows, np.arange(matrix.shape[0]))
    # Asked for a method of the graph, it finds an order in which a product is faster.
    near = hs.DSparseMatrix.from_scipy(matrix, alone, "metis", block_size=block_size)
    assert not np.array_equal(near.layout.rows, A.layout.rows)

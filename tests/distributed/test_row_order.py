"""Vectors of one matrix and products with another: rows of both in the same order, or an error."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch

import hpc_sla as hs
from tests.collective import everywhere, full, random_rectangular

pytestmark = pytest.mark.mpi


def scattered(n, seed):
    """A chain under a numbering by chance: reverse Cuthill-McKee finds one of its own."""
    p = np.random.default_rng(seed).permutation(n)
    ones = np.ones(n - 1)
    chain = sp.diags_array([-ones, np.arange(2.0, n + 2) + 2, -2 * ones], offsets=[-1, 0, 1])
    return sp.csr_matrix(sp.csr_matrix(chain)[p][:, p])


N = 90
ONE, OTHER = scattered(N, 1), scattered(N, 2)
VECTOR = np.random.default_rng(3).standard_normal(N)


def spread(matrix, world, **how):
    # On one rank only a method of the graph gives rows another order than the user's.
    how = how or {"partition": "metis" if world.size == 1 else "contiguous"}
    return hs.DSparseMatrix.from_scipy(matrix if world.rank == 0 else None, world, **how)


def triplets(matrix, on, **how):
    mine = sp.coo_matrix(matrix.tocsr()[on.rows])
    return hs.DSparseMatrix.from_coo(
        on.rows[mine.row], mine.col, mine.data, matrix.shape, on.world, **how
    )


class Free:
    """A's products, in a layout that only counts."""

    def __init__(self, A):
        self.layout, self.matvec = hs.RowLayout(A.world, A.layout.offsets), A.matvec


@pytest.fixture
def pair(world):
    A, B = spread(ONE, world), spread(OTHER, world)
    assert np.array_equal(A.layout.offsets, B.layout.offsets)
    assert A.layout.order != B.layout.order
    return A, B


def test_orders_are_told_apart(world, pair):
    A, B = pair
    assert not A.layout.same(B.layout)
    assert A.layout.order == spread(ONE, world).layout.order
    even = hs.RowLayout.even(N, world)
    natural = spread(sp.csr_matrix(sp.identity(N)), world)
    assert even.order == natural.layout.order and even.same(natural.layout)
    assert triplets(ONE, even).layout.order == even.order


USES = {
    "A @ x": lambda B, u: B @ u,
    "A.T @ x": lambda B, u: B.T @ u,
    "halo": lambda B, u: B.with_halo(u),
    "dot": lambda B, u: B.layout.dot(B @ torch.ones_like(u), u),
    "gather": lambda B, u: B.layout.gather(u),
    "a view": lambda B, u: B @ u[:],
    "solve": lambda B, u: hs.solve(B, u, method="gmres"),
    "x0": lambda B, u: hs.solve(B, torch.ones_like(u), x0=u, method="gmres"),
}


@pytest.mark.parametrize("use", USES)
def test_a_vector_of_another_order_is_refused(world, pair, use):
    A, B = pair
    u = A.layout.scatter(VECTOR)
    solution, _ = hs.solve(A, u, method="gmres", max_iterations=3)
    for vector in (u, A @ u, A.T @ u, solution):
        with pytest.raises(hs.InputError, match=r"row order of another matrix.*layout=A\.layout"):
            USES[use](B, vector)


def test_inner_products_of_one_order_are_the_same_in_any_layout(world, pair):
    A, B = pair
    u = A.layout.scatter(VECTOR)
    assert torch.equal(B.layout.dot(u, A @ u), A.layout.dot(u, A @ u))
    assert torch.equal(hs.RowLayout.even(N, world).norm(u), A.layout.norm(u))


def test_what_is_no_vector_of_another_order_passes(world, pair):
    """Parts, several fields, reused memory, another World, and operators of the user's."""
    A, B = pair
    u = A.layout.scatter(VECTOR)
    # A part of a vector of two fields is one of the other's rows.
    two = sp.block_diag([ONE, ONE]).tocsr()
    fields = spread(two, world).layout.scatter(np.concatenate([VECTOR, VECTOR]))
    if everywhere(world, len(fields) >= A.layout.n_owned):
        A @ fields[: A.layout.n_owned]
    # Points of two unknowns, as one vector.
    points = A.layout.scatter(np.stack([VECTOR, VECTOR], axis=1))
    blocked = A.layout.blocked(2)
    assert np.isclose(float(blocked.norm(points.reshape(-1))), 2**0.5 * np.linalg.norm(VECTOR))
    # Memory that was filled anew.
    x = A.layout.scatter(VECTOR)
    x.copy_(B.layout.scatter(VECTOR))
    assert np.allclose(full(B.layout, B @ x), OTHER @ VECTOR)
    # In what order an operator works it alone knows.
    x, info = hs.solve(Free(A), A @ u, "bicgstab", precond="none")
    assert info.converged and np.allclose(full(A.layout, x), VECTOR, atol=1e-6)
    even = hs.RowLayout(world, A.layout.offsets)
    x, info = hs.nonlinear_solve(lambda v: A @ v - A @ u, torch.zeros_like(u), layout=even)
    assert info.converged and np.allclose(full(A.layout, A @ x), ONE @ VECTOR, atol=1e-6)


def test_fields_of_points_fit_where_their_rows_do(world):
    """[n, k] unknowns, and a matrix of k n rows made of triplets."""
    A = spread(ONE, world, partition="metis")
    twice = sp.csr_matrix(sp.kron(ONE, np.eye(2)))
    K = triplets(twice, A.layout.blocked(2), layout=A.layout.blocked(2))
    assert K.layout.fits(A.layout.blocked(2)) and A.layout.blocked(1) is A.layout
    target = torch.from_numpy(np.stack([VECTOR, -VECTOR], axis=1)[A.layout.rows])

    def residual(u):
        return (A @ (u - target)) * 2

    u0 = torch.zeros_like(target)
    u, info = hs.nonlinear_solve(residual, u0, layout=A.layout, pattern=K)
    assert info.converged and np.allclose(full(A.layout, u[:, 0].contiguous()), VECTOR, atol=1e-6)
    u, info = hs.nonlinear_solve(lambda u: A @ u - A @ target[:, :1], u0[:, :1], layout=A.layout,
                                 pattern=A)  # fmt: skip
    assert info.converged


@pytest.mark.parametrize("how", ["from_scipy", "from_coo"])
def test_a_layout_given_is_taken(world, how):
    A = spread(ONE, world, partition="metis")
    if how == "from_scipy":
        B = spread(OTHER, world, layout=A.layout)
    else:
        B = triplets(OTHER, A.layout, layout=A.layout)
    assert B.layout is A.layout and B.columns is A.layout
    u = A.layout.scatter(VECTOR)
    assert np.allclose(full(A.layout, A @ u + B @ u), (ONE + OTHER) @ VECTOR)
    assert np.allclose(full(A.layout, B.T @ u), OTHER.T @ VECTOR)


@pytest.mark.parametrize("how", ["from_scipy", "from_coo"])
def test_rectangular_ones_take_it_for_rows_or_columns(world, how):
    A = spread(ONE, world)
    tall, wide = random_rectangular(N, 7, 0.3, 4), random_rectangular(7, N, 0.3, 5)
    if how == "from_scipy":
        G = spread(wide, world, columns=A.layout)
        H = spread(tall, world, layout=A.layout, columns=G.layout)
    else:
        G = triplets(wide, hs.RowLayout.even(7, world), columns=A.layout)
        H = triplets(tall, A.layout, layout=A.layout, columns=G.layout)
    assert G.columns is A.layout and H.layout is A.layout and H.columns is G.layout
    u = A.layout.scatter(VECTOR)
    assert np.allclose(full(A.layout, A @ u + H @ (G @ u)), ONE @ VECTOR + tall @ (wide @ VECTOR))


def test_nodes_stay_together_in_a_layout_given(world, pair):
    nodes = sp.csr_matrix(sp.kron(scattered(N // 3, 6), np.ones((3, 3))))
    A = spread(nodes, world, block_size=3)
    B = spread(OTHER, world, block_size=3, layout=A.layout)
    assert B.layout is A.layout
    with pytest.raises(hs.InputError, match="layout: does not keep nodes of 3 rows"):
        spread(OTHER, world, block_size=3, layout=pair[0].layout)


def test_layouts_that_do_not_fit_are_refused(world):
    A = spread(ONE, world)
    small = sp.csr_matrix(sp.identity(5))
    none = np.zeros(0, dtype=np.int64)

    def coo(shape=(N, N), rows=none, **how):
        return hs.DSparseMatrix.from_coo(rows, rows, rows * 1.0, shape, world, **how)

    other = hs.World(world.comm, world.device, world.transport.name)
    for call, words in [
        (lambda: spread(small, world, layout=A.layout), "layout: is of 90 rows.*has 5"),
        (lambda: coo((5, 5), layout=A.layout), "layout: is of 90 rows.*has 5"),
        (lambda: spread(OTHER, world, layout=A), "layout: a DSparseMatrix is not a RowLayout"),
        (lambda: coo(layout="metis"), "layout: a str is not a RowLayout"),
        (lambda: spread(OTHER, other, layout=A.layout), "layout: belongs to another World"),
        (lambda: spread(OTHER, world, layout=A.layout, partition="metis"), "Leave partition out"),
        (lambda: spread(OTHER, world, columns=A.layout), "columns: the columns of a square"),
        (lambda: coo(columns=A.layout), "columns: the columns of a square"),
    ]:
        with pytest.raises(hs.InputError, match=words):
            call()
    other.close()
    if world.size > 1:
        row = world.comm.bcast(A.layout.rows[:1])
        mine = row if world.rank == 1 else none
        with pytest.raises(hs.InputError, match=r"rows: row .* is not this rank's"):
            coo(rows=mine, layout=A.layout)


def test_other_functions_of_two_matrices(world, pair, folder):
    A, B = pair
    u0 = torch.zeros(A.layout.n_owned, dtype=torch.float64, device=world.device)
    with pytest.raises(hs.InputError, match=r"pattern: .*does not have the layout"):
        hs.nonlinear_solve(lambda u: A @ u - 1.0, u0, layout=A.layout, pattern=B)
    with pytest.raises(hs.InputError, match=r"pattern: orders rows otherwise"):
        hs.nonlinear_solve(lambda u, A: A @ u - 1.0, u0, A, pattern=B)
    K, M = (spread(sp.csr_matrix(matrix + matrix.T), world) for matrix in (ONE, OTHER))
    _, V, _ = hs.eigsh(K, 1)
    with pytest.raises(hs.InputError, match="x0: is in the row order"):
        hs.eigsh(M, 1, x0=V)

"""A @ x and A.T @ x beside SciPy; their derivatives beside dense torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.autograd import forward_ad

import hpc_sla as hs
from tests.collective import (
    ALL_SHAPES,
    MATRICES,
    PARTITIONS,
    RECTANGULAR,
    dense,
    distribute,
    everywhere,
    full,
    on,
    random_matrix,
    spread,
)

pytestmark = pytest.mark.mpi


@pytest.mark.parametrize("partition", PARTITIONS)
@pytest.mark.parametrize("name", ALL_SHAPES)
def test_products_equal_scipys(any_world, name, partition):
    matrix = ALL_SHAPES[name]()
    A = distribute(matrix, any_world, partition)
    rng = np.random.default_rng(5)
    m, n = A.shape
    for columns in [(), (3,)]:
        x, y = rng.standard_normal((n, *columns)), rng.standard_normal((m, *columns))
        mine, left = spread(A.columns, x), spread(A.layout, y)
        np.testing.assert_allclose(full(A.layout, A @ mine), matrix @ x, atol=1e-13)
        np.testing.assert_allclose(full(A.columns, A.T @ left), matrix.T @ y, atol=1e-13)
        np.testing.assert_allclose(full(A.layout, A.T.T @ mine), matrix @ x, atol=1e-13)


@pytest.mark.parametrize("name", ALL_SHAPES)
def test_shape_and_layouts(world, name):
    matrix = ALL_SHAPES[name]()
    A = distribute(matrix, world)
    assert A.shape == matrix.shape == A.T.shape[::-1]
    assert A.T.layout is A.columns and A.T.columns is A.layout
    assert (A.columns is A.layout) == (matrix.shape[0] == matrix.shape[1])
    for layout, count in ((A.layout, matrix.shape[0]), (A.columns, matrix.shape[1])):
        assert np.array_equal(
            np.sort(np.concatenate(world.comm.allgather(layout.rows))), np.arange(count)
        )


@pytest.mark.parametrize("name", ALL_SHAPES)
def test_entries_and_values_are_the_matrix(world, name):
    matrix = ALL_SHAPES[name]()
    A = distribute(matrix, world, "cyclic")
    np.testing.assert_array_equal(dense(A), matrix.toarray())
    assert A.nnz_global == matrix.nnz
    ordered = matrix[np.concatenate(world.comm.allgather(A.layout.rows))]
    rows = slice(A.layout.start, A.layout.start + A.layout.n_owned)
    permuted = ordered[:, np.concatenate(world.comm.allgather(A.columns.rows))]
    assert everywhere(world, abs(A.local_csr() - permuted[rows]).nnz == 0)


@pytest.mark.parametrize("name", MATRICES)
def test_diagonal(world, name):
    matrix = MATRICES[name]()
    A = distribute(matrix, world, "cyclic")
    np.testing.assert_array_equal(full(A.layout, A.diagonal()), matrix.diagonal())


def test_a_rectangular_matrix_has_no_diagonal(world):
    A = distribute(RECTANGULAR["tall"](), world)
    with pytest.raises(hs.InputError, match="41 x 13 matrix has no diagonal"):
        A.diagonal()
    with pytest.raises(ValueError, match="same layout of rows and columns"):
        x = torch.ones(A.columns.n_owned, dtype=torch.float64)
        out = torch.empty(A.layout.n_owned, dtype=torch.float64)
        A.pattern.matmul(A.values, x, out, torch.zeros((), dtype=torch.float64))


def test_float32(world):
    matrix = MATRICES["random"]().astype(np.float32)
    A = distribute(matrix, world)
    x = np.ones(matrix.shape[0], dtype=np.float32)
    y = full(A.layout, A @ spread(A.layout, x))
    assert y.dtype == np.float32
    np.testing.assert_allclose(y, matrix @ x, rtol=1e-5, atol=1e-6)


def _loss(apply, values, x, z, dot_rows, dot_columns):
    """A scalar with second derivatives in values, x and z, and all of their pairs."""
    y, w = apply(values, x, z)
    return dot_rows(y.tanh(), z * y) + dot_columns(x * x, w) + dot_columns(w.tanh(), w)


@pytest.mark.parametrize("columns", [(), (2,)])
@pytest.mark.parametrize("name", ALL_SHAPES)
def test_first_and_second_derivatives_equal_dense_ones(any_world, name, columns):
    A = distribute(ALL_SHAPES[name](), any_world, "cyclic")
    m, n = A.shape
    rng = np.random.default_rng(6)
    rows, cols = A.entries()
    x_full, u_full = rng.standard_normal((2, n, *columns))
    z_full, t_full = rng.standard_normal((2, m, *columns))
    w_full = rng.standard_normal((m, n))  # a direction in the values

    values = A.values.clone().requires_grad_()
    x = spread(A.columns, x_full).requires_grad_()
    z = spread(A.layout, z_full).requires_grad_()
    w, u, t = on(any_world, w_full[rows, cols]), spread(A.columns, u_full), spread(A.layout, t_full)

    def apply(v, x, z):
        B = A.with_values(v)
        return B @ x, B.T @ z

    def dot_rows(a, b):
        return A.layout.dot(a, b).sum()

    def dot_columns(a, b):
        return A.columns.dot(a, b).sum()

    loss = _loss(apply, values, x, z, dot_rows, dot_columns)
    g_values, g_x, g_z = torch.autograd.grad(loss, (values, x, z), create_graph=True)
    slope = any_world.all_sum((g_values * w).sum()) + dot_columns(g_x, u) + dot_rows(g_z, t)
    h_values, h_x, h_z = torch.autograd.grad(slope, (values, x, z))

    pattern = np.zeros((m, n))
    for r, c in any_world.comm.allgather((rows, cols)):
        pattern[r, c] = 1.0
    mask = torch.from_numpy(pattern)
    D, X, Z = (torch.from_numpy(v).requires_grad_() for v in (dense(A), x_full, z_full))

    def dot(a, b):
        return (a * b).sum()

    oracle = _loss(lambda v, x, z: (v @ x, v.T @ z), D, X, Z, dot, dot)
    g_D, g_X, g_Z = torch.autograd.grad(oracle, (D, X, Z), create_graph=True)
    slope = (g_D * mask * torch.from_numpy(w_full)).sum()
    slope = slope + dot(g_X, torch.from_numpy(u_full)) + dot(g_Z, torch.from_numpy(t_full))
    h_D, h_X, h_Z = torch.autograd.grad(slope, (D, X, Z))
    np.testing.assert_allclose(loss.item(), oracle.item(), rtol=1e-12, atol=1e-12)
    for ours, theirs in ((g_values, g_D), (h_values, h_D)):
        np.testing.assert_allclose(
            dense(A, ours), (theirs * mask).detach().numpy(), rtol=1e-10, atol=1e-10
        )
    for layout, ours, theirs in (
        (A.columns, g_x, g_X),
        (A.columns, h_x, h_X),
        (A.layout, g_z, g_Z),
        (A.layout, h_z, h_Z),
    ):
        np.testing.assert_allclose(
            full(layout, ours), theirs.detach().numpy(), rtol=1e-10, atol=1e-10
        )


@pytest.mark.parametrize("name", ["random", "tall", "wide", "one column", "no columns"])
def test_forward_mode_equals_the_product_rule(world, name):
    A = distribute(ALL_SHAPES[name](), world)
    rng = np.random.default_rng(7)
    x, dx = (spread(A.columns, rng.standard_normal(A.shape[1])) for _ in range(2))
    dv = on(world, rng.standard_normal(A.nnz_owned))
    y, dy = torch.func.jvp(lambda v, t: A.with_values(v) @ t, (A.values, x), (dv, dx))
    expected = A.with_values(dv) @ x + A @ dx
    assert everywhere(world, torch.allclose(y, A @ x) and torch.allclose(dy, expected))
    z, dz = (spread(A.layout, rng.standard_normal(A.shape[0])) for _ in range(2))
    y, dy = torch.func.jvp(lambda v, t: A.with_values(v).T @ t, (A.values, z), (dv, dz))
    expected = A.with_values(dv).T @ z + A.T @ dz
    assert everywhere(world, torch.allclose(y, A.T @ z) and torch.allclose(dy, expected))


@pytest.mark.parametrize("name", ["random", "tall", "wide"])
def test_halo_exchange_and_reduce_are_adjoint(any_world, name):
    A = distribute(ALL_SHAPES[name](), any_world, "cyclic")
    plan, rng = A.pattern.plan, np.random.default_rng(any_world.rank)
    x = on(any_world, rng.standard_normal((A.columns.n_owned, 2)))
    h = on(any_world, rng.standard_normal((A.n_halo, 2)))
    left = any_world.sum(float((plan.exchange(x) * h).sum()))
    right = any_world.sum(float((x * plan.reduce(h)).sum()))
    np.testing.assert_allclose(left, right, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["random", "tall", "wide"])
def test_halo_brings_the_owners_values(any_world, name):
    A = distribute(ALL_SHAPES[name](), any_world, "metis")
    stored = torch.arange(A.columns.n_owned, dtype=torch.float64) + A.columns.start
    halo = A.halo(stored).cpu().numpy()
    assert everywhere(any_world, np.array_equal(halo, A.pattern.plan.halo))


def test_a_vector_of_another_length_is_refused(world):
    A = distribute(MATRICES["random"](), world)
    with pytest.raises(ValueError, match="owned entries"):
        A @ torch.ones(A.layout.n_owned + 1, dtype=torch.float64)
    tall = distribute(RECTANGULAR["tall"](), world)
    for product, layout in ((tall, tall.columns), (tall.T, tall.layout)):
        with pytest.raises(ValueError, match=f"this rank's {layout.n_owned} owned entries"):
            product @ torch.ones(layout.n_owned + 1, dtype=torch.float64)


def test_a_vector_of_another_dtype_is_refused_and_breaks_nothing(world):
    A = distribute(MATRICES["random"](), world)
    x = torch.ones(A.layout.n_owned, dtype=torch.float32)
    with pytest.raises(TypeError, match="does not go with"):
        A @ x
    single = A.with_values(A.values.float())
    np.testing.assert_allclose(full(A.layout, single @ x), full(A.layout, A @ x.double()), 1e-4)


def test_with_values_shares_the_pattern(world):
    A = distribute(MATRICES["spd"](), world)
    B = A.with_values(2 * A.values)
    x = torch.ones(A.layout.n_owned, dtype=torch.float64)
    assert B.pattern is A.pattern
    np.testing.assert_allclose(full(A.layout, B @ x), 2 * full(A.layout, A @ x))
    with pytest.raises(ValueError, match="entries"):
        A.with_values(torch.ones(A.nnz_owned + 1))


@pytest.mark.parametrize("name", ["random", "tall", "wide"])
def test_results_are_bitwise_repeatable(any_world, name):
    A = distribute(ALL_SHAPES[name](), any_world)
    rng = np.random.default_rng(any_world.rank)
    x = on(any_world, rng.standard_normal(A.columns.n_owned))
    y = on(any_world, rng.standard_normal(A.layout.n_owned))
    first = (A @ x, A.T @ y, A.columns.dot(x, x))
    again = (A @ x, A.T @ y, A.columns.dot(x, x))
    assert everywhere(any_world, all(torch.equal(a, b) for a, b in zip(first, again, strict=True)))


def test_repr_names_the_essentials(world):
    A = distribute(MATRICES["random"](), world)
    assert "37" in repr(A) and isinstance(A, hs.DSparseMatrix)


def test_tangents_that_not_all_ranks_have(world):
    """The entries of A have one everywhere, x on rank 0 alone, and then the other way round."""
    matrix = random_matrix(23, 0.3, 4)
    A = distribute(matrix, world)
    rng = np.random.default_rng(5)
    x, dx = (spread(A.layout, rng.standard_normal(23)) for _ in range(2))
    dv = torch.sin(A.values)
    for all_of_x in (False, True):
        mine = world.rank == 0
        with forward_ad.dual_level():
            has_v, has_x = not all_of_x or mine, all_of_x or mine
            v = forward_ad.make_dual(A.values, dv) if has_v else A.values
            u = forward_ad.make_dual(x, dx) if has_x else x
            tangent = forward_ad.unpack_dual(A.with_values(v) @ u).tangent
        moved = full(A.layout, dx if has_x else torch.zeros_like(dx))
        changed = dense(A, dv if has_v else torch.zeros_like(dv))
        expected = changed @ full(A.layout, x) + matrix @ moved
        np.testing.assert_allclose(full(A.layout, tangent), expected, rtol=1e-12, atol=1e-12)

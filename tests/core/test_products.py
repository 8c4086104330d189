"""A @ x and A.T @ x beside SciPy; their derivatives beside dense torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import hpc_sla as hs
from tests.collective import MATRICES, PARTITIONS, dense, distribute, everywhere, full, on, spread

pytestmark = pytest.mark.mpi


@pytest.mark.parametrize("partition", PARTITIONS)
@pytest.mark.parametrize("name", MATRICES)
def test_products_equal_scipys(any_world, name, partition):
    matrix = MATRICES[name]()
    A = distribute(matrix, any_world, partition)
    rng = np.random.default_rng(5)
    for shape in [(matrix.shape[0],), (matrix.shape[0], 3)]:
        x = rng.standard_normal(shape)
        mine = spread(A.layout, x)
        np.testing.assert_allclose(full(A.layout, A @ mine), matrix @ x, atol=1e-13)
        np.testing.assert_allclose(full(A.layout, A.T @ mine), matrix.T @ x, atol=1e-13)
        np.testing.assert_allclose(full(A.layout, A.T.T @ mine), matrix @ x, atol=1e-13)


@pytest.mark.parametrize("name", MATRICES)
def test_entries_and_values_are_the_matrix(world, name):
    matrix = MATRICES[name]()
    A = distribute(matrix, world, "cyclic")
    np.testing.assert_array_equal(dense(A), matrix.toarray())
    np.testing.assert_array_equal(full(A.layout, A.diagonal()), matrix.diagonal())
    assert A.nnz_global == matrix.nnz
    ordered = matrix[np.concatenate(world.comm.allgather(A.layout.rows))]
    rows = slice(A.layout.start, A.layout.start + A.layout.n_owned)
    permuted = ordered[:, np.concatenate(world.comm.allgather(A.layout.rows))]
    assert everywhere(world, abs(A.local_csr() - permuted[rows]).nnz == 0)


def test_float32(world):
    matrix = MATRICES["random"]().astype(np.float32)
    A = distribute(matrix, world)
    x = np.ones(matrix.shape[0], dtype=np.float32)
    y = full(A.layout, A @ spread(A.layout, x))
    assert y.dtype == np.float32
    np.testing.assert_allclose(y, matrix @ x, rtol=1e-5, atol=1e-6)


def _loss(apply, values, x, dot):
    """A scalar with second derivatives in values, x and both."""
    y, yt = apply(values, x)
    return dot(y.tanh(), yt) + dot(x * x, y)


@pytest.mark.parametrize("columns", [(), (2,)])
@pytest.mark.parametrize("name", MATRICES)
def test_first_and_second_derivatives_equal_dense_ones(any_world, name, columns):
    A = distribute(MATRICES[name](), any_world, "cyclic")
    layout = A.layout
    n = layout.n_global
    rng = np.random.default_rng(6)
    rows, cols = A.entries()
    x_full, u_full = rng.standard_normal((2, n, *columns))
    w_full = rng.standard_normal((n, n))  # a direction in the values

    values = A.values.clone().requires_grad_()
    x = spread(layout, x_full).requires_grad_()
    w, u = on(any_world, w_full[rows, cols]), spread(layout, u_full)

    def apply(v, t):
        B = A.with_values(v)
        return B @ t, B.T @ t

    loss = _loss(apply, values, x, lambda a, b: layout.dot(a, b).sum())
    g_values, g_x = torch.autograd.grad(loss, (values, x), create_graph=True)
    slope = any_world.all_sum((g_values * w).sum()) + layout.dot(g_x, u).sum()
    h_values, h_x = torch.autograd.grad(slope, (values, x))

    pattern = np.zeros((n, n))
    for r, c in any_world.comm.allgather((rows, cols)):
        pattern[r, c] = 1.0
    mask = torch.from_numpy(pattern)
    D = torch.from_numpy(dense(A)).requires_grad_()
    X = torch.from_numpy(x_full).requires_grad_()
    oracle = _loss(lambda v, t: (v @ t, v.T @ t), D, X, lambda a, b: (a * b).sum())
    g_D, g_X = torch.autograd.grad(oracle, (D, X), create_graph=True)
    h_D, h_X = torch.autograd.grad(
        (g_D * mask * torch.from_numpy(w_full)).sum() + (g_X * torch.from_numpy(u_full)).sum(),
        (D, X),
    )
    np.testing.assert_allclose(loss.item(), oracle.item(), rtol=1e-12, atol=1e-12)
    for ours, theirs in ((g_values, g_D), (h_values, h_D)):
        np.testing.assert_allclose(
            dense(A, ours), (theirs * mask).detach().numpy(), rtol=1e-10, atol=1e-10
        )
    for ours, theirs in ((g_x, g_X), (h_x, h_X)):
        np.testing.assert_allclose(
            full(layout, ours), theirs.detach().numpy(), rtol=1e-10, atol=1e-10
        )


def test_forward_mode_equals_the_product_rule(world):
    A = distribute(MATRICES["random"](), world)
    rng = np.random.default_rng(7)
    x, dx = (spread(A.layout, rng.standard_normal(A.shape[0])) for _ in range(2))
    dv = on(world, rng.standard_normal(A.nnz_owned))
    y, dy = torch.func.jvp(lambda v, t: A.with_values(v) @ t, (A.values, x), (dv, dx))
    expected = A.with_values(dv) @ x + A @ dx
    assert everywhere(world, torch.allclose(y, A @ x) and torch.allclose(dy, expected))


def test_halo_exchange_and_reduce_are_adjoint(any_world):
    A = distribute(MATRICES["random"](), any_world, "cyclic")
    plan, rng = A.pattern.plan, np.random.default_rng(any_world.rank)
    x = on(any_world, rng.standard_normal((A.layout.n_owned, 2)))
    h = on(any_world, rng.standard_normal((A.n_halo, 2)))
    left = any_world.sum(float((plan.exchange(x) * h).sum()))
    right = any_world.sum(float((x * plan.reduce(h)).sum()))
    np.testing.assert_allclose(left, right, rtol=1e-12, atol=1e-12)


def test_halo_brings_the_owners_values(any_world):
    A = distribute(MATRICES["random"](), any_world, "metis")
    stored = torch.arange(A.layout.n_owned, dtype=torch.float64) + A.layout.start
    halo = A.halo(stored).cpu().numpy()
    assert everywhere(any_world, np.array_equal(halo, A.pattern.plan.halo))


def test_a_vector_of_another_length_is_refused(world):
    A = distribute(MATRICES["random"](), world)
    with pytest.raises(ValueError, match="owned entries"):
        A @ torch.ones(A.layout.n_owned + 1, dtype=torch.float64)


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


def test_results_are_bitwise_repeatable(any_world):
    A = distribute(MATRICES["random"](), any_world)
    x = on(any_world, np.random.default_rng(any_world.rank).standard_normal(A.layout.n_owned))
    first = (A @ x, A.T @ x, A.layout.dot(x, x))
    again = (A @ x, A.T @ x, A.layout.dot(x, x))
    assert everywhere(any_world, all(torch.equal(a, b) for a, b in zip(first, again, strict=True)))


def test_repr_names_the_essentials(world):
    A = distribute(MATRICES["random"](), world)
    assert "37" in repr(A) and isinstance(A, hs.DSparseMatrix)

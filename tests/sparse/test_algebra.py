"""A + B, s * A, A @ B, transposes, sums and norms: as SciPy and dense autograd have them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.sparse as sp
import torch

import hpc_sla as hs
from hpc_sla.sparse import contraction
from tests.collective import dense, disconnected, everywhere, random_matrix, spread

pytestmark = pytest.mark.mpi


@pytest.fixture(scope="module")
def world():
    return hs.World(device="cpu")


def _spread(matrix, world, **given):
    return hs.DSparseMatrix.from_scipy(matrix if world.rank == 0 else None, world, **given)


def _trained(A):
    """The same with values that require a gradient, and these."""
    values = A.values.detach().clone().requires_grad_()
    return A.with_values(values), values


def _pairs():
    """Two matrices A [m, n], B [n, k] of each kind."""
    return {
        "random": (random_matrix(37, 0.15, 0), random_matrix(37, 0.1, 1)),
        "disconnected": (disconnected(23, 2), disconnected(23, 5)),
        "fewer rows than ranks": (random_matrix(2, 1.0, 3), random_matrix(2, 1.0, 4)),
        "no entries": (sp.csr_matrix((5, 5)), random_matrix(5, 0.5, 1)),
        "dense": (random_matrix(9, 1.0, 1), random_matrix(9, 1.0, 2)),
    }


KINDS = list(_pairs())


@pytest.mark.parametrize("kind", KINDS)
def test_sums(world, kind):
    a, b = _pairs()[kind]
    A = _spread(a, world)
    B = _spread(b, world, layout=A.layout)
    assert np.allclose(dense(A + B), (a + b).toarray(), rtol=0, atol=1e-14)
    assert np.allclose(dense(A - B), (a - b).toarray(), rtol=0, atol=1e-14)
    assert np.allclose(dense(A + B.T), (a + b.T).toarray(), rtol=0, atol=1e-14)
    assert np.allclose(dense(-A), -a.toarray())
    for turned, expected in (
        (A.T + B, a.T + b),
        (A.T - B.T, a.T - b.T),
        (A - 2 * A.T / 4, a - a.T / 2),
    ):
        assert np.allclose(dense(turned), expected.toarray(), rtol=0, atol=1e-14)
    assert np.allclose(dense((-A.T).explicit()), -a.T.toarray())
    assert (A + 2 * A).pattern is A.pattern
    assert np.allclose(dense(A + 2 * A), 3 * a.toarray())


@pytest.mark.parametrize("kind", KINDS)
def test_products(world, kind, monkeypatch):
    # Few at a time: the pieces must make a whole.
    monkeypatch.setattr(contraction, "_ROOM", 7)
    a, b = _pairs()[kind]
    A = _spread(a, world)
    B = _spread(b, world, layout=A.layout)
    for left, right, expected in (
        (A, B, a @ b),
        (A.T, B, a.T @ b),
        (A, B.T, a @ b.T),
        (A.T, B.T, a.T @ b.T),
    ):
        C = left @ right
        assert C.columns is C.layout
        assert np.allclose(dense(C), expected.toarray(), rtol=0, atol=1e-12)
    assert np.allclose(dense(A.transpose()), a.T.toarray())
    C = A @ B
    x = np.random.default_rng(0).standard_normal(len(a.toarray()))
    mine = C @ spread(C.layout, x)
    assert everywhere(world, np.allclose(mine, spread(C.layout, a @ (b @ x)), atol=1e-11))


def test_rectangular_products(world):
    a, b = (
        sp.csr_matrix(sp.random_array(s, density=0.3, rng=np.random.default_rng(1)))
        for s in ((11, 7), (7, 5))
    )
    A = _spread(a, world)
    B = _spread(b, world, layout=A.columns)
    assert np.allclose(dense(A @ B), (a @ b).toarray())
    assert (A @ B).columns is B.columns
    assert np.allclose(dense(A.T @ A), (a.T @ a).toarray())
    assert np.allclose(dense(A @ A.T), (a @ a.T).toarray())
    # Square, and B's columns are ordered as nothing else: they become A's.
    c = sp.csr_matrix(sp.random_array((7, 11), density=0.4, rng=np.random.default_rng(2)))
    order = np.arange(11)[::-1] % world.size
    C = _spread(c, world, layout=A.columns, column_partition=order.astype(np.int64))
    assert np.allclose(dense(A @ C), (a @ c).toarray())
    assert (A @ C).columns is A.layout


def test_a_galerkin_product(world):
    """P^T A P as one writes it, and solved with."""
    n = 24
    a = sp.csr_matrix(sp.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(n, n)))
    p = sp.csr_matrix((np.ones(n), (np.arange(n), np.arange(n) // 3)), shape=(n, n // 3))
    A = _spread(a, world)
    P = _spread(p, world, layout=A.layout)
    coarse = P.T @ A @ P
    expected = (p.T @ a @ p).toarray()
    assert np.allclose(dense(coarse), expected)
    x, info = hs.solve(coarse, torch.ones(coarse.layout.n_owned, dtype=torch.float64), rtol=1e-10)
    assert info.converged
    found = coarse.layout.allgather(x).numpy()
    assert np.allclose(found, np.linalg.solve(expected, np.ones(n // 3)), rtol=1e-7)


@pytest.mark.parametrize("kind", ["random", "fewer rows than ranks", "disconnected"])
def test_gradients(world, kind):
    """Of a sum and a product, and of their gradients: against dense autograd."""
    a, b = _pairs()[kind]
    n = a.shape[0]
    A, a_values = _trained(_spread(a, world))
    B, b_values = _trained(_spread(b, world, layout=A.layout))
    s = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    x = np.random.default_rng(3).standard_normal((2, n))
    u, v = (spread(A.layout, row) for row in x)

    def loss(A, B, u, v, s, dot):
        C = A @ B + s * A - B / 2
        return dot(u, (C @ C.T) @ v) ** 2

    def of_grads(grads, total):
        return total(sum((g * g).sum() for g in grads))

    found = loss(A, B, u, v, world.replicate(s), A.layout.dot)
    grads = torch.autograd.grad(found, (a_values, b_values, s), create_graph=True)
    second = torch.autograd.grad(of_grads(grads[:2], world.all_sum), (a_values, b_values))

    da, db = (torch.tensor(m.toarray(), requires_grad=True) for m in (a, b))
    ds = s.detach().clone().requires_grad_()
    du, dv = torch.from_numpy(x)
    expected = loss(da, db, du, dv, ds, torch.dot)
    dense_grads = torch.autograd.grad(expected, (da, db, ds), create_graph=True)
    masks = [torch.tensor(m.toarray() != 0) for m in (a, b)]
    kept = [g * m for g, m in zip(dense_grads[:2], masks, strict=True)]
    dense_second = torch.autograd.grad(of_grads(kept, lambda t: t), (da, db))

    assert everywhere(
        world, np.isclose(float(found.detach()), float(expected.detach()), rtol=1e-10)
    )
    assert everywhere(world, np.isclose(float(grads[2].detach()), float(dense_grads[2]), rtol=1e-9))
    for matrix, ours, theirs in (
        (A, grads[0], dense_grads[0]),
        (B, grads[1], dense_grads[1]),
        (A, second[0], dense_second[0]),
        (B, second[1], dense_second[1]),
    ):
        rows, columns = matrix.entries()
        wanted = theirs.detach().numpy()[rows, columns]
        scale = float(theirs.detach().abs().max())
        assert everywhere(world, np.allclose(ours.detach(), wanted, rtol=0, atol=1e-10 * scale))


def test_a_transpose_is_differentiable(world):
    a = random_matrix(13, 0.3, 7)
    A, values = _trained(_spread(a, world))
    x = np.random.default_rng(0).standard_normal((2, 13))
    u, v = (spread(A.layout, row) for row in x)
    A.layout.dot(u, A.transpose() @ v).backward()
    rows, columns = A.entries()
    assert everywhere(world, np.allclose(values.grad, x[1][rows] * x[0][columns]))


def test_numbers_of_a_matrix(world):
    a = random_matrix(19, 0.2, 11)
    A, values = _trained(_spread(a, world))
    d = torch.tensor(a.toarray(), requires_grad=True)
    rows, columns = A.entries()
    for ours, theirs in (
        (A.sum(), d.sum()),
        (A.norm(), torch.linalg.matrix_norm(d)),
        (A.norm(1), torch.linalg.matrix_norm(d, 1)),
        (A.norm(math.inf), torch.linalg.matrix_norm(d, math.inf)),
    ):
        assert everywhere(world, np.isclose(float(ours.detach()), float(theirs.detach())))
        (mine,) = torch.autograd.grad(ours, values)
        (wanted,) = torch.autograd.grad(theirs, d)
        assert everywhere(world, np.allclose(mine, wanted.numpy()[rows, columns]))
    for axis in (0, 1):
        sums = A.layout.allgather(A.sum(axis)).numpy()
        assert np.allclose(sums, np.asarray(a.sum(axis=axis)).ravel())
    assert not A.is_symmetric()
    assert (A + A.T).is_symmetric()
    assert float(_spread(sp.csr_matrix((3, 3)), world).norm(1)) == 0.0


def test_what_does_not_go_together(world):
    a = random_matrix(12, 0.4, 0)
    A = _spread(a, world)
    with pytest.raises(hs.InputError, match="12 x 12 matrix and one of 5 x 5"):
        A + _spread(random_matrix(5, 0.5, 0), world)
    with pytest.raises(hs.InputError, match="12 x 12 matrix and one of 5 x 5"):
        A @ _spread(random_matrix(5, 0.5, 0), world)
    with pytest.raises(hs.InputError, match=r"A\.dtype"):
        A @ A.to(torch.float32)
    if world.size > 1:
        part = np.arange(12)[::-1] * world.size // 12
        with pytest.raises(hs.InputError, match="order these rows differently"):
            A + _spread(a, world, partition=part.astype(np.int64))
    with pytest.raises(TypeError):
        A * "two"
    for wrong in (lambda: A + 1, lambda: A.T + 1, lambda: A.T * "two"):
        with pytest.raises(TypeError):
            wrong()
    with pytest.raises(hs.InputError, match=r"hs.eigsh"):
        A.norm(2)


def test_numbers_from_the_left(world):
    A = _spread(random_matrix(8, 0.5, 0), world)
    for two in (2, 2.0, np.float64(2.0), torch.tensor(2.0, dtype=torch.float64)):
        assert everywhere(world, torch.equal((two * A).values, 2 * A.values))
        assert everywhere(world, torch.equal((A / two).values, A.values / 2))

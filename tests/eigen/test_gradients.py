"""Gradients of eigenvalues and eigenvectors beside central differences of LAPACK's."""

from __future__ import annotations

import gc

import numpy as np
import pytest
import scipy.linalg
import scipy.sparse as sp
import torch

import hpc_sla as hs
from tests.collective import dense, distribute, everywhere, full, spread
from tests.eigen.pencils import clusters, grid, mass, poisson
from tests.eigen.test_eigsh import on_pattern

pytestmark = pytest.mark.mpi

WEIGHTS = np.array([1.0, -0.5, 2.0, 0.3, -1.2, 0.7])


def pair_of(world, matrix, generalised=True):
    A = distribute(matrix, world)
    A = A.with_values(A.values.requires_grad_())
    if not generalised:
        return A, None
    B = on_pattern(A, mass(matrix))
    return A, B.with_values(B.values.requires_grad_())


def direction(pattern: np.ndarray, seed: int) -> np.ndarray:
    """A symmetric change on the pattern."""
    change = np.random.default_rng(seed).standard_normal(pattern.shape) * (pattern != 0)
    return change + change.T


def along(A, gradient, change) -> float:
    """The derivative that a gradient claims."""
    assert everywhere(A.world, gradient is not None)
    return float((dense(A, gradient) * change).sum())


def differences(loss, matrices, changes, step=1e-5):
    """Central, to fourth order, of a function of dense matrices."""

    def at(t):
        return loss(*(M + t * D for M, D in zip(matrices, changes, strict=True)))

    return (8 * (at(step) - at(-step)) - (at(2 * step) - at(-2 * step))) / (12 * step)


@pytest.mark.parametrize("generalised", [False, True])
@pytest.mark.parametrize("size", [(4, 6), (11, 12)])
def test_eigenvalues(world, size, generalised):
    A, B = pair_of(world, grid(*size), generalised)
    w, _, info = hs.eigsh(A, k=6, B=B)
    assert info.converged
    (w * torch.from_numpy(WEIGHTS)).sum().backward()
    matrices = [dense(A)] + ([dense(B)] if generalised else [])
    changes = [direction(M, seed) for seed, M in enumerate(matrices)]

    def loss(M, N=None):
        return WEIGHTS @ scipy.linalg.eigh(M, N, eigvals_only=True)[:6]

    for i, X in enumerate((A, B)[: len(matrices)]):
        only = [D * (i == j) for j, D in enumerate(changes)]
        expected = differences(loss, matrices, only)
        np.testing.assert_allclose(along(X, X.values.grad, changes[i]), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("size", "precond", "which"),
    [((4, 6), None, "largest"), ((11, 12), None, "largest"), ((11, 12), "amg", "smallest")],
)
def test_eigenvectors(world, size, precond, which):
    """Of a loss of values and vectors, B's values too."""
    matrix = grid(*size)
    A, B = pair_of(world, matrix)
    target = np.random.default_rng(7).standard_normal((len(matrix.toarray()), 4))
    w, V, info = hs.eigsh(A, k=4, which=which, B=B, precond=precond, tol=1e-11)
    assert info.converged
    nodes = world.all_sum((spread(A.layout, target) * V + 0.5 * V**3).sum())
    (nodes + (w * w).sum()).backward()
    assert (info.adjoint is not None) and info.adjoint.converged
    order = slice(None, 4) if which == "smallest" else slice(None, -5, -1)
    signs = full(A.layout, V.detach())

    def loss(M, N):
        w, V = scipy.linalg.eigh(M, N)
        w, V = w[order], V[:, order]
        V = V * np.sign((signs * (N @ V)).sum(axis=0))
        return (target * V + 0.5 * V**3).sum() + (w * w).sum()

    matrices = [dense(A), dense(B)]
    changes = [direction(M, seed) for seed, M in enumerate(matrices)]
    for i, X in enumerate((A, B)):
        only = [D * (i == j) for j, D in enumerate(changes)]
        expected = differences(loss, matrices, only)
        np.testing.assert_allclose(along(X, X.values.grad, changes[i]), expected, rtol=1e-5)


def test_sums_over_clusters_and_the_spaces_they_span(world):
    """Each eigenvalue three times: what does not depend on the basis has a gradient."""
    A, _ = pair_of(world, clusters(), False)
    target = np.random.default_rng(8).standard_normal((len(dense(A)), 2))
    w, V, _ = hs.eigsh(A, k=6, tol=1e-11)
    np.testing.assert_allclose(w.detach()[:3].numpy(), w.detach()[0].item(), rtol=1e-10)
    products = world.all_sum(V.T @ spread(A.layout, target))
    loss = w[:3].sum() + 2.0 * w[3:].square().sum() + (products[:3] ** 2).sum()
    loss.backward()

    def of(M):
        w, V = np.linalg.eigh(M)
        return w[:3].sum() + 2 * (w[3:6] ** 2).sum() + ((V[:, :3].T @ target) ** 2).sum()

    change = direction(dense(A), 3)
    expected = differences(of, [dense(A)], [change])
    np.testing.assert_allclose(along(A, A.values.grad, change), expected, rtol=1e-5)


@pytest.mark.parametrize(("k", "apart"), [(4, 0.0), (2, 0.0), (4, 1e-10)])
def test_what_is_not_determined_raises(world, k, apart):
    """The second eigenvalue of a square grid is there twice: inside, and cut off by k = 2.

    Or almost twice, nearer than residuals can tell.
    """
    nearly = sp.diags_array(apart * np.arange(121.0))
    A, _ = pair_of(world, sp.csr_matrix(poisson(11) + nearly), False)
    _, V, _ = hs.eigsh(A, k=k)
    loss = world.all_sum((V[:, 1] * torch.arange(A.layout.n_owned)).sum())
    with pytest.raises(hs.DegenerateEigenvaluesError, match="gap") as raised:
        loss.backward(retain_graph=True)
    assert raised.value.pairs in ((1, 2), (2, 1)) and raised.value.gap < 1e-6
    V2 = hs.eigsh(A, k=k)[1]
    world.all_sum((V2[:, 0] * spread(A.layout, np.arange(121.0))).sum()).backward()
    assert everywhere(world, bool(A.values.grad.isfinite().all()))


SQUARE = {"dense": 7, "lobpcg": 11}


@pytest.mark.parametrize("n", SQUARE.values(), ids=SQUARE)
@pytest.mark.parametrize("guard", [None, 0])
def test_parts_of_a_cluster_have_no_gradient(world, n, guard):
    """Of a square grid the second and third eigenvalue coincide, also where k parts them."""
    A, _ = pair_of(world, poisson(n), False)

    def refused(k, loss):
        w, _, _ = hs.eigsh(A, k=k, guard=guard)
        with pytest.raises(hs.DegenerateEigenvaluesError, match="symmetric function") as raised:
            loss(w).backward()
        assert sorted(raised.value.pairs) == [1, 2] and raised.value.gap < 1e-6

    refused(4, lambda w: w[1])
    refused(4, lambda w: w[0] + w[1] + 1.001 * w[2])
    refused(2, lambda w: w.sum())
    refused(2, lambda w: w[1] ** 2)
    # What is symmetric has one, and so has what leaves the cluster alone.
    expected = np.linalg.eigvalsh(dense(A))
    np.testing.assert_allclose(expected[1], expected[2])
    change = direction(dense(A), 3)
    for k, loss, of in (
        (4, lambda w: w[1] + w[2], lambda w: w[1] + w[2]),
        (4, lambda w: (w**3).sum() - w[3], lambda w: (w[:3] ** 3).sum() + w[3] ** 3 - w[3]),
        (3, lambda w: w[1] * w[2] + w[0], lambda w: w[1] * w[2] + w[0]),
        (2, lambda w: w[0] ** 2, lambda w: w[0] ** 2),
    ):
        A.values.grad = None
        w, _, _ = hs.eigsh(A, k=k, guard=guard, tol=1e-9, precond="amg")
        loss(w).backward()
        slope = differences(lambda M, of=of: of(np.linalg.eigvalsh(M)), [dense(A)], [change])
        np.testing.assert_allclose(along(A, A.values.grad, change), slope, rtol=1e-6)


def test_parts_of_a_cluster_beside_vectors(world):
    """A loss of both: the values' share has none either."""
    A, _ = pair_of(world, sp.csr_matrix(sp.block_diag([grid(6, 9)] * 2)), False)
    w, V, _ = hs.eigsh(A, k=4)
    with pytest.raises(hs.DegenerateEigenvaluesError):
        (w[0] + world.all_sum((V[:, :2] ** 2).sum())).backward()
    w, V, _ = hs.eigsh(A, k=4)
    (w[0] + w[1] + world.all_sum((V[:, :2] ** 2).sum(dim=1).square().sum())).backward()


@pytest.mark.parametrize("which", ["smallest", "largest"])
def test_single_precision(world, which):
    """With the defaults, of values and of vectors."""
    matrix = grid(9, 12)
    A, _ = pair_of(world, sp.csr_matrix(matrix.astype(np.float32)), False)
    w, V, info = hs.eigsh(A, k=3, which=which)
    assert info.converged
    (w[0] + 2 * w[2] + world.all_sum((V[:, 0] ** 4).sum())).backward()
    assert info.adjoint.converged
    order = [0, 2] if which == "smallest" else [-1, -3]

    def of(M):
        w, V = np.linalg.eigh(M)
        return w[order[0]] + 2 * w[order[1]] + (V[:, order[0]] ** 4).sum()

    M = dense(A).astype(np.float64)
    change = direction(M, 3)
    np.testing.assert_allclose(
        along(A, A.values.grad, change), differences(of, [M], [change]), rtol=2e-3
    )


@pytest.mark.parametrize(("exponent", "of_mass"), [(200, 0), (-200, 0), (170, 170), (0, -160)])
def test_gradients_of_any_magnitude(world, exponent, of_mass):
    """In units of their own, those of the matrices near 1."""

    def gradients(up, down):
        A, B = pair_of(world, grid(9, 12))
        a, b = A.values.detach() * 10.0**up, B.values.detach() * 10.0**down
        a.requires_grad_()
        b.requires_grad_()
        w, V, info = hs.eigsh(A.with_values(a), k=3, B=B.with_values(b), tol=1e-10)
        assert info.converged
        share = world.all_sum((V[:, 0] * 10.0 ** (down / 2)).pow(4).sum())
        (w[0] * 10.0 ** (down - up) + 2 * w[2] * 10.0 ** (down - up) + share).backward()
        return a.grad * 10.0**up, b.grad * 10.0**down

    for found, expected in zip(gradients(exponent, of_mass), gradients(0, 0), strict=True):
        scale = abs(full_of(world, expected)).max()
        assert everywhere(world, bool(((found - expected).abs() <= 1e-6 * scale).all()))


def full_of(world, values) -> np.ndarray:
    return np.concatenate(world.comm.allgather(values.numpy()))


def test_second_derivatives_of_eigenvalues(world):
    A, _ = pair_of(world, grid(5, 6), False)
    w, _, _ = hs.eigsh(A, k=3)
    coefficients = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    (first,) = torch.autograd.grad((coefficients * w**2).sum(), A.values, create_graph=True)
    change = direction(dense(A), 4)
    mine = on_pattern(A, sp.csr_matrix(change)).values
    world.all_sum((first * mine).sum()).backward()

    def of(M):
        return coefficients.numpy() @ np.linalg.eigvalsh(M)[:3] ** 2

    M, h = dense(A), 1e-3
    other = direction(M, 5)

    def slope(t):
        return differences(of, [M + t * other], [change], 1e-3)

    expected = (8 * (slope(h) - slope(-h)) - (slope(2 * h) - slope(-2 * h))) / (12 * h)
    np.testing.assert_allclose(along(A, A.values.grad, other), expected, rtol=1e-5)


def test_second_derivatives_of_eigenvectors_raise(world):
    A, _ = pair_of(world, grid(5, 6), False)
    _, V, _ = hs.eigsh(A, k=3)
    loss = world.all_sum((V**3).sum())
    (first,) = torch.autograd.grad(loss, A.values, create_graph=True)
    with pytest.raises(hs.HpcSlaError, match="second derivatives"):
        first.square().sum().backward()


def test_the_graph_has_one_node_and_no_iterate(world):
    """However many iterations."""
    A, _ = pair_of(world, grid(10, 11), False)

    def kept(tol):
        w, V, info = hs.eigsh(A, k=3, tol=tol)
        nodes, todo = set(), [w.grad_fn, V.grad_fn]
        while todo:
            node = todo.pop()
            if node is not None and node not in nodes:
                nodes.add(node)
                todo += [following for following, _ in node.next_functions]
        saved = sum(t.numel() for t in w.grad_fn.saved_tensors)
        return len(nodes), saved, info.iterations

    gc.collect()
    few, many = kept(1e-2), kept(1e-11)
    assert few[:2] == many[:2] and few[0] <= 3 and many[2] > 2 * few[2]


def test_parameters_of_an_operator(world):
    """A + s 1, of a matrix-free operator: d lambda / d s = 1."""
    A = distribute(grid(10, 11), world)
    shift = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)

    class Shifted:
        layout, dtype = A.layout, torch.float64

        def __init__(self, named):
            self.parameters = lambda: [shift] if named else []

        def matvec(self, x):
            return A @ x + world.replicate(shift) * x

    w, _, _ = hs.eigsh(Shifted(True), k=3)
    (w * torch.tensor([1.0, 2.0, 4.0])).sum().backward()
    np.testing.assert_allclose(shift.grad.item(), 7.0, rtol=1e-10)
    with pytest.raises(hs.InputError, match="does not name"):
        hs.eigsh(Shifted(False), k=3, max_iterations=2)


def test_a_rank_without_rows_follows(world):
    """It may not know that a gradient is wanted."""
    A = distribute(grid(4, 6), world, "all on the last")
    mine = A.values.clone()
    if world.rank == world.size - 1:
        mine.requires_grad_()
    w, V, _ = hs.eigsh(A.with_values(mine), k=2)
    (w.sum() + world.all_sum((V**3).sum())).backward()
    grads = world.comm.allgather(mine.grad is not None)
    assert grads[-1]


def test_an_adjoint_rtol_that_is_named_is_held_to(world):
    """Left open, what rounding allows will do."""
    matrix = sp.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(130, 130)).tocsr()
    A = distribute(sp.csr_matrix(matrix), world)
    values = A.values.clone().requires_grad_()
    for rtol in (None, 1e-17):
        _, V, info = hs.eigsh(A.with_values(values), 2, precond="amg", adjoint_rtol=rtol)
        assert info.method == "lobpcg"
        loss = world.all_sum((V[:, 0] ** 4).sum())
        if rtol is None:
            loss.backward()
            assert info.adjoint.relative_residual < 1e-7
        else:
            with pytest.raises(hs.AdjointSolveError):
                loss.backward()

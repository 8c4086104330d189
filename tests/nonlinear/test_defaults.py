"""nonlinear_solve with everything left open: what it finds out, and that this is right."""

from __future__ import annotations

import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.optimize
import scipy.sparse as sp
import torch

import hpc_sla as hs
from hpc_sla.nonlinear import sparsity
from hpc_sla.nonlinear.linearise import Linearisation
from tests.collective import distribute_once, everywhere, full, on, spread
from tests.nonlinear.systems import matrix, vector

pytestmark = pytest.mark.mpi

N = 40


def line(n):
    h = 1.0 / (n + 1)
    return sp.csr_matrix(sp.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(n, n)) / h**2)


def ring(n):
    """Structurally not symmetric, and without a diagonal."""
    return sp.csr_matrix((np.full(n, 0.3), (np.arange(n), (np.arange(n) + 1) % n)), (n, n))


def by_rows(m, world):
    coo, layout = m.tocoo(), hs.RowLayout.even(m.shape[0], world)
    mine = np.isin(coo.row, layout.rows)
    return hs.DSparseMatrix.from_coo(coo.row[mine], coo.col[mine], coo.data[mine], m.shape, world)


def halo_written(u, A, B, world, add):
    """Neighbours' values taken by hand: A u by its entries."""
    everything = A.with_halo(u)
    local = torch.from_numpy(
        np.concatenate([A.layout.start + np.arange(A.layout.n_owned), A.pattern.plan.halo])
    )
    where = torch.argsort(local)
    at = where[torch.searchsorted(local[where], A.pattern.stored_columns())]
    return torch.zeros_like(u).index_add(0, A.pattern.local_rows(), A.values * everything[at])


# Of u, a matrix A, another B and t; and the same of dense ones. Which are coloured on a found
# pattern the third says.
RESIDUALS = {
    "one matrix": (lambda u, A, B, w, s: A @ u + u**3, True),
    "two matrices": (lambda u, A, B, w, s: A @ u + (B @ u) ** 2 + u, True),
    "squares of a product": (lambda u, A, B, w, s: A @ u + 0.1 * (A @ u) ** 2, True),
    "a transpose": (lambda u, A, B, w, s: A @ u + torch.sin(B.T @ u), True),
    "pointwise": (lambda u, A, B, w, s: u**3 + 2 * u, True),
    "a product of products": (lambda u, A, B, w, s: A @ u + 0.01 * u * (A @ (A @ u)), False),
    "a sum over all": (lambda u, A, B, w, s: A @ u + u * s((u**2).sum()), False),
}


def dense_root(name, A, B, t):
    function = RESIDUALS[name][0]
    a, b = torch.from_numpy(A.toarray()), torch.from_numpy(B.toarray())

    def residual(u):
        return function(u, a, b, None, lambda v: v) - t * torch.ones_like(u)

    def flat(u):
        return residual(torch.from_numpy(u)).numpy()

    def jacobian(u):
        return torch.func.jacrev(residual)(torch.from_numpy(u)).numpy()

    found = scipy.optimize.root(flat, np.zeros(A.shape[0]), jac=jacobian, tol=1e-14)
    assert np.linalg.norm(flat(found.x)) < 1e-9
    J = jacobian(found.x)
    y = np.linalg.solve(J.T, 2 * found.x)
    return found.x, float(y.sum())


@pytest.mark.parametrize("name", RESIDUALS)
def test_what_is_found_is_right(world, name):
    a, b = matrix(N), ring(N)
    A, B = (by_rows(m, world) for m in (a, b))  # the same rows in the same order
    function, coloured = RESIDUALS[name]

    def total(part):
        return world.replicate(world.all_sum(part))

    t = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    start = torch.zeros(A.layout.n_owned, dtype=torch.float64)
    u, info = hs.nonlinear_solve(
        lambda u, t: function(u, A, B, world, total) - world.replicate(t),
        start,
        t,
        layout=A.layout,
        rtol=1e-12,
    )
    root, slope = dense_root(name, a, b, 1.5)
    assert info.converged and np.allclose(full(A.layout, u), root, atol=1e-9)
    assert info.jvp == "forward"
    if coloured:
        assert info.jacobians == info.iterations and info.precond.startswith("direct")
        assert max(info.inner_iterations) <= 12
    A.layout.dot(u, u).backward()
    assert abs(float(t.grad) - slope) < 1e-8 * abs(slope)
    if not coloured:
        assert info.jacobians <= 2


def test_halo_values_taken_by_hand(world):
    A = distribute_once(matrix(N), world)
    f = spread(A.layout, vector(301, N))

    def residual(u):
        return halo_written(u, A, None, world, None) + u**3 - f

    start = torch.zeros_like(f)
    u, info = hs.nonlinear_solve(residual, start, layout=A.layout, rtol=1e-12)
    v, _ = hs.nonlinear_solve(lambda u: A @ u + u**3 - f, start, layout=A.layout, rtol=1e-12)
    assert info.converged and info.precond.startswith("direct")
    assert everywhere(world, torch.allclose(u, v, atol=1e-10))


@pytest.mark.parametrize("n", [1, 2, 200])
def test_bratu_on_a_line(world, n):
    """In a few steps, and its gradient beside a dense formula's."""
    a = line(n)
    A = distribute_once(a, world)
    t = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    u, info = hs.nonlinear_solve(
        lambda u, t: A @ u - world.replicate(t) * torch.exp(u),
        torch.zeros(A.layout.n_owned, dtype=torch.float64),
        t,
        layout=A.layout,
        rtol=1e-12,
    )
    assert info.converged and info.iterations <= 6 and sum(info.inner_iterations) <= 60
    A.layout.dot(u, u).backward()
    v, dense = np.zeros(n), a.toarray()
    for _ in range(20):
        J = dense - np.diag(2.0 * np.exp(v))
        v = v - np.linalg.solve(J, dense @ v - 2.0 * np.exp(v))
    slope = np.linalg.solve(J.T, 2 * v) @ np.exp(v)
    assert np.allclose(full(A.layout, u.detach()), v, atol=1e-10)
    assert abs(float(t.grad) - slope) < 1e-8 * slope


def test_several_unknowns_a_point(world):
    A = distribute_once(matrix(N), world)
    f = spread(A.layout, np.stack([vector(302, N), vector(303, N)], axis=1)).requires_grad_()

    def residual(u, f):
        return A @ u + u**3 + 0.3 * u.flip(1) - f

    start = torch.zeros_like(f).detach()
    u, info = hs.nonlinear_solve(residual, start, f, layout=A.layout, rtol=1e-12)
    assert info.converged and info.precond.startswith("direct")
    assert max(info.inner_iterations) <= 12
    A.layout.dot(u, u).sum().backward()
    v, free = hs.nonlinear_solve(
        residual, start, f.detach(), layout=A.layout, rtol=1e-12, jacobian="matrix_free"
    )
    assert free.precond == "none" and everywhere(world, torch.allclose(u, v, atol=1e-9))
    assert info.adjoint.converged


def test_singular_at_the_start(world):
    """No direct factor exists there; a singular Jacobian is no fault of the input."""
    layout = hs.RowLayout.even(N, world)
    scale = spread(layout, (np.arange(N) % 2) * 1.0)
    u, info = hs.nonlinear_solve(
        lambda u: scale * (u - 1.0) + (1 - scale) * u**3,
        torch.zeros(layout.n_owned, dtype=torch.float64),
        layout=layout,
    )
    assert info.converged and everywhere(world, torch.allclose(u, scale))


def test_a_pattern_that_is_right_at_first_only(world):
    """At 0 the derivative of the product of products is zero; at later u it is not."""
    A = distribute_once(matrix(N), world)
    f = spread(A.layout, vector(304, N))
    u, info = hs.nonlinear_solve(
        lambda u: A @ u + 0.05 * u * (A @ (A @ u)) - f,
        torch.zeros_like(f),
        layout=A.layout,
        rtol=1e-12,
        forcing=1e-6,
    )
    a = matrix(N).toarray()
    v = full(A.layout, u)
    assert info.converged and 1 <= info.jacobians <= 3
    assert np.linalg.norm(a @ v + 0.05 * v * (a @ (a @ v)) - vector(304, N)) < 1e-9
    # Quadratic as ever: products have stayed exact.
    assert info.iterations <= 8


def test_a_guess_is_made_once_for_the_same_matrices(world, monkeypatch):
    A = distribute_once(matrix(N), world)
    made = []
    kept = sparsity._codes
    monkeypatch.setattr(sparsity, "_codes", lambda *a: made.append(1) or kept(*a))
    f = spread(A.layout, vector(305, N))
    layout = hs.RowLayout(world, A.layout.offsets, A.layout.rows)
    for _ in range(3):
        hs.nonlinear_solve(lambda u, A: A @ u + u**3 - f, torch.zeros_like(f), A, layout=layout)
        B = A.with_values(A.values * 2)
        hs.nonlinear_solve(lambda u, B: B @ u + u**3 - f, torch.zeros_like(f), B, layout=layout)
    assert len(made) <= 1


def test_the_adjoint_tries_more_before_it_raises(world):
    """gmres(2) without a preconditioner stagnates, in backward as well."""
    A = distribute_once(line(60), world)
    f = on(world, np.ones(A.layout.n_owned)).requires_grad_()
    options = {"jacobian": "matrix_free", "linear_method": "gmres:restart=2"}
    u, info = hs.nonlinear_solve(
        lambda u, f: A @ u + u**3 - f,
        spread(A.layout, _root(60)),
        f,
        layout=A.layout,
        atol=1e-6,
        **options,
    )
    assert info.converged and info.iterations == 0
    A.layout.dot(u, u).backward()
    assert info.adjoint.converged and info.adjoint.method.startswith("gmres:restart=")
    J = line(60).toarray() + np.diag(3 * _root(60) ** 2)
    expected = np.linalg.solve(J.T, 2 * _root(60))
    assert np.allclose(full(A.layout, f.grad), expected, rtol=1e-6)


def _root(n):
    a, v = line(n).toarray(), np.zeros(n)
    for _ in range(20):
        v = v - np.linalg.solve(a + np.diag(3 * v**2), a @ v + v**3 - 1.0)
    return v


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_training_with_all_defaults(world, dtype):
    """A network inside the equation, in either precision, from a warm start as well."""
    torch.manual_seed(3)
    A = distribute_once(line(30).astype(str(dtype).removeprefix("torch.")), world)
    wide = {"dtype": torch.float64}
    net = torch.nn.Sequential(
        torch.nn.Linear(1, 6, **wide), torch.nn.Tanh(), torch.nn.Linear(6, 1, **wide)
    ).to(dtype)
    names, leaves = zip(*net.named_parameters(), strict=True)
    target = spread(A.layout, np.sin(np.arange(30) / 9.0)).to(dtype)
    optimiser = torch.optim.Adam(net.parameters(), lr=0.03)
    u = torch.zeros(A.layout.n_owned, dtype=dtype)
    losses = []

    def residual(u, *weights):
        given = dict(zip(names, map(world.replicate, weights), strict=True))
        return A @ u + u**3 - 20 * torch.func.functional_call(net, given, u[:, None])[:, 0]

    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        for _ in range(6):
            optimiser.zero_grad()
            u, info = hs.nonlinear_solve(residual, u.detach(), *leaves, layout=A.layout)
            assert info.converged
            loss = A.layout.dot(u - target, u - target)
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    ("iterations", "residual", "kept"),
    [(10, 1e-2, True), (15, 1e-2, True), (16, 1e-2, False), (10, 1e-1, True), (11, 1e-1, False)],
)
def test_a_preconditioner_is_kept_while_solves_take_few_more_iterations(iterations, residual, kept):
    """Than it took a digit when it was fresh: here 5. Not at all where it is made at once."""

    def serves(converged=True, pointwise=False):
        one = Linearisation.__new__(Linearisation)
        one.precond = SimpleNamespace(pointwise=pointwise)
        for one.age, *found in ((1, 20, 1e-4, True), (2, iterations, residual, converged)):
            names = "iterations", "relative_residual", "converged"
            one.latest = found[:2]  # of the preconditioner, where others may have begun the solve
            one.pace = 0.0 if one.age == 1 else 5.0
            one.judge(SimpleNamespace(**dict(zip(names, found, strict=True))))
            assert one.pace == 5 and (one.age == 2 or one.serves == (not pointwise))
        return one.serves

    assert serves() == kept
    assert not serves(converged=False) and not serves(pointwise=True)

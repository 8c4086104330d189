"""float32 with everything left to the defaults: forward, backward, and what cannot be had."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import scipy.sparse as sp
import torch

import hpc_sla as hs
from hpc_sla import problems
from hpc_sla.linear import default_rtol
from hpc_sla.linear.unconverged import settle
from tests.collective import dense, distribute, full, spread
from tests.methods import ENTRIES, GENERAL

pytestmark = pytest.mark.mpi

_MADE: dict = {}


def _made(text, world, solve=True):
    """In single precision, and its solution in double for a right-hand side of ones."""
    key = text, id(world)
    if key not in _MADE:
        A = problems.distribute(problems.make(text), world)
        single = A.with_values(A.values.float())
        if not solve:
            return single, None
        b = torch.ones(A.layout.n_owned, dtype=torch.float64)
        exact, info = hs.solve(A.with_values(single.values.double()), b, "gmres", "amg", rtol=1e-11)
        assert info.converged
        _MADE[key] = single, exact
    return _MADE[key]


POISSON = "poisson2d:n=32"
JUMPS, STEEP, WIND = "jumps2d:n=6,contrast=1e3", "jumps2d:n=6,contrast=1e5", "convection2d:n=6"
TABLE = [
    (text, method)
    for text in ("poisson2d:n=6", JUMPS, STEEP, WIND)
    for method, entry in ENTRIES.items()
    if not (text == WIND and entry.needs_symmetric)
    # Thousands of steps that come to nothing.
    and not (text == STEEP and method in ("richardson", "lsqr", "lsmr", "bicgstab"))
]
_EXACT: dict = {}


def _exact(text, world):
    """Of a loss c . x: the matrix, c, x, the adjoint y, -y_i x_j, and eps times the condition."""
    if (text, id(world)) not in _EXACT:
        A, _ = _made(text, world, solve=False)
        whole = dense(A).astype(float)
        c = np.random.default_rng(75).standard_normal(len(whole))
        x = np.linalg.solve(whole, np.ones(len(whole)))
        y = np.linalg.solve(whole.T, c)
        rows, columns = A.entries()
        of_values = torch.from_numpy(-y[rows] * x[columns])
        floor = np.linalg.cond(whole) * 6e-8
        x, y, c = (spread(A.layout, v) for v in (x, y, c))
        _EXACT[text, id(world)] = A, c.float(), x, y, of_values, floor
    return _EXACT[text, id(world)]


def _error(world, found, exact):
    parts = torch.stack([(found.double() - exact).square().sum(), exact.square().sum()])
    error, size = world.all_sum(parts).tolist()
    return (error / size) ** 0.5


@pytest.mark.parametrize(("text", "method"), TABLE)
def test_defaults_can_be_trained_with(world, text, method):
    """With every preconditioner: a gradient as good as the dtype and the matrix allow, or a word.

    An error only where the solve itself ended short of its tolerance, and not for rounding.
    """
    A, c, x_exact, y_exact, values_exact, floor = _exact(text, world)
    for precond in GENERAL:
        values = A.values.clone().requires_grad_()
        b = torch.ones(A.layout.n_owned, requires_grad=True)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            try:
                x, info = hs.solve(A.with_values(values), b, method, precond)
            except hs.InputError as refused:
                assert "symmetric preconditioner" in str(refused)
                continue
            served = info.converged or info.at_rounding
            assert info.rtol == 1e-5
            try:
                A.layout.dot(x, c).backward()
            except hs.AdjointSolveError:
                assert not served, (precond, info, info.adjoint)
                continue
        if text == "poisson2d:n=6" and method != "richardson":
            assert served and not said, (precond, info, [str(w.message) for w in said])
        named = [w for w in said if issubclass(w.category, hs.NotConvergedWarning)]
        assert served or named, (precond, info)
        assert bool(values.grad.isfinite().all()) and bool(b.grad.isfinite().all())
        if not named:
            bound = max(1e-3, 10 * floor)
            errors = [
                _error(world, x.detach(), x_exact),
                _error(world, b.grad, y_exact),
                _error(world, values.grad, values_exact),
            ]
            assert max(errors) < bound, (precond, errors, info, info.adjoint)


@pytest.mark.parametrize("method", ["cg", "bicgstab"])
def test_twenty_steps_of_training(world, method):
    """A scale of the matrix is found from the solution it should give."""
    A, _ = _made(POISSON, world)
    b = torch.ones(A.layout.n_owned)
    wanted = hs.solve(A.with_values(2.0 * A.values), b, method, "amg")[0].detach()
    size = float(A.layout.dot(wanted, wanted))
    theta = torch.zeros((), requires_grad=True)
    optimizer = torch.optim.Adam([theta], lr=0.1)
    losses = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(20):
            optimizer.zero_grad()
            scale = world.replicate(theta).exp()
            x, info = hs.solve(A.with_values(scale * A.values), b, method, "amg")
            loss = A.layout.dot(x - wanted, x - wanted) / size
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
            assert info.converged
    assert losses[-1] < 0.1 * losses[0]


def test_the_default_follows_the_dtype(world):
    assert default_rtol(torch.float64) == 1e-8 and default_rtol(torch.float32) == 1e-5
    A = distribute(sp.csr_matrix(2.0 * sp.eye_array(9)), world)
    b = torch.ones(A.layout.n_owned, dtype=torch.float64)
    assert hs.solve(A, b)[1].rtol == 1e-8
    assert hs.solve(A.with_values(A.values.float()), b.float())[1].rtol == 1e-5


@pytest.mark.parametrize("method", ["cg", "minres", "bicgstab", "gmres"])
def test_what_float32_cannot_give_is_said(world, method):
    """An explicit tolerance: `stagnated`, the remedy, and a gradient all the same."""
    A, exact = _made(POISSON, world)
    b = torch.ones(A.layout.n_owned, requires_grad=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        x, info = hs.solve(A, b, method, rtol=1e-8)
        assert info.status == "stagnated" and info.at_rounding and "float64" in info.advice[0]
        A.layout.dot(x, x).backward()
    assert info.adjoint.status == "stagnated" and info.adjoint.at_rounding
    expected, _ = hs.solve(A.with_values(A.values.double()), 2 * exact, "gmres", "amg", rtol=1e-11)
    error = A.layout.norm(b.grad.double() - expected) / A.layout.norm(expected)
    assert float(error) < 1e-3
    # What is asked of the adjoint by name must be met.
    x, info = hs.solve(A, b, method, adjoint_rtol=1e-12)
    with pytest.raises(hs.AdjointSolveError, match="stagnated"):
        A.layout.dot(x, x).backward()


def test_a_derivative_of_what_did_not_converge_warns_once(world):
    A = distribute(sp.csr_matrix(np.diag(np.arange(1.0, 31.0)) + np.eye(30, k=1)), world)
    b = torch.ones(A.layout.n_owned, dtype=torch.float64, requires_grad=True)
    x, info = hs.solve(A, b, "gmres", "none", rtol=1e-12, max_iterations=24, adjoint_rtol=0.9)
    assert info.status == "max_iterations"
    loss = A.layout.dot(x, x)
    with pytest.warns(hs.NotConvergedWarning, match="max_iterations"):
        loss.backward(retain_graph=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loss.backward()


def test_the_gradient_of_cg_on_what_is_not_symmetric_after_all(world):
    """It converges, since b and x0 suit; the adjoint must be that of the transpose."""
    n = 8
    i = np.arange(n * n)
    edge = (i % n == 0) | (i % n == n - 1) | (i // n == 0) | (i // n == n - 1)
    line = sp.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(n, n))
    inner = sp.diags_array(1.0 * ~edge)
    matrix = sp.csr_matrix(inner @ sp.kronsum(line, line) + sp.diags_array(1.0 * edge))
    A = distribute(matrix, world)
    b = spread(A.layout, 1.0 * ~edge).requires_grad_()
    c = np.random.default_rng(74).standard_normal(n * n)
    x, info = hs.solve(A, b, "cg", "jacobi", rtol=1e-11)
    assert info.converged
    A.layout.dot(spread(A.layout, c), x).backward()
    expected = np.linalg.solve(matrix.toarray().T, c)
    np.testing.assert_allclose(full(A.layout, b.grad), expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    ("residual", "usual", "said"), [(8e-4, 0.0, 1), (8e-4, 1e-3, 0), (2e-3, 0.0, 2)]
)
def test_a_derivative_that_falls_short_is_said_or_refused(world, residual, usual, said):
    info = hs.SolveInfo("max_iterations", 40, residual, residual, [1.0, residual])
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        if said == 2:
            with pytest.raises(hs.AdjointSolveError):
                settle(info, usual=usual, loosest=1e-3)
            return
        settle(info, usual=usual, loosest=1e-3)
    assert [w.category for w in told] == [hs.NotConvergedWarning] * said

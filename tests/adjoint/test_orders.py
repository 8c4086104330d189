"""Second derivatives, forward mode, parameters that every rank holds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.autograd import forward_ad

import hpc_sla as hs
from tests.adjoint.systems import FAMILIES, N, Whole, error, leaves, random
from tests.collective import dense, distribute, everywhere, full, random_matrix, spread

pytestmark = pytest.mark.mpi

SMALL = 4


def _small(world):
    matrix = random_matrix(SMALL, 0.35, 90).tolil()
    matrix.setdiag(3.0)
    return distribute(matrix.tocsr(), world)


@pytest.mark.parametrize("method", ["gmres", "bicgstab", "lsqr"])
def test_gradcheck_twice(world, method):
    A = _small(world)
    whole = Whole(A)

    def solution(values, b):
        x, _ = hs.solve(
            A.with_values(whole.own_values(values)), whole.own(b), method=method, rtol=1e-13
        )
        return whole.gathered(x)

    b = torch.from_numpy(random(SMALL, 91))
    inputs = whole.values().requires_grad_(), b.requires_grad_()
    fast = method != "gmres"  # in random directions
    assert torch.autograd.gradcheck(solution, inputs, fast_mode=fast)
    torch.manual_seed(0)  # it draws its cotangents
    assert torch.autograd.gradgradcheck(solution, inputs, fast_mode=fast)


def test_gradcheck_twice_of_the_transpose(world):
    A = _small(world)
    whole = Whole(A)

    def solution(values, b):
        used = A.with_values(whole.own_values(values))
        x, _ = hs.solve(used.T, whole.own(b), method="gmres", rtol=1e-13)
        return whole.gathered(x)

    inputs = whole.values().requires_grad_(), torch.ones(SMALL, 2).double().requires_grad_()
    torch.manual_seed(0)
    assert torch.autograd.gradgradcheck(solution, inputs, fast_mode=True)


def _problem(world, family="nonsymmetric"):
    A = distribute(FAMILIES[family](), world)
    values, b = leaves(A, random(N, 92))
    dv, db = torch.cos(torch.from_numpy(A.entries()[1] * 1.0)), spread(A.layout, random(N, 93))

    def solution(values, b):
        method = "cg" if family == "spd" else "gmres"
        return hs.solve(A.with_values(values), b, method=method, rtol=1e-13)[0]

    return A, values, b, dv, db, solution


def test_hessian_vector_products(world):
    """Backward twice, and forward over backward, beside dense formulas differentiated twice."""
    A, values, b, dv, db, solution = _problem(world)

    def loss(values, b):
        x = solution(values, b)
        return A.layout.dot(x, x * x)

    inputs = values, b
    first = torch.autograd.grad(loss(*inputs), inputs, create_graph=True)
    slope = world.all_sum((first[0] * dv).sum() + (first[1] * db).sum())
    ours = torch.autograd.grad(slope, inputs)
    _, forward = torch.func.jvp(
        torch.func.grad(loss, (0, 1)), (values.detach(), b.detach()), (dv, db)
    )
    matrix, rhs = (torch.from_numpy(t) for t in (dense(A), full(A.layout, b)))
    changes = tuple(torch.from_numpy(t) for t in (dense(A, dv), full(A.layout, db)))
    _, (of_a, of_b) = torch.autograd.functional.hvp(
        lambda D, r: (torch.linalg.solve(D, r) ** 3).sum(), (matrix, rhs), changes
    )
    of_a = of_a * (matrix != 0)
    for found in (ours, forward):
        assert error(dense(A, found[0]), of_a.numpy()) < 1e-10
        assert error(full(A.layout, found[1]), of_b.numpy()) < 1e-10


@pytest.mark.parametrize("family", ["spd", "nonsymmetric"])
def test_forward_mode(world, family):
    A, values, b, dv, db, solution = _problem(world, family)
    if family == "spd":
        dv = values.detach() * 0.1  # cg takes the matrix for symmetric
    values, b = values.detach(), b.detach()
    D, r = dense(A), full(A.layout, b)
    x = np.linalg.solve(D, r)
    change = np.linalg.solve(D, full(A.layout, db) - dense(A, dv) @ x)
    alone = np.linalg.solve(D, full(A.layout, db))
    primal, tangent = torch.func.jvp(solution, (values, b), (dv, db))
    assert error(full(A.layout, primal), x) < 1e-10
    assert error(full(A.layout, tangent), change) < 1e-10
    _, tangent = torch.func.jvp(lambda b: solution(values, b), (b,), (db,))
    assert error(full(A.layout, tangent), alone) < 1e-10
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(b, db)
        tangent = forward_ad.unpack_dual(solution(values, dual)).tangent
        assert error(full(A.layout, tangent), alone) < 1e-10
        # A rank without a tangent follows the others.
        mine = dual if world.rank == 0 else b
        tangent = forward_ad.unpack_dual(solution(values, mine)).tangent
        ours = db if world.rank == 0 else torch.zeros_like(db)
        alone = np.linalg.solve(D, full(A.layout, ours))
        assert np.abs(full(A.layout, tangent) - alone).max() < 1e-10


def test_a_tangent_that_does_not_converge_is_an_error(world):
    A, _values, b, _, db, _ = _problem(world)
    x0 = hs.solve(A, b.detach(), method="gmres", rtol=1e-12)[0]

    def limited(b):
        return hs.solve(A, b, method="gmres", x0=x0, max_iterations=2)[0]

    with pytest.raises(hs.AdjointSolveError):
        torch.func.jvp(limited, (b.detach(),), (db,))


@pytest.mark.parametrize("optimiser", ["Adam", "SGD"])
def test_replicated_parameters_stay_the_same_bit_for_bit(world, optimiser):
    A = distribute(FAMILIES["spd"](), world)
    target = spread(A.layout, random(N, 94))
    b = spread(A.layout, random(N, 95))
    on_diagonal = torch.from_numpy(np.equal(*A.entries()))
    theta = torch.tensor([0.1, -0.2], dtype=torch.float64, requires_grad=True)
    step = getattr(torch.optim, optimiser)([theta], lr=0.1)
    losses, gradients = [], []

    def closure():
        step.zero_grad()
        scale, shift = world.replicate(theta)
        values = torch.exp(scale) * A.values + torch.where(on_diagonal, shift**2, 0.0)
        x, _ = hs.solve(A.with_values(values), b, rtol=1e-11)
        loss = A.layout.dot(x - target, x - target)
        loss.backward()
        gradients.append(theta.grad.clone())
        losses.append(loss.item())
        return loss

    for _ in range(5):
        step.step(closure)
    assert losses[-1] < losses[0]
    assert len(set(world.comm.allgather((tuple(theta.tolist()), *losses)))) == 1
    # The gradient is whole on every rank: the slope of the loss itself.
    with torch.no_grad():
        x, h, slopes = theta.detach().clone(), 1e-6, []
        for i in range(2):
            ends = []
            for sign in (1, -1):
                theta.copy_(x)
                theta[i] += sign * h
                with torch.enable_grad():
                    ends.append(closure().item())
            slopes.append((ends[0] - ends[1]) / (2 * h))
        theta.copy_(x)
    closure()
    np.testing.assert_allclose(gradients[-1].numpy(), slopes, rtol=1e-6)
    assert everywhere(world, True)


@pytest.mark.parametrize("columns", [(), (2,)])
def test_cotangents_of_stride_0(world, columns):
    """That of a sum is one number, expanded: nothing may take it for a vector in memory."""
    A = distribute(FAMILIES["spd"](), world)
    values = A.values.clone().requires_grad_()
    x = spread(A.layout, random((N, *columns), 5)).requires_grad_()
    y = spread(A.layout, random((N, *columns), 6))

    def once(loss, *of):
        return torch.autograd.grad(loss, of, create_graph=True)

    def expanded_and_not(found, of):
        plain = torch.autograd.grad((found * torch.ones_like(found)).sum(), of, retain_graph=True)
        strided = torch.autograd.grad(found.sum(), of, retain_graph=True)
        for one, other in zip(plain, strided, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)

    for product in (A.with_values(values) @ x, A.with_values(values).T @ x):
        expanded_and_not(product, (values, x))
        for found, of in zip(once((product * y).sum(), values, x), (x, values), strict=True):
            expanded_and_not(found, (of,))
    for solve in (hs.solve, lambda A, b, **options: hs.LinearSolver(A, **options).solve(b)):
        z, _ = solve(A.with_values(values), x, method="cg", rtol=1e-12)
        expanded_and_not(z, (values, x))
        (found,) = once(A.layout.dot(z, y).sum(), values)
        expanded_and_not(found, (values, x))

"""Residuals and places for which torch has no derivative, says nothing, or has another one."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from torch.utils.checkpoint import checkpoint

import hpc_sla as hs
from tests.collective import distribute, everywhere, full, spread
from tests.nonlinear.systems import known, matrix, on_ranks, on_world, parameters, vector

pytestmark = pytest.mark.mpi

N = 7


class Square(torch.autograd.Function):
    """Without forward mode."""

    @staticmethod
    def forward(ctx, u):
        ctx.save_for_backward(u)
        return u**2

    @staticmethod
    def backward(ctx, c):
        return 2 * ctx.saved_tensors[0] * c


class WrongSquare(Square):
    @staticmethod
    def backward(ctx, c):
        return 3 * ctx.saved_tensors[0] * c


def without_grad(u, a):
    with torch.no_grad():
        return u**2 - a


def under_inference(u, a):
    with torch.inference_mode():
        return u**2 - a


RESIDUALS = {
    "plain": lambda u, a: u**2 - a,
    "no jvp": lambda u, a: Square.apply(u) - a,
    "wrong backward": lambda u, a: WrongSquare.apply(u) - a,
    "no_grad": without_grad,
    "inference mode": under_inference,
    "detached": lambda u, a: u.detach() ** 2 - a,
    "half detached": lambda u, a: u * u.detach() - a,
    "numpy": lambda u, a: torch.from_numpy(u.detach().numpy() ** 2) - a,
    "compiled": torch.compile(lambda u, a: u**2 - a, backend="aot_eager"),
}
PRODUCTS = {"plain": "forward", "no_grad": "forward", "compiled": "forward"}


def _start(world):
    layout = hs.RowLayout.even(N, world)
    a = spread(layout, np.arange(N) + 2.0).requires_grad_()
    return layout, a, torch.ones_like(a).detach()


@pytest.mark.parametrize("jvp", ["forward", "reverse", "fd"])
@pytest.mark.parametrize("name", RESIDUALS)
def test_the_root_all_the_same(world, name, jvp):
    layout, a, u0 = _start(world)
    u, info = hs.nonlinear_solve(
        RESIDUALS[name], u0, a.detach(), layout=layout, jvp=jvp, rtol=1e-12
    )
    assert info.converged and np.allclose(full(layout, u), np.sqrt(np.arange(N) + 2.0), atol=1e-12)
    if jvp == "forward":
        assert info.jvp == PRODUCTS.get(name, "fd")
    assert bool(info.reason) == (info.jvp != jvp)


@pytest.mark.parametrize("name", RESIDUALS)
def test_the_gradient_or_a_word(world, name):
    layout, a, u0 = _start(world)
    u, _ = hs.nonlinear_solve(RESIDUALS[name], u0, a, layout=layout, rtol=1e-12)
    loss = layout.dot(u, torch.ones_like(u))
    if name in ("no_grad", "inference mode", "detached", "numpy"):
        with pytest.raises(hs.InputError, match="no way from the residual back to u"):
            loss.backward()
    elif name in ("wrong backward", "half detached"):
        with pytest.warns(RuntimeWarning, match="may be wrong"):
            loss.backward()
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)
            loss.backward()
        assert everywhere(world, torch.allclose(a.grad, 0.5 / a.detach().sqrt(), rtol=1e-8))


@pytest.mark.parametrize("reentrant", [True, False])
def test_inside_a_checkpoint_of_torch(world, reentrant):
    dense, A = known(), on_world(world)
    values, d, s, f = parameters(A, vector(201), 0.7, 3 * vector(202))
    statuses = []

    def solution(values, d, s, f):
        u, info = hs.nonlinear_solve(
            on_ranks(world, A), torch.zeros_like(f), A.with_values(values), d, s, f, rtol=1e-12
        )
        statuses.append(info.status)
        return u

    u = checkpoint(solution, values, d, s, f, use_reentrant=reentrant)
    assert np.allclose(full(A.layout, u), dense.u, atol=1e-9)
    loss = A.layout.dot(spread(A.layout, vector(203)), u) + A.layout.dot(u, u)
    loss.backward()
    assert set(statuses) == {"converged"}  # the second time may end early
    assert everywhere(
        world, torch.allclose(f.grad, spread(A.layout, dense.gradients()[3].numpy()), atol=1e-8)
    )


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_a_validation_pass_and_then_training(world, mode):
    """The first use of everything in the mode, its tensors made there too."""
    dense = known()
    A = distribute(matrix(), world)

    def run(values, d, s, f):
        return hs.nonlinear_solve(
            on_ranks(world, A), torch.zeros_like(f), A.with_values(values), d, s, f, rtol=1e-12
        )

    leaves = parameters(A, vector(201), 0.7, 3 * vector(202))
    with mode():
        u, info = run(*leaves)
        made_here = [t * 1.0 for t in leaves]
        v, again = run(*made_here)
    assert info.converged and again.converged and again.jvp == info.jvp == "forward"
    for found in (u, v):
        assert not found.requires_grad
        assert np.allclose(full(A.layout, found), dense.u, atol=1e-9)
    u, _ = run(*leaves)
    loss = A.layout.dot(spread(A.layout, vector(203)), u) + A.layout.dot(u, u)
    loss.backward()
    of_f = spread(A.layout, dense.gradients()[3].numpy())
    assert everywhere(world, torch.allclose(leaves[3].grad, of_f, atol=1e-8))


def test_kinks_and_a_derivative_that_is_zero_are_none_of_it(world):
    layout, a, _ = _start(world)
    zero = torch.zeros_like(a).detach()
    u, info = hs.nonlinear_solve(
        lambda u, a: u + torch.relu(u) + u.abs() - a, zero, a.detach(), layout=layout, rtol=1e-12
    )
    assert info.converged and info.jvp == "forward"
    assert np.allclose(full(layout, u), (np.arange(N) + 2.0) / 3)
    _, info = hs.nonlinear_solve(lambda u: 0.0 * u + 1.0, zero, layout=layout)
    assert info.status == "breakdown" and info.jvp == "forward"


def test_a_sum_over_ranks_used_without_replicate(world):
    """Its cotangents are then those of this rank's rows: wrong on several ranks, and said so."""
    layout, a, u0 = _start(world)
    u, info = hs.nonlinear_solve(
        lambda u, a: u + u * world.all_sum((u**2).sum()) - a, u0, a, layout=layout, rtol=1e-12
    )
    assert info.converged and info.jvp == "forward"
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        layout.dot(u, u).backward()
    words = [str(one.message) for one in told if "world.replicate" in str(one.message)]
    assert len(words) == (world.size > 1)


def test_a_gradient_of_what_is_no_root_is_not_given_without_a_word(world):
    layout, a, u0 = _start(world)
    u, info = hs.nonlinear_solve(
        lambda u, a: u**2 - a, u0, a, layout=layout, rtol=1e-12, max_iterations=2
    )
    assert info.status == "max_iterations"
    with pytest.warns(hs.NotConvergedWarning, match="max_iterations"):
        layout.dot(u, u).backward(retain_graph=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        layout.dot(u, u).backward()  # once is enough

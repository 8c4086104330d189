"""A function of autograd takes the short way only where nobody wants to know."""

from __future__ import annotations

import pytest
import torch
from torch.autograd import forward_ad

from hpc_sla.kernels.function import Function

X = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)


class Cube(Function):
    noted: int = 0

    @staticmethod
    def forward(x, factor):
        return factor * x.detach() ** 3  # as compiled loops, out of sight

    @staticmethod
    def setup_context(ctx, inputs, output):
        Cube.noted += 1
        x, ctx.factor = inputs
        ctx.save_for_backward(x)
        ctx.save_for_forward(x)

    @staticmethod
    def backward(ctx, *grads):
        (x,) = ctx.saved_tensors
        return 3 * ctx.factor * grads[0] * x**2, None

    @staticmethod
    def jvp(ctx, *tangents):
        (x,) = ctx.saved_tensors
        return 3 * ctx.factor * tangents[0] * x**2


class WithContext(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    def backward(ctx, *grads):
        (x,) = ctx.saved_tensors
        return 2 * grads[0] * x


def test_a_forward_with_a_context_gets_one():
    with torch.no_grad():
        assert torch.equal(WithContext.apply(X), X**2)


@pytest.fixture(autouse=True)
def _from_nothing():
    Cube.noted = 0


@pytest.mark.parametrize("wants", [False, True])
def test_without_gradients_there_is_no_graph(wants):
    x = X.clone().requires_grad_(wants)
    with torch.no_grad():
        y = Cube.apply(x, 2.0)
    assert torch.equal(y, 2 * X**3) and not y.requires_grad and y.grad_fn is None
    assert Cube.noted == 0


def test_with_gradients():
    x = X.clone().requires_grad_()
    (first,) = torch.autograd.grad(Cube.apply(x, 2.0).sum(), x)
    assert torch.equal(first, 6 * X**2) and Cube.noted == 1


def test_tangents_need_no_gradients():
    with torch.no_grad(), forward_ad.dual_level():
        y = Cube.apply(forward_ad.make_dual(X, torch.ones_like(X)), 2.0)
        assert torch.equal(forward_ad.unpack_dual(y).tangent, 6 * X**2)


def test_nor_do_transforms():
    with torch.no_grad():
        value, tangent = torch.func.jvp(lambda x: Cube.apply(x, 2.0), (X,), (torch.ones_like(X),))
        slope = torch.func.grad(lambda x: Cube.apply(x, 2.0).sum())(X)
    assert torch.equal(value, 2 * X**3)
    assert torch.equal(tangent, 6 * X**2) and torch.equal(slope, 6 * X**2)

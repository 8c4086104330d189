"""What docs/how-to/torch.md says of solves in torch's machinery: compile, vmap, and so on.

Copies and pickles are in tests/sparse/test_copies.py, compiled modules and inference mode also in
tests/kernels/test_modes.py.
"""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from torch.utils.checkpoint import checkpoint

import hpc_sla as hs
from tests.collective import distribute, everywhere, spread

pytestmark = pytest.mark.mpi

N = 13
MATRIX = sp.csr_matrix(sp.diags_array([-1.0, 3.0, -0.5], offsets=[-1, 0, 1], shape=(N, N)))


class Model(torch.nn.Module):
    def __init__(self, A):
        super().__init__()
        self.values = torch.nn.Parameter(A.values.detach().clone())
        self.A = A.with_values(self.values)
        self.solves = 0

    def forward(self, b):
        self.solves += 1
        return torch.tanh(hs.solve(self.A, torch.sin(b), "gmres", "jacobi", rtol=1e-12)[0]) * b


@pytest.fixture
def model():
    return Model(distribute(MATRIX, hs.World(device="cpu")))


def _b(model):
    return spread(model.A.layout, np.linspace(0.5, 1.5, N)).requires_grad_()


def _gradients(model, call):
    b = _b(model)
    loss = model.A.layout.norm(call(b))
    found = torch.autograd.grad(loss, (b, model.values))
    return [loss.detach(), *found]


def _same(model, one, other):
    pairs = zip(one, other, strict=True)
    assert everywhere(model.A.world, all(torch.allclose(a, b, rtol=1e-10) for a, b in pairs))


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing(model, reentrant):
    """The solve is done again in backward, by all ranks; the gradient is the same."""
    plain = _gradients(model, model)
    b = _b(model)
    model.solves = 0
    loss = model.A.layout.norm(checkpoint(model, b, use_reentrant=reentrant))
    loss.backward()
    assert model.solves == 2
    _same(model, plain, [loss.detach(), b.grad, model.values.grad])


def test_compiling(model):
    _same(model, _gradients(model, model), _gradients(model, torch.compile(model, backend="eager")))


def test_the_whole_graph_is_not_to_be_had(model):
    with pytest.raises(torch._dynamo.exc.Unsupported):
        torch.compile(model, backend="eager", fullgraph=True)(_b(model))


def test_transforms(model):
    """jvp, vjp and grad, against each other and a dense solve; vmap and what is made of it not."""
    A, b = model.A.with_values(model.values.detach()), _b(model).detach()
    t = spread(A.layout, np.cos(np.arange(N)))

    def solve(b):
        return hs.solve(A, b, "gmres", "jacobi", rtol=1e-12)[0]

    inverse = np.linalg.inv(MATRIX.toarray())
    _, tangent = torch.func.jvp(solve, (b,), (t,))
    expected = inverse @ np.cos(np.arange(N))
    assert everywhere(A.world, np.allclose(tangent, expected[A.layout.rows], atol=1e-10))
    _, pull = torch.func.vjp(solve, b)
    (back,) = pull(t)
    expected = inverse.T @ np.cos(np.arange(N))
    assert everywhere(A.world, np.allclose(back, expected[A.layout.rows], atol=1e-10))
    found = torch.func.grad(lambda b: A.layout.dot(t, solve(b)))(b)
    assert everywhere(A.world, torch.allclose(found, back, atol=1e-10))
    for transform in (torch.func.jacrev, torch.func.jacfwd):
        with pytest.raises(hs.InputError, match="vmap"):
            transform(solve)(b)


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_first_used_without_gradients(model, mode):
    with mode():
        solver = hs.LinearSolver(model.A, "gmres", "jacobi", rtol=1e-12)
        early = solver.solve(_b(model).detach() * 2)[0]
        vector = _b(model).detach() * 1.0
    x, _ = solver.solve(vector)
    assert everywhere(model.A.world, torch.allclose(2 * x, early, rtol=1e-9))
    model.A.layout.norm(x).backward()
    assert everywhere(model.A.world, bool(model.values.grad.isfinite().all()))

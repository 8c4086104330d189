"""SparseTensor.nonlinear_solve: its root, its gradients, and what it says."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import hpc_sla as hs
from tests.nonlinear.systems import Dense, dense_residual, matrix, vector

S = 0.7
WAYS = {
    "default": {},
    "coloured": {"jacobian": "coloured", "precond": "block_jacobi"},
    "anderson": {"method": "anderson", "precond": "jacobi"},
    "given": {
        "jacobian": lambda u, S, d, s, f: hs.SparseTensor.from_dense(
            torch.func.jacrev(lambda u: dense_residual(S.to_dense(), u, d, s, f))(u)
        )
    },
}


@pytest.mark.parametrize("way", WAYS)
def test_root_and_gradients(way):
    dense = Dense(matrix(), vector(201), S, 3 * vector(202), vector(203))
    tensor = hs.SparseTensor.from_scipy(matrix())
    tensor = tensor.with_values(tensor.values.requires_grad_())
    d, s, f = (torch.tensor(v, requires_grad=True) for v in (vector(201), S, 3 * vector(202)))
    d, s, f = (t.detach().double().requires_grad_() for t in (d, s, f))
    u = tensor.nonlinear_solve(
        dense_residual_of, torch.zeros_like(f).detach(), d, s, f, rtol=1e-12, **WAYS[way]
    )
    assert np.allclose(u.detach(), dense.u, atol=1e-9)
    (dense.c @ u + u @ u).backward()
    of_A, *rest = dense.gradients()
    assert torch.allclose(tensor.values.grad, of_A[tensor.row, tensor.col], atol=1e-8)
    for found, expected in zip((d, s, f), rest, strict=True):
        assert torch.allclose(found.grad, expected, atol=1e-8)


def dense_residual_of(u, S, d, s, f):
    return dense_residual(S, u, d, s, f)


def test_what_it_says():
    tensor = hs.SparseTensor.from_scipy(matrix())
    u0 = torch.ones(tensor.shape[0], dtype=torch.float64)
    with pytest.warns(hs.NotConvergedWarning, match="breakdown"):
        tensor.nonlinear_solve(lambda u, S: (S @ u) * 0.0 + 1.0, u0)
    _, info = tensor.nonlinear_solve_with_info(lambda u, S: S @ u - 1.0, u0)
    assert info.converged and info.iterations >= 1
    with pytest.raises(hs.InputError, match="one matrix"):
        tensor.with_values(tensor.values.expand(2, -1)).nonlinear_solve(lambda u, S: u, u0)
    with pytest.raises(hs.InputError, match="float32"):
        tensor.nonlinear_solve(lambda u, S: u, u0.float())

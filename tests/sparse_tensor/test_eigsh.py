"""SparseTensor.eigsh: one matrix, a batch, B, gradients; without a launcher."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch

import hpc_sla as hs
from tests.eigen.pencils import exact, grid, mass


def of(matrix, grad=False) -> hs.SparseTensor:
    made = hs.SparseTensor.from_scipy(sp.csr_matrix(matrix))
    return made.with_values(made.values.requires_grad_()) if grad else made


@pytest.mark.parametrize("size", [(4, 6), (12, 13)])
def test_one_matrix(size):
    matrix = grid(*size)
    for which in ("smallest", "largest"):
        w, V = of(matrix).eigsh(4, which)
        np.testing.assert_allclose(w.numpy(), exact(matrix, 4, which), rtol=1e-9)
        np.testing.assert_allclose(matrix @ V.numpy(), V.numpy() * w.numpy(), atol=1e-7)


def test_a_batch_with_masses_and_its_gradient():
    matrix = grid(4, 6)
    A, B = of(matrix), of(mass(matrix))
    values = torch.stack([A.values, 2 * A.values]).requires_grad_()
    w, V = A.with_values(values).eigsh(3, B=A.with_values(torch.stack([B.values, B.values])))
    assert w.shape == (2, 3) and V.shape == (2, 24, 3)
    expected = exact(matrix, 3, B=mass(matrix))
    np.testing.assert_allclose(w.detach().numpy(), [expected, 2 * expected], rtol=1e-10)
    w.sum().backward()
    # Eigenvalues are of the first degree: Euler's theorem.
    np.testing.assert_allclose((values.grad * values).sum().item(), w.sum().item(), rtol=1e-10)
    with pytest.raises(hs.InputError, match="pattern"):
        A.eigsh(3, B=of(sp.eye_array(24).tocsr()))


def test_gradient_beside_dense_torch():
    A = of(grid(5, 6), grad=True)
    w, V = A.eigsh(3)
    (w.square().sum() + V[:, 0].pow(4).sum()).backward()
    dense = A.detach().to_dense().requires_grad_()
    w, V = torch.linalg.eigh(dense)
    (w[:3].square().sum() + V[:, 0].pow(4).sum()).backward()
    symmetric = (dense.grad + dense.grad.T) / 2
    np.testing.assert_allclose(A.values.grad.numpy(), symmetric[A.row, A.col].numpy(), atol=1e-7)


def test_what_did_not_converge_is_told():
    with pytest.warns(hs.NotConvergedWarning, match="max_iterations"):
        of(grid(12, 13)).eigsh(3, max_iterations=2)

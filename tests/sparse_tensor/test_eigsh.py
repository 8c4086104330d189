"""SparseTensor.eigsh: one matrix, a batch, B, gradients; without a launcher."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch

import hpc_sla as hs
from tests.eigen.pencils import exact, grid, mass, poisson


def of(matrix, grad=False) -> hs.SparseTensor:
    made = hs.SparseTensor.from_scipy(sp.csr_matrix(matrix))
    return made.with_values(made.values.requires_grad_()) if grad else made


@pytest.mark.parametrize("size", [(4, 6), (12, 13)])
def test_one_matrix(size):
    matrix = grid(*size)
    for which in ("smallest", "largest"):
        w, V = of(matrix).eigsh(4, which, precond="auto")
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
    with pytest.raises(hs.InputError, match="shape"):
        A.eigsh(3, B=of(sp.eye_array(25).tocsr()))


def test_a_mass_of_another_pattern():
    """Lumped, for one matrix and for a batch; its gradient too."""
    matrix, lumped = grid(4, 6), sp.diags_array(np.linspace(1, 2, 24)).tocsr()
    A, B = of(matrix), of(lumped, grad=True)
    expected = exact(matrix, 3, B=lumped)
    w, _ = A.eigsh(3, B=B)
    np.testing.assert_allclose(w.detach().numpy(), expected, rtol=1e-10)
    w.sum().backward()
    # Of degree -1 in B.
    np.testing.assert_allclose((B.values.grad * B.values).sum().item(), -w.sum().item(), rtol=1e-8)
    pair = A.with_values(torch.stack([A.values, 3 * A.values]))
    w, _ = pair.eigsh(3, B=B.detach())
    np.testing.assert_allclose(w.numpy(), [expected, 3 * expected], rtol=1e-10)


def test_parts_of_a_cluster_have_no_gradient():
    square = of(poisson(5), grad=True)
    pair = square.with_values(torch.stack([of(grid(5, 5)).values, square.values]))
    for w in (square.eigsh(2)[0], square.eigsh(4)[0][1:2], pair.eigsh(2)[0][1]):
        with pytest.raises(hs.DegenerateEigenvaluesError):
            w.sum().backward()


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

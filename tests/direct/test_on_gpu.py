"""The backends of the GPU on one, where there is one: against dense solves."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch

import hpc_sla as hs
from hpc_sla.direct import BACKENDS, factorize
from hpc_sla.kernels.csr import CsrPattern
from tests.collective import random_matrix, spd_matrix

ON_GPU = [
    b
    for b in BACKENDS.values()
    if torch.cuda.is_available() and "cuda" in b.devices and b.available()
]
GPU = [(b.name, m) for b in ON_GPU for m in b.methods if b.available(m)]
pytestmark = pytest.mark.skipif(not GPU, reason="no GPU, or no direct solver for one")


def there(matrix, dtype: torch.dtype = torch.float64) -> tuple[CsrPattern, torch.Tensor]:
    matrix = sp.csr_matrix(matrix)
    matrix.sort_indices()
    indptr, indices = (
        torch.from_numpy(a.astype(np.int32)).cuda() for a in (matrix.indptr, matrix.indices)
    )
    values = torch.from_numpy(matrix.data).to("cuda", dtype)
    return CsrPattern(indptr, indices, matrix.shape[1]), values


def ones(n: int) -> torch.Tensor:
    return torch.ones(n, dtype=torch.float64, device="cuda")


@pytest.mark.parametrize(("backend", "method"), GPU)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("columns", [None, 1, 3])
@pytest.mark.parametrize("transpose", [False, True])
def test_solves(backend, method, dtype, columns, transpose):
    symmetric = method in ("llt", "ldlt")
    matrix = spd_matrix(60, 1) if symmetric else random_matrix(60, 0.2, 6) + 4 * sp.eye(60)
    factors = factorize(*there(matrix, dtype), backend=backend, method=method)
    dense = matrix.toarray().T if transpose else matrix.toarray()
    x = np.random.default_rng(0).standard_normal((60, columns) if columns else 60)
    b = torch.from_numpy(dense @ x).to("cuda", dtype)
    found = factors.solve(b, transpose)
    assert found.is_cuda and found.dtype == dtype and found.shape == b.shape
    residual = np.linalg.norm(dense @ found.cpu().double().numpy() - b.cpu().double().numpy())
    error = residual / (np.linalg.norm(dense) * np.linalg.norm(x))
    assert error < {torch.float64: 1e-14, torch.float32: 1e-6}[dtype]
    on_host = factors.solve(b.cpu(), transpose)
    assert on_host.device.type == "cpu"


@pytest.mark.parametrize(("backend", "method"), GPU)
@pytest.mark.parametrize("n", [0, 1])
def test_the_smallest(backend, method, n):
    factors = factorize(*there(4.0 * np.eye(n)), backend=backend, method=method)
    assert torch.equal(factors.solve(ones(n)), ones(n) / 4)


# To SuperLU a pivot of rounding errors is one as good as any, here as on the CPU.
@pytest.mark.parametrize("backend", [b.name for b in ON_GPU if b.name != "triangular"])
@pytest.mark.parametrize(
    "matrix",
    [
        np.ones((2, 2)),
        np.diag([1.0, 0.0]),
        np.arange(16.0).reshape(4, 4) + 1,  # of rank 2, to rounding
        np.diag([1e8, 1.0, 1e-8]) @ (np.arange(9.0).reshape(3, 3) + 1),
    ],
)
def test_singular_matrices_are_named(backend, matrix):
    b = torch.from_numpy(np.random.default_rng(1).standard_normal(len(matrix))).cuda()
    with pytest.raises(hs.SingularMatrixError, match=backend):
        factorize(*there(matrix), backend=backend).solve(b)


@pytest.mark.parametrize("backend", [b.name for b in ON_GPU])
def test_a_badly_scaled_matrix_is_not_taken_for_singular(backend):
    matrix = np.diag([1e12, 1e12, 2e-6, 2e-12])
    matrix[2, 3], matrix[0, 1] = 1e-12, 1e-3
    x = factorize(*there(matrix), backend=backend).solve(ones(4))
    np.testing.assert_allclose(x.cpu().numpy(), np.linalg.solve(matrix, np.ones(4)))


@pytest.mark.parametrize("backend", [b.name for b in ON_GPU])
def test_where_cholesky_fails_another_method_takes_over(backend):
    """Symmetric with a positive diagonal, and indefinite."""
    matrix = np.array([[1.0, 2.0], [2.0, 1.0]])
    factors = factorize(*there(matrix), backend=backend)
    assert factors.method != "llt"
    torch.testing.assert_close(factors.solve(ones(2)), ones(2) / 3)


def test_a_sparse_tensor_is_solved_where_it_is():
    matrix = random_matrix(60, 0.2, 6) + 4 * sp.eye(60)
    A = hs.SparseTensor.from_scipy(sp.csr_matrix(matrix), device="cuda")
    b = torch.randn(60, 2, dtype=torch.float64, device="cuda")
    expected = torch.linalg.solve(A.to_dense(), b)
    for backend in ("auto", "torch", "scipy", *(x.name for x in ON_GPU)):
        x = A.solve(b, backend=backend, rtol=1e-12 if backend in ("auto", "torch") else None)
        assert x.is_cuda
        torch.testing.assert_close(x, expected, rtol=1e-7, atol=1e-9)

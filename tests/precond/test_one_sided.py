"""Patterns in which some ranks need nothing of others: every message is still agreed upon."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import scipy.sparse.linalg as spla
import torch

import hpc_sla as hs
from hpc_sla.precond import make_preconditioner
from tests.collective import full, spread
from tests.methods import GENERAL
from tests.precond.amg.systems import multigrid, poisson

pytestmark = pytest.mark.mpi

N = 240


def _upwind(n: int = N) -> sp.csr_matrix:
    return sp.diags_array([-1.0, 1.5], offsets=[-1, 0], shape=(n, n), format="csr")


def _only_the_last_reaches() -> sp.csr_matrix:
    """Of the last rows alone the columns are everywhere."""
    lines = [sp.diags_array([-1.0, 3.0, -1.0], offsets=[-1, 0, 1], shape=(60, 60))] * 4
    matrix = sp.lil_matrix(sp.block_diag(lines))
    for i in range(180, N):
        matrix[i, i - 180] = -0.5
    return sp.csr_matrix(matrix)


PATTERNS = {
    "upwind": (_upwind, None),
    "downwind": (lambda: sp.csr_matrix(_upwind().T), None),
    "block diagonal": (lambda: sp.block_diag([poisson(8)] * 4, "csr"), None),
    "diagonal": (lambda: sp.csr_matrix(sp.diags_array(np.linspace(1, 3, N))), None),
    "one rank reaches out": (_only_the_last_reaches, None),
    "empty ranks": (_upwind, lambda n, size: np.full(n, size - 1)),
    "rank 0 alone is empty": (
        lambda: poisson(15),
        lambda n, size: 1 + np.arange(n) * (size - 1) // n if size > 1 else np.zeros(n, int),
    ),
}
SPECS = [
    *(name for name in GENERAL if name != "amg"),
    "block_jacobi:factor=lu",
    "additive_schwarz:type=basic",
    "amg:coarse_size=20,rows_per_rank=30",
    "amg:coarse_size=20,dtype=float64,cycle=W",
]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", PATTERNS)
def test_each_preconditioner_is_set_up_and_serves(world, name, dtype):
    make, parts = PATTERNS[name]
    matrix = make().astype(dtype)
    partition = "contiguous" if parts is None else parts(matrix.shape[0], world.size)
    A = hs.DSparseMatrix.from_scipy(matrix if world.rank == 0 else None, world, partition)
    b = np.random.default_rng(0).standard_normal(matrix.shape[0]).astype(dtype)
    exact = spla.spsolve(matrix.astype(np.float64).tocsc(), b.astype(np.float64))
    tolerance = 1e-4 if dtype == np.float32 else 1e-9
    for spec in SPECS:
        if spec in ("chebyshev", "polynomial") and (matrix != matrix.T).nnz:
            make_preconditioner(spec, A).apply(spread(A.layout, b), spread(A.layout, b))
            continue  # they are for symmetric matrices
        x, info = hs.solve(
            A, spread(A.layout, b), method="gmres:restart=300", precond=spec, rtol=tolerance
        )
        assert info.converged, (spec, info)
        error = np.linalg.norm(full(A.layout, x) - exact) / np.linalg.norm(exact)
        assert error < 1e3 * tolerance, (spec, error)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.parametrize("vectors", [1, 2])
def test_every_level_has_the_matrix_s_dtype(world, name, dtype, vectors):
    make, parts = PATTERNS[name]
    matrix = make().astype(dtype)
    n = matrix.shape[0]
    partition = "contiguous" if parts is None else parts(n, world.size)
    A = hs.DSparseMatrix.from_scipy(matrix if world.rank == 0 else None, world, partition)
    near = np.stack([np.ones(n), np.arange(n) / n], axis=1)[A.layout.rows, :vectors]
    M = multigrid(rows_per_rank=30, dtype="float32", near_nullspace=near).on(A)
    r = torch.ones(A.layout.n_owned, dtype=A.dtype)
    before = M.apply(r, torch.empty_like(r)).clone()
    for keep in ("aggregates", "prolongators"):
        M.update(A, keep)
        again = M.apply(r, torch.empty_like(r))
        assert again.dtype == A.dtype
        apart = A.layout.norm(again - before) / A.layout.norm(before)
        assert float(apart) < 1e-4, keep

"""Unknowns of a node in units of their own: multigrid is what it is without them."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch

import hpc_sla as hs
from hpc_sla import problems
from tests.collective import full, spread

pytestmark = pytest.mark.mpi


def elasticity():
    problem = problems.make("elasticity3d:n=12")
    return sp.csr_matrix(problem.rows(0, problem.n_rows))


@pytest.mark.parametrize("units", [(1.0, 1.0, 1e6), (1.0, 1e5, 1e10)])
def test_iterations_do_not_change(world, units):
    matrix = elasticity()
    n = matrix.shape[0]
    b = np.ones(n)
    found = []
    for u in (np.ones(n), np.tile(units, n // 3)):
        scaled = sp.csr_matrix(sp.diags_array(u) @ matrix @ sp.diags_array(u))
        A = hs.DSparseMatrix.from_scipy(scaled if world.rank == 0 else None, world)
        assert A.block_size == 3
        M = hs.AMG().on(A)
        x, info = hs.solve(A, spread(A.layout, u * b), "cg", M)
        assert info.converged
        found.append((info.iterations, u * full(A.layout, x)))
        # Of other values in the same units, and transposed.
        other = A.with_values(A.values * 2.0)
        M.update(other, keep="aggregates")
        _, info = hs.solve(other, spread(A.layout, u * b), "cg", M)
        assert info.converged and info.iterations <= found[-1][0] + 1
        z, transposed = M.apply(x, torch.empty_like(x)), M.apply_transpose(x, torch.empty_like(x))
        assert torch.allclose(z, transposed, rtol=1e-4, atol=1e-6 * float(A.layout.norm(z)))
    (plain, x), (scaled, y) = found
    assert abs(plain - scaled) <= 2
    np.testing.assert_allclose(y, x, rtol=1e-3, atol=1e-5 * np.abs(x).max())

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
    problem = problems.make("elasticity3d:n=7")
    return sp.csr_matrix(problem.rows(0, problem.n_rows))


@pytest.mark.parametrize("power", [4, 8, 14])
def test_iterations_do_not_change(world, power):
    matrix = elasticity()
    n = matrix.shape[0]
    units = np.ones(n)
    units[2::3] = 10.0**power
    b = np.random.default_rng(3).standard_normal(n)
    found = {}
    for name, u in (("plain", np.ones(n)), ("units", units)):
        scaled = sp.csr_matrix(sp.diags_array(u) @ matrix @ sp.diags_array(u))
        A = hs.DSparseMatrix.from_scipy(scaled if world.rank == 0 else None, world)
        assert A.block_size == 3
        M = hs.AMG(coarse_size=50).on(A)
        x, info = hs.solve(A, spread(A.layout, u * b), "cg", M, rtol=1e-10)
        assert info.converged
        found[name] = info.iterations, u * full(A.layout, x)
        again = M.update(A.with_values(A.values * 2.0), keep="aggregates")
        y, info = hs.solve(A.with_values(A.values * 2.0), spread(A.layout, u * b), "cg", again)
        assert info.converged and info.iterations <= found[name][0] + 2
        transposed = M.apply_transpose(y, torch.empty_like(y))
        z = M.apply(y, torch.empty_like(y))
        assert torch.allclose(z, transposed, rtol=1e-4, atol=1e-6 * float(z.abs().max() + 1e-300))
    (plain, x), (scaled, y) = found["plain"], found["units"]
    assert abs(plain - scaled) <= 4
    np.testing.assert_allclose(y, x, rtol=1e-4, atol=1e-6 * np.abs(x).max())

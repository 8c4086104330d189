"""The adjoint solve uses the hierarchy of the forward one, transposed."""

from __future__ import annotations

import numpy as np
import pytest

import hpc_sla as hs
from tests.adjoint.systems import dense_gradients, error, leaves
from tests.collective import dense, distribute_once, full, spread
from tests.precond.amg.systems import convection, multigrid, poisson

pytestmark = pytest.mark.mpi

SPEC = "amg:coarse_size=20,rows_per_rank=60"


@pytest.mark.parametrize("columns", [(), (3,)])
@pytest.mark.parametrize("precond", ["name", "made"])
@pytest.mark.parametrize(
    ("make", "method"),
    [(poisson, "cg"), (poisson, "auto"), (convection, "gmres"), (convection, "bicgstab")],
)
def test_gradients_are_the_dense_formula(world, make, method, precond, columns):
    matrix = make(11)
    A = distribute_once(matrix, world)
    rng = np.random.default_rng(12)
    b, c = rng.standard_normal((2, 121, *columns))
    values, mine = leaves(A, b)
    M = SPEC if precond == "name" else multigrid(rows_per_rank=60).on(A)
    x, info = hs.solve(A.with_values(values), mine, method=method, precond=M, rtol=1e-12)
    assert info.converged
    A.layout.dot(spread(A.layout, c), x).sum().backward()
    exact, of_a, of_b = dense_gradients(matrix, b, c)
    assert error(full(A.layout, x.detach()), exact) < 1e-9
    assert error(dense(A, values.grad), of_a) < 1e-9
    assert error(full(A.layout, mine.grad), of_b) < 1e-9
    # Of the transpose of the same quality: were it not transposed it would take more.
    assert info.adjoint.converged and info.adjoint.iterations <= info.iterations + 4

"""Estimates of the largest eigenvalue beside dense ones."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.sparse as sp

from hpc_sla.precond import Chebyshev, Jacobi, Polynomial
from hpc_sla.precond.spectrum import largest_eigenvalue, spectral_bound, start_vector
from tests.collective import PARTITIONS, distribute, everywhere, random_matrix, spd_matrix

pytestmark = pytest.mark.mpi


def _poisson(n):
    second = sp.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(n, n))
    return sp.csr_matrix(sp.kronsum(second, second))


def _with_diagonal(n, seed):
    matrix = random_matrix(n, 0.3, seed)
    matrix.setdiag(np.random.default_rng(seed).uniform(1, 3, n) * (-1.0) ** np.arange(n))
    return sp.csr_matrix(matrix)


MATRICES = {
    "poisson": lambda: _poisson(15),
    "scaled": lambda: spd_matrix(60, 50),
    "negative": lambda: -spd_matrix(40, 51),
    "unsymmetric": lambda: _with_diagonal(40, 52),
    "one row": lambda: sp.csr_matrix(np.array([[-4.0]])),
}


@pytest.mark.parametrize("partition", PARTITIONS)
@pytest.mark.parametrize("name", MATRICES)
def test_the_bound_is_one_and_the_estimate_is_close(world, name, partition):
    matrix = MATRICES[name]()
    A = distribute(matrix, world, partition)
    inverse = Jacobi.of(A.diagonal()).inverse
    exact = np.linalg.eigvals(matrix.toarray() / matrix.diagonal()[:, None])
    bound = spectral_bound(A, inverse)
    assert bound >= abs(exact).max() * (1 - 1e-12)
    assert Polynomial().on(A).weight == 1 / bound
    estimate = largest_eigenvalue(A, inverse)
    assert all(other == estimate for other in world.comm.allgather(estimate))
    if name != "unsymmetric":
        assert bound < 10
        assert 0.93 * exact.real.max() < estimate <= (1 + 1e-12) * exact.real.max()
        assert exact.real.max() <= (1 + 1e-12) * Chebyshev().on(A).largest


def test_enough_steps_are_exact(world):
    matrix = _with_diagonal(20, 53)
    A = distribute(matrix, world)
    exact = np.linalg.eigvals(matrix.toarray() / matrix.diagonal()[:, None]).real.max()
    estimate = largest_eigenvalue(A, Jacobi.of(A.diagonal()).inverse, steps=100)
    np.testing.assert_allclose(estimate, exact, rtol=1e-8)


def test_the_partition_does_not_matter(world):
    A, B = (distribute(_poisson(15), world, how) for how in ("metis", "all on the last"))
    a, b = (largest_eigenvalue(M, Jacobi.of(M.diagonal()).inverse) for M in (A, B))
    np.testing.assert_allclose(a, b, rtol=1e-12)
    start = A.layout.allgather(start_vector(A.layout).to(world.device))
    np.testing.assert_array_equal(start, B.layout.allgather(start_vector(B.layout)))
    assert abs(start).max() <= 1 and abs(start.mean()) < 0.2 and start.std() > 0.4
    assert len(np.unique(start)) == 225


def test_nothing_and_nan_have_their_answers(world):
    empty = distribute(sp.csr_matrix((6, 6)), world)
    assert spectral_bound(empty, Jacobi.of(empty.diagonal()).inverse) == 1.0
    assert Chebyshev().on(empty).largest == 1.0
    A = distribute(_poisson(4), world)
    values = A.values.clone()
    values[:1] = math.nan
    bad = A.with_values(values)
    assert spectral_bound(bad, Jacobi.of(A.diagonal()).inverse) == 1.0
    assert math.isnan(largest_eigenvalue(bad, Jacobi.of(A.diagonal()).inverse))
    assert everywhere(world, Chebyshev().on(bad).largest == 1.0)

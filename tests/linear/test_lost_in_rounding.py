"""Singular systems without a solution: constants of 1 / eps, whose products are rounding."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import scipy.sparse as sp
import torch

import hpc_sla as hs
from hpc_sla.linear.accuracy import accuracy
from hpc_sla.sparse.operators import as_operator
from tests.collective import distribute, spread
from tests.sparse.test_operators import Free

pytestmark = pytest.mark.mpi

SIZES = [10, 20, 32, 50, 64, 200]


def star(n: int) -> sp.csr_matrix:
    """The Laplacian of a node that all others hang on: other rows have two entries to round."""
    matrix = sp.diags_array(np.r_[n - 1.0, np.ones(n - 1)]).tolil()
    matrix[0, 1:] = matrix[1:, 0] = -1
    return sp.csr_matrix(matrix)


def unit(n: int, row: int) -> np.ndarray:
    return np.eye(n)[row]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("row", [0, 1])
@pytest.mark.parametrize("n", SIZES)
def test_no_solution_is_found_where_there_is_none(world, n, row, dtype):
    A = distribute(star(n), world)
    A = A.with_values(A.values.to(dtype))
    _x, info = hs.solve(A, spread(A.layout, unit(n, row)).to(dtype))
    # No x leaves less of b than its mean in each row: 1 / sqrt(n) in all.
    assert not info.converged and info.relative_residual >= 0.5 / math.sqrt(n)


@pytest.mark.parametrize("method", [("auto", "auto"), ("cg", "jacobi"), ("minres", "jacobi")])
@pytest.mark.parametrize("n", SIZES[:4])
def test_nor_a_gradient_without_a_word(world, n, method):
    """Of x at one row, which the kernel makes anything."""
    A = distribute(star(n), world)
    b = spread(A.layout, unit(n, 1) - unit(n, 2)).requires_grad_()
    x, info = hs.solve(A, b, *method)
    assert info.converged
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            x.backward(spread(A.layout, unit(n, 1)))
        except hs.AdjointSolveError:
            return
    assert any(issubclass(one.category, hs.NotConvergedWarning) for one in told)


@pytest.mark.parametrize("linear_method", [None, "minres"])
@pytest.mark.parametrize("n", SIZES[:4])
def test_nor_a_root(world, n, linear_method):
    A = distribute(star(n), world)
    b = spread(A.layout, unit(n, 0))
    _u, info = hs.nonlinear_solve(
        lambda u: A @ u - b,
        torch.zeros_like(b),
        layout=A.layout,
        pattern=A,
        linear_method=linear_method,
    )
    assert not info.converged


@pytest.mark.parametrize("free", [False, True])
def test_what_rounding_may_make_of_a_residual(world, free):
    """eps || |A||x| + |b| || / ||b||; of an operator without entries a bound, by its norm."""
    matrix = star(30)
    A = distribute(matrix, world)
    x = np.random.default_rng(0).standard_normal(30) + 1e10
    b = unit(30, 3)
    vectors = [spread(A.layout, v) for v in (b, x, b - matrix @ x)]
    (found,) = accuracy(as_operator(Free(A) if free else A), *vectors, 1e-8)
    scale = abs(matrix) @ abs(x) + abs(b)
    floor = np.finfo(float).eps * np.linalg.norm(scale) / np.linalg.norm(b)
    np.testing.assert_allclose(found.floor, floor, rtol=0.9 if free else 1e-12)

"""Dirichlet conditions by rows alone, as FEM codes leave them: no column of K is eliminated.

The rows say x = g in units of their own; the others refer to them, in units of the stiffness.
"""

import numpy as np
import pytest
import scipy.sparse as sp

import hpc_sla as hs
from hpc_sla import problems
from tests.collective import dense, full, spread

pytestmark = pytest.mark.mpi

N = 9
PAIRS = [
    ("cg", "jacobi"),
    ("cg", "none"),
    ("minres", "jacobi"),
    ("bicgstab", "jacobi"),
    ("gmres", "jacobi"),
    ("gmres", "amg"),
    ("bicgstab", "amg"),
    ("gmres", "additive_schwarz"),
    ("auto", "jacobi"),
]


def system(stiffness, load=True, stored=False):
    """poisson2d with the first and the last grid line held; its right-hand side and solution."""
    K = stiffness * problems.make(f"poisson2d:n={N}").matrix().tocsr()
    n = K.shape[0]
    held = np.zeros(n, dtype=bool)
    held[:N] = held[-N:] = True
    g = np.sin(np.arange(n)) + 2
    A = (sp.diags_array((~held).astype(float)) @ K + sp.diags_array(held.astype(float))).tocsr()
    if stored:  # as codes do that keep the pattern
        A = sp.csr_matrix(K)
        for row in np.flatnonzero(held):
            inside = slice(A.indptr[row], A.indptr[row + 1])
            A.data[inside] = A.indices[inside] == row
    f = np.where(held, g, stiffness * load * np.cos(np.arange(n)))
    # In units of their own, which costs LAPACK no accuracy.
    scale = np.where(held, 1.0, 1 / stiffness)
    return sp.csr_matrix(A), f, np.linalg.solve(scale[:, None] * A.toarray(), scale * f)


def distributed(matrix, world):
    return hs.DSparseMatrix.from_scipy(matrix if world.rank == 0 else None, world)


@pytest.mark.parametrize(("method", "precond"), PAIRS)
@pytest.mark.parametrize("stiffness", [1e-6, 1.0, 2e11])
def test_any_units_and_any_load(world, stiffness, method, precond):
    for load in (False, True):
        matrix, f, exact = system(stiffness, load, stored=load)
        A = distributed(matrix, world)
        b = spread(A.layout, f)
        x, info = hs.solve(A, b, method=method, precond=precond)
        assert info.converged, (load, info)
        assert np.linalg.norm(full(A.layout, x) - exact) <= 1e-6 * np.linalg.norm(exact)
        assert info.backward_error < 1e-6 and not info.hidden


def test_columns_guesses_and_single_precision(world):
    matrix, f, exact = system(3.0)
    A = distributed(matrix, world)
    both = spread(A.layout, np.stack([f, 2 * f], axis=1))
    x, info = hs.solve(A, both)
    assert info.converged
    np.testing.assert_allclose(full(A.layout, x), np.stack([exact, 2 * exact], axis=1), rtol=1e-6)
    x, info = hs.solve(A, both[:, 0].contiguous(), x0=spread(A.layout, exact))
    assert info.converged and info.iterations == 0
    single = distributed(matrix.astype(np.float32), world)
    x, info = hs.solve(single, spread(A.layout, f.astype(np.float32)))
    assert info.converged
    np.testing.assert_allclose(full(A.layout, x), exact, rtol=1e-3)


@pytest.mark.parametrize("method", ["cg", "gmres", "bicgstab"])
def test_the_gradient_is_that_of_the_whole_matrix(world, method):
    matrix, f, _ = system(3.0)
    A = distributed(matrix, world)
    values = A.values.clone().requires_grad_()
    b = spread(A.layout, f).requires_grad_()
    x, _ = hs.solve(A.with_values(values), b, method=method, rtol=1e-11)
    (x * x).sum().backward()
    a = dense(A)
    solution = np.linalg.solve(a, f)
    y = np.linalg.solve(a.T, 2 * solution)
    np.testing.assert_allclose(full(A.layout, b.grad), y, rtol=1e-7, atol=1e-8 * abs(y).max())
    expected = -np.outer(y, solution) * (a != 0)
    got = dense(A, values.grad)
    np.testing.assert_allclose(got * (a != 0), expected, rtol=1e-6, atol=1e-8 * abs(expected).max())


def test_what_is_asked_for_is_at_least_that(world):
    """Of b, and of what is left of it: the smaller."""
    matrix, f, _ = system(1e-6, load=False)
    A = distributed(matrix, world)
    _, info = hs.solve(A, spread(A.layout, f), rtol=1e-4)
    assert info.converged and info.relative_residual < 1e-9
    _, info = hs.solve(A, spread(A.layout, f), rtol=1e-30, max_iterations=300)
    assert not info.converged
    assert info.backward_error < 1e-9

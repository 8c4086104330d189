"""lsqr and lsmr beside dense least squares: tall, wide, rank-deficient, consistent or not."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from scipy.sparse.linalg import lsmr

import hpc_sla as hs
from tests.collective import distribute, everywhere, full, random_matrix, spread

pytestmark = pytest.mark.mpi

SHAPES = [(40, 25), (25, 40), (33, 33), (3, 1), (1, 3), (2, 5)]


def _matrix(shape, seed=50):
    rng = np.random.default_rng(seed)
    matrix = sp.random_array(shape, density=0.3, rng=rng, format="lil")
    matrix.setdiag(rng.uniform(1, 3, min(shape)))
    return sp.csr_matrix(matrix)


def _solve(world, matrix, b, method="lsqr", **options):
    A = hs.DSparseMatrix.from_scipy(matrix if world.rank == 0 else None, world, "contiguous")
    x, info = hs.solve(A, spread(A.layout, b), method=method, **options)
    return A, full(A.columns, x), info


@pytest.mark.parametrize("columns", [(), (3,)])
@pytest.mark.parametrize("precond", ["none", "jacobi"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("method", ["lsqr", "lsmr"])
def test_equals_dense_least_squares(world, method, shape, precond, columns):
    matrix = _matrix(shape)
    b = np.random.default_rng(51).standard_normal((shape[0], *columns))
    _, x, info = _solve(world, matrix, b, method, precond=precond, rtol=1e-12)
    expected = np.linalg.lstsq(matrix.toarray(), b, rcond=None)[0]
    assert info.converged, info
    true = np.linalg.norm(b - matrix @ x, axis=0)
    np.testing.assert_allclose(
        [c.residual_norm for c in info.columns or (info,)], true.reshape(-1), rtol=1e-6, atol=1e-9
    )
    if shape[0] == shape[1]:
        assert info.normal_residual is None
    else:
        assert info.normal_residual <= 1e-12
        best = np.linalg.norm(b - matrix @ expected, axis=0)
        np.testing.assert_allclose(true, best, rtol=1e-9, atol=1e-9)
    if precond == "none" or shape[0] >= shape[1]:
        np.testing.assert_allclose(x, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("method", ["lsqr", "lsmr"])
def test_of_many_solutions_the_shortest(world, method):
    matrix = _matrix((30, 20)).toarray()
    matrix[:, 7] = matrix[:, 3] - matrix[:, 5]
    b = np.random.default_rng(52).standard_normal(30)
    _, x, info = _solve(world, sp.csr_matrix(matrix), b, method, precond="none", rtol=1e-12)
    assert info.converged
    np.testing.assert_allclose(x, np.linalg.lstsq(matrix, b, rcond=None)[0], atol=1e-8)


def test_a_gradient_where_the_rank_is_short(world):
    """That of the pseudo-inverse where the loss keeps to the row space; else there is none."""
    dense = _matrix((30, 20)).toarray()
    dense[:, 7] = dense[:, 3] - dense[:, 5]
    b = np.random.default_rng(52).standard_normal(30)
    matrix = sp.csr_matrix(dense) if world.rank == 0 else None
    A = hs.DSparseMatrix.from_scipy(matrix, world, "contiguous")
    values, mine = A.values.clone().requires_grad_(), spread(A.layout, b).requires_grad_()
    system = A.with_values(values), mine
    x, _ = hs.solve(*system, method="lsqr", precond="none", rtol=1e-12)
    A.columns.dot(x, x).backward()
    whole, right = (torch.from_numpy(part).requires_grad_() for part in (dense, b))
    shortest = torch.linalg.pinv(whole) @ right
    (shortest @ shortest).backward()
    np.testing.assert_allclose(full(A.layout, mine.grad), right.grad, rtol=1e-8, atol=1e-10)
    expected = whole.grad.numpy()[A.entries()]
    assert everywhere(world, np.allclose(values.grad.numpy(), expected, rtol=1e-8, atol=1e-10))
    x, _ = hs.solve(*system, method="lsqr", precond="none", rtol=1e-12)
    with pytest.raises(hs.AdjointSolveError):
        A.columns.dot(x, spread(A.columns, np.arange(20.0))).backward()


@pytest.mark.parametrize("method", ["lsqr", "lsmr"])
def test_a_square_inconsistent_system_does_not_converge(world, method):
    matrix = _matrix((20, 20)).toarray()
    matrix[4] = 0.0
    b = np.ones(20)
    _, x, info = _solve(world, sp.csr_matrix(matrix), b, method, precond="none")
    assert info.status == "stagnated"
    # It has the least-squares solution all the same.
    best = np.linalg.lstsq(matrix, b, rcond=None)[0]
    np.testing.assert_allclose(np.linalg.norm(b - matrix @ x), np.linalg.norm(b - matrix @ best))


def test_a_guess_is_improved(world):
    matrix = _matrix((40, 25))
    rng = np.random.default_rng(53)
    b, near = rng.standard_normal(40), np.linalg.lstsq(matrix.toarray(), np.ones(40), rcond=None)[0]
    A = hs.DSparseMatrix.from_scipy(matrix if world.rank == 0 else None, world, "contiguous")
    guess = spread(A.columns, near)
    x, info = hs.solve(A, spread(A.layout, b), method="lsqr", x0=guess, rtol=1e-11)
    assert info.converged
    expected = np.linalg.lstsq(matrix.toarray(), b, rcond=None)[0]
    np.testing.assert_allclose(full(A.columns, x), expected, atol=1e-7)
    assert everywhere(world, torch.equal(guess, spread(A.columns, near)))


def test_the_transpose_can_be_solved_with(world):
    matrix = _matrix((40, 25))
    A = hs.DSparseMatrix.from_scipy(matrix if world.rank == 0 else None, world, "contiguous")
    b = np.random.default_rng(54).standard_normal(25)
    x, info = hs.solve(A.T, spread(A.columns, b), method="lsqr", rtol=1e-11)
    assert info.converged and info.residual_norm <= 1e-8
    assert np.linalg.norm(b - matrix.T @ full(A.layout, x)) <= 1e-8


@pytest.mark.parametrize("method", ["cg", "gmres"])
def test_methods_for_square_matrices_refuse_others(world, method):
    matrix = _matrix((40, 25))
    A = hs.DSparseMatrix.from_scipy(matrix if world.rank == 0 else None, world, "contiguous")
    b = torch.ones(A.layout.n_owned, dtype=torch.float64)
    with pytest.raises(hs.InputError, match="square"):
        hs.solve(A, b, method=method, precond="none")
    with pytest.raises(hs.InputError, match="x0"):
        hs.solve(A, b, method="lsqr", x0=torch.ones(A.columns.n_owned + 1, dtype=torch.float64))


def test_square_systems_of_any_kind(world):
    matrix = random_matrix(31, 0.2, 55) + 2 * sp.eye_array(31)
    A = distribute(sp.csr_matrix(matrix), world)
    b = np.random.default_rng(56).standard_normal(31)
    x, info = hs.solve(A, spread(A.layout, b), method="lsqr", precond="none", rtol=1e-10)
    assert info.converged
    assert np.linalg.norm(b - matrix @ full(A.layout, x)) <= 1e-9 * np.linalg.norm(b)


@pytest.mark.parametrize("size", [1e20, 1e25, 1e-24, 1e-100, 1e200, 1e-200])
def test_the_size_of_the_matrix_does_not_matter(world, size):
    matrix = _matrix((40, 25))
    b = np.random.default_rng(57).standard_normal(40)
    _, x, info = _solve(world, matrix * size, b, precond="jacobi", rtol=1e-11)
    expected = np.linalg.lstsq(matrix.toarray(), b, rcond=None)[0]
    assert info.converged and info.iterations > 1
    np.testing.assert_allclose(x * size, expected, atol=1e-7)
    if size == 1e-200:
        with pytest.raises(hs.InputError, match="too small to square"):
            _solve(world, matrix * size, b, precond="none")
    elif size < 1e200:
        _, x, info = _solve(world, matrix * size, b, precond="none", rtol=1e-11)
        assert info.converged
        np.testing.assert_allclose(x * size, expected, atol=1e-7)


@pytest.mark.parametrize("shape", [(40, 25), (30, 30)])
def test_the_steps_of_lsmr_are_scipys(world, shape):
    """Norms and iterates, step by step; and A^T r never rises, as that of lsqr does."""
    matrix = _matrix(shape)
    b = np.random.default_rng(53).standard_normal(shape[0])
    for steps in (1, 4, 9):
        options = {"precond": "none", "rtol": 1e-15, "max_iterations": steps}
        _, x, info = _solve(world, matrix, b, "lsmr", **options)
        expected = lsmr(matrix, b, atol=0, btol=0, conlim=0, maxiter=steps)
        np.testing.assert_allclose(x, expected[0], rtol=1e-9, atol=1e-11)
        history = info.residual_history[-1]
        wanted = expected[4] if shape[0] != shape[1] else expected[3]
        np.testing.assert_allclose(history, wanted, rtol=1e-9)
    if shape[0] != shape[1]:
        assert (np.diff(info.residual_history) <= 0).all()

"""solve: statuses that tell the truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.sparse as sp
import torch

import hpc_sla as hs
from tests.collective import distribute_once, everywhere, full, spread
from tests.linear.test_solve import METHODS, SPD

pytestmark = pytest.mark.mpi


def test_a_nan_in_one_column_shows_in_the_summary(system):
    _, A, _, mine = system
    b = torch.stack([mine, mine * math.nan], dim=1)
    x, info = hs.solve(A, b)
    assert info.status == "not_finite" and math.isnan(info.relative_residual)
    assert info.columns[0].converged and everywhere(A.world, bool(x[:, 0].isfinite().all()))


def test_a_residual_that_rises_for_long_is_no_stagnation(world):
    """1D Laplacian, constant load: the residual stays above its start for n/2 steps."""
    n = 2600
    matrix = sp.csr_matrix(sp.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(n, n)))
    A = distribute_once(matrix, world)
    _, info = hs.solve(A, spread(A.layout, np.ones(n)), "cg", "jacobi")
    assert info.converged and max(info.residual_history) > 2 * info.residual_history[0]


def test_an_absurd_tolerance_is_met_at_once(system):
    _, A, _, mine = system
    _, info = hs.solve(A, mine, atol=1e200)
    assert info.converged and info.iterations == 0


@pytest.mark.parametrize("method", METHODS)
def test_zero_right_hand_side_has_the_zero_solution(system, method):
    _, A, _, mine = system
    x, info = hs.solve(A, torch.zeros_like(mine), method=method, x0=mine)
    assert info.converged and info.iterations == 0 and info.relative_residual == 0
    assert everywhere(A.world, not x.any())


@pytest.mark.parametrize("method", METHODS)
def test_absolute_tolerance_alone_suffices(system, method):
    matrix, A, b, mine = system
    x, info = hs.solve(A, mine, method=method, rtol=0.0, atol=1e-5)
    assert info.converged and np.linalg.norm(b - matrix @ full(A.layout, x)) <= 1e-5


@pytest.mark.parametrize("method", METHODS)
def test_limit_is_obeyed_and_said(system, method):
    _, A, _, mine = system
    _, info = hs.solve(A, mine, method=method, max_iterations=2, rtol=1e-14)
    assert info.status == "max_iterations" and info.iterations == 2 and not info.converged
    _, info = hs.solve(A, mine, method=method, max_iterations=0)
    assert info.status == "max_iterations" and info.iterations == 0
    np.testing.assert_allclose(info.relative_residual, 1.0)


@pytest.mark.parametrize("method", METHODS)
def test_what_rounding_forbids_is_called_stagnation(system, method):
    _, A, _, mine = system
    _, info = hs.solve(A, mine, method=method, rtol=1e-30)
    assert info.status == "stagnated"
    assert info.relative_residual < (1e-10 if method == "pipelined_cg" else 1e-13)


def test_an_inconsistent_singular_system_does_not_converge(world):
    """Pure Neumann with a right-hand side outside the range."""
    n = 40
    matrix = sp.csr_matrix(
        sp.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(n, n)).tolil()
    ).tolil()
    matrix[0, 0] = matrix[-1, -1] = 1.0
    A = distribute_once(sp.csr_matrix(matrix), world)
    b = np.random.default_rng(26).standard_normal(n)
    _, info = hs.solve(A, spread(A.layout, b), "cg", "jacobi", max_iterations=20_000)
    assert info.status in ("breakdown", "diverged", "indefinite", "stagnated")
    consistent = spread(A.layout, b - b.mean())
    _, info = hs.solve(A, consistent, "cg", "jacobi")
    assert info.converged


@pytest.mark.parametrize("entry", [(0, -1.0), (17, -3.0)])
def test_an_indefinite_matrix_is_called_so(world, entry):
    matrix = SPD["scaled"]().tolil()
    matrix[entry[0], entry[0]] = entry[1] * 1e3
    A = distribute_once(sp.csr_matrix(matrix), world)
    b = torch.ones(A.layout.n_owned, dtype=torch.float64)
    _, info = hs.solve(A, b, "cg", "none")
    assert info.status == "indefinite"


def test_a_zero_matrix_is_a_breakdown(world):
    A = distribute_once(sp.csr_matrix((5, 5)), world)
    b = torch.ones(A.layout.n_owned, dtype=torch.float64)
    _, info = hs.solve(A, b, "cg", "jacobi")
    assert info.status == "breakdown"


@pytest.mark.parametrize("where", ["b", "values", "x0"])
def test_a_nan_anywhere_is_called_not_finite(system, where):
    _, A, _, mine = system
    b, x0 = mine.clone(), torch.zeros_like(mine)
    if where == "b":
        b[:1] = math.nan
    elif where == "x0":
        x0[:1] = math.inf
    else:
        values = A.values.clone()
        values[:1] = math.nan
        A = A.with_values(values)
    _, info = hs.solve(A, b, x0=x0)
    assert info.status == "not_finite"

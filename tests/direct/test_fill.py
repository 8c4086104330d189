"""What a factorisation costs, told beforehand; and SuperLU in the order that was found."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import scipy.sparse.linalg as spla
import torch

import hpc_sla as hs
from hpc_sla.direct import factorize
from hpc_sla.direct.base import LocalMatrix
from hpc_sla.direct.fill import elimination
from tests.collective import random_matrix, spd_matrix
from tests.kernels.test_ordering import _grid, compiled


def _saddle(n, m, seed):
    """Symmetric, the second block of its diagonal zero, and that one numbered first."""
    coupling = sp.random_array(
        (m, n), density=3 / n, rng=np.random.default_rng(seed), format="csr"
    ) + sp.eye_array(m, n)
    return sp.csr_matrix(
        sp.block_array([[None, coupling], [coupling.T, _grid(n) + sp.eye_array(n)]])
    )


def _units(n):
    """Identity rows beside a stiffness of 1e11, as boundary conditions leave them."""
    matrix = sp.lil_matrix(2e11 * _grid(n, n))
    for i in range(0, n * n, 7):
        matrix[i] = 0
        matrix[i, i] = 1
    return sp.csr_matrix(matrix)


MATRICES = {
    "plane": lambda: _grid(40, 30),
    "space": lambda: _grid(9, 9, 9),
    "scaled": lambda: spd_matrix(60, 1),
    "saddle": lambda: _saddle(200, 80, 2),
    "units": lambda: _units(20),
    "unsymmetric": lambda: sp.csr_matrix(random_matrix(80, 0.05, 3) + 4 * sp.eye_array(80)),
    "no diagonal": lambda: sp.csr_matrix(random_matrix(80, 0.05, 3) + 4 * sp.eye_array(80))[::-1],
    "triangular": lambda: sp.csr_matrix(sp.tril(random_matrix(50, 0.2, 4)) + sp.eye_array(50)),
    "one": lambda: sp.csr_matrix(np.array([[-3.0]])),
}


@pytest.mark.parametrize("backend", ["scipy", "triangular"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("name", MATRICES)
def test_solves_either_way(name, dtype, backend):
    matrix = sp.csr_matrix(MATRICES[name]().astype(dtype))
    factors = factorize(matrix, backend=backend, method="lu")
    wide = matrix.astype(np.float64)
    x = np.random.default_rng(5).standard_normal((matrix.shape[0], 3))
    for transpose in (False, True):
        a = wide.T if transpose else wide
        b = torch.from_numpy((a @ x).astype(dtype))
        found = factors.solve(b, transpose).numpy()
        scale = abs(a) @ abs(found) + abs(b.numpy())
        assert (abs(a @ found - b.numpy()) <= 300 * np.finfo(dtype).eps * scale.max(axis=0)).all()


@pytest.mark.parametrize("name", ["plane", "space", "scaled"])
def test_the_cost_is_that_of_the_factors(name):
    matrix = MATRICES[name]()
    local = LocalMatrix.of(matrix, None)
    how = elimination(local)
    dense = np.linalg.cholesky(matrix.toarray()[np.ix_(how.order, how.order)])
    there = 2 * int((dense != 0).sum())
    assert there <= how.cost.entries <= 1.02 * there
    factors = factorize(local.pattern, local.values, backend="scipy", method="lu")
    assert how.cost.entries <= factors.entries + matrix.shape[0] <= 1.1 * how.cost.entries + 1000


def test_pivots_are_not_far_from_where_they_were_expected():
    """Held back until they are filled, rows of zero diagonal are eliminated in their turn."""
    matrix = _saddle(900, 300, 6)
    local = LocalMatrix.of(matrix, None)
    cost = elimination(local).cost
    factors = factorize(local.pattern, local.values, backend="scipy", method="lu")
    assert factors.ordering != "column minimum degree"
    assert factors.entries <= 1.3 * cost.entries
    assert factors.entries < spla.splu(matrix.tocsc()).nnz


def test_the_order_is_kept_with_the_pattern():
    local = LocalMatrix.of(_grid(12, 12), None)
    assert elimination(LocalMatrix(local.pattern, 2 * local.values)) is elimination(local)


def test_an_order_made_of_few_entries_is_not_kept_for_more():
    """As of a matrix that is first assembled for a guess of 0."""
    local = LocalMatrix.of(_grid(12, 12), None)
    wanted = elimination(LocalMatrix.of(_grid(12, 12), None)).cost
    where = local.pattern.diagonal.long()
    sparse = torch.zeros_like(local.values)
    sparse[where] = local.values[where]
    assert elimination(LocalMatrix(local.pattern, sparse)).cost.flops == 0
    full = elimination(local)
    assert full.cost == wanted
    assert elimination(LocalMatrix(local.pattern, sparse)) is full
    without = local.values.clone()
    without[where[5]] = 0  # which is held back now
    assert elimination(LocalMatrix(local.pattern, without)) is not full
    assert elimination(local) is not full and elimination(local).cost == wanted


@compiled
def test_large_ones_in_space_are_dissected():
    assert elimination(LocalMatrix.of(_grid(12, 12), None)).kind == "minimum degree"
    large = elimination(LocalMatrix.of(_grid(24, 24, 24), None))
    assert large.kind == "nested dissection"


def test_what_pivots_on_the_diagonal_cannot_do_is_pivoted_fully(monkeypatch):
    monkeypatch.setattr("hpc_sla.direct.scipy._good", lambda *_: False)
    matrix = MATRICES["scaled"]()
    factors = factorize(matrix, backend="scipy", method="lu")
    assert factors.ordering == "column minimum degree"
    x = factors.solve(torch.from_numpy(matrix @ np.ones(60))).numpy()
    np.testing.assert_allclose(x, 1, rtol=1e-6)


def test_growth_that_the_threshold_allows_is_found_out():
    """Each step of elimination grows by the inverse threshold, and pivoting fully does not."""
    n = 16
    matrix = np.eye(n) * 2e-3
    matrix[1:, :-1] += np.tril(np.ones((n - 1, n - 1)))
    matrix[:, -1] = 1
    matrix = sp.csr_matrix(matrix + np.triu(np.full((n, n), 1e-30), 1))
    b = np.random.default_rng(7).standard_normal(n)
    factors = factorize(matrix, backend="scipy", method="lu")
    x = factors.solve(torch.from_numpy(b)).numpy()
    exact = np.linalg.solve(matrix.toarray(), b)
    assert np.linalg.norm(x - exact) <= 1e-9 * np.linalg.norm(exact)


@pytest.mark.parametrize("matrix", [np.ones((2, 2)), np.diag([1.0, 0, 2]), np.zeros((3, 3))])
def test_singular_ones_are_refused(matrix):
    with pytest.raises(hs.SingularMatrixError):
        factorize(sp.csr_matrix(matrix), backend="scipy", method="lu")


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_denormal_rows_are_scaled_as_far_as_that_goes(dtype):
    tiny = np.finfo(dtype).smallest_subnormal
    matrix = sp.csr_matrix(np.diag(np.array([1, 2, 64 * tiny, 4], dtype=dtype)))
    factors = factorize(matrix, backend="scipy", method="lu")
    b = torch.from_numpy(matrix @ np.ones(4, dtype=dtype))
    np.testing.assert_allclose(factors.solve(b).numpy(), 1, rtol=1e-6)


def test_a_pivot_that_is_zero_leaves_columns_their_turn(monkeypatch):
    from hpc_sla.direct import scipy as module

    original = module._splu

    def fails(csc, backend, **options):
        if options:
            raise hs.SingularMatrixError("a pivot is zero")
        return original(csc, backend)

    monkeypatch.setattr(module, "_splu", fails)
    factors = factorize(MATRICES["scaled"](), backend="scipy", method="lu")
    assert factors.ordering == "column minimum degree"

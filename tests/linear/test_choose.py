"""method="auto", and operators without a matrix."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch

import hpc_sla as hs
from tests.collective import distribute, full, spread
from tests.linear.test_properties import FAMILIES

pytestmark = pytest.mark.mpi


def _indefinite_behind_a_positive_diagonal():
    return sp.csr_matrix(np.kron(np.eye(6), [[1.0, 3.0], [3.0, 1.0]]))


def _stabilised_saddle_point():
    """Behind a diagonal of 1e-8, after which cg's first step leaves a residual of 1e6 ||b||."""
    K = sp.diags([-1.0, 2.0, -1.0], [-1, 0, 1], shape=(8, 8))
    B = 0.1 * sp.eye(4, 8)
    return sp.bmat([[K, B.T], [B, 1e-8 * sp.eye(4)]]).tocsr()


CASES = {
    "spd": (FAMILIES["spd"], "cg", "its diagonal positive"),
    "indefinite": (FAMILIES["indefinite"], "minres", "its diagonal not positive"),
    "convection": (FAMILIES["convection"], "bicgstab", "not symmetric"),
    "hidden": (_indefinite_behind_a_positive_diagonal, "minres", "ended indefinite: minres"),
    "saddle": (_stabilised_saddle_point, "minres", "ended diverged: minres"),
    "skew": (
        lambda: sp.csr_matrix(np.kron(np.eye(4), [[0.0, 1.0], [-1.0, 0.0]])),
        "gmres",
        "ended breakdown: gmres",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_choice_is_told_and_solves(world, name):
    make, method, reason = CASES[name]
    matrix = make()
    A = distribute(matrix, world)
    b = np.random.default_rng(60).standard_normal(matrix.shape[0])
    x, info = hs.solve(A, spread(A.layout, b), method="auto", precond="jacobi")
    assert info.converged and info.method == method and reason in info.reason
    assert np.linalg.norm(b - matrix @ full(A.layout, x)) <= 1.1e-8 * np.linalg.norm(b)
    # Of one that is named there is nothing to tell.
    _, info = hs.solve(A, spread(A.layout, b), method=method, precond="jacobi")
    assert info.reason == ""


def test_a_preconditioner_that_is_not_symmetric_counts(world):
    A = distribute(FAMILIES["spd"](), world)
    b = torch.ones(A.layout.n_owned, dtype=torch.float64)
    _, info = hs.solve(A, b, method="auto", precond="additive_schwarz")
    symmetric = world.size == 1
    assert info.converged and info.method == ("cg" if symmetric else "bicgstab")


def test_a_rectangular_matrix_is_for_lsqr(world):
    matrix = sp.csr_matrix(np.arange(12.0).reshape(4, 3) + np.eye(4, 3))
    A = hs.DSparseMatrix.from_scipy(matrix if world.rank == 0 else None, world, "contiguous")
    b = torch.ones(A.layout.n_owned, dtype=torch.float64)
    _, info = hs.solve(A, b, method="auto", precond="jacobi", rtol=1e-6)
    assert info.converged and info.method == "lsqr" and "4 x 3" in info.reason


class _Free:
    """The matrix behind a matvec: what a user's own operator looks like."""

    def __init__(self, A, transposed=True, diagonal=True):
        self.layout = A.layout
        self._A = A
        if transposed:
            self.rmatvec = A.rmatvec
        if diagonal:
            self.diagonal = A.diagonal

    def matvec(self, x):
        return self._A @ x


@pytest.mark.parametrize("columns", [(), (2,)])
@pytest.mark.parametrize(
    ("family", "method"),
    [("spd", "cg"), ("convection", "gmres"), ("convection", "lsqr"), ("indefinite", "auto")],
)
def test_matrix_free(world, family, method, columns):
    matrix = FAMILIES[family]()
    A = distribute(matrix, world)
    b = np.random.default_rng(61).standard_normal((matrix.shape[0], *columns))
    mine = spread(A.layout, b)
    options = {"method": method, "precond": "jacobi", "rtol": 1e-9}
    x, info = hs.solve(_Free(A), mine, **options)
    y, same = hs.solve(A, mine, **options)
    assert info.converged and abs(info.iterations - same.iterations) <= 1
    np.testing.assert_allclose(full(A.layout, x), full(A.layout, y), rtol=1e-5, atol=1e-9)


def test_what_a_matrix_free_operator_lacks_is_named(world):
    A = distribute(FAMILIES["convection"](), world)
    b = torch.ones(A.layout.n_owned, dtype=torch.float64)
    bare = _Free(A, transposed=False, diagonal=False)
    with pytest.raises(hs.InputError, match="diagonal"):
        hs.solve(bare, b, method="gmres", precond="jacobi")
    with pytest.raises(hs.InputError, match="rmatvec"):
        hs.solve(bare, b, method="lsqr", precond="none")
    with pytest.raises(hs.InputError, match="needs the entries"):
        hs.solve(bare, b, method="gmres", precond="block_jacobi")
    _, info = hs.solve(bare, b, method="gmres", precond="none")
    assert info.converged

"""Incomplete factors of matrices that are made for the user's order of rows."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch

import hpc_sla as hs
from hpc_sla.kernels.incomplete import Block, ilu0
from hpc_sla.precond import make_preconditioner
from tests.collective import distribute, everywhere, spread
from tests.precond.amg.systems import as_dense, iterations, poisson

pytestmark = pytest.mark.mpi


def _with_multipliers() -> sp.csr_matrix:
    """A diagonal and constraints: with these behind, no pivot is zero; in other orders some are."""
    rng = np.random.default_rng(1)
    stiffness = sp.diags_array(rng.uniform(1, 2, 40))
    constraints = sp.random(12, 40, density=0.08, random_state=1)
    return sp.csr_matrix(sp.block_array([[stiffness, constraints.T], [constraints, None]]))


def _stokes(n: int, compressible: float = 0.0) -> sp.csr_matrix:
    """Two velocities, then pressures, on a staggered grid."""
    velocity = poisson(n)
    one, step = sp.eye_array(n), sp.diags_array([1.0, -1.0], offsets=[0, 1], shape=(n, n))
    d, e = sp.kron(one, step), sp.kron(step, one)
    last = -compressible * sp.eye_array(n * n) if compressible else None
    blocks = [[velocity, None, d.T], [None, velocity, e.T], [d, e, last]]
    return sp.csr_matrix(sp.block_array(blocks))


MATRICES = {
    "multipliers": _with_multipliers,
    "stokes": lambda: _stokes(9),
    "nearly incompressible": lambda: _stokes(9, 1e-8),
}


def _inverse(matrix: sp.csr_matrix) -> tuple[np.ndarray, float]:
    """ILU(0)'s inverse in the order given, and its shift."""
    matrix.sort_indices()
    made = ilu0(
        Block.from_csr(matrix.indptr, matrix.indices, matrix.data.copy()), torch.device("cpu")
    )
    identity = torch.eye(matrix.shape[0], dtype=torch.float64)
    return made.solve(identity, torch.empty_like(identity)).numpy(), made.shift


@pytest.mark.parametrize("name", MATRICES)
@pytest.mark.parametrize(
    "spec", ["block_jacobi", "additive_schwarz:overlap=0", "additive_schwarz:overlap=9"]
)
@pytest.mark.several
def test_each_rank_factors_in_the_users_order(world, name, spec):
    matrix = MATRICES[name]()
    A = distribute(matrix, world, "cyclic" if name == "multipliers" else "metis")
    M = make_preconditioner(spec, A)
    ours = as_dense(A, M.apply)
    np.testing.assert_allclose(as_dense(A, M.apply_transpose), ours.T, rtol=1e-8, atol=1e-10)
    if world.size == 1:
        wanted, shift = _inverse(matrix)
        assert shift == 0 and M.shift == 0
        rows = A.layout.rows
        np.testing.assert_allclose(ours, wanted[np.ix_(rows, rows)], rtol=1e-9, atol=1e-12)
    elif "overlap=9" in spec and name != "multipliers":
        # Nine steps reach everything here, so each rank has the whole matrix.
        assert M.shift == 0


def test_iterations_are_those_of_the_users_order(world):
    """On one rank, beside the same rows that nothing was done to."""
    matrix = _stokes(15)
    b = np.random.default_rng(0).standard_normal(matrix.shape[0])
    alone = hs.World.serial("cpu")
    ours = hs.DSparseMatrix.from_scipy(matrix, alone, "metis")
    assert not (np.diff(ours.layout.rows) == 1).all()
    entries = matrix.tocoo()
    users = hs.DSparseMatrix.from_coo(entries.row, entries.col, entries.data, matrix.shape, alone)
    counts = [
        iterations(A, spread(A.layout, b), "block_jacobi", "gmres:restart=200")
        for A in (ours, users)
    ]
    assert abs(counts[0] - counts[1]) <= 1 and counts[0] < 80, counts


@pytest.mark.parametrize("numbering", ["random", "red and black"])
def test_an_order_that_suits_is_kept(world, numbering):
    """In the user's order factors are worse, and in the stored one no pivot is in danger."""
    matrix = poisson(20)
    scattered = np.random.default_rng(3).permutation(400)
    if numbering == "red and black":
        scattered = np.argsort((np.arange(400) // 20 + np.arange(400)) % 2, kind="stable")
    matrix = sp.csr_matrix(matrix[scattered][:, scattered])
    A = distribute(matrix, world)
    M = make_preconditioner("block_jacobi", A)
    r = spread(A.layout, np.random.default_rng(4).standard_normal(400))
    owned = A.pattern.owned
    stored = ilu0(
        Block.from_csr(
            owned.indptr.numpy(), owned.indices.numpy(), A.pattern.owned_values(A.values).numpy()
        ),
        A.device,
    )
    wanted = stored.solve(r, torch.empty_like(r))
    assert everywhere(world, torch.equal(M.apply(r, torch.empty_like(r)), wanted))

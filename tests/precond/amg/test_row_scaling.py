"""Equations that somebody multiplied by numbers of their own: the solver is not to know."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import scipy.sparse as sp
import torch

import hpc_sla as hs
from hpc_sla import problems
from hpc_sla.precond.amg import AMG
from hpc_sla.precond.amg.rows import row_factors
from tests.collective import everywhere, spread
from tests.precond.amg.systems import as_dense, convection, iterations, multigrid, poisson

pytestmark = pytest.mark.mpi


def _jumps(n: int, decades: float) -> sp.csr_matrix:
    """Diffusion with squares of another coefficient, symmetric."""
    squares = np.kron(np.random.default_rng(0).integers(0, 2, (n // 5, n // 5)), np.ones((5, 5)))
    k = 10.0 ** (decades * squares.ravel())
    points = np.arange(n * n).reshape(n, n)
    matrix = sp.coo_matrix((k * 1e-2, (points.ravel(), points.ravel())), shape=(n * n, n * n))
    for a, b in ((points[1:], points[:-1]), (points[:, 1:], points[:, :-1])):
        a, b = a.ravel(), b.ravel()
        along = sp.diags_array(2 / (1 / k[a] + 1 / k[b]))
        step = sp.coo_matrix(
            (
                np.r_[np.ones(len(a)), -np.ones(len(a))],
                (np.tile(np.arange(len(a)), 2), np.r_[a, b]),
            ),
            shape=(len(a), n * n),
        )
        matrix = matrix + step.T @ along @ step
    return sp.csr_matrix(matrix)


def _upwind(n: int) -> sp.csr_matrix:
    """No entry has a mirror image."""
    line = sp.diags_array([-1.0, 1.0], offsets=[-1, 0], shape=(n, n))
    return sp.csr_matrix(sp.kronsum(line, line) + 0.01 * sp.eye_array(n * n))


@cache
def _system(name: str) -> tuple[sp.csr_matrix, np.ndarray | None, int]:
    if name == "elasticity":
        problem = problems.make("elasticity3d:n=4")
        return problem.matrix(), problem.near_nullspace(0, problem.n_rows), 3
    if name == "block_size alone":
        return problems.make("elasticity3d:n=4").matrix(), None, 3
    made = {
        "poisson": lambda: poisson(20),
        "convection": lambda: convection(20),
        "strong convection": lambda: sp.csr_matrix(20 * convection(20) - 19 * poisson(20)),
        "jumps": lambda: _jumps(20, 4),
        "upwind": lambda: _upwind(20),
        "components": lambda: sp.block_diag([poisson(14), 1e7 * poisson(11)], "csr"),
    }
    return made[name](), None, 1


SYSTEMS = [
    "poisson",
    "convection",
    "strong convection",
    "jumps",
    "upwind",
    "components",
    "elasticity",
    "block_size alone",
]


def _set_up(world, matrix: sp.csr_matrix, modes=None, block_size: int = 1, **more):
    A = hs.DSparseMatrix.from_scipy(
        matrix if world.rank == 0 else None, world, block_size=block_size
    )
    mine = None if modes is None else modes[A.layout.rows]
    return A, multigrid(
        block_size=block_size, **({"dtype": "float32"} | more), near_nullspace=mine
    ).on(A)


def _factors(n: int, decades: float) -> np.ndarray:
    return 10.0 ** np.random.default_rng(7).uniform(-decades, decades, n)


def _scaled(matrix: sp.csr_matrix, left: np.ndarray, right: np.ndarray | None = None):
    scaled = sp.diags_array(left) @ matrix
    return sp.csr_matrix(scaled if right is None else scaled @ sp.diags_array(right))


@pytest.mark.parametrize("name", SYSTEMS)
def test_iterations_do_not_know_the_scaling_of_rows(world, name):
    matrix, modes, block_size = _system(name)
    b = np.random.default_rng(8).standard_normal(matrix.shape[0])
    counts = []
    for decades in (0, 6):
        d = _factors(len(b), decades)
        A, M = _set_up(world, _scaled(matrix, d), modes, block_size)
        rhs = spread(A.layout, d * b)
        counts.append([iterations(A, rhs, M, method) for method in ("gmres", "bicgstab")])
    # Residuals are measured in the units of the rows: bicgstab's wander a little.
    assert (np.array(counts[1:]) <= np.array(counts[0]) + (2, 3)).all(), counts


@pytest.mark.parametrize("rows_only", [False, True])
@pytest.mark.parametrize("few", [False, True])
def test_beside_rows_that_are_decoupled_and_where_few_are_scaled(world, few, rows_only):
    held = np.zeros((25, 25), dtype=bool)
    held[0] = held[:, -1] = True
    free, d = sp.diags_array(1.0 * ~held.ravel()), _factors(625, 4)
    if few:
        d[np.arange(625) % 97 != 50] = 1.0
    inner = free @ poisson(25) if rows_only else free @ poisson(25) @ free
    matrix = sp.csr_matrix(inner + sp.diags_array(1.0 * held.ravel()))
    b = np.random.default_rng(9).standard_normal(625)
    counts = []
    for factors in (np.ones(625), d):
        A, M = _set_up(world, _scaled(matrix, factors))
        counts.append(iterations(A, spread(A.layout, factors * b), M, "gmres"))
    assert counts[1] <= counts[0] + 2, counts


@pytest.mark.parametrize("name", ["poisson", "components", "jumps"])
def test_unknowns_in_units_of_their_own(world, name):
    """D A D by cg: as the constants are no longer what it hardly changes."""
    matrix = _system(name)[0]
    b = np.random.default_rng(10).standard_normal(matrix.shape[0])
    counts = []
    for decades in (0, 3):
        d = _factors(len(b), decades)
        A, M = _set_up(world, _scaled(matrix, d, d))
        counts.append(iterations(A, spread(A.layout, d * b), M))
    assert counts[1] <= counts[0] + 4, counts


@pytest.mark.parametrize("keep", ["prolongators", "aggregates"])
def test_update_finds_the_factors_of_the_values_it_gets(world, keep):
    b = np.random.default_rng(11).standard_normal(400)
    A, M = _set_up(world, convection(20))
    wanted = iterations(A, spread(A.layout, b), M, "gmres")
    rows, columns = A.entries()
    for decades in (3, 0, 5):
        d = _factors(400, decades)
        B = A.with_values(A.values * spread(A.layout, d)[A.pattern.local_rows()])
        found = iterations(B, spread(A.layout, d * b), M.update(B, keep), "gmres")
        assert found <= wanted + 2, (decades, found, wanted)
    if keep == "aggregates":  # of unknowns too
        A, M = _set_up(world, poisson(20))
        wanted = iterations(A, spread(A.layout, b), M)
        d = _factors(400, 3)
        B = A.with_values(A.values * torch.from_numpy(d[rows] * d[columns]).to(A.values))
        assert iterations(B, spread(A.layout, d * b), M.update(B, keep)) <= wanted + 4


@pytest.mark.parametrize("name", ["convection", "upwind"])
def test_the_inverse_is_that_of_the_even_rows_and_has_a_transpose(world, name):
    matrix = {"convection": convection, "upwind": _upwind}[name](8)
    d = _factors(64, 3)
    A, M = _set_up(world, _scaled(matrix, d), cycle="W", dtype="float64")
    ours = as_dense(A, M.apply)
    size = abs(ours).max(axis=0)
    np.testing.assert_allclose(as_dense(A, M.apply_transpose).T / size, ours / size, atol=1e-12)
    again, N = _set_up(world, _scaled(matrix, 1 / d), cycle="W", dtype="float64")
    assert everywhere(world, (again.layout.rows == A.layout.rows).all())
    order = np.concatenate(world.comm.allgather(A.layout.rows))
    wanted = as_dense(again, N.apply) / (d * d)[order]
    np.testing.assert_allclose(ours / size, wanted / size, atol=1e-8)


def test_gradients_through_scaled_rows(world):
    matrix, d = poisson(12), _factors(144, 3)
    A, _ = _set_up(world, _scaled(matrix, d))
    values = A.values.clone().requires_grad_()
    b = spread(A.layout, d).requires_grad_()
    x, info = hs.solve(A.with_values(values), b, "gmres", "amg:coarse_size=20", rtol=1e-12)
    A.layout.dot(x, x).backward()
    dense = _scaled(matrix, d).toarray()
    solution = np.linalg.solve(dense, d)
    other = np.linalg.solve(dense.T, 2 * solution)
    rows, columns = A.entries()
    assert info.converged
    for found, wanted in (
        (b.grad * spread(A.layout, d), (other * d)[A.layout.rows]),
        (values.grad * torch.from_numpy(d[rows]), -(other * d)[rows] * solution[columns]),
    ):
        close = np.allclose(found.numpy(), wanted, rtol=1e-5, atol=1e-6 * abs(other * d).max())
        assert everywhere(world, close)


@pytest.mark.parametrize("name", ["poisson", "jumps", "convection", "elasticity"])
def test_what_is_well_scaled_is_left_alone(world, name):
    """And what slowly becomes another, as the cells of a graded mesh."""
    matrix, _, block_size = _system(name)
    order = np.linspace(0, 1, matrix.shape[0])
    for factors in (np.ones(len(order)), 10.0**order):
        A = hs.DSparseMatrix.from_scipy(
            _scaled(matrix, factors) if world.rank == 0 else None, world, block_size=block_size
        )
        assert row_factors(A, AMG().on) is None

"""What multigrid takes of a matrix unasked: its nodes, its vectors, the motions of its points."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch

import hpc_sla as hs
from hpc_sla import problems
from hpc_sla.errors import UnsuitableError
from hpc_sla.partition.rigid_body import candidates, evaluated
from hpc_sla.precond.amg.rigid_body import rigid_body_modes
from tests.collective import full
from tests.precond.amg.systems import multigrid, poisson


def sent(world: hs.World, matrix: sp.csr_matrix, **known) -> hs.DSparseMatrix:
    return hs.DSparseMatrix.from_scipy(matrix if world.rank == 0 else None, world, **known)


def free_body(b: int, d: int, which: int) -> tuple[sp.csr_matrix, np.ndarray, np.ndarray]:
    """Bars between neighbours on a grid that resist all but the rigid motions of a convention."""
    modes = list(candidates(b, d))[which]
    axes = [np.arange(5.0)] * d
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, d)
    points = points + 0.1 * np.random.default_rng(3).random(points.shape)
    pairs = np.argwhere(np.triu(np.linalg.norm(points[:, None] - points, axis=-1) < 1.6, 1))
    rows = points.repeat(b, axis=0)
    R = evaluated(modes, rows, np.arange(len(rows)) % b)
    matrix = sp.lil_matrix((len(rows), len(rows)))
    for i, j in pairs:
        both = np.concatenate([np.arange(b) + i * b, np.arange(b) + j * b])
        U = np.linalg.svd(R[both])[0][:, : np.linalg.matrix_rank(R[both])]
        matrix[np.ix_(both, both)] += np.eye(2 * b) - U @ U.T
    return sp.csr_matrix(matrix), points, R


@pytest.mark.mpi
@pytest.mark.parametrize(
    ("b", "d", "which"),
    [(2, 2, 0), (3, 3, 0), (3, 2, 0), (3, 2, 1), (3, 2, 5), (3, 2, 9), (6, 3, 1)],
)
def test_the_motions_that_hold_are_taken(world, b, d, which):
    matrix, points, R = free_body(b, d, which)
    A = sent(world, matrix, coordinates=points, block_size=b)
    M = multigrid().on(A)
    m = R.shape[1]
    assert (
        M.taken
        == f"nodes of {b} unknowns (of the matrix); {m} rigid-body modes (of the coordinates)"
    )
    B = full(A.layout, torch.from_numpy(rigid_body_modes(A, b, None)))
    assert np.linalg.matrix_rank(np.concatenate([B, R], axis=1), tol=1e-8) == m
    assert abs(B).max() <= 1


@pytest.mark.mpi
def test_what_has_no_such_motions(world):
    """A vector Laplacian annihilates constants, and its components have nothing in common."""
    points = problems.make("poisson2d:n=12").coordinates(0, 144)
    laplacian = sp.csr_matrix(sp.kron(poisson(12), np.eye(2)))
    coupled = sp.csr_matrix(sp.kron(poisson(12), [[2.0, 1.0], [1.0, 2.0]]) + sp.eye_array(288))
    for matrix in (laplacian, coupled):
        A = sent(world, matrix, coordinates=points, block_size=2)
        taken = multigrid().on(A).taken
        assert (
            taken
            == "nodes of 2 unknowns (of the matrix); constants, one for each unknown of a node"
        )


@pytest.mark.mpi
def test_what_is_said_comes_before_what_is_found(world):
    problem = problems.make("elasticity3d:n=3")
    matrix, points = sp.csr_matrix(problem.matrix()), problem.coordinates(0, problem.n_rows)
    A = sent(world, matrix, coordinates=points)
    assert multigrid().on(A).taken.startswith("nodes of 3 unknowns (found in the pattern); 6 rigid")
    assert multigrid(block_size=1).on(A).taken == "single unknowns; constants"
    assert multigrid().on(A).describe()[0] == multigrid().on(A).taken
    A.near_nullspace = "constants"
    assert "3 near-nullspace vectors (of the matrix)" in multigrid().on(A).taken
    given = np.ones((A.layout.n_owned, 1))
    assert "1 near-nullspace vector (given)" in multigrid(near_nullspace=given).on(A).taken
    view = hs.LinearSolver(A, method="cg", precond="amg").set_up().view()
    assert "nodes of 3 unknowns" in view
    M = multigrid().on(A)
    assert M.update(A.with_values(2 * A.values), keep="aggregates").taken == M.taken


@pytest.mark.mpi
def test_levels_that_fill_up_are_refused_on_every_rank(world):
    """A graph that grows by preferring hubs (Barabasi and Albert, Science 286, 1999)."""
    n, rng = 15000, np.random.default_rng(0)
    ends, edges = [0, 1, 2], []
    for v in range(3, n):
        chosen = {ends[k] for k in rng.integers(0, len(ends), 3)}
        edges += [(v, u) for u in chosen]
        ends += [*chosen, *[v] * len(chosen)]
    rows, columns = np.array(edges).T
    W = sp.csr_matrix((np.ones(len(rows)), (rows, columns)), shape=(n, n))
    W = W + W.T
    matrix = sp.csr_matrix(sp.diags_array(np.asarray(W.sum(axis=1)).ravel() + 0.01) - W)
    A = sent(world, matrix, partition="contiguous")
    with pytest.raises(UnsuitableError, match="levels grow: operator complexity"):
        hs.AMG(coarse_size=50, rows_per_rank=100).on(A)
    M = hs.AMG().on(sent(world, poisson(40)))
    assert M.operator_complexity < 2


def stencil(n: int, d: int) -> sp.csr_matrix:
    """All 3^d neighbours: Laplace by multilinear elements, without a boundary, and a mass."""
    K = sp.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(n, n))
    M = sp.diags_array([1 / 6, 2 / 3, 1 / 6], offsets=[-1, 0, 1], shape=(n, n))
    total = sp.csr_matrix((n**d, n**d))
    for axis in range(d):
        term = sp.eye_array(1)
        for k in range(d):
            term = sp.kron(term, K if k == axis else M)
        total = total + term
    return sp.csr_matrix(total)


def cliques(n: int, size: int) -> sp.csr_matrix:
    """Elements of many nodes each along a band, as those of high order have."""
    rng = np.random.default_rng(1)
    matrix = sp.lil_matrix((n, n))
    for start in range(0, n - size, size // 3):
        R = rng.standard_normal((size, size - 1))
        R -= R.mean(axis=0)
        matrix[start : start + size, start : start + size] += R @ R.T
    return sp.csr_matrix(matrix + 1e-3 * sp.eye_array(n))


ORDINARY = {
    "5 points": lambda: poisson(40),
    "9 points": lambda: stencil(40, 2),
    "27 points": lambda: stencil(14, 3),
    "elasticity": lambda: sp.csr_matrix(problems.make("elasticity3d:n=8").matrix()),
    "cliques": lambda: cliques(1500, 24),
}


@pytest.mark.mpi
@pytest.mark.parametrize("name", ORDINARY)
def test_levels_of_ordinary_matrices_do_not_fill_up(world, name):
    M = hs.AMG(coarse_size=50).on(sent(world, ORDINARY[name](), partition="contiguous"))
    assert len(M.levels) > 1 and M.operator_complexity < 3

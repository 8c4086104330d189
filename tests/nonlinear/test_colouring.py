"""Colours of a pattern, and the Jacobian assembled with them beside the dense one."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch

import hpc_sla as hs
from hpc_sla import problems
from hpc_sla.nonlinear import ColouredJacobian, colour_columns
from hpc_sla.nonlinear.colouring import _greedy
from hpc_sla.nonlinear.equations import Equations, JacobianProducts
from hpc_sla.nonlinear.info import NonlinearInfo
from tests.collective import (
    MATRICES,
    dense,
    disconnected,
    distribute,
    everywhere,
    full,
    random_matrix,
)

pytestmark = pytest.mark.mpi


def _tells_apart(matrix, colour):
    """Whether no row has two entries of one colour."""
    matrix = sp.csr_matrix(matrix)
    return all(
        len(set(colour[row.indices])) == len(row.indices)
        for row in (matrix[i] for i in range(matrix.shape[0]))
    )


@pytest.mark.parametrize("partition", ["metis", "cyclic"])
@pytest.mark.parametrize("name", MATRICES)
def test_no_row_has_a_colour_twice_and_ranks_do_not_matter(world, name, partition):
    matrix = MATRICES[name]()
    A = distribute(matrix, world, partition)
    mine, count = colour_columns(A)
    colour = full(A.layout, torch.from_numpy(mine))
    assert _tells_apart(matrix, colour) and count == colour.max(initial=-1) + 1
    alone = hs.DSparseMatrix.from_scipy(matrix, hs.World.serial("cpu"), "contiguous")
    assert np.array_equal(colour, colour_columns(alone)[0])
    # Where no lattice does better, as one does for most of these.
    greedy = full(A.layout, torch.from_numpy(_greedy(A)))
    assert _tells_apart(matrix, greedy) and np.array_equal(greedy, _greedy(alone))


STENCILS = {
    "poisson2d:n=13": 5,
    "poisson3d:n=6": 7,
    "anisotropic2d:n=9,angle=30": 9,
    "poisson2d:n=2": 4,
}


@pytest.mark.parametrize("spec", STENCILS)
def test_the_fewest_colours_for_stencils(world, spec):
    for partition in ("contiguous", "metis"):
        A = distribute(problems.make(spec).matrix(), world, partition)
        colour, count = colour_columns(A)
        assert _tells_apart(problems.make(spec).matrix(), full(A.layout, torch.from_numpy(colour)))
        assert count <= STENCILS[spec]
    systems = {"plaplacian2d:n=9": 7, "reaction2d:n=7": 10, "bratu3d:n=5": 7}
    for spec, most in systems.items():
        assert colour_columns(problems.make_nonlinear(spec).on(world).A)[1] == most


def _with_diagonal(matrix):
    return sp.csr_matrix(matrix + sp.eye_array(matrix.shape[0]))


PATTERNS = {
    "random": lambda: random_matrix(31, 0.12, 220),
    "another": lambda: random_matrix(40, 0.06, 221),
    "disconnected": lambda: disconnected(23, 222),
    "dense": lambda: random_matrix(7, 1.0, 223),
    "full columns": lambda: sp.csr_matrix(np.eye(12) + np.eye(12)[:, [3]] @ np.ones((1, 12))),
    "grid": lambda: problems.make("poisson2d:n=6").matrix(),
    "one row": lambda: sp.csr_matrix([[2.0]]),
}


@pytest.mark.parametrize(
    ("name", "products"),
    [
        *[(name, products) for name in PATTERNS for products in ("reverse", "fd")],
        ("random", "forward"),
        ("full columns", "forward"),
    ],
)
def test_the_coloured_jacobian_is_the_dense_one(world, name, products):
    """Of F_i = sum_j a_ij sin(u_i u_j + u_j), whose Jacobian is no multiple of a_ij."""
    matrix = _with_diagonal(PATTERNS[name]())
    n = matrix.shape[0]
    A = distribute(matrix, world)
    whole = torch.from_numpy(np.random.default_rng(224).standard_normal(n))
    rows = A.pattern.local_rows()
    local = torch.cat(
        [A.pattern.owned.indices.long(), A.pattern.halo.indices.long() + A.layout.n_owned]
    )

    def residual(u):
        there = torch.cat([u, A.halo(u)])[local]
        return torch.zeros_like(u).index_add(0, rows, A.values * torch.sin(u[rows] * there + there))

    a = torch.from_numpy(matrix.toarray())
    expected = torch.func.jacrev(lambda u: (a * torch.sin(u[:, None] * u + u)).sum(1))(whole)
    info = NonlinearInfo("converged")
    u = whole[torch.from_numpy(A.layout.rows)]
    operator = JacobianProducts(Equations(residual, A.layout, info), u, products)
    made = ColouredJacobian(A)
    J = made.assemble(operator)
    tolerance = 1e-5 if products == "fd" else 1e-13
    assert np.allclose(dense(J), expected, atol=tolerance)
    assert info.jacobian_products == made.colours
    y = torch.from_numpy(np.random.default_rng(225).standard_normal(n))
    mine = y[torch.from_numpy(A.layout.rows)]
    assert np.allclose(full(A.layout, operator.matvec(mine)), expected @ y, atol=10 * tolerance)
    assert np.allclose(full(A.layout, operator.rmatvec(mine)), expected.T @ y, atol=1e-12)
    assert everywhere(world, J.pattern is A.pattern)

"""What a matrix knows of its unknowns: where it comes from, and where it goes."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import scipy.sparse as sp
import torch

import hpc_sla as hs
from hpc_sla.partition.nodes import block_size_of
from hpc_sla.problems import make, rigid_body_modes
from hpc_sla.sparse.nodes import find_block_size
from tests.collective import everywhere, full

PROBLEM = make("elasticity3d:n=3")
N = PROBLEM.n_rows
POINTS = PROBLEM.coordinates(0, N)


def spread(world: hs.World, **known) -> hs.DSparseMatrix:
    root = world.rank == 0
    return hs.DSparseMatrix.from_scipy(
        sp.csr_matrix(PROBLEM.matrix()) if root else None, world, **known
    )


@pytest.mark.mpi
@pytest.mark.parametrize("points", [POINTS, POINTS[::3]], ids=["a row", "a node"])
def test_from_scipy(world, points):
    A = spread(world, coordinates=points, near_nullspace="rigid_body")
    assert A.block_size == 3
    np.testing.assert_array_equal(full(A.layout, A.coordinates), POINTS)
    np.testing.assert_allclose(full(A.layout, A.near_nullspace), rigid_body_modes(POINTS))
    assert everywhere(world, find_block_size(A) == 3)
    assert spread(world, block_size=1).block_size == 1
    B = spread(world, near_nullspace=np.arange(N))
    np.testing.assert_array_equal(full(B.layout, B.near_nullspace), np.arange(N)[:, None])


@pytest.mark.mpi
def test_it_goes_where_the_matrix_goes(world):
    A = spread(world, coordinates=POINTS, near_nullspace="constants")
    copies = [A.with_values(2 * A.values), copy.copy(A), copy.deepcopy(A)]
    serial = hs.World.serial("cpu")
    alone = hs.DSparseMatrix.from_scipy(
        sp.csr_matrix(PROBLEM.matrix()), serial, coordinates=POINTS, near_nullspace="constants"
    )
    copies.append(pickle.loads(pickle.dumps(alone)))
    for B, source in zip(copies, (A, A, A, alone), strict=True):
        assert B.block_size == 3
        ok = torch.equal(B.coordinates, source.coordinates)
        ok = ok and torch.equal(B.near_nullspace, source.near_nullspace)
        assert everywhere(world, ok and B.near_nullspace.shape[1] == 3)
    copies[2].coordinates.zero_()
    assert everywhere(world, bool(A.coordinates.any()) or not A.layout.n_owned)
    copies[0].coordinates = None
    assert A.coordinates is not None and A.T.block_size == 3 and A.T.T is A


@pytest.mark.mpi
def test_from_coo_and_set_afterwards(world):
    A = spread(world)
    rows, columns = A.entries()
    points = POINTS[A.layout.rows]
    B = hs.DSparseMatrix.from_coo(
        rows, columns, A.values, A.shape, world, layout=A.layout, block_size=3,
        coordinates=points, near_nullspace="rigid_body",
    )  # fmt: skip
    assert B.block_size == 3
    np.testing.assert_allclose(full(B.layout, B.near_nullspace), rigid_body_modes(POINTS))
    with pytest.raises(hs.InputError, match="rows"):
        hs.DSparseMatrix.from_coo(
            rows,
            columns,
            A.values,
            A.shape,
            world,
            coordinates=points[: len(points) // 2, :] if world.rank == world.size - 1 else points,
        ) if world.size < 3 else spread(world, coordinates=POINTS[:5])
    C = hs.DSparseMatrix.from_coo(rows, columns, A.values, A.shape, world, layout=A.layout)
    assert C.block_size == 1 and C.coordinates is None and C.near_nullspace is None
    assert everywhere(world, find_block_size(C) == 3)
    for field, wrong in (
        ("coordinates", np.ones((A.layout.n_owned + 1, 3))),
        ("near_nullspace", np.full((A.layout.n_owned, 2), np.nan)),
        ("near_nullspace", "rigid_body"),
        ("near_nullspace", "something"),
        ("block_size", 5),
        ("block_size", 0),
    ):
        if A.layout.n_owned:
            with pytest.raises(hs.InputError):
                setattr(C, field, wrong)


@pytest.mark.mpi
@pytest.mark.parametrize(
    "matrix",
    [
        sp.csr_matrix(sp.kron(make("poisson2d:n=6").matrix(), np.ones((b, b)) + np.eye(b)))
        for b in (1, 2, 5, 6)
    ],
    ids=["1", "2", "5", "6"],
)
def test_what_is_found_does_not_depend_on_the_ranks(world, matrix):
    wanted = block_size_of(matrix)
    nodes = matrix.shape[0] // wanted
    mine = np.flatnonzero(np.arange(nodes) * 7 % nodes * world.size // nodes == world.rank)
    mine = (mine[:, None] * wanted + np.arange(wanted)).ravel()
    coo = matrix[mine].tocoo()
    A = hs.DSparseMatrix.from_coo(mine[coo.row], coo.col, coo.data, matrix.shape, world)
    assert everywhere(world, find_block_size(A) == wanted)


@pytest.mark.mpi
def test_a_partition_that_divides_nodes(world):
    """What was found gives way; what was said is held to."""
    part = np.arange(N) % world.size
    A = spread(world, partition=part)
    assert A.block_size == (3 if world.size == 1 else 1)
    if world.size > 1:
        assert everywhere(world, find_block_size(A) == 1)
        with pytest.raises(hs.InputError, match="divides nodes"):
            spread(world, partition=part, block_size=3)
    with pytest.raises(hs.InputError, match="near_nullspace"):
        spread(world, near_nullspace="rigid_body")

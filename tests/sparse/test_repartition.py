"""A matrix on other ranks is the same matrix, and so are its gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import hpc_sla as hs
from hpc_sla import problems
from hpc_sla.errors import InputError
from tests.collective import (
    MATRICES,
    dense,
    distribute,
    everywhere,
    full,
    random_rectangular,
    spread,
)

pytestmark = pytest.mark.mpi


@pytest.mark.parametrize("partition", ["contiguous", "all on the last"])
@pytest.mark.parametrize("name", MATRICES)
def test_products_and_gradients_are_the_same(name, partition, world):
    matrix = MATRICES[name]()
    A = distribute(matrix, world, partition)
    values = A.values.detach().clone().requires_grad_()
    A = A.with_values(values)
    x = spread(A.layout, np.random.default_rng(0).random(matrix.shape[0])).requires_grad_()

    def gradients(M, v):
        y = M @ v
        loss = M.layout.dot(y, torch.sin(v) * y)
        return torch.autograd.grad(loss, (values, x))

    expected = gradients(A, x)
    B = A.repartition("multilevel")
    np.testing.assert_array_equal(dense(B), matrix.toarray())
    moved = A.layout.move(x, B.layout)
    np.testing.assert_array_equal(full(B.layout, moved.detach()), full(A.layout, x.detach()))
    found = gradients(B, moved)
    assert everywhere(world, all(map(torch.allclose, found, expected)))
    back = B.layout.move(moved, A.layout)
    assert everywhere(world, torch.equal(back, x))


def test_what_is_known_of_rows_goes_along(world):
    problem = problems.make("elasticity3d:n=3")
    matrix, n = problem.matrix(), problem.n_rows
    points = problem.coordinates(0, n)
    A = hs.DSparseMatrix.from_scipy(
        matrix if world.rank == 0 else None,
        world,
        "contiguous",
        block_size=3,
        coordinates=points,
        near_nullspace="rigid_body",
    )
    for method in ("multilevel", "sfc", "rcb"):
        B = A.repartition(method)
        assert B.block_size == 3
        assert B.layout.rows.size % 3 == 0
        np.testing.assert_array_equal(full(B.layout, B.coordinates), points)
        modes = full(A.layout, A.near_nullspace)
        np.testing.assert_array_equal(full(B.layout, B.near_nullspace), modes)


def test_costs_and_shares_are_heard(world):
    problem = problems.make("poisson2d:n=24")
    A = problems.distribute(problem, world)
    speeds = np.arange(1.0, world.size + 1)
    rows = 576 * speeds / speeds.sum()
    n_owned = world.comm.allgather(A.repartition(weights="rows", shares=speeds).layout.n_owned)
    assert (np.array(n_owned) <= 1.03 * rows + 1).all()
    costs = torch.from_numpy(1.0 + 9 * (A.layout.rows < 288))
    B = A.repartition(weights=costs)
    total = world.sum(float(costs.sum()))
    mine = float(A.layout.move(costs, B.layout).sum())
    assert everywhere(world, mine <= 1.03 * total / world.size + 10)


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"method": "metis"}, "--method"),
        ({"method": "rcb"}, "--coordinates"),
        ({"weights": "columns"}, "weights"),
        ({"weights": np.ones(1)}, "weights"),
        ({"shares": []}, "shares"),
    ],
)
def test_bad_input(arguments, field, world):
    A = distribute(MATRICES["spd"](), world, "contiguous")
    with pytest.raises(InputError) as caught:
        A.repartition(**arguments)
    assert caught.value.field == field


def test_rectangular_matrices_are_refused(world):
    A = distribute(random_rectangular(12, 7, 0.3, 0), world, "contiguous")
    with pytest.raises(InputError, match="from_scipy"):
        A.repartition()

"""gmres in one sweep a step beside the same in operations one by one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import hpc_sla as hs
from hpc_sla.kernels import native
from hpc_sla.sparse import operators
from hpc_sla.sparse.operators import as_operator
from tests.checkpoints import asked_each_time, convection, same  # noqa: F401 - a fixture
from tests.collective import distribute, everywhere, full, spread

pytestmark = [
    pytest.mark.mpi,
    pytest.mark.skipif(native.LIBRARY is None, reason="the kernels were not compiled"),
]


@pytest.fixture(autouse=True)
def swept(monkeypatch):
    monkeypatch.setattr(native, "serves", native.can_take)
    monkeypatch.setattr(operators, "pays", lambda *rows: True)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("partition", ["metis", "contiguous"])
@pytest.mark.parametrize("precond", ["jacobi", "none"])
@pytest.mark.parametrize("n", [3, 75])
def test_the_same_iterates(world, monkeypatch, partition, precond, n):
    matrix = convection(n)
    A = hs.DSparseMatrix.from_scipy(matrix if world.rank == 0 else None, world, partition=partition)
    b = spread(A.layout, np.random.default_rng(n).standard_normal(n * n))
    options = {"method": "gmres:restart=12", "precond": precond, "rtol": 1e-9}
    x, info = hs.solve(A, b, max_iterations=60, **options)
    monkeypatch.setattr(operators._MatrixOperator, "arnoldi", lambda *arguments: None)
    y, plain = hs.solve(A, b, max_iterations=60, **options)
    assert info.iterations == plain.iterations
    assert info.residual_history == pytest.approx(plain.residual_history, rel=1e-9)
    x, y = full(A.layout, x), full(A.layout, y)
    assert np.abs(x - y).max() <= 1e-9 * np.abs(y).max()
    residual = np.linalg.norm(full(A.layout, b) - matrix @ x)
    assert info.residual_norm == pytest.approx(residual, rel=1e-6)


def test_it_is_swept_where_it_pays_and_else_not(world):
    from hpc_sla.kernels.basis import Basis

    A = distribute(convection(5), world)
    like = torch.empty(A.layout.n_owned, dtype=torch.float64)
    operator = as_operator(A)
    assert everywhere(world, operator.arnoldi(Basis(3, like), None) is not None)
    assert everywhere(world, operator.T.arnoldi(Basis(3, like), None) is None)
    wide = torch.empty(A.layout.n_owned, 2, dtype=torch.float64)
    assert everywhere(world, operator.arnoldi(Basis(3, wide), None) is None)


@pytest.mark.parametrize("at", [3, 9, 10, 14])
def test_resumed_within_a_cycle_and_between_two(world, folder, at):
    """The very same iterates: fails where an update that was left to the next step is lost."""
    A = distribute(convection(50), world)
    b = spread(A.layout, np.random.default_rng(3).standard_normal(2500))
    options = {"method": "gmres:restart=10", "precond": "jacobi", "rtol": 1e-5}
    x, info = hs.solve(A, b, max_iterations=40, **options)
    path = folder / "solve.h5"
    first = hs.Checkpoint(path)
    callback = lambda i, norm: i == at and first.request_stop()  # noqa: E731
    _, told = hs.solve(A, b, max_iterations=40, checkpoint=first, callback=callback, **options)
    assert told.iterations == at and told.status == "preempted"
    again = hs.Checkpoint(path, resume=True)
    y, resumed = hs.solve(A, b, max_iterations=40, checkpoint=again, **options)
    assert resumed.residual_history == info.residual_history and same(world, x, y)

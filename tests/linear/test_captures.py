"""What a capture may rely on: values looked at before, memory that stays, ranks that do alike."""

from __future__ import annotations

import pytest
import torch

import hpc_sla as hs
from hpc_sla.kernels import device_products
from hpc_sla.kernels.device_matrix import DeviceMatrix
from hpc_sla.linear import prepared
from hpc_sla.linear.cg import CG
from hpc_sla.linear.graphs import STEPS, Bursts
from hpc_sla.linear.method import System
from hpc_sla.linear.scalars import TensorScalars
from hpc_sla.sparse.operators import _MatrixOperator, as_operator
from tests.checkpoints import poisson
from tests.collective import distribute, everywhere
from tests.linear.emulated import COUNTS, emulate
from tests.linear.test_prepared import WORLD, rhs, solver


def test_a_graph_is_of_the_slices_that_are_there(monkeypatch):
    """Those of another solver leave them be; other values do not, be they counted or not."""
    monkeypatch.setattr(device_products, "serves", lambda x: True)
    matrix = poisson(50)  # 2500 rows
    A, B = (hs.DSparseMatrix.from_scipy(factor * matrix, WORLD) for factor in (1.0, 1.0))
    B = A.with_values(3 * A.values)
    A = A.with_values(A.values.clone())
    first, second = as_operator(A), as_operator(B)
    x = torch.ones(2500, dtype=torch.float64)
    tokens = []
    for operator in (first, second, first):
        operator.refresh()
        operator.settle(x)
        tokens.append(operator.token)
    assert isinstance(tokens[0][1], DeviceMatrix)
    assert tokens[0][1] is tokens[2][1] is not tokens[1][1]
    assert first.T.token[:-1] == tokens[0]
    A.values.data.mul_(2)
    first.refresh()
    first.settle(x)
    assert first.token[1] is not tokens[0][1] and first.token[1].holds(A.values)


def test_values_are_looked_at_before_a_capture(on_gpu, monkeypatch):
    """Which may not wait for the device."""
    on_gpu(True)
    asked = []
    settle, take = _MatrixOperator.settle, prepared.GraphStore.take
    monkeypatch.setattr(
        _MatrixOperator, "settle", lambda self, x: asked.append("settle") or settle(self, x)
    )
    monkeypatch.setattr(
        prepared.GraphStore, "take", lambda *those: asked.append("take") or take(*those)
    )
    s = solver()
    for seed in (1, 2):
        s.solve(rhs(seed))
    assert asked == ["settle", "take"] * 2


def test_after_a_capture_that_fails_steps_go_on_from_scalars_of_their_own(on_gpu, monkeypatch):
    """It may have done an odd number of them: a step reads what it leaves its own beside."""
    on_gpu(True)
    step, failed, apart = CG.step, [], []

    def failing(self):
        if self.scalars._own is None and failed and self.on_device:
            written, _ = self.two._sets[1 - self.two._which]
            storage = written.untyped_storage().data_ptr()
            apart.append(self.rho.untyped_storage().data_ptr() != storage)
        step(self)
        if self.scalars._own is not None:
            failed.append(1)
            raise RuntimeError("no")

    monkeypatch.setattr(CG, "step", failing)
    with pytest.warns(RuntimeWarning, match="could not be captured"):
        _, info = solver().solve(rhs(1))
    assert info.converged and len(failed) == 1
    assert apart and all(apart)


@pytest.mark.mpi
def test_what_one_rank_cannot_capture_none_does(world):
    """As a factor of more levels on one rank: its neighbours would send to it from a graph."""

    class Part:
        def __init__(self, yes):
            self.capturable, self.world = yes, world

    last = world.rank == world.size - 1
    method = CG()
    for yes in (True, False):
        world_transport = type("Transport", (), {"capturable": True})()
        operator = Part(True)
        operator.world = type("W", (), {"transport": world_transport, "size": world.size})()
        operator.world.max = world.max
        system = type("S", (), {})()
        system.operator, system.precond = operator, Part(yes or not last)
        system.b = type("B", (), {"is_cuda": True})()
        assert prepared.capturable(method, system) == yes


@pytest.mark.mpi
def test_a_capture_that_fails_on_one_rank_is_none_on_all(world, monkeypatch):
    emulate(monkeypatch)
    A = distribute(poisson(9), world)
    b = torch.ones(A.layout.n_owned, dtype=torch.float64)
    scalars = TensorScalars(A.world, b)
    scalars.check_every = 6
    scalars._history = b.new_empty((6, 4))
    M = hs.Jacobi().on(A)
    system = System(as_operator(A), M, b, torch.zeros_like(b), b.clone(), [1e-9], scalars)
    state = CG().on(system)
    state.start(torch.tensor(True))
    bursts = Bursts(state, scalars, True)
    step, last, within = CG.step, world.rank == world.size - 1, []

    def failing(self):
        step(self)
        if last and scalars._own is not None:
            within.append(1)
            if len(within) == STEPS:  # where nobody waits for it, as in a capture nobody does
                raise RuntimeError("no")

    monkeypatch.setattr(CG, "step", failing)
    scalars.read()
    with pytest.warns(RuntimeWarning, match="no" if last else "on another rank"):
        bursts.run(6)
    scalars.read()
    bursts.run(6)
    assert bursts._graph is None and not COUNTS["replayed"]
    r = b - A @ system.x
    assert everywhere(world, A.layout.norm(r) < A.layout.norm(b))

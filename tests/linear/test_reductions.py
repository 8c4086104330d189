"""How often a method waits for every rank: reductions an iteration, seen at the transport."""

from __future__ import annotations

import pytest
import torch

import hpc_sla as hs
from hpc_sla.linear.bursts import CompiledSteps
from tests.collective import distribute
from tests.linear.test_properties import FAMILIES
from tests.methods import ENTRIES

pytestmark = pytest.mark.mpi

A_STEP = {
    "cg": (2, 0),
    "pipelined_cg": (0, 1),
    "minres": (2, 0),
    "bicgstab": (3, 0),
    "gmres": (1, 0),
    "fgmres": (1, 0),
    "richardson": (1, 0),
    "lsqr": (2, 0),
    "lsmr": (2, 0),
}
"""Blocking and non-blocking reductions an iteration."""


@pytest.mark.several  # one rank has nothing to reduce
@pytest.mark.parametrize("columns", [(), (3,)])
@pytest.mark.parametrize("method", ENTRIES)
def test_reductions_an_iteration(world, method, columns, monkeypatch):
    A = distribute(FAMILIES["convection" if method in ("lsqr", "lsmr") else "spd"](), world)
    b = torch.ones((A.layout.n_owned, *columns), dtype=torch.float64)
    counts = {"blocking": 0, "started": 0}
    transport = world.transport
    blocking, started = transport.all_reduce_sum, transport.start_all_reduce_sum

    def counted(tensor):
        counts["blocking"] += 1
        blocking(tensor)

    def counted_start(tensor):
        counts["started"] += 1
        return started(tensor)

    monkeypatch.setattr(CompiledSteps, "allowed", False)  # they do not go through the transport
    monkeypatch.setattr(transport, "all_reduce_sum", counted)
    monkeypatch.setattr(transport, "start_all_reduce_sum", counted_start)

    def after(iterations):
        counts.update(blocking=0, started=0)
        _, info = hs.solve(A, b, method=method, rtol=1e-14, max_iterations=iterations)
        assert info.iterations == iterations
        return counts["blocking"], counts["started"]

    few, more = after(3), after(8)
    assert tuple((m - f) / 5 for f, m in zip(few, more, strict=True)) == A_STEP[method]

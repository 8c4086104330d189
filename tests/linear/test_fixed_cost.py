"""What a solve costs beside its iterations, counted and not timed: it must not creep back."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import scipy.sparse as sp
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import hpc_sla as hs
from hpc_sla.distributed.halo import HaloPlan
from hpc_sla.kernels import native
from hpc_sla.linear.bursts import CompiledSteps
from tests.collective import distribute_once, spd_matrix, spread

pytestmark = pytest.mark.mpi

MOST_OPERATIONS = 6
"""Operations of torch in a solve by compiled steps, however many those are."""

MOST_CALLS = 212
"""Functions of this package that a solve of one iteration enters, on any number of ranks."""


class _Counting:
    """A communicator that counts its collectives."""

    def __init__(self, comm, counts):
        self._comm, self._counts = comm, counts

    def __getattr__(self, name):
        found = getattr(self._comm, name)
        if name.lower().removeprefix("i") not in ("allreduce", "allgather", "bcast", "gather"):
            return found

        def counted(*arguments, **options):
            self._counts["collectives"] += 1
            return found(*arguments, **options)

        return counted


@pytest.fixture(params=[True, False], ids=["compiled", "step by step"])
def counts(world, monkeypatch, request):
    """How often all ranks meet outside of compiled steps, and how often halos are exchanged."""
    monkeypatch.setattr(CompiledSteps, "allowed", request.param)
    counts = {"collectives": 0, "exchanges": 0}
    monkeypatch.setattr(world, "comm", _Counting(world.comm, counts))
    reduce = world.transport.all_reduce_sum

    def reduced(tensor):
        counts["collectives"] += world.size > 1
        reduce(tensor)

    monkeypatch.setattr(world.transport, "all_reduce_sum", reduced)
    start = HaloPlan.start_exchange

    def counted(plan, x, again=False):
        counts["exchanges"] += not again
        return start(plan, x, again)

    monkeypatch.setattr(HaloPlan, "start_exchange", counted)
    return counts


def _compiled():
    serves = native.serves(torch.empty(0, dtype=torch.float64))
    return CompiledSteps.allowed and serves


def _solver(world, matrix):
    A = distribute_once(matrix, world)
    solver = hs.LinearSolver(A, "cg", "jacobi")
    b = torch.ones(A.layout.n_owned, dtype=torch.float64)
    solver.solve(b)
    return solver, b


def test_how_often_ranks_meet_for_a_solve(world, counts):
    """To agree, with ||b||; to start; and, twice, to hold what was claimed against x."""
    alone = world.size == 1
    solver, b = _solver(world, spd_matrix(60, 3))
    counts.update(collectives=0, exchanges=0)
    _, info = solver.solve(b)
    assert info.converged and info.backward_error is not None
    # Compiled, all but the first is in the two calls that begin and iterate, and that look at x.
    assert counts["exchanges"] == (0 if _compiled() else info.iterations + 1)
    outside = 1 if _compiled() else 2 * info.iterations + 4
    assert counts["collectives"] == (0 if alone else outside)


def test_how_often_for_its_backward(world, counts):
    solver, b = _solver(world, spd_matrix(60, 3))
    values = solver.A.values.clone().requires_grad_()
    solver.update(solver.A.with_values(values))
    b.requires_grad_()
    x, _ = solver.solve(b)
    c = spread(solver.A.layout, torch.linspace(0.0, 1.0, 60, dtype=torch.float64).numpy())
    torch.autograd.grad(x, (b, values), c)  # whether A is symmetric is looked at once
    x, _ = solver.solve(b)
    counts.update(collectives=0, exchanges=0)
    torch.autograd.grad(x, (b, values), c, retain_graph=True)
    steps = x.grad_fn.system.info.adjoint.iterations
    # The gradient of the values takes an exchange.
    assert counts["exchanges"] == 1 + (0 if _compiled() else steps + 1)
    outside = 1 if _compiled() else 2 * steps + 4
    assert counts["collectives"] == (0 if world.size == 1 else outside)


def test_how_many_functions_a_solve_enters(world):
    solver, b = _solver(world, sp.csr_matrix(sp.eye_array(40) * 2.0))
    calls, package = 0, str(Path(hs.__file__).parent)

    def count(frame, event, argument):
        nonlocal calls
        calls += event == "call" and frame.f_code.co_filename.startswith(package)

    sys.setprofile(count)
    try:
        _, info = solver.solve(b)
    finally:
        sys.setprofile(None)
    assert info.converged and info.iterations == 1
    assert calls <= MOST_CALLS, calls


class _Operations(TorchDispatchMode):
    count = 0

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        self.count += 1
        return function(*arguments, **(options or {}))


@pytest.mark.skipif(native.LIBRARY is None, reason="the kernels were not compiled")
def test_how_many_operations_of_torch_a_solve_takes(world):
    solver, b = _solver(world, spd_matrix(60, 3))
    with _Operations() as operations:
        _, info = solver.solve(b)
    assert info.converged and info.iterations > 5
    assert operations.count <= MOST_OPERATIONS, operations.count

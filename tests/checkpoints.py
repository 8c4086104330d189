"""What tests of checkpoints share: solves that end in the middle, and what they solve."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch

import hpc_sla as hs
from hpc_sla.checkpoint.observer import Observer
from hpc_sla.linear.bursts import CompiledSteps
from tests.collective import distribute, everywhere, spread


@pytest.fixture(autouse=True)
def asked_each_time(monkeypatch):
    """What is solved here takes less time than lies between two questions, or two bursts."""
    monkeypatch.setattr("hpc_sla.checkpoint.checkpoint._SECONDS_BETWEEN_QUESTIONS", 0.0)
    monkeypatch.setattr(CompiledSteps, "seconds", 0.0)


class Interrupted(Exception):
    """What ends a solve, at the same iteration on every rank."""


def interrupt(at: int) -> Callable[[int, float], None]:
    """A callback that does so at that iteration."""

    def callback(iteration: int, norm: float) -> None:
        if iteration >= at:
            raise Interrupted

    return callback


def restarted(monkeypatch, kind: type, at: int, run: Callable[[hs.Checkpoint], Any]) -> Any:
    """What `run` gives when a second solver loads the state that one stopped at has given.

    No file is between them; of the state's tensors there are copies.
    """
    state: dict[str, Any] = {}

    def observe(solver: Any) -> bool:
        if solver.iterations < at:
            return False
        for name, value in solver.state_dict().items():
            state[name] = value.clone() if isinstance(value, torch.Tensor) else deepcopy(value)
        return True

    def begin(self: Observer, solver: Any) -> None:
        if isinstance(solver, kind):
            solver.observe = observe

    def go_on(self: Observer, solver: Any) -> None:
        if isinstance(solver, kind):
            solver.load_state_dict(state)
            assert solver.iterations == at

    monkeypatch.setattr(Observer, "attach", begin)
    run(hs.Checkpoint(None))
    assert state
    monkeypatch.setattr(Observer, "attach", go_on)
    return run(hs.Checkpoint(None))


def poisson(n: int) -> sp.csr_matrix:
    second = sp.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(n, n))
    return sp.csr_matrix(sp.kronsum(second, second))


def convection(n: int) -> sp.csr_matrix:
    first = sp.diags_array([-1.0, 1.0], offsets=[-1, 1], shape=(n, n))
    return sp.csr_matrix(poisson(n) + 0.4 * sp.kron(sp.eye_array(n), first))


def system(world, matrix, dtype=torch.float64, columns=None, partition="metis"):
    """The matrix on these ranks, and a right-hand side."""
    A = distribute(matrix, world, partition)
    if dtype != torch.float64:
        A = A.with_values(A.values.to(dtype))
    shape = (matrix.shape[0],) if columns is None else (matrix.shape[0], columns)
    b = np.random.default_rng(3).standard_normal(shape)
    return A, spread(A.layout, b).to(dtype)


def same(world: hs.World, one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether they are the same on every rank."""
    return everywhere(world, torch.equal(one, other))

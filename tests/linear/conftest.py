"""A system to solve; the loops of a GPU on the CPU, for whoever asks for `on_gpu`."""

from __future__ import annotations

import numpy as np
import pytest

from hpc_sla.linear import iteration, prepared
from hpc_sla.linear.bursts import CompiledSteps
from hpc_sla.linear.scalars import TensorScalars
from tests.collective import distribute_once, spd_matrix, spread
from tests.linear.emulated import COUNTS, emulate, oracles

EVERY = 6


@pytest.fixture
def system(world):
    matrix = spd_matrix(53, 20)
    A = distribute_once(matrix, world)
    b = np.random.default_rng(24).standard_normal(53)
    return matrix, A, b, spread(A.layout, b)


@pytest.fixture
def on_gpu(monkeypatch):
    """The loops as on a GPU; a function that has graphs made, or not."""
    emulate(monkeypatch)
    oracles(monkeypatch)
    monkeypatch.setattr(CompiledSteps, "allowed", False)

    def scalars_for(world, like, check_every=24):
        scalars = TensorScalars(world, like)
        scalars.check_every = min(check_every, EVERY)
        scalars._history = like.new_empty((scalars.check_every, 4, *scalars.shape))
        return scalars

    monkeypatch.setattr(iteration, "scalars_for", scalars_for)
    capturable = prepared.capturable

    def captured(yes):
        class Here:
            """A tensor's word that it is on a GPU."""

            def __init__(self, system):
                self.operator, self.precond = system.operator, system.precond
                self.b = type("B", (), {"is_cuda": yes})

        monkeypatch.setattr(prepared, "capturable", lambda m, s: capturable(m, Here(s)))
        COUNTS.clear()

    return captured

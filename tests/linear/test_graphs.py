"""Steps as graphs, beside the same steps one by one; graphs are emulated on the CPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import hpc_sla as hs
from hpc_sla.linear.graphs import STEPS, WARM, Bursts
from hpc_sla.linear.method import System
from hpc_sla.linear.scalars import TensorScalars
from hpc_sla.sparse.operators import as_operator
from tests.checkpoints import poisson
from tests.linear.emulated import COUNTS, STREAM, capture, emulate, oracles
from tests.methods import ENTRIES

METHODS = [name for name, method in ENTRIES.items() if method.capturable]
ON_DEVICE = ("cg", "bicgstab", "minres", "pipelined_cg")
EVERY = 6


@pytest.fixture
def emulated(monkeypatch):
    emulate(monkeypatch)


def run(method: str, precond: str, captured: bool, lengths: list[int]):
    """X, and all that was recorded."""
    A = hs.DSparseMatrix.from_scipy(poisson(7), hs.World.serial("cpu"))
    b = torch.linspace(0, 1, A.layout.n_owned, dtype=torch.float64)
    scalars = TensorScalars(A.world, b)
    scalars.check_every = EVERY
    scalars._history = b.new_empty((EVERY, 4))
    M = {"jacobi": hs.Jacobi(), "none": hs.Identity(), "chebyshev": hs.Chebyshev()}[precond].on(A)
    x, r = torch.zeros_like(b), b.clone()
    system = System(as_operator(A), M, b, x, r, [1e-9], scalars)
    if method == "pipelined_cg":  # of which the emulation shall see a replacement, too
        state = hs.PipelinedCG(replacement=9).on(system)
    else:
        state = ENTRIES[method].on(system)
    state.start(torch.tensor(True))
    told = [scalars.read()]
    bursts = Bursts(state, scalars, captured)
    for length in lengths:
        bursts.run(length)
        told.append(scalars.read())
    state.finish()
    return state.x, told, bursts


# Whole bursts; others between them, odd ones too, as where iterations are limited; and beyond
# convergence.
LENGTHS = [[EVERY] * 5, [EVERY, 5, 2, EVERY, 1, 3, EVERY], [EVERY] * 12]


@pytest.mark.parametrize("lengths", LENGTHS, ids=len)
@pytest.mark.parametrize("precond", ["jacobi", "none", "chebyshev"])
@pytest.mark.parametrize("method", METHODS)
def test_captured_and_eager_are_the_same(method, precond, lengths, emulated):
    (x, told, bursts), (y, other, _) = (run(method, precond, c, lengths) for c in (True, False))
    assert bursts._graph is not None and COUNTS["captured"] == 1
    # Of lengths that are even, all that is not the start, or a residual replacement.
    if lengths is not LENGTHS[1] and method != "pipelined_cg":
        assert COUNTS["replayed"] == (sum(lengths) - WARM) // STEPS
    assert torch.equal(x, y) and str(told) == str(other)


@pytest.mark.parametrize("lengths", LENGTHS, ids=len)
@pytest.mark.parametrize("precond", ["jacobi", "none", "chebyshev"])
@pytest.mark.parametrize("method", ON_DEVICE)
def test_steps_whose_scalars_stay_on_the_device(method, precond, lengths, emulated, monkeypatch):
    x, told, _ = run(method, precond, False, lengths)
    oracles(monkeypatch)
    y, one, bursts = run(method, precond, False, lengths)
    assert bursts._graph is None
    torch.testing.assert_close(x, y, rtol=1e-9, atol=1e-12)
    # Rounding grows towards the end; what is recorded by then is small.
    for mine, theirs in list(zip(told, one, strict=True))[:2]:
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-20)
    z, other, bursts = run(method, precond, True, lengths)
    assert bursts._graph is not None and bursts._graph.calls
    assert torch.equal(y, z) and str(one) == str(other)
    # What the second step leaves lies where the first looks for it.
    copies = [c for c in bursts._graph.calls if "copy_." in str(c[0]) and not c[1][0].dim()]
    assert precond == "chebyshev" or not copies


class Fibonacci(hs.Richardson):
    """A scalar takes the place of another, and no vector that of any."""

    carried = ("new", "old")

    def step(self):
        self.new, self.old = self.new + self.old, self.new
        self.scalars.record(self.new, self.old)


def test_scalars_that_change_places_are_not_overwritten_on_the_way(emulated):
    world, b = hs.World.serial("cpu"), torch.zeros(3, dtype=torch.float64)
    scalars = TensorScalars(world, b)
    scalars.check_every, scalars._history = EVERY, b.new_empty((EVERY, 4))
    state = Fibonacci()
    state.r, state.scalars = b, scalars
    state.new, state.old = (torch.tensor(1.0, dtype=torch.float64) for _ in range(2))
    bursts, found = Bursts(state, scalars, True), []
    for count in (6, 1, 4, 3, 6):
        bursts.run(count)
        found += [row[0][0] for row in scalars.read()]
    assert COUNTS["replayed"] == 1 + 2 + 1 + 3
    assert found[:4] == [2, 3, 5, 8]
    assert all(c == a + b for a, b, c in zip(found, found[1:], found[2:], strict=False))


@pytest.mark.parametrize("method", METHODS)
def test_what_cannot_be_captured_is_launched_one_by_one(method, emulated, monkeypatch):
    monkeypatch.setattr(capture, "fails", True)
    with pytest.warns(RuntimeWarning, match="could not be captured") as warned:
        x, told, bursts = run(method, "jacobi", True, LENGTHS[0])
    assert len(warned) == 1 and bursts._graph is None and STREAM == ["the default"]
    y, other, _ = run(method, "jacobi", False, LENGTHS[0])
    assert torch.equal(x, y) and str(told) == str(other)

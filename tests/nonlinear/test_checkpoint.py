"""Checkpoints of Newton's method: the very same iterates on the same ranks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import hpc_sla as hs
from hpc_sla.nonlinear.newton import NewtonIteration
from tests.checkpoints import (
    Interrupted,
    asked_each_time,  # noqa: F401 - a fixture
    interrupt,
    restarted,
)
from tests.collective import distribute, everywhere, full
from tests.nonlinear.systems import matrix, on_ranks, parameters, vector

pytestmark = pytest.mark.mpi

WAYS = [
    {"jacobian": "matrix_free", "linear_method": "gmres", "precond": "none"},
    {"jacobian": "coloured", "precond": "jacobi"},
    {"jacobian": "coloured", "precond": "jacobi", "precond_lag": 3},
    {"precond": "block_jacobi", "precond_lag": 0, "linear_method": "bicgstab"},
    {"forcing": 1e-1, "line_search": False, "precond": "none"},
    {"jacobian": "coloured", "precond": "amg:coarse_size=5"},
    {"precond": "amg:coarse_size=5", "precond_lag": 2},
]


def _find(world, partition="metis", factor=1.0, **options):
    A = distribute(matrix(), world, partition)
    _, d, s, f = (t.detach() for t in parameters(A, vector(201), 0.7, 3 * vector(202)))
    options = {"pattern": A, "rtol": 1e-12, **options}
    residual = on_ranks(world, A)
    u, info = hs.nonlinear_solve(residual, torch.zeros_like(f), A, d, s, factor * f, **options)
    return A.layout, u, info


@pytest.fixture(scope="module")
def uninterrupted(world):
    """The root and its info in each of the ways, found once."""
    found = {}

    def find(way):
        if way not in found:
            found[way] = _find(world, **WAYS[way])[1:]
        return found[way]

    return find


@pytest.mark.parametrize(
    ("way", "how"),
    [
        (way, how)
        for way, options in enumerate(WAYS)
        for how in ("interrupted", "stopped", "in a linear solve")
        # Multigrid has solved so small a system before anybody asks.
        if how != "in a linear solve" or "amg" not in options.get("precond", "")
    ],
)
def test_goes_on_with_the_very_same_iterates(world, folder, uninterrupted, way, how):
    """Fails with the forcing term, or the u of the preconditioner, left out."""
    u, info = uninterrupted(way)
    assert info.converged and info.iterations > 4
    path = folder / "newton.h5"
    if how == "interrupted":
        first = hs.Checkpoint(path, every="2iterations")
        with pytest.raises(Interrupted):
            _find(world, checkpoint=first, callback=interrupt(3), **WAYS[way])
        assert first.iteration == 2
    else:
        first = hs.Checkpoint(path)
        # Two questions an outer iteration at least: its own, and those of its linear solve.
        at = 3 if how == "stopped" else 2

        def stop(iteration, norm):
            if iteration == at and world.rank == world.size - 1 and how == "stopped":
                first.request_stop()

        if how != "stopped":
            ask = first.stop

            def within(world):
                if first.seen == 2 and world.rank == world.size - 1:
                    first.request_stop()
                return ask(world)

            def stop(iteration, norm):
                first.seen = iteration

            first.stop = within
        _, _, told = _find(world, checkpoint=first, callback=stop, **WAYS[way])
        assert first.stopped and told.status == "preempted" and first.iteration == at
    again = hs.Checkpoint(path, resume=True)
    _, v, resumed = _find(world, checkpoint=again, **WAYS[way])
    for name in ("residual_history", "inner_iterations", "inner_history", "forcing"):
        assert getattr(resumed, name) == getattr(info, name), name
    assert resumed.step_lengths == info.step_lengths and resumed.iterations == info.iterations
    assert everywhere(world, torch.equal(u, v))


@pytest.mark.parametrize("way", range(len(WAYS)))
def test_a_state_needs_no_file(world, monkeypatch, way):
    _, u, info = _find(world, **WAYS[way])
    _, v, again = restarted(
        monkeypatch, NewtonIteration, 2, lambda none: _find(world, checkpoint=none, **WAYS[way])
    )
    for name in ("residual_history", "inner_iterations", "inner_history", "forcing"):
        assert getattr(again, name) == getattr(info, name), name
    assert everywhere(world, torch.equal(u, v))


def test_another_partition_and_what_is_refused(world, folder):
    layout, u, info = _find(world)
    path = folder / "newton.h5"
    with pytest.raises(Interrupted):
        first = hs.Checkpoint(path, every="2iterations", tag="here")
        _find(world, checkpoint=first, callback=interrupt(4))
    resume = lambda: hs.Checkpoint(path, resume=True, tag="here")  # noqa: E731
    for partition in ("cyclic", "all on the last"):
        there, v, again = _find(world, partition, checkpoint=resume())
        assert again.converged and again.residual_history[:3] == info.residual_history[:3]
        assert np.allclose(full(there, v), full(layout, u), atol=1e-9)
    with pytest.raises(hs.InputError, match=r"another problem.*F\(u\)"):
        _find(world, factor=1.5, checkpoint=resume())
    with pytest.raises(hs.InputError, match="another problem"):
        _find(world, checkpoint=hs.Checkpoint(path, resume=True, tag="there"))
    with pytest.raises(hs.InputError, match="another linear method"):
        _find(world, linear_method="bicgstab", checkpoint=resume())
    with pytest.raises(hs.InputError, match="anderson cannot save"):
        _find(world, method="anderson", checkpoint=hs.Checkpoint(path))

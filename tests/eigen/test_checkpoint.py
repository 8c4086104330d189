"""Checkpoints of eigsh: the very same iterates on the same ranks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import hpc_sla as hs
from hpc_sla.eigen.lobpcg import Lobpcg
from tests.checkpoints import (
    Interrupted,
    asked_each_time,  # noqa: F401 - a fixture
    interrupt,
    restarted,
)
from tests.collective import distribute, everywhere, full
from tests.eigen.pencils import exact, grid, mass

pytestmark = pytest.mark.mpi


MATRIX = grid(17, 13)


@pytest.mark.parametrize("how", ["interrupted", "stopped"])
@pytest.mark.parametrize("precond", ["none", "jacobi", "block_jacobi:factor=ic0"])
@pytest.mark.parametrize("with_B", [False, True])
def test_goes_on_with_the_very_same_iterates(world, folder, with_B, precond, how):
    """Fails with the images, the active pairs or the scaling left out."""
    A = distribute(MATRIX, world)
    options = {"k": 4, "precond": precond, "tol": 1e-7}
    if with_B:
        n = MATRIX.shape[0]
        values = np.random.default_rng(6).uniform(0.5, 2.0, n)
        rows, columns = A.entries()
        diagonal = torch.from_numpy(np.where(rows == columns, values[rows], 0.0))
        options["B"] = A.with_values(diagonal.to(A.values))
    w, V, info = hs.eigsh(A, **options)
    assert info.converged and info.iterations > 9
    path = folder / "modes.h5"
    if how == "interrupted":
        first = hs.Checkpoint(path, every="2iterations")
        with pytest.raises(Interrupted):
            hs.eigsh(A, checkpoint=first, callback=interrupt(9), **options)
    else:
        first = hs.Checkpoint(path)

        def stop(iteration, norm):
            if iteration == 7 and world.rank == world.size - 1:
                first.request_stop()

        _, _, told = hs.eigsh(A, checkpoint=first, callback=stop, **options)
        assert first.stopped and told.status == "preempted"
    assert first.iteration == 8
    again = hs.Checkpoint(path, resume=True)
    values, vectors, resumed = hs.eigsh(A, checkpoint=again, **options)
    assert again.iteration == 8
    for one, other in zip(resumed.columns, info.columns, strict=True):
        assert one.residual_history == other.residual_history
        assert (one.status, one.iterations) == (other.status, other.iterations)
    assert everywhere(world, torch.equal(values, w) and torch.equal(vectors, V))


@pytest.mark.parametrize("precond", ["none", "block_jacobi:factor=ic0"])
def test_a_state_needs_no_file(world, monkeypatch, precond):
    A = distribute(MATRIX, world)
    w, V, info = hs.eigsh(A, 4, precond=precond)
    values, vectors, again = restarted(
        monkeypatch, Lobpcg, 5, lambda none: hs.eigsh(A, 4, precond=precond, checkpoint=none)
    )
    for one, other in zip(again.columns, info.columns, strict=True):
        assert one.residual_history == other.residual_history
    assert everywhere(world, torch.equal(values, w) and torch.equal(vectors, V))


def test_another_partition_and_what_is_refused(world, folder):
    A = distribute(MATRIX, world)
    path = folder / "modes.h5"
    with pytest.raises(Interrupted):
        first = hs.Checkpoint(path, every="2iterations")
        hs.eigsh(A, 4, checkpoint=first, callback=interrupt(9))
    for partition in ("cyclic", "all on the last"):
        B = distribute(MATRIX, world, partition)
        resume = hs.Checkpoint(path, resume=True)
        w, V, info = hs.eigsh(B, 4, checkpoint=resume)
        assert info.converged and np.allclose(w.tolist(), exact(MATRIX, 4), rtol=1e-10)
        whole = full(B.layout, V)
        assert np.linalg.norm(MATRIX @ whole - whole * w.numpy()) < 1e-6
        for problem, options in {
            "another pairs": {"k": 5},
            "another which": {"k": 4, "which": "largest"},
            "another precond": {"k": 4, "precond": "jacobi"},
            "another B": {"k": 4, "B": B.with_values(B.values)},
        }.items():
            with pytest.raises(hs.InputError, match=problem):
                hs.eigsh(B, checkpoint=hs.Checkpoint(path, resume=True), **options)
        with pytest.raises(hs.InputError, match="another matrix"):
            resume = hs.Checkpoint(path, resume=True)
            hs.eigsh(distribute(mass(MATRIX), world), 4, checkpoint=resume)

"""Checkpoints of which each rank keeps its part, and only some are on the shared file system."""

from __future__ import annotations

import numpy as np
import pytest

import hpc_sla as hs
from hpc_sla.checkpoint.file import CheckpointFile
from tests.checkpoints import (
    Interrupted,
    asked_each_time,  # noqa: F401 - a fixture
    interrupt,
    poisson,
    same,
    system,
)
from tests.collective import everywhere

pytestmark = pytest.mark.mpi
CG = {"method": "cg", "precond": "jacobi"}
LAST, SHARED = 14, 8
"""Iterations: saved every 2 up to here, every fourth time in the shared file as well."""


class Job:
    """A solve that was ended in the middle of iteration 15."""

    def __init__(self, world, folder, columns=None):
        self.world, self.shared = world, folder / "s.h5"
        # A disc for each rank, as if it were alone on its node.
        self.local = folder / f"node{world.rank}"
        self.A, self.b = system(world, poisson(9), columns=columns)
        with pytest.raises(Interrupted):
            self.solve(interrupt(LAST + 1), every="2iterations")

    def solve(self, callback=None, A=None, b=None, **options):
        self.checkpoint = hs.Checkpoint(self.shared, copy_every=4, local=self.local, **options)
        system = (self.A, self.b) if A is None else (A, b)
        return hs.solve(*system, **CG, checkpoint=self.checkpoint, callback=callback)

    def parts(self):
        return sorted(self.local.iterdir(), key=lambda part: _iteration(part))

    def resumed_at(self):
        """The iteration that a resumed solve begins with."""
        seen = []
        found = self.solve(lambda i, norm: seen.append(i), resume=True, every="1000iterations")
        return seen[0], found


def _iteration(path):
    with CheckpointFile(path) as file:
        return file.facts["iteration"]


@pytest.mark.parametrize("columns", [None, 3])
def test_the_newest_set_is_resumed_bit_by_bit(world, folder, columns):
    job = Job(world, folder, columns)
    assert everywhere(world, job.checkpoint.written == LAST // 2)
    assert everywhere(world, [_iteration(part) for part in job.parts()] == [LAST - 2, LAST])
    assert everywhere(world, _iteration(job.shared) == SHARED)
    x, info = hs.solve(job.A, job.b, **CG)
    at, (y, other) = job.resumed_at()
    assert everywhere(world, at == LAST) and same(world, x, y)
    assert other.iterations == info.iterations
    # What it went on from stays until the next is whole.
    assert everywhere(world, LAST in [_iteration(part) for part in job.parts()])


def lose(job):
    """A node with its disc."""
    for part in job.parts():
        part.unlink()


def between(job):
    """Ended while parts were written: others have a newer one already."""
    job.parts()[-1].unlink()


def damaged(job):
    part = job.parts()[-1]
    content = bytearray(part.read_bytes())
    content[len(content) // 2 :] = bytes(len(content) - len(content) // 2)
    part.write_bytes(content)


@pytest.mark.parametrize(
    ("what", "iteration"), [(lose, SHARED), (between, LAST - 2), (damaged, LAST - 2)]
)
def test_a_set_that_is_not_whole_is_not_taken(world, folder, what, iteration):
    job = Job(world, folder)
    if world.rank == world.size - 1:
        what(job)
    x, _ = hs.solve(job.A, job.b, **CG)
    at, (y, _) = job.resumed_at()
    assert everywhere(world, at == iteration) and same(world, x, y)


def test_parts_of_another_run_do_not_make_a_set(world, folder):
    """Of the same iteration, and even so."""
    job = Job(world, folder)
    last = job.parts()[-1]
    kept = last.read_bytes()
    with pytest.raises(Interrupted):
        job.solve(interrupt(LAST + 1), every="2iterations")
    if world.rank == world.size - 1:
        for part in job.parts():
            part.unlink()
        last.write_bytes(kept)
    at, _ = job.resumed_at()
    # Alone it is whole, and older than what the second run left.
    assert everywhere(world, at == SHARED)


def test_other_ranks_go_on_from_the_shared_file(world, folder):
    job = Job(world, folder)
    if world.size == 1:
        return
    fewer = world.thinned(world.size - 1)
    at = SHARED
    if fewer is not None:
        A, b = system(fewer, poisson(9))
        seen = []
        _, info = job.solve(lambda i, norm: seen.append(i), A, b, resume=True)
        at = seen[0] if info.converged else -1
    assert everywhere(world, at == SHARED)


def test_told_to_stop_it_saves_for_other_nodes(world, folder):
    job = Job(world, folder)

    def callback(iteration, norm):
        if iteration == 17 and world.rank == world.size - 1:
            job.checkpoint.request_stop("SIGTERM")

    _, info = job.solve(callback, resume=True, every="1000iterations")
    assert info.status == "preempted"
    assert everywhere(world, _iteration(job.shared) == info.iterations)
    assert everywhere(world, job.checkpoint.where == str(job.shared))


def test_a_disc_without_room_is_told_once_and_the_shared_file_serves(
    world, folder, monkeypatch, capsys
):
    job = Job(world, folder)
    if world.rank == world.size - 1:
        lose(job)
        job.local.rmdir()
        job.local.write_text("no folder")
    x, _ = hs.solve(job.A, job.b, **CG)
    y, _ = job.solve(every="5iterations")
    assert same(world, x, y)
    told = capsys.readouterr().err
    assert everywhere(world, told.count("cannot be made") == (world.rank == 0))
    assert everywhere(world, _iteration(job.shared) % 5 == 0)


def test_wrong_arguments(tmp_path):
    with pytest.raises(hs.InputError, match="needs a shared file"):
        hs.Checkpoint(None, local=tmp_path)
    for wrong in (0, -1, 1.5, True):
        with pytest.raises(hs.InputError, match="not a number of checkpoints"):
            hs.Checkpoint("c.h5", local=tmp_path, copy_every=wrong)
    assert np.isfinite(hs.Checkpoint("c.h5", local=tmp_path).copy_every)


def test_a_newer_shared_file_wins_over_an_older_set_of_more_iterations(world, folder):
    """Somebody has started afresh, on nodes without these discs."""
    job = Job(world, folder)
    with pytest.raises(Interrupted):
        checkpoint = hs.Checkpoint(job.shared, every="2iterations")
        hs.solve(job.A, job.b, **CG, checkpoint=checkpoint, callback=interrupt(5))
    assert everywhere(world, _iteration(job.shared) == 4)
    at, (_, info) = job.resumed_at()
    assert everywhere(world, at == 4) and info.converged


def test_a_newer_set_wins_over_an_older_one_of_more_iterations(world, folder):
    job = Job(world, folder)
    with pytest.raises(Interrupted):
        job.solve(interrupt(3), every="2iterations")
    assert everywhere(world, sorted(_iteration(part) for part in job.parts())[0] == 2)
    assert everywhere(world, _iteration(job.shared) == SHARED)
    at, _ = job.resumed_at()
    assert everywhere(world, at == 2)


def test_what_is_saved_after_resuming_is_newer_whatever_the_clock_says(world, folder, monkeypatch):
    job = Job(world, folder)
    monkeypatch.setattr("time.time_ns", lambda: 10**9)  # of a node whose clock is behind

    def callback(iteration, norm):
        if iteration == LAST + 3:
            raise Interrupted

    with pytest.raises(Interrupted):
        job.solve(callback, resume=True, every="2iterations")
    at, _ = job.resumed_at()
    assert everywhere(world, at == LAST + 2)


def test_the_file_that_is_refused_is_the_one_that_is_named(world, folder):
    job = Job(world, folder)
    with pytest.raises(hs.InputError) as caught:
        job.solve(A=2.0 * job.A, b=job.b, resume=True)
    named = world.on_root(lambda: [str(part) for part in job.parts()])
    assert everywhere(world, caught.value.field == "matrix" and caught.value.file in named)

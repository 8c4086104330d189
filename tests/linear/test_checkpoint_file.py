"""What is in a checkpoint of a linear solve, which ones are refused, which fail to be written."""

from __future__ import annotations

import json

import h5py
import numpy as np
import pytest
import torch

import hpc_sla as hs
from hpc_sla.checkpoint.checkpoint import parse_every
from hpc_sla.checkpoint.file import CheckpointWriter
from tests.checkpoints import (
    Interrupted,
    asked_each_time,  # noqa: F401 - a fixture
    interrupt,
    poisson,
    same,
    system,
)
from tests.collective import full

CG = {"method": "cg", "precond": "jacobi"}


@pytest.mark.mpi
def test_refuses_what_belongs_to_something_else(world, folder):
    A, b = system(world, poisson(9))
    path = folder / "solve.h5"
    with pytest.raises(Interrupted):
        hs.solve(A, b, **CG, checkpoint=hs.Checkpoint(path, "3iterations"), callback=interrupt(8))

    def resume(A, b, tag="", **options):
        again = hs.Checkpoint(path, resume=True, tag=tag)
        return hs.solve(A, b, checkpoint=again, **{**CG, **options})

    twice = A.with_values(A.values * 2)
    moved = b.clone()
    if world.rank == world.size - 1 and len(b):
        moved[-1] += 1e-13
    calls = {
        "another matrix": lambda: resume(twice, b),
        "another right-hand side": lambda: resume(A, moved),
        "another method": lambda: resume(A, b, method="minres"),
        "another precond": lambda: resume(A, b, precond="none"),
        "another problem": lambda: resume(A, b, tag="other"),
    }
    for problem, call in calls.items():
        with pytest.raises(hs.InputError, match=problem):
            call()
    single = A.with_values(A.values.float())
    with pytest.raises(hs.InputError, match=r"another matrix"):
        resume(single, b.float())
    resume(A, b)


class Twice:
    def __init__(self, layout, factor):
        self.layout, self.factor = layout, factor

    def matvec(self, x):
        rows = torch.from_numpy(self.layout.rows + 1.0).to(x)
        return self.factor * rows * x


@pytest.mark.mpi
def test_a_matrix_free_operator_is_told_from_another(world, folder):
    layout = hs.RowLayout.even(40, world)
    b = torch.ones(layout.n_owned, dtype=torch.float64)
    path = folder / "solve.h5"
    options = {"method": "cg", "precond": "none", "rtol": 1e-10}
    x, info = hs.solve(Twice(layout, 2.0), b, **options)
    with pytest.raises(Interrupted):
        checkpoint = hs.Checkpoint(path, "3iterations")
        hs.solve(Twice(layout, 2.0), b, checkpoint=checkpoint, callback=interrupt(8), **options)
    resume = hs.Checkpoint(path, resume=True)
    with pytest.raises(hs.InputError, match="another matrix"):
        hs.solve(Twice(layout, 3.0), b, checkpoint=resume, **options)
    y, resumed = hs.solve(Twice(layout, 2.0), b, checkpoint=resume, **options)
    assert resumed.residual_history == info.residual_history and same(world, x, y)


@pytest.mark.mpi
def test_damage_is_told(world, folder):
    """A flipped bit anywhere: a clear error, or the very same answer where it did no harm."""
    A, b = system(world, poisson(9))
    x, _ = hs.solve(A, b, **CG)
    path = folder / "solve.h5"
    with pytest.raises(Interrupted):
        hs.solve(A, b, **CG, checkpoint=hs.Checkpoint(path, "3iterations"), callback=interrupt(8))
    content = world.on_root(path.read_bytes)
    places = np.random.default_rng(8).integers(0, len(content), 40)
    refused = 0
    for place in (*places, -1):
        damaged = bytearray(content)
        if place < 0:
            del damaged[len(content) // 2 :]
        else:
            damaged[place] ^= 1 << int(place) % 8
        world.on_root(lambda damaged=damaged: path.write_bytes(damaged))
        try:
            y, _ = hs.solve(A, b, **CG, checkpoint=hs.Checkpoint(path, resume=True))
        except hs.InputError as error:
            assert "solve.h5" in str(error) and "start afresh" in str(error)
            refused += 1
        else:
            assert same(world, x, y)
    assert refused > 5
    world.on_root(lambda: path.write_text("no checkpoint"))
    with pytest.raises(hs.InputError, match="not an HDF5 file"):
        hs.solve(A, b, **CG, checkpoint=hs.Checkpoint(path, resume=True))


@pytest.mark.mpi
def test_a_state_of_other_types_is_refused(world, folder):
    """What solvers would take for numbers of their own."""
    A, b = system(world, poisson(9))
    path = folder / "solve.h5"
    with pytest.raises(Interrupted):
        hs.solve(A, b, **CG, checkpoint=hs.Checkpoint(path, "3iterations"), callback=interrupt(8))
    content = world.on_root(path.read_bytes)

    def fact(name, value):
        def change(file):
            facts = json.loads(file.attrs["facts"])
            assert name in facts
            file.attrs["facts"] = json.dumps({**facts, name: value})

        return change

    def array(name, value):
        def change(file):
            del file[name]
            file[name] = value

        return change

    changes = [
        *(fact("iteration", value) for value in (2**63, [5, 6], "five", -1, 1e300, None)),
        *(fact("best", value) for value in (["x"], [], 3, [2**63], [[1.0]])),
        fact("running", [0, 1]),
        *(array("state/method.rho", v) for v in (np.arange(3.0), np.ones(1), np.ones((1, 1)))),
        *(array("state/method.rho", v) for v in (np.ones(1, dtype=np.int64), np.float64(3))),
        array("vectors/x", np.ones(81, dtype=np.float32)),
        array("vectors/x", np.ones(80)),
        lambda file: file.attrs.__setitem__("version", np.uint64(2**63)),
        lambda file: file.attrs.__setitem__("facts", 3),
        lambda file: file.attrs.__setitem__("state_names", "[1, 2"),
    ]
    for change in changes:

        def put(change=change):
            path.write_bytes(content)
            with h5py.File(path, "r+") as file:
                change(file)

        world.on_root(put)
        with pytest.raises(hs.InputError, match="start afresh"):
            hs.solve(A, b, **CG, checkpoint=hs.Checkpoint(path, resume=True))
        world.comm.barrier()  # until all have closed it


@pytest.mark.mpi
def test_starts_where_there_is_none_and_says_so(world, folder, capsys):
    A, b = system(world, poisson(9))
    x, info = hs.solve(A, b, **CG)
    y, other = hs.solve(A, b, **CG, checkpoint=hs.Checkpoint(folder / "none.h5", resume=True))
    assert other.residual_history == info.residual_history and same(world, x, y)
    told = capsys.readouterr().err
    assert told.count("starting afresh") == (world.rank == 0)


@pytest.mark.mpi
@pytest.mark.parametrize("where", ["flush", "write_slab", "finish", "opened"])
def test_one_that_fails_leaves_the_one_before(world, folder, monkeypatch, capsys, where):
    A, b = system(world, poisson(9))
    x, info = hs.solve(A, b, **CG)
    path = folder / "solve.h5"
    checkpoint = hs.Checkpoint(path, "4iterations")
    calls = []

    def fail(*args, **kwargs):
        raise hs.InputError("cannot be written: no space left on device", file=path)

    def callback(iteration, norm):
        if iteration == 6:
            if where == "opened":
                monkeypatch.setattr("hpc_sla.checkpoint.state.CheckpointWriter", fail)
            else:
                monkeypatch.setattr(CheckpointWriter, where, fail)
        calls.append(checkpoint.iteration)

    y, other = hs.solve(A, b, **CG, checkpoint=checkpoint, callback=callback)
    monkeypatch.undo()
    assert other.residual_history == info.residual_history and same(world, x, y)
    assert checkpoint.written == 1 and checkpoint.iteration == 4
    told = capsys.readouterr().err
    assert told.count("no space left") == (world.rank == 0)
    assert "that of iteration 4 stays" in told or world.rank
    assert world.on_root(lambda: [p.name for p in folder.iterdir()]) == ["solve.h5"]
    seen = []
    hs.solve(
        A,
        b,
        **CG,
        checkpoint=hs.Checkpoint(path, resume=True),
        callback=lambda i, norm: seen.append(i),
    )
    assert seen[0] == 4


def test_how_often():
    assert parse_every("60s").seconds == parse_every(60).seconds == parse_every("1min").seconds
    assert parse_every("2h").seconds == 7200 and parse_every(".5").seconds == 0.5
    assert parse_every("100iterations").iterations == 100
    for wrong in ("", "0", "-1", "nan", "inf", "1.5iterations", "10x", "iterations"):
        with pytest.raises(hs.InputError, match="not how often"):
            parse_every(wrong)


@pytest.mark.mpi
def test_the_file_is_plain_hdf5(world, folder):
    A, b = system(world, poisson(9))
    path = folder / "solve.h5"
    with pytest.raises(Interrupted):
        hs.solve(A, b, **CG, checkpoint=hs.Checkpoint(path, "5iterations"), callback=interrupt(6))
    kept = []
    hs.solve(A, b, **CG, max_iterations=5, callback=lambda i, norm: kept.append(norm))
    x, _ = hs.solve(A, b, **CG, max_iterations=5)
    whole = full(A.layout, x)
    with h5py.File(path, "r") as file:
        assert file.attrs["format"].decode() == "hpc_sla.checkpoint"
        assert np.array_equal(file["vectors/x"][:], whole)
        assert file["state/residual_history.0"][:].tolist() == kept
        assert all("crc32" in file[f"vectors/{name}"].attrs for name in ("x", "r", "p"))

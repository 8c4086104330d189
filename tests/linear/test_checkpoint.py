"""Checkpoints of linear solves: the very same iterates on the same ranks, refusals, stops."""

from __future__ import annotations

import json

import h5py
import numpy as np
import pytest
import scipy.sparse as sp
import torch

import hpc_sla as hs
from hpc_sla.checkpoint.checkpoint import parse_every
from hpc_sla.checkpoint.file import CheckpointWriter
from tests.collective import distribute, everywhere, full, random_matrix, spd_matrix, spread
from tests.interrupted import Interrupted, interrupt
from tests.methods import ENTRIES


@pytest.fixture(autouse=True)
def asked_each_time(monkeypatch):
    """These systems are solved in less time than lies between two questions."""
    monkeypatch.setattr("hpc_sla.checkpoint.checkpoint._SECONDS_BETWEEN_QUESTIONS", 0.0)


def _poisson(n):
    second = sp.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(n, n))
    return sp.csr_matrix(sp.kronsum(second, second))


def _convection(n):
    first = sp.diags_array([-1.0, 1.0], offsets=[-1, 1], shape=(n, n))
    return sp.csr_matrix(_poisson(n) + 0.4 * sp.kron(sp.eye_array(n), first))


def _system(world, matrix, dtype=torch.float64, columns=None, partition="metis"):
    A = distribute(matrix, world, partition)
    if dtype != torch.float64:
        A = A.with_values(A.values.to(dtype))
    shape = (matrix.shape[0],) if columns is None else (matrix.shape[0], columns)
    b = np.random.default_rng(3).standard_normal(shape)
    return A, spread(A.layout, b).to(dtype)


def _same(world, one, other):
    return everywhere(world, torch.equal(one, other))


SYMMETRIC = ["cg", "pipelined_cg", "minres"]
CASES = [
    *[(name, "jacobi", torch.float64, None) for name in ENTRIES],
    *[(name, "block_jacobi", torch.float64, None) for name in ENTRIES],
    ("cg", "amg:coarse_size=20", torch.float64, None),
    ("cg", "jacobi", torch.float32, None),
    ("gmres:restart=8", "jacobi", torch.float32, 3),
    ("bicgstab", "jacobi", torch.float64, 3),
    ("cg", "none", torch.float64, 2),
    ("auto", "jacobi", torch.float64, None),
]


@pytest.mark.mpi
@pytest.mark.parametrize("how", ["interrupted", "stopped"])
@pytest.mark.parametrize(("method", "precond", "dtype", "columns"), CASES)
def test_goes_on_with_the_very_same_iterates(world, folder, method, precond, dtype, columns, how):
    """Fails with any vector or scalar of the recurrence left out, or restored inexactly."""
    name = method.partition(":")[0]
    matrix = _poisson(11) if name in (*SYMMETRIC, "auto") else _convection(11)
    A, b = _system(world, matrix, dtype, columns)
    options = {"method": method, "precond": precond, "rtol": 1e-10, "max_iterations": 2000}
    if dtype == torch.float32:
        options["rtol"] = 1e-4
    at = 9 if precond in ("none", "jacobi") else 3
    if name in ("gmres", "fgmres") and ":" not in method:
        options["method"] = f"{method}:restart={at - at // 3}"
    x, info = hs.solve(A, b, **options)
    assert info.converged and info.iterations > at
    path = folder / "solve.h5"
    if how == "interrupted":
        first = hs.Checkpoint(path, every="2iterations")
        with pytest.raises(Interrupted):
            hs.solve(A, b, checkpoint=first, callback=interrupt(at), **options)
        assert first.written and first.iteration < at
    else:
        first = hs.Checkpoint(path)

        def stop(iteration, norm):
            if iteration == at and world.rank == world.size - 1:
                first.request_stop()

        _, told = hs.solve(A, b, checkpoint=first, callback=stop, **options)
        assert first.stopped and told.status == "preempted" and first.written == 1
        assert told.iterations == first.iteration == at
    seen = []
    again = hs.Checkpoint(path, resume=True)
    y, resumed = hs.solve(
        A, b, checkpoint=again, callback=lambda i, norm: seen.append(i), **options
    )
    assert seen[0] == first.iteration > 0
    assert resumed.residual_history == info.residual_history
    assert _same(world, x, y)
    assert (resumed.status, resumed.iterations) == (info.status, info.iterations)
    assert resumed.relative_residual == info.relative_residual


@pytest.mark.mpi
@pytest.mark.parametrize("method", ["cg", "minres", "bicgstab", "lsqr", "auto"])
def test_a_column_that_is_done_stays_so(world, folder, method):
    """Saved, and told to stop, when one of two columns has met its tolerance."""
    matrix = _poisson(11)
    A, b = _system(world, matrix, columns=2)
    mode = np.sin(np.pi * np.arange(1, 12) / 12)
    b[:, 1] = spread(A.layout, np.kron(mode, mode))
    options = {"method": method, "rtol": 1e-10}
    x, info = hs.solve(A, b, **options)
    few, many = sorted(column.iterations for column in info.columns)
    at = few + 4
    assert info.converged and at + 2 < many
    path = folder / "solve.h5"
    first = hs.Checkpoint(path)
    callback = lambda i, norm: i == at and first.request_stop()  # noqa: E731
    _, told = hs.solve(A, b, checkpoint=first, callback=callback, **options)
    assert told.status == "preempted" and first.iteration == at and first.written == 1
    y, resumed = hs.solve(A, b, checkpoint=hs.Checkpoint(path, resume=True), **options)
    assert _same(world, x, y)
    for one, other in zip(info.columns, resumed.columns, strict=True):
        assert one.residual_history == other.residual_history
    # To a smaller tolerance it goes on from there.
    options["rtol"] = 1e-12
    y, resumed = hs.solve(A, b, checkpoint=hs.Checkpoint(path, resume=True), **options)
    assert resumed.converged and resumed.iterations < 2 * many


@pytest.mark.mpi
@pytest.mark.parametrize(("method", "ended"), [("bicgstab", "breakdown"), ("cg", "indefinite")])
def test_told_to_stop_when_one_column_has_failed(world, folder, method, ended):
    """There is more to do: an uninterrupted run ends in that status, a stopped one does not."""
    turn = sp.csr_matrix([[0.0, 1.0], [-1.0, 0.0]] if method == "bicgstab" else [[-2.0, 0], [0, 1]])
    matrix = sp.csr_matrix(sp.block_diag([turn, _poisson(11)]))
    b = np.zeros((123, 2))
    b[:2, 0], b[2:, 1] = 1, np.random.default_rng(3).standard_normal(121)
    A = distribute(matrix, world)
    b = spread(A.layout, b)
    x, info = hs.solve(A, b, method=method, precond="none", rtol=1e-10)
    assert info.status == ended and [c.converged for c in info.columns] == [False, True]
    path = folder / "solve.h5"
    first = hs.Checkpoint(path)
    callback = lambda i, norm: i == 5 and first.request_stop()  # noqa: E731
    options = {"method": method, "precond": "none", "rtol": 1e-10}
    _, told = hs.solve(A, b, checkpoint=first, callback=callback, **options)
    assert first.stopped and told.status == "preempted"
    # After a breakdown a method starts again, which it was not left the time for.
    failed = "preempted" if ended == "breakdown" else ended
    assert [c.status for c in told.columns] == [failed, "preempted"]
    y, resumed = hs.solve(A, b, checkpoint=hs.Checkpoint(path, resume=True), **options)
    assert resumed.status == ended and _same(world, x[:, 1], y[:, 1])


@pytest.mark.mpi
def test_rectangular(world, folder):
    matrix = sp.csr_matrix(np.random.default_rng(5).standard_normal((60, 23)))
    A = distribute(matrix, world)
    b = spread(A.layout, np.random.default_rng(6).standard_normal(60))
    x, info = hs.solve(A, b, method="lsqr", rtol=1e-9)
    path = folder / "solve.h5"
    first = hs.Checkpoint(path, every="4iterations")
    with pytest.raises(Interrupted):
        hs.solve(A, b, method="lsqr", rtol=1e-9, checkpoint=first, callback=interrupt(9))
    y, resumed = hs.solve(
        A, b, method="lsqr", rtol=1e-9, checkpoint=hs.Checkpoint(path, resume=True)
    )
    assert first.iteration == 8 and info.converged
    assert resumed.residual_history == info.residual_history and _same(world, x, y)


@pytest.mark.mpi
def test_stops_within_a_cycle_of_gmres_and_saves_between_them(world, folder):
    A, b = _system(world, _convection(11))
    options = {"method": "gmres:restart=7", "rtol": 1e-8}
    x, info = hs.solve(A, b, **options)
    path = folder / "solve.h5"
    saved = hs.Checkpoint(path, every="1iterations")
    with pytest.raises(Interrupted):
        hs.solve(A, b, checkpoint=saved, callback=interrupt(20), **options)
    assert saved.iteration == 14 and saved.written == 2
    stopped = hs.Checkpoint(path, resume=True)
    callback = lambda i, norm: i == 17 and stopped.request_stop()  # noqa: E731
    _, told = hs.solve(A, b, checkpoint=stopped, callback=callback, **options)
    assert told.status == "preempted" and told.iterations == 17
    y, resumed = hs.solve(A, b, checkpoint=hs.Checkpoint(path, resume=True), **options)
    assert resumed.residual_history == info.residual_history and _same(world, x, y)


@pytest.mark.mpi
@pytest.mark.parametrize("precond", ["jacobi", "chebyshev"])
@pytest.mark.parametrize("method", ["cg", "bicgstab", "gmres:restart=6"])
def test_another_partition_goes_on_to_the_tolerance(world, folder, method, precond):
    """As another number of ranks does: nothing but the user's numbering is in common."""
    A, b = _system(world, _poisson(11))
    options = {"method": method, "precond": precond, "rtol": 1e-9}
    x, info = hs.solve(A, b, **options)
    path = folder / "solve.h5"
    first = hs.Checkpoint(path, every="3iterations")
    with pytest.raises(Interrupted):
        hs.solve(A, b, checkpoint=first, callback=interrupt(7), **options)
    assert first.iteration == 6
    for partition in ("cyclic", "all on the last"):
        B, c = _system(world, _poisson(11), partition=partition)
        y, resumed = hs.solve(B, c, checkpoint=hs.Checkpoint(path, resume=True), **options)
        assert resumed.converged and resumed.relative_residual <= 1e-9
        assert resumed.residual_history[:7] == info.residual_history[:7]
        assert np.allclose(full(B.layout, y), full(A.layout, x), atol=1e-6)


@pytest.mark.mpi
def test_refuses_what_belongs_to_something_else(world, folder):
    A, b = _system(world, _poisson(9))
    path = folder / "solve.h5"
    with pytest.raises(Interrupted):
        hs.solve(A, b, checkpoint=hs.Checkpoint(path, "3iterations"), callback=interrupt(8))

    def resume(A, b, tag="", **options):
        return hs.solve(A, b, checkpoint=hs.Checkpoint(path, resume=True, tag=tag), **options)

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
    options = {"precond": "none", "rtol": 1e-10}
    x, info = hs.solve(Twice(layout, 2.0), b, **options)
    with pytest.raises(Interrupted):
        checkpoint = hs.Checkpoint(path, "3iterations")
        hs.solve(Twice(layout, 2.0), b, checkpoint=checkpoint, callback=interrupt(8), **options)
    resume = hs.Checkpoint(path, resume=True)
    with pytest.raises(hs.InputError, match="another matrix"):
        hs.solve(Twice(layout, 3.0), b, checkpoint=resume, **options)
    y, resumed = hs.solve(Twice(layout, 2.0), b, checkpoint=resume, **options)
    assert resumed.residual_history == info.residual_history and _same(world, x, y)


@pytest.mark.mpi
def test_damage_is_told(world, folder):
    """A flipped bit anywhere: a clear error, or the very same answer where it did no harm."""
    A, b = _system(world, _poisson(9))
    x, _ = hs.solve(A, b)
    path = folder / "solve.h5"
    with pytest.raises(Interrupted):
        hs.solve(A, b, checkpoint=hs.Checkpoint(path, "3iterations"), callback=interrupt(8))
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
            y, _ = hs.solve(A, b, checkpoint=hs.Checkpoint(path, resume=True))
        except hs.InputError as error:
            assert "solve.h5" in str(error) and "start afresh" in str(error)
            refused += 1
        else:
            assert _same(world, x, y)
    assert refused > 5
    world.on_root(lambda: path.write_text("no checkpoint"))
    with pytest.raises(hs.InputError, match="not an HDF5 file"):
        hs.solve(A, b, checkpoint=hs.Checkpoint(path, resume=True))


@pytest.mark.mpi
def test_a_state_of_other_types_is_refused(world, folder):
    """What solvers would take for numbers of their own."""
    A, b = _system(world, _poisson(9))
    path = folder / "solve.h5"
    with pytest.raises(Interrupted):
        hs.solve(A, b, checkpoint=hs.Checkpoint(path, "3iterations"), callback=interrupt(8))
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
            hs.solve(A, b, checkpoint=hs.Checkpoint(path, resume=True))
        world.comm.barrier()  # until all have closed it


@pytest.mark.mpi
def test_starts_where_there_is_none_and_says_so(world, folder, capsys):
    A, b = _system(world, _poisson(9))
    x, info = hs.solve(A, b)
    y, other = hs.solve(A, b, checkpoint=hs.Checkpoint(folder / "none.h5", resume=True))
    assert other.residual_history == info.residual_history and _same(world, x, y)
    told = capsys.readouterr().err
    assert ("starting afresh" in told) == (world.rank == 0)


@pytest.mark.mpi
@pytest.mark.parametrize("where", ["vector", "write_slab", "finish", "opened"])
def test_one_that_fails_leaves_the_one_before(world, folder, monkeypatch, capsys, where):
    A, b = _system(world, _poisson(9))
    x, info = hs.solve(A, b)
    path = folder / "solve.h5"
    checkpoint = hs.Checkpoint(path, "4iterations")
    calls = []

    def fail(*args, **kwargs):
        raise hs.InputError("cannot be written: no space left on device", file=path)

    def callback(iteration, norm):
        if iteration == 6:
            if where == "opened":
                monkeypatch.setattr("hpc_sla.checkpoint.checkpoint.CheckpointWriter", fail)
            else:
                monkeypatch.setattr(CheckpointWriter, where, fail)
        calls.append(checkpoint.iteration)

    y, other = hs.solve(A, b, checkpoint=checkpoint, callback=callback)
    monkeypatch.undo()
    assert other.residual_history == info.residual_history and _same(world, x, y)
    assert checkpoint.written == 1 and checkpoint.iteration == 4
    told = capsys.readouterr().err
    assert told.count("no space left") == (world.rank == 0)
    assert "that of iteration 4 stays" in told or world.rank
    assert world.on_root(lambda: [p.name for p in folder.iterdir()]) == ["solve.h5"]
    seen = []
    hs.solve(
        A,
        b,
        checkpoint=hs.Checkpoint(path, resume=True),
        callback=lambda i, norm: seen.append(i),
    )
    assert seen[0] == 4


@pytest.mark.mpi
def test_awkward_sizes(world, folder):
    """One row, empty ranks, a right-hand side of zeros or of tiny numbers."""
    for i, (matrix, scale) in enumerate(
        [(sp.csr_matrix([[4.0]]), 1.0), (spd_matrix(2, 1, 1.0), 1.0), (_poisson(7), 1e-200)]
    ):
        A = distribute(matrix, world)
        values = scale * np.random.default_rng(2).standard_normal(matrix.shape[0])
        b = spread(A.layout, values)
        x, info = hs.solve(A, b)
        path = folder / f"{i}.h5"
        y, _ = hs.solve(A, b, checkpoint=hs.Checkpoint(path, every="1iterations"))
        z, again = hs.solve(A, b, checkpoint=hs.Checkpoint(path, resume=True))
        assert _same(world, x, y) and _same(world, x, z)
        assert again.residual_history == info.residual_history


@pytest.mark.mpi
def test_auto_goes_on_with_its_fallback(world, folder):
    """A symmetric indefinite matrix whose diagonal is positive: cg fails, minres goes on."""
    noise = random_matrix(60, 0.2, 9, symmetric=True)
    matrix = sp.csr_matrix(noise - sp.diags_array(noise.diagonal()) + 0.5 * sp.eye_array(60))
    A, b = _system(world, matrix)
    options = {"method": "auto", "precond": "none", "rtol": 1e-8}
    x, info = hs.solve(A, b, **options)
    assert info.method == "minres"
    path = folder / "solve.h5"
    first = hs.Checkpoint(path)
    left = []

    def callback(i, norm):
        left.append(i)
        if left.count(0) == 2 and i == 10:
            first.request_stop()

    _, told = hs.solve(A, b, checkpoint=first, callback=callback, **options)
    assert told.status == "preempted" and told.method == "minres"
    y, resumed = hs.solve(A, b, checkpoint=hs.Checkpoint(path, resume=True), **options)
    assert resumed.residual_history == info.residual_history and _same(world, x, y)
    # Stopped before the first of them fails, the second starts afresh as it would have.
    first, left = hs.Checkpoint(path, every="1iterations"), []
    with pytest.raises(Interrupted):
        hs.solve(A, b, checkpoint=first, callback=interrupt(2), **options)
    assert first.iteration == 1
    y, resumed = hs.solve(A, b, checkpoint=hs.Checkpoint(path, resume=True), **options)
    assert resumed.residual_history == info.residual_history and _same(world, x, y)


@pytest.mark.mpi
def test_a_smaller_tolerance_for_columns_that_had_met_theirs(world, folder):
    A, _ = _system(world, _poisson(9))
    easy = torch.ones(A.layout.n_owned, dtype=torch.float64)
    hard = spread(A.layout, np.random.default_rng(4).standard_normal(81))
    b = torch.stack([easy, hard], dim=1)
    path = folder / "solve.h5"
    _, info = hs.solve(A, b, rtol=1e-5)
    between = (info.columns[0].iterations + info.columns[1].iterations) // 2
    assert info.columns[0].iterations < between
    with pytest.raises(Interrupted):
        hs.solve(
            A,
            b,
            rtol=1e-5,
            checkpoint=hs.Checkpoint(path, "1iterations"),
            callback=interrupt(between + 1),
        )
    _, tight = hs.solve(A, b, rtol=1e-10, checkpoint=hs.Checkpoint(path, resume=True))
    assert all(one.converged and one.relative_residual <= 1e-10 for one in tight.columns)


def test_how_often():
    assert parse_every("60s").seconds == parse_every(60).seconds == parse_every("1min").seconds
    assert parse_every("2h").seconds == 7200 and parse_every(".5").seconds == 0.5
    assert parse_every("100iterations").iterations == 100
    for wrong in ("", "0", "-1", "nan", "inf", "1.5iterations", "10x", "iterations"):
        with pytest.raises(hs.InputError, match="not how often"):
            parse_every(wrong)


@pytest.mark.mpi
def test_the_file_is_plain_hdf5(world, folder):
    A, b = _system(world, _poisson(9))
    path = folder / "solve.h5"
    with pytest.raises(Interrupted):
        hs.solve(A, b, checkpoint=hs.Checkpoint(path, "5iterations"), callback=interrupt(6))
    kept = []
    hs.solve(A, b, max_iterations=5, callback=lambda i, norm: kept.append(norm))
    x, _ = hs.solve(A, b, max_iterations=5)
    whole = full(A.layout, x)
    with h5py.File(path, "r") as file:
        assert file.attrs["format"].decode() == "hpc_sla.checkpoint"
        assert np.array_equal(file["vectors/x"][:], whole)
        assert file["state/residual_history.0"][:].tolist() == kept
        assert all(file[f"vectors/{name}"].fletcher32 for name in ("x", "r", "p"))

"""Whom a solve tells of its iterations; what `throw` raises."""

from __future__ import annotations

import sys
import types
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

import hpc_sla as hs
from tests.collective import distribute, distribute_once, everywhere, spd_matrix, spread

pytestmark = pytest.mark.mpi


@pytest.fixture(scope="module")
def world():
    return hs.World(device="cpu")


@pytest.fixture
def system(world):
    A = distribute(spd_matrix(40, 1), world)
    return A, spread(A.layout, np.random.default_rng(0).standard_normal(40))


def _on_root(world, read):
    """What rank 0 finds, on every rank."""
    return world.comm.bcast(read() if world.rank == 0 else None)


def test_the_terminal(world, system, capsys):
    A, b = system
    _, info = hs.solve(A, b, "cg", "jacobi", monitor=["print:every=2"])
    lines = capsys.readouterr().err.splitlines()
    assert everywhere(world, len(lines) == (0 if world.rank else info.iterations // 2 + 1))
    if world.rank == 0:
        words = lines[1].split()
        assert words[:2] == ["solve", "2"]
        assert np.isclose(float(words[4]), info.residual_history[2], rtol=1e-5)
        beside = info.residual_history[2] / info.residual_history[0]
        assert np.isclose(float(words[5]), beside, rtol=1e-2)


def test_a_file(world, system, tmp_path_factory):
    """One solve after another goes on in it."""
    A, b = system
    path = world.comm.bcast(str(tmp_path_factory.mktemp("monitor") / "history.csv"))
    one = hs.FileMonitor(path)
    _, first = hs.solve(A, b, "cg", "jacobi", monitor=one)
    _, second = hs.solve(A, 2 * b, "cg", "none", monitor=one)
    world.barrier()
    found = _on_root(world, lambda: np.loadtxt(path, delimiter=",", skiprows=1))
    head = _on_root(world, lambda: Path(path).read_text().splitlines()[0])
    assert head == "iteration,residual_norm,seconds"
    assert np.array_equal(found[:, 1], first.residual_history + second.residual_history)
    # By its name it begins anew.
    hs.solve(A, b, "cg", "jacobi", monitor=f"file:{path}")
    again = _on_root(world, lambda: np.loadtxt(path, delimiter=",", skiprows=1))
    assert np.array_equal(again[:, 1], first.residual_history)


def test_callables_are_told_on_every_rank(world, system):
    A, b = system
    told, called = [], []
    options = {"monitor": [lambda i, r: told.append((i, r))]}
    _, info = hs.solve(A, b, "cg", callback=lambda i, r: called.append((i, r)), **options)
    expected = list(enumerate(info.residual_history))
    assert everywhere(world, told == expected and called == expected)


def test_eigenpairs_and_roots_have_them_too(world, system, tmp_path_factory):
    A, b = system
    path = world.comm.bcast(str(tmp_path_factory.mktemp("monitor") / "roots.csv"))
    _, info = hs.nonlinear_solve(lambda u: A @ u + u**3 - b, b * 0, layout=A.layout,
                                 monitor=f"file:{path}", throw=True)  # fmt: skip
    found = _on_root(world, lambda: np.loadtxt(path, delimiter=",", skiprows=1, ndmin=2))
    assert len(found) == info.iterations + 1
    told = []
    hs.eigsh(A, k=1, tol=1e-4, monitor=lambda i, r: told.append(i), throw=True)
    assert everywhere(world, told == list(range(len(told))))


def _tensorboard(monkeypatch, writer):
    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = writer
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)


def test_tensorboard(world, system, monkeypatch):
    A, b = system
    written = []

    class SummaryWriter:
        def __init__(self, log_dir):
            self.log_dir = log_dir or "runs/one"
            written.append(self.log_dir)

        def add_scalar(self, name, value, step):
            written.append((name, value, step))

        def close(self):
            written.append("closed")

    _tensorboard(monkeypatch, SummaryWriter)
    board = hs.TensorBoardMonitor()
    _, info = hs.solve(A, b, "cg", monitor=board)
    _, more = hs.solve(A, b, "cg", monitor=board)
    names = [("solve/residual_norm", r, i) for i, r in enumerate(info.residual_history)]
    behind = [
        ("solve/residual_norm", r, i + len(names)) for i, r in enumerate(more.residual_history)
    ]
    wanted = ["runs/one", *names, "closed", "runs/one", *behind, "closed"]
    assert everywhere(world, written == ([] if world.rank else wanted))


def test_where_tensorboard_may_not_write(world, system, monkeypatch):
    def SummaryWriter(log_dir):
        raise PermissionError(13, "Permission denied", log_dir)

    A, b = system
    _tensorboard(monkeypatch, SummaryWriter)
    with pytest.raises(hs.InputError, match="monitor: cannot be written: Perm") as caught:
        hs.solve(A, b, monitor="tensorboard:runs/closed")
    found = caught.value
    assert everywhere(world, found.file == "runs/closed" and bool(found.remedy))


def test_without_tensorboard(world, system, monkeypatch):
    A, b = system
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(hs.InputError, match="TensorBoard is not installed"):
        hs.solve(A, b, monitor="tensorboard")


@pytest.mark.parametrize(
    ("monitor", "message"),
    [
        ("prnt", "unknown monitor 'prnt'"),
        ("print:every=none", "unknown monitor"),
        ("file:", "unknown monitor"),
        (3, "a int is not a monitor"),
        ("file:/nowhere/at/all.csv", "nowhere.*cannot be written"),
    ],
)
def test_what_is_no_monitor(world, system, monitor, message):
    A, b = system
    with pytest.raises(hs.InputError, match=message):
        hs.solve(A, b, monitor=[monitor])


def test_one_that_fails_costs_no_solution(world, system):
    class Full(hs.Monitor):
        def __call__(self, iteration, residual_norm):
            raise OSError("no space left on device")

    class Late(hs.Monitor):
        def __call__(self, iteration, residual_norm):
            pass

        def end(self):
            raise OSError("no space left on device")

    A, b = system
    for one in (Full(), Late()):
        with pytest.warns(UserWarning, match=f"{type(one).__name__}: no space left"):
            _, info = hs.solve(A, b, monitor=one)
        assert everywhere(world, info.converged)
        # On every rank alike: where warnings are errors none is left alone.
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(UserWarning, match="no space left"):
                hs.solve(A, b, monitor=one)
        world.barrier()


def _many_rows(A):
    """More than are left to LAPACK."""
    return distribute_once(spd_matrix(130, 0), A.world)


REFUSED = {
    "b": lambda A, b, **told: hs.solve(A, b[:-1] if len(b) else b.new_zeros(1), **told),
    "precond": lambda A, b, **told: hs.solve(A, b, "cg", "none such", **told),
    "callback": lambda A, b, **told: hs.solve(A, b, callback=3, **told),
    "pairs": lambda A, b, **told: hs.eigsh(A, k=41, **told),
    "pairs' precond": lambda A, b, **told: hs.eigsh(
        _many_rows(A), k=1, precond="none such", **told
    ),
    "pairs' callback": lambda A, b, **told: hs.eigsh(A, k=1, callback=3, **told),
    "u0": lambda A, b, **told: hs.nonlinear_solve(
        lambda u: u, b.to(torch.int64), layout=A.layout, **told
    ),
    "root's callback": lambda A, b, **told: hs.nonlinear_solve(
        lambda u: u, b, layout=A.layout, callback=3, **told
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_solve_that_is_refused_overwrites_nothing(world, system, tmp_path_factory, what):
    A, b = system
    path = world.comm.bcast(str(tmp_path_factory.mktemp("monitor") / "kept.csv"))
    if world.rank == 0:
        Path(path).write_text("of the last solve\n")
    with pytest.raises(hs.InputError, match="cannot be called" if "callback" in what else None):
        REFUSED[what](A, b, monitor=f"file:{path}")
    assert _on_root(world, Path(path).read_text) == "of the last solve\n"


def _broken(iteration, residual_norm):
    raise RuntimeError("of the callback's own")


SOLVES = {
    "solve": lambda A, b, **told: hs.solve(A, b, "cg", "jacobi", **told),
    "eigsh": lambda A, b, **told: hs.eigsh(_many_rows(A), k=1, **told),
    "nonlinear_solve": lambda A, b, **told: hs.nonlinear_solve(
        lambda u: A @ u - b, b * 0, layout=A.layout, **told
    ),
}


@pytest.mark.parametrize("solve", SOLVES)
def test_files_are_closed_whatever_happens(world, system, tmp_path_factory, solve):
    A, b = system
    path = world.comm.bcast(str(tmp_path_factory.mktemp("monitor") / "closed.csv"))
    one = hs.FileMonitor(path)
    with pytest.raises(RuntimeError, match="of the callback's own"):
        SOLVES[solve](A, b, monitor=one, callback=_broken)
    assert everywhere(world, one._file is None)
    with pytest.raises(hs.InputError, match="cannot be written"):
        SOLVES[solve](A, b, monitor=[one, "file:/nowhere/at/all.csv"])
    assert everywhere(world, one._file is None)


@pytest.mark.parametrize("columns", [(), (2,)])
def test_throw(world, system, columns):
    A, b = system
    b = b if not columns else torch.stack([b, b * 0], dim=1)
    with pytest.raises(hs.NotConvergedError, match=r"max_iterations.*after 2 iterations") as caught:
        hs.solve(A, b, "cg", "none", max_iterations=2, throw=True)
    error = caught.value
    assert error.status == "max_iterations" and error.info.iterations == 2
    x, info = hs.solve(A, b, "cg", "none", max_iterations=2)
    assert everywhere(world, torch.equal(error.x, x))
    assert error.info.residual_norm == info.residual_norm
    solver = hs.LinearSolver(A, "cg", "none", max_iterations=2)
    for solve in (solver.solve, solver.solve_transpose):
        with pytest.raises(hs.NotConvergedError):
            solve(b, throw=True)
    _, info = hs.solve(A, b, throw=True)
    assert info.converged
    with pytest.raises(hs.NotConvergedError, match="the nonlinear solve"):
        hs.nonlinear_solve(
            lambda u: u**2 + 1, b * 0 + 1, layout=A.layout, max_iterations=2, throw=True
        )


@pytest.mark.several
def test_ranks_that_differ_in_it(world, system):
    if world.size == 1:
        return
    A, b = system
    with pytest.raises(hs.InputError, match="throw"):
        hs.solve(A, b, throw=world.rank == 0)
    with pytest.raises(hs.InputError, match="monitor"):
        hs.solve(A, b, monitor="print" if world.rank == 0 else None)

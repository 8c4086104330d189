"""Checkpoints of linear solves: the very same iterates on the same ranks, and stops."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
import torch

import hpc_sla as hs
from hpc_sla.linear.driver import KrylovLoop
from tests.checkpoints import (
    Interrupted,
    asked_each_time,  # noqa: F401 - a fixture
    convection,
    interrupt,
    poisson,
    restarted,
    same,
    system,
)
from tests.collective import distribute, full, random_matrix, spd_matrix, spread
from tests.methods import ENTRIES

SYMMETRIC = [name for name, method in ENTRIES.items() if method.needs_symmetric]
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
    matrix = poisson(11) if name in (*SYMMETRIC, "auto") else convection(11)
    A, b = system(world, matrix, dtype, columns)
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
    assert same(world, x, y)
    assert (resumed.status, resumed.iterations) == (info.status, info.iterations)
    assert resumed.relative_residual == info.relative_residual


@pytest.mark.mpi
@pytest.mark.parametrize("method", [*ENTRIES, "gmres:restart=7"])
def test_a_state_needs_no_file(world, monkeypatch, method):
    name = method.partition(":")[0]
    A, b = system(world, poisson(11) if name in SYMMETRIC else convection(11))
    options = {"method": method, "precond": "jacobi", "rtol": 1e-8, "max_iterations": 2000}
    x, info = hs.solve(A, b, **options)
    y, again = restarted(
        monkeypatch, KrylovLoop, 9, lambda none: hs.solve(A, b, checkpoint=none, **options)
    )
    assert again.residual_history == info.residual_history and same(world, x, y)


def test_solvers_know_nothing_of_checkpoints():
    """But the functions that users call, and what passes an observer on to them."""
    package = Path(hs.__file__).parent
    allowed = {
        "linear/solver.py", "linear/arguments.py", "linear/linear_solver.py", "linear/iteration.py",
        "eigen/solver.py",
        "nonlinear/solver.py", "nonlinear/problem.py", "nonlinear/linearise.py",
        "nonlinear/method.py",
    }  # fmt: skip
    for path in (
        p for room in ("linear", "eigen", "nonlinear") for p in (package / room).iterdir()
    ):
        if path.suffix == ".py" and f"{path.parent.name}/{path.name}" not in allowed:
            assert "hpc_sla.checkpoint" not in path.read_text(), path


@pytest.mark.mpi
@pytest.mark.parametrize("method", ["cg", "minres", "bicgstab", "lsqr", "auto"])
def test_a_column_that_is_done_stays_so(world, folder, method):
    """Saved, and told to stop, when one of two columns has met its tolerance."""
    matrix = poisson(11)
    A, b = system(world, matrix, columns=2)
    mode = np.sin(np.pi * np.arange(1, 12) / 12)
    b[:, 1] = spread(A.layout, np.kron(mode, mode))
    options = {"method": method, "precond": "jacobi", "rtol": 1e-10}
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
    assert same(world, x, y)
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
    matrix = sp.csr_matrix(sp.block_diag([turn, poisson(11)]))
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
    assert resumed.status == ended and same(world, x[:, 1], y[:, 1])


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
    assert resumed.residual_history == info.residual_history and same(world, x, y)


@pytest.mark.mpi
def test_stops_within_a_cycle_of_gmres_and_saves_between_them(world, folder):
    A, b = system(world, convection(11))
    options = {"method": "gmres:restart=7", "precond": "jacobi", "rtol": 1e-8}
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
    assert resumed.residual_history == info.residual_history and same(world, x, y)


@pytest.mark.mpi
@pytest.mark.parametrize("precond", ["jacobi", "chebyshev"])
@pytest.mark.parametrize("method", ["cg", "bicgstab", "gmres:restart=6"])
def test_another_partition_goes_on_to_the_tolerance(world, folder, method, precond):
    """As another number of ranks does: nothing but the user's numbering is in common."""
    A, b = system(world, poisson(11))
    options = {"method": method, "precond": precond, "rtol": 1e-9}
    x, info = hs.solve(A, b, **options)
    path = folder / "solve.h5"
    first = hs.Checkpoint(path, every="3iterations")
    with pytest.raises(Interrupted):
        hs.solve(A, b, checkpoint=first, callback=interrupt(7), **options)
    assert first.iteration == 6
    for partition in ("cyclic", "all on the last"):
        B, c = system(world, poisson(11), partition=partition)
        y, resumed = hs.solve(B, c, checkpoint=hs.Checkpoint(path, resume=True), **options)
        assert resumed.converged and resumed.relative_residual <= 1e-9
        assert resumed.residual_history[:7] == info.residual_history[:7]
        assert np.allclose(full(B.layout, y), full(A.layout, x), atol=1e-6)


@pytest.mark.mpi
def test_awkward_sizes(world, folder):
    """One row, empty ranks, a right-hand side of zeros or of tiny numbers."""
    for i, (matrix, scale) in enumerate(
        [(sp.csr_matrix([[4.0]]), 1.0), (spd_matrix(2, 1, 1.0), 1.0), (poisson(7), 1e-200)]
    ):
        A = distribute(matrix, world)
        values = scale * np.random.default_rng(2).standard_normal(matrix.shape[0])
        b = spread(A.layout, values)
        x, info = hs.solve(A, b)
        path = folder / f"{i}.h5"
        y, _ = hs.solve(A, b, checkpoint=hs.Checkpoint(path, every="1iterations"))
        z, again = hs.solve(A, b, checkpoint=hs.Checkpoint(path, resume=True))
        assert same(world, x, y) and same(world, x, z)
        assert again.residual_history == info.residual_history


@pytest.mark.mpi
def test_auto_goes_on_with_its_fallback(world, folder):
    """A symmetric indefinite matrix whose diagonal is positive: cg fails, minres goes on."""
    noise = random_matrix(60, 0.2, 9, symmetric=True)
    matrix = sp.csr_matrix(noise - sp.diags_array(noise.diagonal()) + 0.5 * sp.eye_array(60))
    A, b = system(world, matrix)
    options = {"method": "auto", "precond": "none", "rtol": 1e-8}
    x, info = hs.solve(A, b, **options)
    assert info.method == "minres"
    path = folder / "solve.h5"
    first = hs.Checkpoint(path)
    left = []

    def callback(i, norm):
        left.append(i)
        begun = [k for k, (a, b) in enumerate(pairwise(left)) if a == b]  # the second
        if begun and len(left) == begun[0] + 10:
            first.request_stop()

    _, told = hs.solve(A, b, checkpoint=first, callback=callback, **options)
    assert told.status == "preempted" and told.method == "minres"
    y, resumed = hs.solve(A, b, checkpoint=hs.Checkpoint(path, resume=True), **options)
    assert resumed.residual_history == info.residual_history and same(world, x, y)
    # Killed where the second has just begun.
    first, left = hs.Checkpoint(path, every="1iterations"), []
    with pytest.raises(Interrupted):
        hs.solve(A, b, checkpoint=first, callback=interrupt(3), **options)
    assert first.iteration == 2
    y, resumed = hs.solve(A, b, checkpoint=hs.Checkpoint(path, resume=True), **options)
    assert resumed.residual_history == info.residual_history and same(world, x, y)


@pytest.mark.mpi
def test_a_smaller_tolerance_for_columns_that_had_met_theirs(world, folder):
    A, _ = system(world, poisson(9))
    easy = torch.ones(A.layout.n_owned, dtype=torch.float64)
    hard = spread(A.layout, np.random.default_rng(4).standard_normal(81))
    b = torch.stack([easy, hard], dim=1)
    path = folder / "solve.h5"
    _, info = hs.solve(A, b, "cg", "jacobi", rtol=1e-5)
    between = (info.columns[0].iterations + info.columns[1].iterations) // 2
    assert info.columns[0].iterations < between
    with pytest.raises(Interrupted):
        hs.solve(
            A,
            b,
            "cg",
            "jacobi",
            rtol=1e-5,
            checkpoint=hs.Checkpoint(path, "1iterations"),
            callback=interrupt(between + 1),
        )
    again = hs.Checkpoint(path, resume=True)
    _, tight = hs.solve(A, b, "cg", "jacobi", rtol=1e-10, checkpoint=again)
    assert all(one.converged and one.relative_residual <= 1e-10 for one in tight.columns)

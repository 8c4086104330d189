"""Compiled bursts of steps: bit by bit what the steps in Python do, and no more of them."""

from __future__ import annotations

import ctypes
import os

import numpy as np
import pytest
import scipy.sparse as sp
import torch

import hpc_sla as hs
from hpc_sla import problems
from hpc_sla.kernels import native
from hpc_sla.linear.bursts import CompiledSteps
from hpc_sla.linear.driver import KrylovLoop
from hpc_sla.linear.outcome import Outcome
from tests.checkpoints import convection, poisson
from tests.collective import MATRICES, distribute, distribute_once, everywhere, spread
from tests.linear.test_failures import HOPELESS
from tests.linear.test_properties import FAMILIES
from tests.methods import ENTRIES

pytestmark = [
    pytest.mark.mpi,
    pytest.mark.skipif(native.LIBRARY is None, reason="the kernels were not compiled"),
]

METHODS = [name for name, method in ENTRIES.items() if vars(type(method)).get("compiled")]


SYSTEMS = {
    **{f"matrix: {name}": make for name, make in MATRICES.items()},
    **FAMILIES,
    **HOPELESS,
    "poisson": lambda: poisson(13),
    "negative": lambda: sp.csr_matrix(-poisson(6)),
    "turn": lambda: sp.csr_matrix(sp.block_diag([[[0.0, 1.0], [-1.0, 0.0]], poisson(4)])),
    "overflowing": lambda: poisson(6),
}
CASES = [
    (np.float64, "jacobi", 1e-10, 7),
    (np.float64, "jacobi", 1e-10, 400),
    (np.float64, "none", 1e-17, 400),
    (np.float32, "none", 1e-5, 400),
    (np.float32, "jacobi", 1e-17, 200),
]
"""Dtype, preconditioner, relative tolerance and iterations."""

_STATUSES: dict[str, set[str]] = {}


@pytest.fixture
def seen(monkeypatch):
    """How many steps each burst had."""
    lengths: list[int] = []
    run = CompiledSteps._run

    def counted(self, most):
        lengths.append(run(self, most))
        return lengths[-1]

    monkeypatch.setattr(CompiledSteps, "_run", counted)
    return lengths


def _both(monkeypatch, seen, A, b, **options):
    """What `solve` gives in Python steps, and in bursts."""
    monkeypatch.setattr(CompiledSteps, "allowed", False)
    expected = hs.solve(A, b, **options)
    assert not seen
    monkeypatch.setattr(CompiledSteps, "allowed", True)
    return expected, hs.solve(A, b, **options)


def _assert_same(world, expected, found):
    (x, info), (y, other) = expected, found
    assert everywhere(world, x.numpy().tobytes() == y.numpy().tobytes())
    names = "status", "iterations", "residual_norm", "backward_error", "at_rounding", "hidden"
    for name in names:
        np.testing.assert_equal(getattr(other, name), getattr(info, name))
    np.testing.assert_array_equal(other.residual_history, info.residual_history)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", SYSTEMS)
def test_every_bit_is_that_of_steps_in_python(world, monkeypatch, seen, name, method):
    monkeypatch.setattr(CompiledSteps, "seconds", 10.0)
    for dtype, precond, rtol, most in CASES:
        seen.clear()
        matrix = SYSTEMS[name]().astype(dtype)
        if name == "overflowing":  # in products: of entries that were, solve would hear
            matrix *= np.finfo(dtype).max / 8
        A = distribute_once(matrix, world, "contiguous")
        b = np.random.default_rng(5).standard_normal(matrix.shape[0]).astype(dtype)
        options = {"method": method, "precond": precond, "rtol": rtol, "max_iterations": most}
        expected, found = _both(monkeypatch, seen, A, spread(A.layout, b), **options)
        _assert_same(world, expected, found)
        assert any(seen) == (found[1].iterations > 0)  # one call may do no more than start
        _STATUSES.setdefault(method, set()).add(found[1].status)


def test_every_status_was_among_them(world):
    if "HPC_SLA_TEST_SAMPLED" in os.environ and world.size != 2:
        pytest.skip("not all cases run on so many ranks: see tests/conftest.py")
    if len(_STATUSES) < len(METHODS):
        pytest.skip("only some of the cases have run here")
    assert all({"converged", "max_iterations"} <= found for found in _STATUSES.values()), _STATUSES
    others = {"stagnated", "indefinite", "breakdown", "not_finite", "diverged"}
    assert others <= set().union(*_STATUSES.values()), _STATUSES


@pytest.mark.parametrize("spec", ["poisson2d:n=50", "poisson2d:n=7", "elasticity3d:n=4"])
def test_a_packed_matrix_is_looked_at_alike(world, monkeypatch, seen, spec):
    """Of entries that come packed; of values, with a packed copy where there are many."""
    packed = problems.distribute(problems.make(spec), world)
    for A in (packed, packed.with_values(packed.values.clone())):
        seen.clear()
        b = torch.ones(A.layout.n_owned, dtype=torch.float64)
        options = {"method": "cg", "precond": "jacobi", "rtol": 1e-6}
        expected, found = _both(monkeypatch, seen, A, b, **options)
        _assert_same(world, expected, found)
        assert found[1].converged and found[1].backward_error is not None and seen


@pytest.mark.parametrize("partition", ["metis", "cyclic", "all on the last"])
@pytest.mark.parametrize("method", METHODS)
def test_however_rows_are_spread(world, monkeypatch, seen, method, partition):
    """Ranks without rows, and ranks that are neighbours of all others."""
    for matrix in (FAMILIES["spd"](), MATRICES["fewer rows than ranks"](), sp.csr_matrix([[3.0]])):
        seen.clear()
        A = distribute(matrix, world, partition)
        b = spread(A.layout, np.random.default_rng(6).standard_normal(matrix.shape[0]))
        options = {"method": method, "precond": "jacobi", "max_iterations": 60}
        _assert_same(world, *_both(monkeypatch, seen, A, b, **options))
        assert seen


@pytest.mark.parametrize("seconds", [0.0, 1e-5, 1e-4])
@pytest.mark.parametrize("method", METHODS)
def test_iterates_do_not_depend_on_how_long_bursts_are(world, monkeypatch, seen, method, seconds):
    # Large enough that gmres sweeps over its basis on several ranks, too.
    A = distribute_once(convection(40) if _general(method) else poisson(40), world)
    b = torch.ones(A.layout.n_owned, dtype=torch.float64)
    monkeypatch.setattr(CompiledSteps, "seconds", seconds)
    expected, found = _both(monkeypatch, seen, A, b, method=method, precond="jacobi")
    _assert_same(world, expected, found)
    assert found[1].converged and sum(seen) == found[1].iterations
    assert len(set(world.comm.allgather(tuple(seen)))) == 1
    if not seconds:
        assert set(seen) == {1}


def _general(method: str) -> bool:
    return not ENTRIES[method].needs_symmetric


@pytest.mark.parametrize("method", METHODS)
def test_a_callback_hears_of_every_iteration_in_order(world, monkeypatch, seen, method):
    A = distribute_once(convection(13) if _general(method) else poisson(13), world)
    b = torch.ones(A.layout.n_owned, dtype=torch.float64)
    heard: list[tuple[int, float]] = []
    _, info = hs.solve(
        A, b, method, "jacobi", callback=lambda iteration, norm: heard.append((iteration, norm))
    )
    assert heard == list(enumerate(info.residual_history)) and info.converged
    assert len(seen) < info.iterations


@pytest.mark.parametrize("patience", [2, 7, 40, 300])
def test_an_iteration_that_does_not_pay_is_given_up_at_the_same_step(
    world, monkeypatch, seen, patience
):
    A = distribute_once(poisson(40), world)
    b = torch.ones(A.layout.n_owned, dtype=torch.float64)
    loops: list[KrylovLoop] = []
    run = KrylovLoop.run

    def watched(loop):
        loop._patience = patience
        loops.append(loop)
        return run(loop)

    monkeypatch.setattr(KrylovLoop, "run", watched)
    monkeypatch.setattr(CompiledSteps, "seconds", 10.0)
    expected, found = _both(monkeypatch, seen, A, b, method="cg", precond="jacobi", rtol=1e-12)
    _assert_same(world, expected, found)
    first, second = loops
    assert first.given_up == second.given_up == (patience < 300)


def test_one_rank_that_cannot_leaves_all_to_python(world, monkeypatch, seen):
    """Their reductions are not of one length, so it must not be left to each rank."""
    A = distribute_once(poisson(13), world)
    b = torch.ones(A.layout.n_owned, dtype=torch.float64)
    expected = hs.solve(A, b, "cg", "jacobi")
    assert seen
    seen.clear()
    monkeypatch.setattr(CompiledSteps, "allowed", world.rank != world.size - 1)
    _assert_same(world, expected, hs.solve(A, b, "cg", "jacobi"))
    assert not seen


class Own(hs.CG):
    """A user's, who changes what a step records."""

    name = "own"
    steps = 0

    def step(self):
        super().step()
        Own.steps += 1


class Stricter(hs.CG):
    """A user's, who changes what is made of that."""

    name = "stricter"

    def classify(self, row, target):
        return super().classify(row, target / 16)


def test_a_method_of_the_users_own_steps_in_python(world, seen):
    A = distribute_once(poisson(13), world)
    b = torch.ones(A.layout.n_owned, dtype=torch.float64)
    _, info = hs.solve(A, b, Own(), "jacobi")
    assert info.converged and Own.steps == info.iterations and not seen
    hs.solve(A, b, Stricter(), "jacobi")
    assert not seen


def test_what_cannot_be_compiled_steps_in_python(world, torch_world, seen):
    A = distribute_once(poisson(13), world)
    b = torch.ones(A.layout.n_owned, dtype=torch.float64)
    hs.solve(A, b.repeat(2, 1).T.contiguous(), "cg", "jacobi")  # several right-hand sides
    hs.solve(A, b, "cg", lambda r: r)  # a function of the user's
    hs.solve(A, b, "cg", "block_jacobi")

    class Free:
        layout = A.layout

        def matvec(self, x):
            return A @ x

    hs.solve(Free(), b, "cg", "none")
    other = distribute_once(poisson(13), torch_world)
    hs.solve(other, torch.ones(other.layout.n_owned, dtype=torch.float64), "cg", "jacobi")
    assert not seen


def test_a_world_of_one_process_needs_no_mpi(seen):
    world = hs.World.serial("cpu")
    A = hs.DSparseMatrix.from_scipy(poisson(9), world)
    _, info = hs.solve(A, torch.ones(81, dtype=torch.float64), "cg", "jacobi")
    assert info.converged and sum(seen) == info.iterations


def test_a_closed_world_is_an_error(world):
    """And not a crash: the requests are gone."""
    mine = hs.World(device="cpu", transport="mpi")
    A = distribute(poisson(13), mine)
    b = torch.ones(A.layout.n_owned, dtype=torch.float64)
    CompiledSteps.seconds, before = 0.0, CompiledSteps.seconds
    try:
        with pytest.raises(hs.HpcSlaError, match="closed"):
            hs.solve(A, b, "cg", "jacobi", callback=lambda i, norm: mine.close() if i == 3 else 0)
    finally:
        CompiledSteps.seconds = before


@pytest.mark.several
@pytest.mark.parametrize("function", ["start_all", "wait_all", "all_reduce"])
def test_an_error_of_mpi_is_raised(world, monkeypatch, function):
    """What MPI returns, by a function in its place that fails at its third call on every rank."""
    if world.size == 1:
        return
    from mpi4py import MPI

    A = distribute(poisson(13), world, "contiguous")
    b = torch.ones(A.layout.n_owned, dtype=torch.float64)
    calls = world.transport.calls(torch.float64)
    pointer = ctypes.c_void_p
    handle = ctypes.c_int if calls.handle_size == ctypes.sizeof(ctypes.c_int) else pointer
    arguments = {
        "start_all": [ctypes.c_int, pointer],
        "wait_all": [ctypes.c_int, pointer, pointer],
        "all_reduce": [pointer, pointer, ctypes.c_int, handle, handle, handle],
    }
    kind = ctypes.CFUNCTYPE(ctypes.c_int, *arguments[function])
    real, count = kind(getattr(calls, function)), 0

    def failing(*given):
        nonlocal count
        count += 1
        starts = function == "start_all" and count == 3  # nothing may be left on its way
        code = 0 if starts else real(*given)
        return MPI.ERR_TRUNCATE if count == 3 else code

    fake = kind(failing)
    monkeypatch.setattr(calls, function, ctypes.cast(fake, pointer).value)
    with pytest.raises(MPI.Exception) as caught:
        hs.solve(A, b, "cg", "jacobi")
    assert caught.value.Get_error_class() == MPI.ERR_TRUNCATE and count == 3


@pytest.mark.several
def test_requests_that_get_another_handle_as_they_start(world, monkeypatch, seen):
    """As MPI allows and Open MPI does at times: those that were started before are gone then."""
    if world.size == 1:
        return
    from mpi4py import MPI

    A = distribute(poisson(13), world, "contiguous")
    b = torch.ones(A.layout.n_owned, dtype=torch.float64)
    plan, calls = A.pattern.plan, world.transport.calls(torch.float64)
    channel = plan.forward_channel(b)
    received, sent = channel.recv_buffer.numpy(), channel.send_buffer.numpy()
    others = [world.comm.Recv_init(received[i], r, 77) for r, i in plan.receives.slices()]
    others += [world.comm.Send_init(sent[i], r, 77) for r, i in plan.sends.slices()]
    size, pointer = MPI._sizeof(MPI.Request), ctypes.c_void_p

    def handles(requests):
        return b"".join(ctypes.string_at(MPI._addressof(r), size) for r in requests)

    sets = [handles(channel._requests), handles(others)]
    real, starts = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, pointer)(calls.start_all), 0

    def start_all(count, there):
        nonlocal starts
        if ctypes.string_at(there, count * size) != sets[starts % 2]:
            return MPI.ERR_REQUEST
        starts += 1
        ctypes.memmove(there, sets[starts % 2], count * size)
        return real(count, there)

    fake = type(real)(start_all)
    monkeypatch.setattr(calls, "start_all", ctypes.cast(fake, pointer).value)
    first = hs.solve(A, b, "cg", "jacobi", max_iterations=10)
    # A product more, for the residual at the end.
    assert sum(seen) == starts - 1 == 10 and handles(channel._requests) == sets[1]
    monkeypatch.undo()
    monkeypatch.setattr(CompiledSteps, "allowed", False)
    again = hs.solve(A, b, "cg", "jacobi", max_iterations=10)  # Python goes on with them
    _assert_same(world, again, first)
    for i, (request, other) in enumerate(zip(channel._requests, others, strict=True)):
        ctypes.memmove(MPI._addressof(request), sets[0][i * size : (i + 1) * size], size)
        other.Free()


def test_outcomes_take_in_many_iterations_as_one_by_one():
    rng = np.random.default_rng(8)
    for lengths in ([3, 1, 7], [1, 1, 20], [12, 0, 2]):
        one, other = Outcome(1e-9, 3.0), Outcome(1e-9, 3.0)
        for length in lengths:
            norms = (10 ** rng.uniform(-2, 1, length)).round(1).tolist()
            one.passed(norms)
            for norm in norms:
                other.iterated(norm, None, 1000)
            assert vars(one) == vars(other)
            one.begin(), other.begin()


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("cycle", ["V", "W"])
@pytest.mark.parametrize("name", [*FAMILIES, "poisson", "negative", "deep"])
def test_multigrid_is_applied_within_them(world, monkeypatch, seen, name, cycle, dtype):
    """With the same bits, on levels of fewer ranks and decoupled rows too."""
    torch.set_num_threads(1)
    matrix = (poisson(24) if name == "deep" else SYSTEMS[name]()).astype(dtype)
    A = distribute_once(matrix, world, "contiguous")
    b = spread(A.layout, np.random.default_rng(6).standard_normal(matrix.shape[0]).astype(dtype))
    precond = hs.AMG(cycle=cycle, coarse_size=20, rows_per_rank=60)
    options = {"method": "cg", "precond": precond, "rtol": 1e-5, "max_iterations": 40}
    _assert_same(world, *_both(monkeypatch, seen, A, b, **options))
    if name in ("poisson", "deep"):
        assert sum(seen) > 0


def test_bursts_end_where_a_checkpoint_is_due(world, tmp_path):
    """Every 5 iterations are 5, however many a burst would have done; whole floats are whole."""
    A = problems.distribute(problems.make("poisson2d:n=40"), world)
    b = torch.ones(A.layout.n_owned, dtype=torch.float64)
    path = world.comm.bcast(str(tmp_path / "solve.ckpt.h5"))
    checkpoint = hs.Checkpoint(path, every="5iterations")
    _, info = hs.solve(A, b, "cg", "jacobi", max_iterations=1e3, checkpoint=checkpoint)
    assert info.converged and checkpoint.written == (info.iterations - 1) // 5 > 5

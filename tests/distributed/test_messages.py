"""What each method sends, beside the model of it: to the call and to the byte.

Whoever makes a method say more (a reduction more in CG, say) has to say so in
scripts/bench/message_model.py, and what it costs at 10^5 ranks follows.
"""

from __future__ import annotations

import sys
from collections import Counter

import numpy as np
import pytest
import torch

import hpc_sla as hs
from hpc_sla import problems
from hpc_sla.linear.bursts import CompiledSteps
from hpc_sla.linear.cg import CG
from tests.launch import REPOSITORY
from tests.precond.amg.systems import poisson

pytestmark = [pytest.mark.mpi, pytest.mark.several]  # one rank sends nothing

sys.path.insert(0, str(REPOSITORY / "scripts" / "bench"))
import message_model as model  # noqa: E402


@pytest.fixture(scope="module")
def counted(world):
    """A World whose messages are counted, and the counts."""
    if world.size == 1 or world.transport.calls(torch.float64) is None:
        pytest.skip("nobody to send to, or MPI's functions are out of sight")
    from messages import COUNTS
    from messages import counted as counting

    with counting() as comm, hs.World(comm, "cpu", "mpi") as made:
        yield made, COUNTS


def system(made, n=20):
    A = problems.distribute(problems.make(f"poisson2d:n={n}"), made)
    return A, torch.ones(A.layout.n_owned, dtype=torch.float64), A.pattern.plan.sends


def check(world, counts, expected, without=()):
    """Equal on every rank, but for the bytes of some."""
    calls, sizes = Counter(counts.calls), Counter(counts.bytes)
    for name in without:
        sizes[name] = expected.bytes[name]
    said = {
        name: ((calls[name], sizes[name]), (expected.calls[name], expected.bytes[name]))
        for name in {*calls, *expected.calls}
        if (calls[name], sizes[name]) != (expected.calls[name], expected.bytes[name])
    }
    differs = world.comm.allgather(said)
    assert not any(differs), f"counted beside modelled: {differs}"


def solved(made, counts, method, precond="jacobi", rtol=1e-8, n=20):
    A, b, sends = system(made, n)
    solver = hs.LinearSolver(A, method=method, precond=precond, rtol=rtol)
    solver.solve(b)
    counts.reset()
    _, info = solver.solve(b)
    assert info.converged and info.iterations > 1  # replicated, as `counts` is no place to ask
    return info.iterations, sends, solver


@pytest.mark.parametrize("rtol", [1e-2, 1e-8])
def test_cg(counted, rtol):
    made, counts = counted
    iterations, sends, _ = solved(made, counts, "cg", rtol=rtol)
    check(made, counts, model.cg(sends, iterations))


@pytest.mark.parametrize(("n", "rtol"), [(20, 1e-8), (40, 1e-6)])
def test_pipelined_cg(counted, n, rtol):
    made, counts = counted
    iterations, sends, _ = solved(made, counts, "pipelined_cg", rtol=rtol, n=n)
    check(made, counts, model.pipelined_cg(sends, iterations))


@pytest.mark.parametrize("restart", [7, 100])
def test_gmres(counted, restart):
    made, counts = counted
    iterations, sends, _ = solved(made, counts, f"gmres:restart={restart}", rtol=1e-4)
    check(made, counts, model.gmres(sends, iterations, restart))


AMG = {
    "on all ranks": "amg:coarse_size=30",
    "one goes on": "amg:coarse_size=30,rows_per_rank=1000",
    "two of four go on": "amg:coarse_size=30,rows_per_rank=30",
}


def hierarchy_of(solver, how):
    """Of several levels, and with one on fewer ranks where that is so."""
    made, ranks = solver.precond.hierarchy, solver.A.world.size
    assert len(made.summaries) > 2
    if how == "one goes on" or (how == "two of four go on" and ranks == 4):
        assert made.summaries[1].ranks < ranks
    return made


@pytest.mark.parametrize("how", AMG)
def test_multigrid(counted, how):
    made, counts = counted
    iterations, sends, solver = solved(made, counts, "cg", AMG[how])
    cycle = model.v_cycle(hierarchy_of(solver, how).levels, 4)
    check(made, counts, model.cg(sends, iterations, cycle))


@pytest.mark.parametrize(
    ("how", "alone"),
    [*((how, False) for how in AMG), ("on all ranks", True), ("one goes on", True)],
)
def test_setting_multigrid_up(counted, how, alone):
    """In good parts, and where all neighbours of a node are on other ranks."""
    from messages import aggregations

    made, counts = counted
    partition = np.indices((20, 20)).sum(axis=0).ravel() % made.size if alone else "metis"
    matrix = poisson(20) if made.rank == 0 else None
    A = hs.DSparseMatrix.from_scipy(matrix, made, partition=partition)
    hs.LinearSolver(A, "cg", AMG[how]).set_up()  # communicators are made once
    solver = hs.LinearSolver(A, "cg", AMG[how])
    counts.reset()
    with aggregations() as rounds:
        solver.set_up()
    found = hierarchy_of(solver, how)
    assert bool(rounds[0][0]) is alone
    check(made, counts, model.set_up(found, rounds, 4), without=["Issend"])


def test_eigenpairs(counted):
    made, counts = counted
    A, _, sends = system(made)
    counts.reset()
    _, _, info = hs.eigsh(A, k=4, precond="jacobi", tol=1e-14, max_iterations=6)
    assert info.iterations == 6
    check(made, counts, model.eigsh(sends, 6, 4, 6), without=["Issend"])


def test_newton(counted):
    made, counts = counted
    A, b, sends = system(made)

    def residual(u):
        return A @ u + 0.1 * u**3 - b

    counts.reset()
    _, info = hs.nonlinear_solve(
        residual,
        torch.zeros_like(b),
        layout=A.layout,
        max_iterations=3,
        rtol=1e-12,
        jacobian="matrix_free",
        linear_method="gmres:restart=100",
        precond="none",
    )
    assert info.iterations == 3
    asked = info.residual_evaluations, info.jacobian_products, info.inner_iterations
    check(made, counts, model.newton(sends, *asked))


def test_a_reduction_more_is_seen(counted, monkeypatch):
    """The test of these tests: a CG that asks once more in each step."""
    made, counts = counted
    monkeypatch.setattr(CompiledSteps, "allowed", False)
    iterations, sends, _ = solved(made, counts, "cg")
    expected = model.cg(sends, iterations).calls["Allreduce"]
    assert counts.calls["Allreduce"] == expected
    step = CG.step

    def chatty(self):
        self.operator.world.sum(1)
        step(self)

    monkeypatch.setattr(CG, "step", chatty)
    iterations, sends, _ = solved(made, counts, "cg")
    assert counts.calls["Allreduce"] == expected + iterations
    with pytest.raises(AssertionError, match="counted beside modelled"):
        check(made, counts, model.cg(sends, iterations))

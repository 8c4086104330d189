"""What Newton's method costs beside products and linear solves, counted and not timed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import hpc_sla as hs
from hpc_sla import problems
from hpc_sla.kernels import native
from hpc_sla.linear import ladder
from hpc_sla.linear.linear_solver import LinearSolver
from hpc_sla.nonlinear import linearise
from hpc_sla.nonlinear.equations import Equations, JacobianProducts
from hpc_sla.nonlinear.info import NonlinearInfo
from hpc_sla.nonlinear.linearise import Linearisation
from hpc_sla.sparse.pattern import DistributedPattern
from tests.collective import distribute_once, everywhere
from tests.linear.test_fixed_cost import _Counting
from tests.nonlinear.test_defaults import line

pytestmark = pytest.mark.mpi


@pytest.fixture
def counts(world, monkeypatch):
    """How often all ranks meet outside of compiled steps; not within linear solves, if `aside`."""
    counts = {"collectives": 0, "aside": True}
    monkeypatch.setattr(world, "comm", _Counting(world.comm, counts))
    reduce, run = world.transport.all_reduce_sum, LinearSolver.run

    def reduced(tensor):
        counts["collectives"] += world.size > 1
        reduce(tensor)

    def without(self, b, x0=None):
        before = counts["collectives"]
        found = run(self, b, x0)
        if counts["aside"]:
            counts["collectives"] = before
        return found

    monkeypatch.setattr(world.transport, "all_reduce_sum", reduced)
    monkeypatch.setattr(LinearSolver, "run", without)
    return counts


def _bratu(world, n=15):
    return problems.make_nonlinear(f"bratu2d:n={n},lambda=6").on(world)


def _solve(system, counts=None, **options):
    """F(u, theta) = 0 by conjugate gradients; the steps and what ranks met for."""
    theta = tuple(t.clone().requires_grad_() for t in system.theta)
    options = {"linear_method": "cg", "precond": "jacobi", **options}
    if counts is not None:
        counts["collectives"] = 0
    u, info = hs.nonlinear_solve(
        system.residual,
        system.u0,
        *theta,
        layout=system.layout,
        jacobian=system.jacobian,
        **options,
    )
    return u, info, counts and counts["collectives"]


def test_how_often_ranks_meet_for_a_step(world, counts):
    """For the Jacobian and ||F(u)||, and for the linear solve. At the start to agree twice."""
    system, alone = _bratu(world), world.size == 1
    met = [_solve(system, counts, max_iterations=k)[2] for k in (0, 1, 2, 4)]
    assert met[0] == (0 if alone else 3)
    assert np.diff(met).tolist() == ([0, 0, 0] if alone else [2, 2, 4])


def test_how_often_for_a_backward(world, counts):
    """However many steps its linear solve takes."""
    if not native.serves(torch.empty(0, dtype=torch.float64)):
        pytest.skip("steps are not compiled")
    system, counts["aside"] = _bratu(world), False
    met, steps = [], []
    for rtol in (1e-3, 1e-10):
        u, info, _ = _solve(system, adjoint_rtol=rtol)
        loss = system.layout.norm(u)
        counts["collectives"] = 0
        loss.backward()
        met.append(counts["collectives"])
        steps.append(info.adjoint.iterations)
    assert steps[0] < steps[1] and met[0] == met[1]
    assert met[0] == (0 if world.size == 1 else 10)


def test_the_residual_is_evaluated_once_at_a_point(world):
    system, calls = _bratu(world), 0

    def counted(u, lam):
        nonlocal calls
        calls += 1
        return residual(u, lam)

    residual, system.residual = system.residual, counted
    _, info, _ = _solve(system)
    assert info.converged and info.step_lengths == [1.0] * info.iterations
    assert calls == info.residual_evaluations == info.iterations + 1


@pytest.mark.parametrize("precond", ["auto", "amg"])
def test_a_matrix_is_looked_at_and_set_up_once(world, monkeypatch, precond):
    looks, look = [], ladder.look
    monkeypatch.setattr(ladder, "look", lambda A: looks.append(A) or look(A))
    _, info, _ = _solve(_bratu(world, 50), precond=precond)
    assert info.converged and info.iterations > 2
    assert info.precond.startswith("amg") and info.preconditioners == 1
    assert len(looks) == (precond == "auto")


def test_the_next_preconditioner_is_judged_by_its_own_iterations(world, monkeypatch):
    """Not by those of the one before it, which did not pay."""
    A, paces = distribute_once(line(200), world), []
    monkeypatch.setattr(linearise, "_PATIENCE", 30)
    monkeypatch.setattr(linearise, "fitting_preconds", lambda matrix, maker: ["none", "direct"])
    judge = Linearisation.judge

    def judged(self, info):
        judge(self, info)
        paces.append((self.precond.name, info.iterations, self.pace))

    monkeypatch.setattr(Linearisation, "judge", judged)
    _u, info = hs.nonlinear_solve(
        lambda u: A @ u - torch.exp(u),
        torch.zeros(A.layout.n_owned, dtype=torch.float64),
        layout=A.layout,
        pattern=A,
        forcing=1e-8,
    )
    assert info.converged
    name, iterations, pace = paces[0]
    assert name.startswith("direct") and iterations > 30 and pace < 0.5


def test_a_backward_solves_once_with_the_matrix_transposed(world):
    """Not with A, to be put right by ever more products with exact derivatives."""
    A = problems.distribute(problems.make("convection2d:n=12,peclet=50"), world)
    f = torch.ones(A.layout.n_owned, dtype=A.dtype, requires_grad=True)
    u, info = hs.nonlinear_solve(
        lambda u, f: A @ u - f,
        torch.zeros_like(f),
        f,
        layout=A.layout,
        jacobian=lambda u, f: A,
        precond="jacobi",
        linear_method="gmres",
    )
    before = info.jacobian_products
    u.backward(torch.ones_like(u))
    assert everywhere(world, A.layout.norm(A.rmatvec(f.grad) - 1) < 1e-7)
    # The look at what came of it, and b - J^T x.
    assert info.jacobian_products - before <= 2


def test_a_product_with_the_jacobian_multiplies_twice(world, monkeypatch):
    """By the matrix in F: u for its value, x for its tangent, and nothing by zeros."""
    system, calls, matmul = _bratu(world), [], DistributedPattern.matmul

    def counted(self, values, x, *rest, **options):
        calls.append(x)
        matmul(self, values, x, *rest, **options)

    info = NonlinearInfo("converged")
    equations = Equations(lambda u: system.residual(u, *system.theta), system.layout, info)
    monkeypatch.setattr(DistributedPattern, "matmul", counted)
    u, x = system.u0 + 0.1, torch.ones_like(system.u0)
    found = JacobianProducts(equations, u).matvec(x)
    assert len(calls) == 2
    exact = system.jacobian(u, *system.theta) @ x
    assert everywhere(world, torch.allclose(found, exact, rtol=1e-13, atol=1e-15))


@pytest.mark.parametrize("at", ["the start", "elsewhere"])
def test_a_first_look_counts_where_it_was_taken(world, at):
    """F(u0) is known once, and of u0 alone: a resumed run begins elsewhere."""
    layout = hs.RowLayout.even(5, world)
    asked = []

    def function(u):
        asked.append(u)
        return u * u

    equations = Equations(function, layout, NonlinearInfo("converged"))
    start = torch.full((layout.n_owned,), 2.0)
    equations.take(start, function(start), [])
    u = start if at == "the start" else start + 1
    r = equations(u)
    assert torch.equal(r, u * u) and len(asked) == (1 if u is start else 2)
    start.add_(1)  # what was known of it no longer holds
    assert torch.equal(equations(start), start * start)

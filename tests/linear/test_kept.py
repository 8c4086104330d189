"""What a solve leaves for the next: work vectors, which nobody else ever sees."""

from __future__ import annotations

import gc
import threading
import weakref

import numpy as np
import pytest
import torch

import hpc_sla as hs
from hpc_sla.kernels import native
from hpc_sla.linear import kept
from hpc_sla.linear.bursts import CompiledSteps
from tests.collective import distribute_once, everywhere, spd_matrix, spread
from tests.methods import ENTRIES

pytestmark = [
    pytest.mark.mpi,
    pytest.mark.skipif(native.LIBRARY is None, reason="the kernels were not compiled"),
]

METHODS = [
    name
    for name, method in ENTRIES.items()
    if vars(type(method)).get("compiled") and method.solves != "any"
]


def _matrix(world):
    return distribute_once(spd_matrix(60, 3), world)


def _rhs(A, seed, columns=()):
    return spread(A.layout, np.random.default_rng(seed).standard_normal((60, *columns)))


def _left(solver):
    """The steps that its last solve left."""
    ((_, steps),) = solver.kept._left
    return steps


def _same(world, found, expected):
    (x, info), (y, other) = found, expected
    assert info.status == other.status and info.residual_history == other.residual_history
    assert info.backward_error == other.backward_error
    assert everywhere(world, torch.equal(x, y))


@pytest.mark.parametrize("method", METHODS)
def test_solves_one_after_another_are_those_of_new_solvers(world, method):
    A = _matrix(world)
    solver = hs.LinearSolver(A, ENTRIES[method], "jacobi")
    guess = _rhs(A, 9)
    jobs = [(_rhs(A, 0), None), (_rhs(A, 1), guess), (_rhs(A, 2, (2,)), None), (_rhs(A, 3), None)]
    jobs += [(torch.zeros_like(guess), guess), (_rhs(A, 4) * 1e-180, None), (_rhs(A, 5), None)]
    jobs += [(_rhs(A, 6) * 1e6, None), (_rhs(A, 7) * 1e-6, None)]
    jobs += [(guess.new_full((1,), 3.0).expand_as(guess), None)]
    found = [solver.solve(b, x0) for b, x0 in jobs]
    for one, (b, x0) in zip(found, jobs, strict=True):
        _same(world, one, hs.LinearSolver(A, ENTRIES[method], "jacobi").solve(b, x0))


def test_vectors_are_used_again_and_are_nobody_elses(world):
    A = _matrix(world)
    solver, b = hs.LinearSolver(A, "cg", "jacobi"), _rhs(A, 0)
    x, _ = solver.solve(b)
    steps, before = _left(solver), x.clone()
    y, _ = solver.solve(_rhs(A, 1))
    assert _left(solver) is steps
    method, system = steps.method, steps.system
    own = {t.data_ptr() for t in (method.r, method.p, method.q, method.x, system.b, system.x)}
    assert not A.layout.n_owned or own.isdisjoint(t.data_ptr() for t in (b, x, y))
    assert everywhere(world, torch.equal(x, before))
    # Nor are they held.
    left = [weakref.ref(t) for t in (b, x, y)]
    del b, x, y
    gc.collect()
    assert [one() for one in left] == [None] * 3


def test_a_solve_within_a_solve(world):
    """By one solver, in its callback: the inner one must not work in the outer one's vectors."""
    A = _matrix(world)
    solver = hs.LinearSolver(A, "cg", "jacobi")
    expected, inner_expected = solver.solve(_rhs(A, 0)), solver.solve(_rhs(A, 1))
    inner = []

    def callback(iteration, norm):
        if iteration in (0, 3):
            inner.append(solver.solve(_rhs(A, 1)))

    _same(world, solver.solve(_rhs(A, 0), callback=callback), expected)
    assert len(inner) == 2
    for one in inner:
        _same(world, one, inner_expected)


def test_after_an_exception(world):
    A = _matrix(world)
    solver = hs.LinearSolver(A, "cg", "jacobi")
    expected = solver.solve(_rhs(A, 0))

    def callback(iteration, norm):
        if iteration == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        solver.solve(_rhs(A, 1), callback=callback)
    assert not solver.kept._left
    _same(world, solver.solve(_rhs(A, 0)), expected)


def test_threads_do_not_share_vectors(world):
    if world.size > 1:
        pytest.skip("threads of several ranks would have to take turns")
    A = _matrix(world)
    solver = hs.LinearSolver(A, "cg", "jacobi")
    jobs = [_rhs(A, seed) for seed in range(4)]
    expected = [solver.solve(b)[0] for b in jobs]
    wrong = []

    def run(b, x):
        wrong.extend(k for k in range(50) if not torch.equal(solver.solve(b)[0], x))

    threads = [threading.Thread(target=run, args=job) for job in zip(jobs, expected, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("how", ["in place", "update", "uncounted"])
def test_other_values(world, how, method):
    A = _matrix(world)
    solver, b = hs.LinearSolver(A, ENTRIES[method], "jacobi"), _rhs(A, 0)
    solver.solve(b)
    B = A.with_values(A.values * 3)
    if how == "in place":
        A.values.mul_(3)
    elif how == "uncounted":
        A.values.data.mul_(3)
        solver.update(A)
    else:
        solver.update(B)
    _same(world, solver.solve(b), hs.LinearSolver(B, ENTRIES[method], "jacobi").solve(b))


def test_derivatives_of_derivatives_work_in_them(world):
    A = _matrix(world)
    v, b = A.values.clone().requires_grad_(), _rhs(A, 0).requires_grad_()
    solver = hs.LinearSolver(A.with_values(v), "cg", "jacobi", 1e-12)
    c, d = _rhs(A, 1), _rhs(A, 2)

    def second(solve):
        x, _ = solve(b)
        first = torch.autograd.grad(x, (b, v), c, create_graph=True)
        return torch.autograd.grad(world.all_sum(torch.dot(first[0], d)), (v,), retain_graph=True)

    solver.solve(b)
    found = second(solver.solve)[0]
    steps = _left(solver)
    assert steps.method.x is steps.method.r
    kept_from = second(lambda b: hs.LinearSolver(A.with_values(v), "cg", "jacobi", 1e-12).solve(b))
    assert everywhere(world, torch.equal(found, kept_from[0]))
    assert everywhere(world, bool(found.any()) or not A.layout.n_owned)


def test_what_is_too_large_is_not_kept(world, monkeypatch):
    A = _matrix(world)
    monkeypatch.setattr(kept, "_MOST", 60)
    solver = hs.LinearSolver(A, "cg", "jacobi")
    solver.solve(_rhs(A, 0))
    assert bool(solver.kept._left) == (8 * A.layout.n_owned <= 60)
    _same(world, solver.solve(_rhs(A, 1)), hs.LinearSolver(A, "cg", "jacobi").solve(_rhs(A, 1)))


def test_steps_in_python_find_nothing_and_leave_nothing(world, monkeypatch):
    A = _matrix(world)
    solver, b = hs.LinearSolver(A, "cg", "jacobi"), _rhs(A, 0)
    expected = solver.solve(b)
    monkeypatch.setattr(CompiledSteps, "allowed", False)
    x, info = solver.solve(b)
    assert info.iterations == expected[1].iterations
    assert everywhere(world, torch.equal(x, expected[0]))

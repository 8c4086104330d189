"""Graphs that a solver keeps for its next solves and for their adjoints; emulated on the CPU."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch

import hpc_sla as hs
from hpc_sla.linear import prepared
from tests.checkpoints import poisson
from tests.linear.emulated import COUNTS


def convection(n):
    """As a Poisson matrix, but not symmetric."""
    A = poisson(n).tocsr().copy()
    rows = A.tocoo().row
    A.data = A.data * (1 + 0.2 * (A.indices > rows))
    return A


def solver(matrix=None, method="cg", precond="jacobi", **options):
    A = hs.DSparseMatrix.from_scipy(poisson(9) if matrix is None else matrix, WORLD)
    return hs.LinearSolver(A, method, precond, **{"rtol": 1e-10, **options})


WORLD = hs.World.serial("cpu")

FEW = range(1, 7)
"""Solves of few iterations that are enough for a graph."""


def rhs(seed, *columns):
    return torch.randn(81, *columns, dtype=torch.float64, generator=torch.manual_seed(seed))


def told(x, info):
    return x.tolist(), info.status, info.iterations, info.residual_history


def both(on_gpu, work):
    """What `work` gives, and how much was captured; to the bit what it gives step by step."""
    on_gpu(False)
    expected = work()
    assert not COUNTS
    on_gpu(True)
    found = work()
    assert found == expected
    return dict(COUNTS)


METHODS = ["cg", "bicgstab", "minres", "pipelined_cg", "richardson", "lsqr", "lsmr"]
PRECONDS = ["none", "jacobi", "chebyshev", "polynomial", "amg", "block_jacobi", "additive_schwarz"]


@pytest.mark.parametrize("method", METHODS)
def test_a_second_solve_replays_what_the_first_has_captured(method, on_gpu):
    def work():
        s = solver(method=method, max_iterations=200)
        return [told(*s.solve(rhs(seed))) for seed in (1, 2)]

    counts = both(on_gpu, work)
    assert counts["captured"] == 1 and counts["replayed"] > 10


@pytest.mark.parametrize("precond", PRECONDS)
def test_preconditioners_that_are_captured(precond, on_gpu):
    def work():
        s = solver(precond=precond)
        return [told(*s.solve(rhs(seed))) for seed in (1, 2, 3)]

    assert both(on_gpu, work)["captured"] == 1


@pytest.mark.parametrize("precond", ["amg", "additive_schwarz:type=basic"])
def test_bicgstab_with_a_preconditioner(precond, on_gpu):
    def work():
        s = solver(convection(9), "bicgstab", precond, rtol=1e-13)
        return [told(*s.solve(rhs(seed))) for seed in (1, 2, 3)]

    assert both(on_gpu, work)["captured"] == 1


def test_what_looks_at_numbers_is_not_captured(on_gpu):
    def work():
        inverse = lambda r: r / 4 if r.norm() > 0 else r  # noqa: E731
        return told(*solver(precond=inverse).solve(rhs(1)))

    assert both(on_gpu, work) == {}


class Halved(hs.Jacobi):
    """A user's, which may do anything."""

    def apply(self, r, out):
        return super().apply(r, out).mul_(0.5)


class SaysSo(Halved):
    capturable = True

    def apply(self, r, out):
        return super().apply(r, out)


@pytest.mark.parametrize(("kind", "captures"), [(Halved, 0), (SaysSo, 1)])
def test_of_a_users_class_only_what_says_so(kind, captures, on_gpu):
    counts = both(on_gpu, lambda: told(*solver(precond=kind(), method="cg").solve(rhs(1))))
    assert counts.get("captured", 0) == captures


class OwnCG(hs.CG):
    def step(self):
        super().step()


def test_a_users_method_is_not_captured(on_gpu):
    assert both(on_gpu, lambda: told(*solver(method=OwnCG()).solve(rhs(1)))) == {}


def test_another_shape_is_another_graph(on_gpu):
    def work():
        s = solver()
        return [told(*s.solve(b))[0] for b in (rhs(1), rhs(2, 3), rhs(3), rhs(4, 3))]

    assert both(on_gpu, work)["captured"] == 2


def test_another_tolerance_and_guess_are_not(on_gpu):
    def work():
        s = solver()
        found = [told(*s.solve(rhs(1)))]
        s._rtol = 1e-4
        return [*found, told(*s.solve(rhs(2))), told(*s.solve(rhs(3), x0=rhs(4)))]

    assert both(on_gpu, work)["captured"] == 1


def test_limits_that_are_odd(on_gpu):
    def work():
        found = []
        s = solver(method="minres", max_iterations=200)
        for most in (200, 7, 200, 11, 23):
            s.max_iterations = most
            found.append(told(*s.solve(rhs(most))))
        return found

    assert both(on_gpu, work)["captured"] == 1


def test_the_solution_is_the_callers_own(on_gpu):
    on_gpu(True)
    s = solver()
    x, _ = s.solve(rhs(1))
    kept = x.clone()
    s.solve(rhs(2))
    assert torch.equal(x, kept)


@pytest.mark.parametrize(("method", "captures"), [("cg", 1), ("minres", 1), ("bicgstab", 2)])
def test_gradients_share_it_where_they_read_the_same(method, captures, on_gpu):
    def work():
        s = solver(poisson(9) if captures == 1 else convection(9), method, "jacobi")
        found = []
        for seed in (1, 2):
            b = rhs(seed).requires_grad_()
            x, _ = s.solve(b)
            x.square().sum().backward()
            found.append(b.grad.tolist())
        return found

    assert both(on_gpu, work)["captured"] == captures


def test_transposed_solves_have_their_own(on_gpu):
    def work():
        s = solver(convection(9), "bicgstab", "chebyshev")
        return [told(*f(rhs(i))) for i in (1, 2) for f in (s.solve, s.solve_transpose)]

    assert both(on_gpu, work)["captured"] == 2


def test_a_graph_of_the_transpose_follows_what_nobody_counts(on_gpu):
    """The next solve writes the transpose's values where the graph reads them."""

    def work():
        s = solver(convection(9), "bicgstab", "none")
        found = [told(*s.solve_transpose(rhs(seed))) for seed in (1, 2)]
        s.A.values.data.mul_(torch.linspace(1, 1.01, len(s.A.values)))
        x, info = s.solve_transpose(rhs(3))
        torch.testing.assert_close(s.A.T @ x, rhs(3), rtol=1e-7, atol=1e-7)
        return [*found, told(x, info)]

    assert both(on_gpu, work)["captured"] == 1


@pytest.mark.parametrize("keep", [None, "prolongators"])
def test_another_matrix_is_another_graph(keep, on_gpu):
    def work():
        s = solver(precond="amg")
        found = [told(*s.solve(rhs(seed))) for seed in FEW]
        s.update(s.A.with_values(2.0 * s.A.values), keep=keep)
        return found + [told(*s.solve(rhs(seed))) for seed in FEW]

    assert both(on_gpu, work)["captured"] == 2


def test_values_changed_in_place_are_another_graph(on_gpu):
    def work():
        s = solver()
        found = [told(*s.solve(rhs(1)))]
        with torch.no_grad():
            s.A.values.mul_(3.0)
        return [*found, told(*s.solve(rhs(1)))]

    assert both(on_gpu, work)["captured"] == 2


def test_a_preconditioner_that_is_updated_is_another_graph(on_gpu):
    def work():
        A = hs.DSparseMatrix.from_scipy(poisson(9), WORLD)
        M = hs.AMG().on(A)
        s = hs.LinearSolver(A, "cg", M, rtol=1e-10)
        found = [told(*s.solve(rhs(seed))) for seed in FEW]
        M.update(A.with_values(A.values * 1.5))
        return found + [told(*s.solve(rhs(seed))) for seed in FEW]

    assert both(on_gpu, work)["captured"] == 2


class Stop(Exception):
    pass


def test_an_exception_in_a_callback_leaves_it_usable(on_gpu):
    def work():
        s, found = solver(), []

        def callback(iteration, norm):
            if iteration == 12:
                raise Stop

        for _ in range(2):
            with pytest.raises(Stop):
                s.solve(rhs(1), callback=callback)
            found.append(told(*s.solve(rhs(2))))
        return found

    assert both(on_gpu, work)["captured"] == 1


def test_a_solve_within_a_solve(on_gpu):
    def work():
        s, found = solver(), []

        def callback(iteration, norm):
            if iteration == 12:
                found.append(told(*s.solve(rhs(2))))

        s.solve(rhs(3))
        return [told(*s.solve(rhs(1), callback=callback)), found, told(*s.solve(rhs(2)))]

    # The inner one has none that it may use, and makes one of its own.
    assert both(on_gpu, work)["captured"] == 2


def test_two_solvers_in_turn(on_gpu):
    def work():
        one, two = solver(), solver(3.0 * poisson(9), "minres")
        found = []

        def callback(iteration, norm):
            if iteration == 14:
                found.append(told(*two.solve(rhs(7))))

        for seed in range(3):
            found += [told(*s.solve(rhs(seed))) for s in (one, two)]
        return [*found, told(*one.solve(rhs(5), callback=callback)), found[-1]]

    assert both(on_gpu, work)["captured"] == 2


def test_a_single_solve_keeps_nothing(on_gpu):
    def work():
        A = hs.DSparseMatrix.from_scipy(poisson(9), WORLD)
        b = rhs(1).requires_grad_()
        x, info = hs.solve(A, b, "cg", "jacobi", rtol=1e-10)
        x.sum().backward()
        return told(x.detach(), info), b.grad.tolist()

    assert both(on_gpu, work)["captured"] == 2


def test_no_more_are_kept_than_that(on_gpu):
    on_gpu(True)
    s = solver()
    for columns in range(1, prepared.MOST + 3):
        s.solve(rhs(columns, columns))
    assert len(s._own_graphs._kept) == prepared.MOST


def test_it_goes_when_the_matrix_is_another(on_gpu):
    on_gpu(True)
    s = solver()
    s.solve(rhs(1))
    (kept,) = s._own_graphs._kept.values()
    vector = weakref.ref(kept.method.p)
    s.update(s.A.with_values(2.0 * s.A.values))
    s.solve(rhs(1))
    del kept
    gc.collect()
    assert vector() is None and len(s._own_graphs._kept) == 1


def test_it_goes_with_the_solver(on_gpu):
    on_gpu(True)
    s = solver()
    b = rhs(1).requires_grad_()
    x, _ = s.solve(b)
    (kept,) = s._own_graphs._kept.values()
    vectors = [weakref.ref(kept.method.p), weakref.ref(kept.bursts)]
    del kept, s
    gc.collect()
    assert all(ref() is None for ref in vectors)
    x.sum().backward()  # which captures its own
    assert b.grad is not None and COUNTS["captured"] == 2

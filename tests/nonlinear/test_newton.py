"""Newton's method: roots beside a dense computation, its rate, and how it ends."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch

import hpc_sla as hs
from hpc_sla import problems
from hpc_sla.nonlinear import MEANINGS
from hpc_sla.nonlinear.linearise import Linearisation
from hpc_sla.precond import AMG
from tests.collective import distribute, everywhere, full, on, spread
from tests.nonlinear.systems import known, on_ranks, on_world, parameters, vector

pytestmark = pytest.mark.mpi

WAYS = [
    {},
    {"jvp": "fd"},
    {"jvp": "forward"},
    {"jacobian": "coloured", "precond": "block_jacobi:factor=lu"},
    {"precond": "jacobi", "precond_lag": 3},
    {"precond": "block_jacobi", "precond_lag": 0, "linear_method": "bicgstab"},
    {"forcing": 1e-4, "line_search": False},
    {"linear_method": "auto"},
]


@pytest.mark.parametrize("way", range(len(WAYS)))
def test_the_root_of_a_dense_computation(world, way):
    dense = known()
    A = on_world(world)
    _, d, s, f = (t.detach() for t in parameters(A, vector(201), 0.7, 3 * vector(202)))
    seen = []
    u, info = hs.nonlinear_solve(
        on_ranks(world, A),
        torch.zeros_like(f),
        A,
        d,
        s,
        f,
        pattern=A,
        rtol=1e-10,
        callback=lambda k, norm: seen.append((k, norm)),
        **WAYS[way],
    )
    assert info.converged and np.allclose(full(A.layout, u), dense.u, atol=1e-9)
    true = dense.residual(torch.from_numpy(full(A.layout, u))).norm()
    assert abs(info.residual_norm - float(true)) < 1e-13 and info.relative_residual <= 1e-10
    assert [k for k, _ in seen] == list(range(info.iterations + 1))
    assert [norm for _, norm in seen] == info.residual_history
    assert len(info.inner_iterations) == len(info.inner_history) == info.iterations
    assert len(info.forcing) == len(info.step_lengths) == info.iterations
    lag = WAYS[way].get("precond_lag")
    if lag is None:
        assert 1 <= info.preconditioners <= info.iterations
    else:
        assert info.preconditioners == (1 if lag == 0 else -(-info.iterations // lag))


@pytest.mark.parametrize("useless", [False, True])
def test_multigrid_is_updated_and_set_up_anew_where_that_does_not_do(world, monkeypatch, useless):
    system = problems.make_nonlinear("bratu2d:n=15,lambda=6").on(world)
    set_up, update, counts = AMG.set_up, AMG.update, {"set up": 0, "updated": 0}

    def counted(self, *arguments):
        counts["set up"] += 1
        set_up(self, *arguments)

    def updated(self, A, keep):
        counts["updated"] += 1
        update(self, A, keep)
        if useless:
            self.apply = lambda r, out: out.zero_()
            self.compiles = lambda r: False  # compiled steps would not ask it
        return self

    monkeypatch.setattr(AMG, "set_up", counted)
    monkeypatch.setattr(AMG, "update", updated)
    _, info = hs.nonlinear_solve(
        system.residual,
        system.u0,
        *system.theta,
        layout=system.layout,
        jacobian=system.jacobian,
        linear_method="cg",
        precond="amg",
        precond_lag=1,
        forcing=1e-3,
    )
    assert info.converged and counts["updated"] == info.iterations - 1 > 0
    assert counts["set up"] == (info.iterations if useless else 1)
    assert info.preconditioners == sum(counts.values())


def test_a_preconditioner_is_kept_as_long_as_it_pays(world, monkeypatch):
    system = problems.make_nonlinear("bratu2d:n=15,lambda=6").on(world)
    spent = []  # what judging hears of

    def solve(**options):
        _, info = hs.nonlinear_solve(
            system.residual,
            system.u0,
            *system.theta,
            layout=system.layout,
            jacobian=system.jacobian,
            linear_method="cg",
            **options,
        )
        assert info.converged
        return info.preconditioners, info.iterations

    kept, steps = solve(precond="block_jacobi")
    assert kept == 1 < steps
    jacobi, steps = solve(precond="jacobi")
    assert jacobi == steps  # making it costs nothing

    judge = Linearisation.judge

    def pretend(self, info):
        iterations, left = self.latest
        spent.append(iterations)
        self.latest = (1 + 10 * (self.age == 2)) * iterations, left
        judge(self, info)

    monkeypatch.setattr(Linearisation, "judge", pretend)
    kept, steps = solve(precond="block_jacobi")
    assert kept == -(-steps // 2) and len(spent) == steps


def test_quadratic_tail_and_inexact_solves(world):
    """With linear systems solved to the end the error squares; with forcing terms hardly less."""
    system = problems.make_nonlinear("bratu2d:n=15,lambda=6").on(world)
    options = {"jacobian": system.jacobian, "linear_method": "cg", "precond": "amg", "rtol": 1e-12}
    exact, tight = hs.nonlinear_solve(
        system.residual, system.u0, *system.theta, layout=system.layout, forcing=1e-11, **options
    )
    h = tight.residual_history
    assert tight.converged and tight.iterations <= 6
    rates = [np.log(h[k + 1] / h[k]) / np.log(h[k] / h[k - 1]) for k in range(2, 4)]
    assert min(rates) > 1.8
    _, loose = hs.nonlinear_solve(
        system.residual, system.u0, *system.theta, layout=system.layout, **options
    )
    assert loose.converged and loose.iterations <= tight.iterations + 2
    assert sum(loose.inner_iterations) < 0.8 * sum(tight.inner_iterations)
    assert loose.forcing[0] == 0.3 and max(loose.forcing) <= 0.9
    assert loose.inner_history[0][-1] <= 0.3 * loose.residual_history[0]
    # Continuation: from the root there is nothing to do, nor much for another lambda.
    _, none = hs.nonlinear_solve(
        system.residual, exact, *system.theta, layout=system.layout, atol=1e-9, **options
    )
    assert none.converged and none.iterations == 0
    near = system.theta[0] * 0.99
    _, few = hs.nonlinear_solve(
        system.residual, exact, near, layout=system.layout, **{**options, "rtol": 1e-8}
    )
    assert few.converged and few.iterations < loose.iterations


ORDERS = {
    "bratu2d:lambda=5": (7, 15),
    "bratu3d:lambda=6": (5, 11),
    "diffusion2d:strength=1": (7, 15),
    "plaplacian2d:p=3": (7, 15),
    "reaction2d:rate=20": (7, 15),
}


@pytest.mark.parametrize("name", ORDERS)
def test_manufactured_solutions_of_second_order(world, name):
    errors = []
    for n in ORDERS[name]:
        system = problems.make_nonlinear(f"{name},n={n},manufactured=true").on(world)
        u, info = hs.nonlinear_solve(
            system.residual,
            system.u0,
            *system.theta,
            pattern=system.A,
            jacobian=system.jacobian or "coloured",
            precond="block_jacobi",
        )
        assert info.converged
        wrong = (u - system.exact).abs()
        errors.append(world.max(float(wrong.max()) if len(wrong) else 0.0))
        if system.jacobian is not None:
            y = torch.sin(on(world, system.layout.rows * 1.0))
            _, product = torch.autograd.functional.vjp(
                lambda u, s=system: s.residual(u, *s.theta), u, y
            )
            made = system.jacobian(u, *system.theta).T @ y
            assert everywhere(world, torch.allclose(made, product, atol=1e-12))
    assert 1.8 < np.log2(errors[0] / errors[1]) < 2.3


def test_several_unknowns_a_point(world):
    """u [n, 2]: one system of two unknowns a point, as two species share a diffusion matrix."""
    A = distribute(problems.make("poisson2d:n=6").matrix(), world)
    weights = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)

    def residual(u, weights):
        swap = u.flip(1)
        return A @ u + world.replicate(weights) * u**3 + 0.3 * swap - 1.0

    start = torch.zeros(A.layout.n_owned, 2, dtype=torch.float64)
    u, info = hs.nonlinear_solve(residual, start, weights, layout=A.layout, rtol=1e-12)
    assert info.converged and u.shape == start.shape
    a = torch.from_numpy(problems.make("poisson2d:n=6").matrix().toarray())
    w = torch.tensor([1.0, 2.0], dtype=torch.float64)
    at = torch.from_numpy(full(A.layout, u))
    assert float((a @ at + w * at**3 + 0.3 * at.flip(1) - 1.0).norm()) < 1e-10
    A.layout.dot(u, u).sum().backward()

    def flat(v):
        v = v.view(-1, 2)
        return (a @ v + w * v**3 + 0.3 * v.flip(1) - 1.0).reshape(-1)

    J = torch.func.jacrev(flat)(at.reshape(-1))
    y = torch.linalg.solve(J.T, 2 * at.reshape(-1)).view(-1, 2)
    assert torch.allclose(weights.grad, -(y * at**3).sum(0), atol=1e-9)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_fewer_rows_than_ranks_and_diagonal_systems(world, n):
    layout = hs.RowLayout.even(n, world)
    a = on(world, layout.rows + 2.0).requires_grad_()
    u, info = hs.nonlinear_solve(
        lambda u, a: u**2 - a, torch.ones_like(a).detach(), a, layout=layout, rtol=1e-12
    )
    assert info.converged and np.allclose(full(layout, u.detach()), np.sqrt(np.arange(n) + 2.0))
    layout.dot(u, torch.ones_like(u)).backward()
    assert everywhere(world, torch.allclose(a.grad, 0.5 / a.detach().sqrt()))
    eye = distribute(sp.csr_matrix(sp.eye_array(n)), world, "contiguous")
    u, info = hs.nonlinear_solve(
        lambda u: eye @ u.exp() - 2.0,
        torch.zeros(eye.layout.n_owned, dtype=torch.float64),
        pattern=eye,
        jacobian="coloured",
    )
    assert info.converged and np.allclose(full(eye.layout, u), np.log(2.0))


def test_single_precision(world):
    system = problems.make_nonlinear("bratu2d:n=10").on(world, torch.float32)
    u, info = hs.nonlinear_solve(
        system.residual,
        system.u0,
        *system.theta,
        pattern=system.A,
        jacobian="coloured",
        linear_method="cg",
        rtol=1e-5,
    )
    wide = problems.make_nonlinear("bratu2d:n=10").on(world)
    v, _ = hs.nonlinear_solve(wide.residual, wide.u0, *wide.theta, layout=wide.layout)
    assert info.converged and u.dtype == torch.float32
    assert everywhere(world, torch.allclose(u.double(), v, atol=1e-4))


def _scalar(world, function, start, **options):
    layout = hs.RowLayout.even(5, world)
    u0 = torch.full((layout.n_owned,), start, dtype=torch.float64)
    _, info = hs.nonlinear_solve(function, u0, layout=layout, **options)
    return info


def test_the_line_search_brings_far_starts_home(world):
    """arctan from 3: whole steps diverge."""
    whole = _scalar(world, torch.atan, 3.0, line_search=False, max_iterations=40)
    assert whole.status in ("diverged", "not_finite", "breakdown", "max_iterations")
    damped = _scalar(world, torch.atan, 3.0)
    assert damped.converged and min(damped.step_lengths) < 1.0
    # Kelley's parabola and not halving alone: a tenth at a time where that is what it says.
    assert damped.residual_history == sorted(damped.residual_history, reverse=True)


ENDS = {
    "no root": (lambda u: u**2 + 1.0, 1.0, {}, ("line_search_failed", "breakdown")),
    "singular": (lambda u: u * 0.0 + 1.0, 1.0, {}, ("breakdown",)),
    "indefinite": (lambda u: -u - 1.0, 1.0, {"linear_method": "cg"}, ("indefinite",)),
    "not finite": (lambda u: torch.log(u), -1.0, {}, ("not_finite",)),
    "too few": (lambda u: u**3 - 8.0, 50.0, {"max_iterations": 3}, ("max_iterations",)),
    "below rounding": (lambda u: u**2 - 2.0, 1.0, {"rtol": 1e-20}, ("stagnated",)),
    "a kink": (lambda u: u.abs() + 1.0, 1.0, {}, ("line_search_failed", "breakdown")),
    "away": (
        lambda u: u.abs().sqrt() * u.sign(),
        1.0,
        {"line_search": False, "forcing": 1e-3, "max_iterations": 30},
        ("max_iterations", "diverged"),
    ),
}


@pytest.mark.parametrize("name", ENDS)
def test_it_ends_in_a_true_status(world, name):
    function, start, options, expected = ENDS[name]
    info = _scalar(world, function, start, **options)
    assert info.status in expected and not info.converged and info.status in MEANINGS
    assert len(set(world.comm.allgather((info.status, info.iterations)))) == 1


def test_bratu_beyond_its_fold(world):
    system = problems.make_nonlinear("bratu2d:n=9,lambda=8").on(world)
    _, info = hs.nonlinear_solve(
        system.residual, system.u0, *system.theta, layout=system.layout, max_iterations=60
    )
    assert info.status in ("line_search_failed", "breakdown", "max_iterations")
    assert info.residual_norm < info.residual_history[0]


def test_diverged(world):
    info = _scalar(
        world,
        lambda u: torch.atan(u) * (1 + u.abs()),
        3.0,
        line_search=False,
        forcing=1e-6,
        max_iterations=40,
    )
    assert info.status in ("diverged", "max_iterations", "converged")
    info = _scalar(world, lambda u: -u - u**3, 1.0, method="picard")
    assert info.status == "diverged" and info.residual_history[-1] > 1e4 * info.residual_history[0]
    assert info.residual_norm == min(info.residual_history)


BAD = {
    "method": {"method": "secant"},
    "option": {"method": "anderson:depth=3"},
    "relaxation": {"method": "picard:relaxation=-1"},
    "rtol": {"rtol": -1.0},
    "no tolerance": {"rtol": 0.0},
    "forcing": {"forcing": 1.5},
    "jacobian": {"jacobian": "dense"},
    "no pattern": {"jacobian": "coloured"},
    "no entries": {"precond": "amg", "jacobian": "matrix_free"},
    "jvp": {"jvp": "backward"},
    "linear method": {"linear_method": "jacobi"},
    "lag": {"precond_lag": -1},
    "limit": {"max_iterations": -1},
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_on_every_rank(world, name):
    layout = hs.RowLayout.even(6, world)
    u0 = torch.ones(layout.n_owned, dtype=torch.float64)
    with pytest.raises(hs.InputError):
        hs.nonlinear_solve(lambda u: u - 1.0, u0, layout=layout, **BAD[name])


def test_bad_shapes(world):
    layout = hs.RowLayout.even(6, world)
    u0 = torch.ones(layout.n_owned, dtype=torch.float64)
    for wrong in (u0[None], u0.long(), torch.ones(layout.n_owned + 1, dtype=torch.float64)):
        with pytest.raises(hs.InputError, match="u0"):
            hs.nonlinear_solve(lambda u: u, wrong, layout=layout)
    with pytest.raises(hs.InputError, match="layout"):
        hs.nonlinear_solve(lambda u: u, u0)
    other = distribute(sp.csr_matrix(sp.eye_array(7)), world)
    with pytest.raises(hs.InputError, match="pattern"):
        hs.nonlinear_solve(lambda u: u, u0, layout=layout, pattern=other)
    with pytest.raises(hs.InputError, match="DSparseMatrix"):
        hs.nonlinear_solve(lambda u: u - 2, u0, layout=layout, jacobian=lambda u: u)
    with pytest.raises(ValueError, match="residual gave"):
        hs.nonlinear_solve(lambda u: torch.cat([u, u[:0], u.new_ones(1)]), u0, layout=layout)
    assert spread(layout, np.ones(6)).shape == u0.shape

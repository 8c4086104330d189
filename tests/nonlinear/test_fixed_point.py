"""Picard and Anderson: the same root as Newton's, and Anderson's least squares beside numpy's."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import hpc_sla as hs
from hpc_sla import problems
from hpc_sla.nonlinear.anderson import Differences
from hpc_sla.nonlinear.equations import Equations
from hpc_sla.nonlinear.info import NonlinearInfo
from tests.collective import everywhere, full, on, spread
from tests.nonlinear.systems import known, on_ranks, on_world, parameters, vector

pytestmark = pytest.mark.mpi

WAYS = {
    "picard": {"method": "picard:relaxation=0.6", "precond": "jacobi"},
    "anderson": {"method": "anderson:memory=4", "precond": "jacobi"},
    "mixed": {"method": "anderson:memory=6,relaxation=0.5", "precond": "block_jacobi"},
    "without M": {"method": "anderson:memory=8,relaxation=0.1"},
}


@pytest.mark.parametrize("way", WAYS)
def test_the_same_root(world, way):
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
        callback=lambda k, norm: seen.append(k),
        **WAYS[way],
    )
    assert info.converged and np.allclose(full(A.layout, u), dense.u, atol=1e-8)
    assert seen == list(range(info.iterations + 1)) and len(info.residual_history) == len(seen)
    # Two more tell whether torch's products are the residual's, where a preconditioner needs them.
    assert info.residual_evaluations <= info.iterations + 3


def test_anderson_needs_fewer_and_takes_a_given_map(world):
    """Of diffusion with k(u): each step solves with the last k."""
    system = problems.make_nonlinear("diffusion2d:n=9,source=8").on(world)
    newton, _ = hs.nonlinear_solve(system.residual, system.u0, *system.theta, layout=system.layout)
    laplacian = problems.distribute(problems.make("poisson2d:n=9"), world)

    def g(u, strength):
        s, info = hs.solve(laplacian, system.residual(u, strength), rtol=1e-12)
        assert info.converged
        return u - 0.6 * s

    counts = {}
    for method in ("picard", "anderson:memory=4"):
        u, info = hs.nonlinear_solve(
            system.residual,
            system.u0,
            *system.theta,
            layout=system.layout,
            method=method,
            fixed_point=g,
            rtol=1e-10,
        )
        assert info.converged and everywhere(world, torch.allclose(u, newton, atol=1e-7))
        counts[method] = info.iterations
    assert counts["anderson:memory=4"] <= 0.6 * counts["picard"]


def test_anderson_of_a_linear_system_is_gmres(world):
    """With all its memory (H. F. Walker and P. Ni, theorem 2.2): step k + 1 after gmres's k."""
    rng = np.random.default_rng(230)
    a = np.eye(8) + 0.4 * rng.standard_normal((8, 8)) / np.sqrt(8)
    layout = hs.RowLayout.even(8, world)
    A = torch.from_numpy(a)
    b = spread(layout, rng.standard_normal(8))
    mine = torch.from_numpy(layout.rows)

    def residual(u):
        whole = world.all_sum(torch.zeros(8, dtype=u.dtype).index_add(0, mine, u))
        return (A @ whole)[mine] - b

    u0 = torch.zeros(layout.n_owned, dtype=torch.float64)
    _, info = hs.nonlinear_solve(
        residual, u0, layout=layout, method="anderson:memory=10", rtol=1e-10, max_iterations=12
    )
    assert info.converged and info.iterations <= 10
    whole = full(layout, b)
    krylov = np.stack([np.linalg.matrix_power(a, k) @ whole for k in range(1, 4)], axis=1)
    best = np.linalg.norm(whole - krylov @ np.linalg.lstsq(krylov, whole)[0])
    # f at the mixed iterate: (I - A) applied once to gmres's residual of step 3.
    left = whole - krylov @ np.linalg.lstsq(krylov, whole)[0]
    expected = np.linalg.norm((np.eye(8) - a) @ left)
    assert best > 1e-6 and abs(info.residual_history[4] - expected) < 1e-8 * expected


@pytest.mark.parametrize("memory", [1, 3, 6])
def test_updated_factors_solve_the_least_squares(world, memory):
    """Nearly dependent columns, more than the memory holds, and one that depends on others."""
    n = 17
    layout = hs.RowLayout.even(n, world)
    rng = np.random.default_rng(231)
    columns = rng.standard_normal((n, 9))
    columns[:, 4] = columns[:, 3] + 1e-6 * columns[:, 4]
    columns[:, 6] = columns[:, 5] * 2.0
    f, r = rng.standard_normal(n), rng.standard_normal(n)
    mine = torch.from_numpy(columns[layout.rows])
    kept = Differences(
        Equations(lambda u: u, layout, NonlinearInfo("converged")), mine[:, 0], memory
    )
    taken: list[int] = []
    for k in range(9):
        before = kept.count
        square, y = kept.append(mine[:, k], mine[:, k], spread(layout, f), spread(layout, r))
        assert abs(square - r @ r) < 1e-12
        if kept.count > before or (before == memory and kept.count == memory):
            taken = [*taken, k][-memory:]
        elif before == memory:
            taken = taken[1:]
        assert len(taken) == kept.count
        Q = np.stack([full(layout, kept.Q[:, j].contiguous()) for j in range(kept.count)], axis=1)
        D = columns[:, taken]
        assert np.allclose(Q.T @ Q, np.eye(kept.count), atol=1e-12)
        assert np.allclose(Q @ kept.R[: kept.count, : kept.count], D, atol=1e-12)
        step = full(layout, kept.step(spread(layout, f), y, 1.0))
        gamma = np.linalg.lstsq(D, f)[0]
        assert np.allclose(step, f - 2 * D @ gamma, atol=1e-8)
    assert kept.worst_condition > 1e5


def test_a_badly_conditioned_memory_is_shortened(world):
    layout = hs.RowLayout.even(12, world)
    rng = np.random.default_rng(232)
    first, noise = rng.standard_normal(12), rng.standard_normal(12)
    kept = Differences(
        Equations(lambda u: u, layout, NonlinearInfo("converged")),
        torch.zeros(layout.n_owned, dtype=torch.float64),
        4,
    )
    f = spread(layout, rng.standard_normal(12))
    for k in range(2):
        column = spread(layout, first + 1e-10 * k * noise)
        _, y = kept.append(column, column, f, f)
    assert kept.count == 2
    y = kept.condition(y)
    assert kept.count == 1 and len(y) == 1
    assert abs(abs(kept.R[0, 0]) - np.linalg.norm(first)) < 1e-8


def test_how_they_end(world):
    layout = hs.RowLayout.even(5, world)
    ones = torch.ones(layout.n_owned, dtype=torch.float64)

    def run(function, **options):
        return hs.nonlinear_solve(function, ones, layout=layout, **options)[1]

    for method in ("picard", "anderson"):
        assert run(lambda u: u - 3.0, method=method).converged
        few = run(lambda u: 1e-3 * (u - 3.0), method=f"{method}:relaxation=1e-3", max_iterations=4)
        assert few.status in ("max_iterations", "converged")
        assert run(lambda u: torch.log(u - 2.0), method=method).status == "not_finite"
    assert run(lambda u: -10 * u, method="picard").status == "diverged"
    assert run(lambda u: u * 0.0 + 1.0, method="picard").status == "stagnated"
    # A residual that grows on the way sends Anderson back to its best iterate.
    shift = on(world, np.array([3.0, -2.0, 1.0, 4.0, 0.5])[layout.rows])
    bent = run(lambda u: torch.sin(3 * u) * 4 + u - shift, method="anderson", max_iterations=60)
    assert bent.restarts > 0 or bent.converged

"""New values on the same pattern."""

from __future__ import annotations

import gc

import numpy as np
import pytest
import torch

import hpc_sla as hs
from hpc_sla import problems
from hpc_sla.kernels import native
from tests.collective import distribute_once, everywhere, full, on, spread
from tests.precond.amg.systems import (
    convection,
    dense_of,
    dense_prolongator,
    iterations,
    multigrid,
    poisson,
)
from tests.precond.oracles import stored

pytestmark = pytest.mark.mpi

KEEPS = ["prolongators", "aggregates"]


def _system(world, spec):
    problem = problems.make(spec)
    A = problems.distribute(problem, world)
    mine = A.layout.start, A.layout.start + A.layout.n_owned
    near = None if problem.block_size == 1 else problem.near_nullspace(*mine)
    return problem, A, near


def _changed(A, by):
    """D A D with D within `by` of the identity: symmetric still, and definite."""
    d = 1 + by * np.random.default_rng(2).uniform(-1, 1, A.layout.n_global)
    rows, columns = A.entries()
    return A.with_values(A.values * on(A.world, d[rows] * d[columns]))


def _applied(M, r, how="apply"):
    return getattr(M, how)(r, torch.empty_like(r)).clone()


@pytest.mark.parametrize("keep", KEEPS)
@pytest.mark.parametrize("spec", ["poisson2d:n=30", "elasticity3d:n=4", "graph_laplacian:n=500"])
def test_the_same_values_give_the_same_cycle(world, spec, keep):
    problem, A, near = _system(world, spec)
    again = A.with_values(A.values.clone())  # both plain from now on: packed ones add otherwise
    M = multigrid(block_size=problem.block_size, near_nullspace=near).on(A)
    r = spread(A.layout, np.random.default_rng(3).standard_normal(problem.n_rows))
    before, levels = _applied(M, r), M.levels
    assert M.update(again, keep) is M
    assert everywhere(world, torch.equal(_applied(M, r), before))
    assert M.levels == levels
    # Forth and back again: nothing of the values between is left.
    M.update(_changed(A, 0.3), "aggregates").update(A, "aggregates")
    assert everywhere(world, torch.equal(_applied(M, r), before))


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("keep", KEEPS)
@pytest.mark.parametrize(
    "spec", ["poisson2d:n=40", "jumps2d:n=30", "unstructured3d:n=7", "elasticity3d:n=4"]
)
def test_values_changed_by_a_tenth_cost_few_iterations(world, spec, keep, dtype):
    problem, A, near = _system(world, spec)
    recipe = multigrid(block_size=problem.block_size, dtype=dtype, near_nullspace=near)
    b = spread(A.layout, np.random.default_rng(4).standard_normal(problem.n_rows))
    changed = _changed(A, 0.05)
    fresh = iterations(changed, b, recipe.on(changed))
    M = recipe.on(A)
    assert iterations(changed, b, M.update(changed, keep)) <= 1.3 * fresh + 2


@pytest.mark.parametrize("keep", KEEPS)
def test_other_values_than_before_are_really_used(world, keep):
    """From another operator: stale level matrices would not do."""
    A = distribute_once(poisson(30), world)
    b = spread(A.layout, np.ones(900))
    for factor in (4.0**5, 4.0**-330, -4.0):  # roots are exact: ties stay ties
        other = A.with_values(A.values * factor)
        M = multigrid().on(A).update(other, keep)
        fresh = multigrid().on(other)
        ours, theirs = (full(A.layout, _applied(m, b)) for m in (M, fresh))
        np.testing.assert_allclose(ours, theirs, rtol=1e-9)
    rows, columns = A.entries()
    shifted = A.with_values(A.values + on(world, np.where(rows == columns, 4.0, 0.0)))
    count = iterations(shifted, b, multigrid().on(A).update(shifted, keep))
    assert count <= iterations(shifted, b, multigrid().on(shifted)) + 4


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("keep", KEEPS)
def test_entries_that_were_zero_at_first(world, monkeypatch, keep, compiled):
    """Set up on lines that are not coupled; SciPy's products, but for the loops, drop zeros."""
    if not compiled:
        pytest.importorskip("pyamg")
        monkeypatch.setattr(native, "LIBRARY", None)
    A = distribute_once(poisson(20), world)
    rows, columns = A.entries()
    lines = A.with_values(torch.where(on(world, abs(rows - columns) > 1), 0.0, A.values))
    M = multigrid(rows_per_rank=1).on(lines).update(A, keep)
    P = M._hierarchy._kept[0].transfer.prolongator()
    p, coarse = dense_prolongator(A, P), M._hierarchy.levels[1].operator
    ours = dense_of(coarse.pattern, coarse.values.numpy())
    np.testing.assert_allclose(ours, p.T @ stored(A) @ p, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("keep", KEEPS)
def test_the_transpose_and_symmetry_are_updated_too(world, keep):
    A = distribute_once(convection(15), world)
    rows, columns = A.entries()
    values = torch.where(on(world, rows == columns), A.values, -1.0)
    symmetric = A.with_values(values)
    M = multigrid().on(symmetric)
    x, y = (spread(A.layout, np.random.default_rng(i).standard_normal(225)) for i in (5, 6))
    _applied(M, x, "apply_transpose")
    M.update(A, keep)
    left = A.layout.dot(_applied(M, x), y)
    right = A.layout.dot(x, _applied(M, y, "apply_transpose"))
    torch.testing.assert_close(left, right, rtol=1e-11, atol=1e-11)
    wrong = A.layout.dot(x, _applied(M, y))
    assert abs(wrong - left) > 1e-6 * abs(left)


def test_another_pattern_or_part_is_refused_everywhere(world):
    A, other = (distribute_once(poisson(n), world) for n in (8, 9))
    M = multigrid().on(A)
    with pytest.raises(hs.InputError, match="pattern"):
        M.update(other)
    with pytest.raises(hs.InputError, match="prolongators, aggregates"):
        M.update(A, "smoothers")
    b = spread(A.layout, np.ones(64))
    assert iterations(A, b, M) < 12  # still of use


def test_many_updates_and_solves_leak_nothing(world):
    """Levels on fewer ranks go on with the communicators they have."""
    A = distribute_once(poisson(20), world)
    M = multigrid(rows_per_rank=60).on(A)
    ranks = [level.ranks for level in M.levels]
    assert world.size <= 2 or ranks[-1] < world.size
    worlds = {id(level.layout.world) for level in M._hierarchy.levels}
    kept = [level.layout.world for level in M._hierarchy.levels]
    b = spread(A.layout, np.ones(400))
    count = iterations(A, b, M)
    for i in range(50):
        M.update(A.with_values(A.values * (1 + 0.01 * i)), KEEPS[i % 2])
        assert {id(level.layout.world) for level in M._hierarchy.levels} == worlds
        if i % 10 == 0:
            assert iterations(A, b, M) == count
    del kept
    gc.collect()
    assert [level.ranks for level in M.levels] == ranks

"""Levels on fewer ranks, or cut anew: the same solves, and each rank has its part of the work."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from hpc_sla import problems
from hpc_sla.precond.amg import hierarchy
from hpc_sla.precond.amg.amg import AMG
from tests.collective import distribute_once, everywhere, spread
from tests.launch import launch_python
from tests.precond.amg.systems import iterations, multigrid, poisson

SCRIPT = Path(__file__).parents[3] / "scripts" / "bench" / "agglomeration.py"

# What decides: nothing moves; all on one rank from the first coarse level on; the model, with
# messages that are dear, whatever the balance; the model as it is.
HOW = {
    "stays": {"rows_per_rank": 1},
    "one rank": {"rows_per_rank": 10**6},
    "modelled": {"rows_per_rank": 0, "costs": "1/1e-9/1e-12", "balance": 100.0},
    "typical": {"rows_per_rank": 0},
}


def _system(world, spec, partition="metis"):
    if spec == "poisson":
        return distribute_once(poisson(30), world, partition), None, 1
    problem = problems.make(spec)
    A = problems.distribute(problem, world)
    mine = A.layout.start, A.layout.start + A.layout.n_owned
    near = None if problem.block_size == 1 else problem.near_nullspace(*mine)
    return A, near, problem.block_size


def _applied(M, r):
    return M.apply(r, torch.empty_like(r)).clone()


def _moves(M):
    return [kept.move for kept in M.hierarchy._kept]


@pytest.mark.mpi
@pytest.mark.several
@pytest.mark.parametrize("partition", ["metis", "cyclic", "all on the last"])
def test_iterations_do_not_depend_on_who_goes_on(world, partition):
    A, _, _ = _system(world, "poisson", partition)
    b = spread(A.layout, np.ones(900))
    counts = {how: iterations(A, b, multigrid(**options).on(A)) for how, options in HOW.items()}
    assert max(counts.values()) <= min(counts.values()) + 2, counts


@pytest.mark.mpi
@pytest.mark.several
@pytest.mark.parametrize("spec", ["elasticity3d:n=4", "unstructured3d:n=7"])
def test_rigid_body_modes_go_along(world, spec):
    A, near, size = _system(world, spec)
    b = spread(A.layout, np.ones(A.shape[0]))
    counts = {}
    for how, options in HOW.items():
        M = multigrid(block_size=size, near_nullspace=near, **options).on(A)
        counts[how] = iterations(A, b, M)
        if how == "one rank":
            # Not a level that is solved at once.
            assert world.size == 1 or any(move is not None for move in _moves(M))
            assert len(M.levels) > 2 and M.levels[1].ranks == 1
    assert max(counts.values()) <= min(counts.values()) + 2, counts


@pytest.mark.mpi
@pytest.mark.several
@pytest.mark.parametrize("how", HOW)
def test_it_is_repeatable_bit_by_bit(world, how):
    A, _, _ = _system(world, "poisson")
    r = spread(A.layout, np.random.default_rng(1).standard_normal(900))
    first, again = (multigrid(**HOW[how]).on(A) for _ in range(2))
    assert first.levels == again.levels
    assert everywhere(world, torch.equal(_applied(first, r), _applied(again, r)))


@pytest.mark.mpi
@pytest.mark.several
@pytest.mark.parametrize("how", ["one rank", "modelled"])
@pytest.mark.parametrize("spec", ["poisson", "elasticity3d:n=4"])
def test_an_update_is_a_fresh_set_up_of_the_same_aggregates(world, monkeypatch, spec, how):
    A, near, size = _system(world, spec)
    M = multigrid(block_size=size, near_nullspace=near, **HOW[how]).on(A)
    assert world.size == 1 or any(move is not None for move in _moves(M))
    kept = [
        replace(each, transfer=None, move=None, plan=None, coarse=None, product=None)
        for each in M.hierarchy._kept
    ]
    other = A.with_values(A.values * 4.0)
    r = spread(A.layout, np.random.default_rng(1).standard_normal(A.shape[0]))
    ours = _applied(M.update(other, "aggregates"), r)
    remaining = iter(kept)
    make = hierarchy.Hierarchy
    monkeypatch.setattr(make, "_aggregate", lambda self, *_: next(remaining))
    fresh = multigrid(block_size=size, near_nullspace=near, **HOW[how]).on(other)
    assert [each.ranks for each in fresh.levels] == [each.ranks for each in M.levels]
    theirs = _applied(fresh, r)
    near_enough = torch.allclose(ours, theirs, rtol=1e-9, atol=1e-9 * float(theirs.abs().max()))
    assert everywhere(world, near_enough)


@pytest.mark.mpi
@pytest.mark.several
def test_an_uneven_level_is_cut_anew(world):
    """A third of the rows has ten times the entries: ranks of like rows are not of like work."""
    A, _, _ = _system(world, "poisson", "all on the last")
    M = multigrid(rows_per_rank=0, costs="1e-12/1e-13/1").on(A)
    level = M.hierarchy.levels[1]
    held = world.comm.allgather(level.operator.pattern.nnz_owned)
    assert M.levels[1].ranks == world.size and max(held) <= 1.5 * np.mean(held)
    assert iterations(A, spread(A.layout, np.ones(900)), M) < 15


@pytest.mark.mpi
def test_numbers_given_are_the_numbers_used(world, monkeypatch):
    """And nothing is measured where nobody asked: bits are not to depend on a clock."""
    from hpc_sla.precond.amg import costs

    def never(world):
        raise AssertionError("measured")

    monkeypatch.setattr(costs, "measured", never)
    A, _, _ = _system(world, "poisson")
    AMG(coarse_size=20).on(A)
    AMG(coarse_size=20, costs="1e-6/1e-10/1e-9").on(A)


@pytest.mark.mpi
def test_what_was_measured_is_told(world):
    A, _, _ = _system(world, "poisson")
    M = AMG(coarse_size=20, costs="measured").on(A)
    last = M.describe()[-1]
    assert "measured costs" in last
    again = AMG(coarse_size=20, costs=last.rpartition(" ")[2]).on(A)
    assert again.levels == M.levels
    assert "costs" not in " ".join(again.describe())


def _counted(ranks, *arguments, cwd):
    done = launch_python(ranks, str(SCRIPT), *arguments, "--json", cwd=cwd, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.slow
def test_sixteen_ranks_have_their_part(tmp_path):
    for found in _counted(16, "poisson2d:n=80", cwd=tmp_path):
        assert found["converged"] and found["iterations"] <= 15
        assert found["busiest"] <= 1.5
        assert found["messages"]["all"] <= found["apart"]["all"]
        assert sum(level[1] for level in found["levels"]) > found["levels"][0][1]


@pytest.mark.slow
def test_sixty_four_simulated_ranks_have_theirs(tmp_path):
    (found,) = _counted(0, "poisson2d:n=160", "--ranks", "64", cwd=tmp_path)
    assert found["levels"][0][2] == 64 and found["busiest"] <= 1.5
    (by_rows,) = _counted(
        0, "poisson2d:n=160", "--ranks", "64", "--amg", "rows_per_rank=1000", cwd=tmp_path
    )
    assert by_rows["busiest"] > 2 > found["busiest"]

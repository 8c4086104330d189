"""Iterations on hard problems, and on more ranks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hpc_sla import problems
from tests.collective import distribute_once, on, spread
from tests.launch import launch
from tests.precond.amg.systems import iterations, multigrid, poisson

HARD = {
    "poisson2d:n=100": 10,
    "poisson3d:n=14": 10,
    "anisotropic2d:n=60,angle=0": 11,
    "anisotropic2d:n=60,angle=30": 42,
    "jumps2d:n=60": 10,
    "neumann2d:n=40": 10,
    "unstructured3d:n=10": 14,
    "graph_laplacian:n=2000": 21,
    "convection2d:n=60,peclet=1": 15,
    "elasticity3d:n=6": 13,
}
"""At most; about 10 % over the most that was seen on 1 to 4 ranks."""


@pytest.mark.mpi
@pytest.mark.parametrize("spec", HARD)
def test_iterations_are_few(world, spec):
    problem = problems.make(spec)
    A = problems.distribute(problem, world)
    mine = A.layout.start, A.layout.start + A.layout.n_owned
    M = multigrid(
        dtype="float32",
        block_size=problem.block_size,
        near_nullspace=None if problem.block_size == 1 else problem.near_nullspace(*mine),
    ).on(A)
    assert len(M.levels) >= 3
    b = on(world, problem.rhs(problem.default_rhs, *mine))
    count = iterations(A, b, M, "cg" if problem.symmetric else "gmres")
    assert 3 <= count <= HARD[spec]


@pytest.mark.mpi
def test_rigid_body_modes_make_the_difference(world):
    problem = problems.make("elasticity3d:n=6")
    A = problems.distribute(problem, world)
    mine = A.layout.start, A.layout.start + A.layout.n_owned
    b = on(world, problem.rhs(problem.default_rhs, *mine))
    modes = problem.near_nullspace(*mine)
    counts = [
        iterations(A, b, multigrid(block_size=3, near_nullspace=near).on(A))
        for near in (modes, torch.from_numpy(modes), None)
    ]
    A.coordinates = None
    counts += [iterations(A, b, multigrid(block_size=size).on(A)) for size in (3, 1)]
    given, again, found, constants, scalar = counts
    assert given == again and abs(found - given) <= 1 and found < constants < scalar, counts


@pytest.mark.mpi
def test_more_ranks_hardly_cost_iterations(world):
    """Beside the same on one rank, without MPI."""
    import hpc_sla as hs

    matrix = poisson(100)
    b = np.random.default_rng(1).standard_normal(10000)
    A = distribute_once(matrix, world)
    many = iterations(A, spread(A.layout, b), multigrid(dtype="float32").on(A))
    alone = distribute_once(matrix, hs.World.serial("cpu"))
    one = iterations(alone, spread(alone.layout, b), multigrid(dtype="float32").on(alone))
    assert many <= 1.2 * one + 1


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [5, 8])
def test_other_rank_counts_from_the_command_line(ranks, tmp_path):
    made = launch(1, "partition", "poisson2d:n=40", "-o", "p.h5", "--parts", "2", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    done = launch(ranks, "solve", "p.h5", "--precond", "amg:rows_per_rank=100", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr

"""What cannot be: the same InputError on every rank."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

import hpc_sla as hs
from hpc_sla.kernels import galerkin
from hpc_sla.precond import make_preconditioner
from hpc_sla.precond.amg import AMG, hierarchy
from hpc_sla.precond.amg.hierarchy import Hierarchy
from tests.collective import distribute_once, spread
from tests.precond.amg.systems import iterations, multigrid, poisson

pytestmark = pytest.mark.mpi

WRONG = {
    "cycle=X": "V, W, K",
    "smoother=gauss": "chebyshev, jacobi",
    "dtype=float16": "float32, float64",
    "degree=0": "below 1",
    "degree=two": "whole number",
    "coarse_size=0": "below 1",
    "rows_per_rank=-3": "below 0",
    "costs=cheap": "typical, measured",
    "costs=1e-6/0/1e-9": "typical, measured",
    "balance=1": "above 1",
    "balance=nan": "above 1",
    "max_levels=0": "below 1",
    "block_size=-1": "below 0",
    "eigenvalue_ratio=1": "above 1",
    "eigenvalue_ratio=nan": "above 1",
    "strength=1": r"\[0, 1\)",
    "strength=-0.1": r"\[0, 1\)",
    "strength=nan": r"\[0, 1\)",
    "levels=3": "not an option",
}


@pytest.mark.parametrize("option", WRONG)
def test_an_option_out_of_range(world, option):
    A = distribute_once(poisson(4), world)
    with pytest.raises(hs.InputError, match=WRONG[option]):
        hs.solve(A, spread(A.layout, np.ones(16)), precond=f"amg:{option}")


def test_the_text_of_options_makes_the_same_again(world):
    A = distribute_once(poisson(12), world)
    text = "amg:cycle=W,degree=3,strength=0.1,coarse_size=20,dtype=float64"
    M = make_preconditioner(text, A)
    assert M.name == text
    same = AMG("W", degree=3, strength=0.1, coarse_size=20, dtype="float64")
    assert M.options == same.options and M.name == str(same) == text
    assert str(AMG()) == "amg"


def test_a_node_that_ranks_share_and_rows_that_are_no_nodes(world):
    A = distribute_once(poisson(5), world)
    with pytest.raises(hs.InputError, match="part of a node"):
        AMG(block_size=2).on(A)
    even = distribute_once(poisson(6), world, "cyclic")  # of 36 rows, 4 ranks own 9 each
    if (even.layout.offsets % 2).any():
        with pytest.raises(hs.InputError, match="part of a node"):
            AMG(block_size=2).on(even)


def test_a_coarse_matrix_that_one_rank_cannot_hold(world, monkeypatch):
    """More entries than 32 bits count, or, of a small one, a few."""
    A = distribute_once(poisson(30), world)
    if world.rank == 0:
        monkeypatch.setattr(galerkin, "_MOST_ENTRIES", 50)
    with pytest.raises(hs.InputError, match="32-bit"):
        AMG(coarse_size=20).on(A)


@pytest.mark.several
@pytest.mark.parametrize("rows_per_rank", [30, 10**6])
def test_a_fault_on_a_level_of_fewer_ranks_is_raised_on_all(world, monkeypatch, rows_per_rank):
    """Those that take no part in the level hear of it."""
    A = distribute_once(poisson(30), world)
    went_on = Hierarchy._aggregate

    def broken(self, level, *rest):
        if level.world.size < world.size:
            with level.world.agree():
                if level.world.rank == level.world.size - 1:
                    raise hs.InputError("broken on purpose", field="level")
        return went_on(self, level, *rest)

    monkeypatch.setattr(Hierarchy, "_aggregate", broken)
    if world.size == 1:
        multigrid(rows_per_rank=rows_per_rank).on(A)
        return
    with pytest.raises(hs.InputError, match="broken on purpose") as caught:
        multigrid(rows_per_rank=rows_per_rank).on(A)
    assert caught.value.field == "level"


@pytest.mark.several
def test_a_last_level_of_too_many_rows_on_fewer_ranks(world, monkeypatch):
    monkeypatch.setattr(hierarchy, "MOST_DENSE", 5)
    A = distribute_once(poisson(30), world)
    with pytest.raises(hs.InputError, match="dense inverse") as caught:
        multigrid(coarse_size=40, rows_per_rank=10**6).on(A)
    assert caught.value.field == "amg:coarse_size"


BAD = {
    "rows": lambda n, rank: np.ones((n + (rank == 0), 2)),
    "three axes": lambda n, rank: np.ones((n, 1, 1)),
    "no vectors": lambda n, rank: np.ones((n, 0)),
    "not finite": lambda n, rank: np.full((n, 1), np.nan if rank == 0 else 1.0),
    "other numbers of vectors": lambda n, rank: np.ones((n, 1 + (rank == 1))),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("partition", ["metis", "all on the last"])
def test_a_near_nullspace_that_does_not_fit(world, name, partition):
    A = distribute_once(poisson(5), world, partition)
    bad = BAD[name](A.layout.n_owned, world.rank)
    fine = name == "other numbers of vectors" and world.size == 1
    fine = fine or (name == "not finite" and len(bad) == 0)  # here; rank 0 has no rows
    if world.comm.allreduce(int(fine)) and (world.size == 1 or partition != "metis"):
        multigrid(near_nullspace=bad).on(A)
        return
    with pytest.raises(hs.InputError) as caught:
        multigrid(near_nullspace=bad).on(A)
    assert caught.value.field == "near_nullspace"


ALONE = {
    "block_size": lambda A: 3,
    "coordinates": lambda A: np.random.default_rng(0).random((A.layout.n_owned, 3)),
    "near_nullspace": lambda A: np.ones((A.layout.n_owned, 1)),
}


@pytest.mark.parametrize("name", ALONE)
@pytest.mark.parametrize("known", [False, True])
def test_what_a_rank_sets_of_its_own(world, name, known):
    """Those that have set nothing would wait in another collective call."""
    matrix = sp.csr_matrix(sp.kron(poisson(2), np.ones((3, 3))) + 2 * sp.eye_array(12))
    matrix = sp.block_diag([matrix] * world.size, "csr")
    A = hs.DSparseMatrix.from_scipy(
        matrix if world.rank == 0 else None, world, partition="contiguous"
    )
    A.block_size = 3 if known and name != "block_size" else 1
    A = A if known else hs.DSparseMatrix(A.pattern, A.values)  # of which nobody has said anything
    if world.rank == 0:
        setattr(A, name, ALONE[name](A))
    if world.size == 1:
        multigrid().on(A)
        return
    with pytest.raises(hs.InputError, match=name):
        multigrid().on(A)


@pytest.mark.parametrize("partition", ["metis", "all on the last"])
def test_one_vector_may_be_flat(world, partition):
    A = distribute_once(poisson(9), world, partition)
    flat = np.ones(A.layout.n_owned)
    b = spread(A.layout, np.arange(81.0))
    counts = [
        iterations(A, b, multigrid(near_nullspace=near).on(A))
        for near in (flat, flat[:, None], None)
    ]
    assert len(set(counts)) == 1


def test_a_matrix_that_is_not_square(world):
    matrix = poisson(4)[:, :9]
    A = distribute_once(matrix, world, "contiguous")
    with pytest.raises(hs.InputError):
        AMG().on(A)
    with pytest.raises(hs.InputError, match="square"):
        make_preconditioner("amg", A)


def test_a_preconditioner_of_another_matrix_and_a_k_cycle_transposed(world):
    A, other = (distribute_once(poisson(n), world) for n in (8, 9))
    b = spread(other.layout, np.ones(81))
    with pytest.raises(hs.InputError, match="does not go"):
        hs.solve(other, b, precond=multigrid().on(A))
    K = multigrid(cycle="K").on(A)
    assert not K.symmetric and not K.transposable

"""Options that ask for more than a matrix has: as much as there is, or one clear error."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

import hpc_sla as hs
from hpc_sla.precond import make_preconditioner
from hpc_sla.precond.amg import hierarchy
from tests.collective import distribute_once, everywhere, spread
from tests.precond.amg.systems import as_dense, iterations, poisson

pytestmark = pytest.mark.mpi

HUGE = 10**9


@pytest.fixture
def A(world):
    return distribute_once(poisson(8), world)


@pytest.mark.parametrize("type", ["restrict", "basic"])
def test_overlap_ends_where_nothing_is_left_to_add(world, A, type):
    """Then each rank has all of the matrix, or of its component."""
    ours = make_preconditioner(f"additive_schwarz:overlap={HUGE},type={type},factor=lu", A)
    all_of_it = make_preconditioner(f"additive_schwarz:overlap=64,type={type},factor=lu", A)
    np.testing.assert_array_equal(as_dense(A, ours.apply), as_dense(A, all_of_it.apply))
    if type == "restrict":
        b = spread(A.layout, np.arange(64.0))
        # Its estimate of the residual is the root of a difference of squares: 1e-8 ||b|| where one
        # ulp of it is left (4 ranks: 1.3e-8, above rtol, where 2e-15 is true), and 0 where none is.
        assert iterations(A, b, ours, "gmres") <= 2
    apart = distribute_once(sp.block_diag([poisson(4)] * 4, "csr"), world, "contiguous")
    make_preconditioner(f"additive_schwarz:overlap={HUGE}", apart)


@pytest.mark.parametrize(
    "spec", ["chebyshev:degree", "polynomial:degree", "amg:degree", "amg:block_size"]
)
def test_what_would_never_end_is_refused(A, spec):
    with pytest.raises(hs.InputError, match="more than") as caught:
        make_preconditioner(f"{spec}={HUGE}", A)
    assert caught.value.field == spec


@pytest.mark.parametrize("option", ["max_levels", "coarse_size", "rows_per_rank"])
def test_what_the_matrix_bounds_by_itself(A, option):
    b = spread(A.layout, np.arange(64.0))
    wanted = {"max_levels": "amg", "coarse_size": "amg", "rows_per_rank": "amg"}[option]
    assert iterations(A, b, f"amg:{option}={HUGE}") == iterations(A, b, wanted)


def test_a_dense_inverse_of_many_rows_is_refused_before_it_is_made(A, monkeypatch):
    monkeypatch.setattr(hierarchy, "MOST_DENSE", 50)
    with pytest.raises(hs.InputError, match="dense inverse of 64 rows") as caught:
        make_preconditioner(f"amg:coarse_size={HUGE}", A)
    assert caught.value.field == "amg:coarse_size"
    make_preconditioner("amg:coarse_size=40", A)


@pytest.mark.parametrize("method", ["gmres", "fgmres"])
def test_a_restart_beyond_the_rows_is_as_many_as_rows(A, method):
    b = spread(A.layout, np.arange(64.0))
    counts = [iterations(A, b, "none", f"{method}:restart={m}") for m in (64, HUGE)]
    assert counts[0] == counts[1] <= 64


@pytest.mark.parametrize("method", ["gmres", "fgmres"])
def test_a_restart_that_no_memory_holds_is_refused(world, method, monkeypatch):
    monkeypatch.setattr("hpc_sla.linear.methods.machine_memory", lambda: 10_000_000)
    A = distribute_once(poisson(40), world)
    b = spread(A.layout, np.ones(1600))
    with pytest.raises(hs.InputError, match="bytes") as caught:
        hs.solve(A, b, method=f"{method}:restart={HUGE}", precond="none")
    assert caught.value.field == "method"
    assert iterations(A, b, "jacobi", f"{method}:restart=200") < 200


def test_andersons_memory_is_no_longer_than_the_iteration(world, A):
    b = spread(A.layout, np.arange(64.0))
    found = [
        hs.nonlinear_solve(
            lambda u: (A @ u - b) / 8,
            b * 0,
            layout=A.layout,
            method=f"anderson:memory={memory}",
            max_iterations=20,
        )[0]
        for memory in (20, HUGE)
    ]
    assert everywhere(world, bool((found[0] == found[1]).all()))

"""One cycle as a linear map: symmetric, positive, and with a true transpose."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch

import hpc_sla as hs
from tests.collective import distribute_once, full, random_matrix, spread
from tests.precond.amg.systems import (
    PARTITIONS,
    SPD,
    as_dense,
    convection,
    iterations,
    multigrid,
    poisson,
    stacked,
)
from tests.precond.oracles import stored

pytestmark = pytest.mark.mpi

SMOOTHERS = ["chebyshev", "jacobi", "l1_jacobi"]
MATRICES = SPD | {"unsymmetric": lambda: convection(11)}
CASES = [(name, "V", smoother, "metis") for name in MATRICES for smoother in SMOOTHERS]
CASES += [(name, "W", "chebyshev", "metis") for name in MATRICES]
CASES += [("poisson", "W", smoother, "metis") for smoother in SMOOTHERS[1:]]
CASES += [(name, "V", "chebyshev", how) for name in MATRICES for how in PARTITIONS[1:]]


def _close(ours, theirs, rtol=1e-10):
    scale = abs(theirs).max(initial=0.0)
    np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=rtol * scale)


def _applied(M, r, how="apply"):
    return getattr(M, how)(r, torch.full_like(r, float("nan"))).clone()


@pytest.mark.parametrize(("name", "cycle", "smoother", "partition"), CASES)
def test_is_symmetric_and_positive_and_its_transpose_is_true(
    world, name, cycle, smoother, partition
):
    A = distribute_once(MATRICES[name](), world, partition)
    for degree in (1, 3):
        M = multigrid(cycle=cycle, smoother=smoother, degree=degree, rows_per_rank=60).on(A)
        ours = as_dense(A, M.apply)
        _close(as_dense(A, M.apply_transpose), ours.T)
        if name == "unsymmetric":
            assert abs(ours - ours.T).max() > 1e-3 * abs(ours).max()
            continue
        _close(ours, ours.T)
        assert np.linalg.eigvalsh(ours).min() > 0
        # A good one: the error a step leaves is small in the energy norm.
        a = stored(A)
        left = abs(np.linalg.eigvals(np.eye(len(a)) - ours @ a)).max()
        assert left < (1 if smoother == "l1_jacobi" else 0.9 if degree == 1 else 0.7)


def test_two_levels_are_the_dense_formula(world):
    """`I - M^-1 A = (I - S A)(I - P A_c^+ P^T A)(I - S A)`, with S of a one-level hierarchy."""
    A = distribute_once(poisson(9), world)
    M = multigrid(coarse_size=40).on(A)
    assert len(M.levels) == 2
    S = as_dense(A, multigrid(max_levels=1).on(A).apply)
    transfer = M._hierarchy.levels[0].transfer
    m = M.levels[1].rows
    unit = np.eye(m)[transfer.plan.layout.start :][: transfer.plan.layout.n_owned]
    columns = torch.zeros(A.layout.n_owned, m, dtype=torch.float64)
    transfer.prolong_add(torch.from_numpy(np.ascontiguousarray(unit)), columns)
    P, a = stacked(A, columns.numpy()), stored(A)
    step, identity = np.eye(81) - S @ a, np.eye(81)
    coarse = P @ np.linalg.inv(P.T @ a @ P) @ P.T
    expected = (identity - step @ (identity - coarse @ a) @ step) @ np.linalg.inv(a)
    _close(as_dense(A, M.apply), expected, 1e-9)


@pytest.mark.parametrize("cycle", ["V", "W", "K"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_columns_are_done_one_by_one_and_nothing_else_changes(world, cycle, dtype):
    A = distribute_once(poisson(15), world)
    M = multigrid(cycle=cycle, dtype=dtype, rows_per_rank=60).on(A)
    r = spread(A.layout, np.random.default_rng(8).standard_normal((225, 11)))
    before = r.clone()
    together = full(A.layout, _applied(M, r))
    assert torch.equal(r, before)
    for j in (0, 8, 10):
        alone = full(A.layout, _applied(M, r[:, j].contiguous()))
        _close(together[:, j], alone, 1e-10 if dtype == "float64" else 1e-4)
    again = full(A.layout, _applied(M, r))
    assert np.array_equal(together, again)
    if cycle != "K":
        x, y = r[:, :5].contiguous(), r[:, 5:10].contiguous()
        both = full(A.layout, _applied(M, 2 * x - 3 * y))
        apart = 2 * full(A.layout, _applied(M, x)) - 3 * full(A.layout, _applied(M, y))
        _close(both, apart, 1e-10 if dtype == "float64" else 1e-4)


@pytest.mark.parametrize("name", SPD)
@pytest.mark.parametrize("cycle", ["V", "W", "K"])
@pytest.mark.parametrize("partition", PARTITIONS)
def test_it_solves(any_world, name, cycle, partition):
    matrix = SPD[name]()
    A = distribute_once(matrix, any_world, partition)
    M = multigrid(cycle=cycle, dtype="float32", rows_per_rank=60).on(A)
    b = np.random.default_rng(9).standard_normal(matrix.shape[0])
    method = "fgmres" if cycle == "K" else "cg"
    x, info = hs.solve(A, spread(A.layout, b), method=method, precond=M, rtol=1e-10)
    assert info.converged and info.iterations <= 25
    exact = np.linalg.solve(matrix.toarray(), b)
    _close(full(A.layout, x), exact, 1e-7)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("method", ["cg", "gmres"])
def test_a_matrix_that_is_not_finite_is_found_out(world, method, value):
    A = distribute_once(poisson(15), world)
    values = A.values.clone()
    if world.rank == world.size - 1 and len(values):
        values[len(values) // 2] = value
    b = spread(A.layout, np.ones(225))
    for cycle in "VWK" if method == "gmres" else "VW":
        M = multigrid(cycle=cycle).on(A.with_values(values))
        _, info = hs.solve(
            A.with_values(values), b, method="fgmres" if cycle == "K" else method, precond=M
        )
        assert info.status == "not_finite"


@pytest.mark.parametrize("of_matrix", [1, 1e-200, 1e150, 1e-30, 1e12, -1, -1e-200])
@pytest.mark.parametrize("of_b", [1, 1e-60, 1e250])
def test_scaling_changes_nothing(world, of_matrix, of_b):
    if abs(np.log10(abs(of_matrix)) - np.log10(of_b)) > 300:
        return  # x is out of range
    A = distribute_once(poisson(15), world)
    b = np.random.default_rng(10).standard_normal(225)
    scaled = A.with_values(A.values * of_matrix)
    M = multigrid(dtype="float32").on(scaled)
    method = "cg" if of_matrix > 0 else "gmres"
    count = iterations(scaled, spread(A.layout, b * of_b), M, method)
    plain = iterations(A, spread(A.layout, b), multigrid(dtype="float32").on(A), method)
    assert abs(count - plain) <= 1


def test_rows_without_entries_and_an_empty_matrix_give_no_nan(world):
    for matrix in (sp.csr_matrix((60, 60)), sp.csr_matrix(random_matrix(60, 0.02, 4, True))):
        A = distribute_once(matrix, world)
        for M in (multigrid().on(A), multigrid(coarse_size=100).on(A)):
            assert np.isfinite(as_dense(A, M.apply)).all()
            assert np.isfinite(as_dense(A, M.apply_transpose)).all()


def test_two_set_ups_agree_to_the_last_bit(world):
    A = distribute_once(poisson(20), world)
    r = spread(A.layout, np.random.default_rng(11).standard_normal(400))
    results = [full(A.layout, _applied(multigrid().on(A), r)) for _ in range(2)]
    assert np.array_equal(*results)

"""The whole matrix factorised on rank 0: that it is the same for any ranks, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import scipy.sparse.linalg as spla
import torch

import hpc_sla as hs
from hpc_sla.direct.scipy import SuperLU
from hpc_sla.distributed.patience import wait_asleep
from hpc_sla.precond.gathered import expected, gather
from tests.collective import PARTITIONS, distribute, everywhere, full, on, random_matrix, spread
from tests.direct.test_fill import MATRICES, _saddle
from tests.kernels.test_ordering import _grid

pytestmark = pytest.mark.mpi

KINDS = {name: make for name, make in MATRICES.items() if name != "space"}


def _dirichlet():
    """Rows that are equations of their own, their columns not eliminated."""
    matrix = sp.lil_matrix(_grid(9, 9))
    for i in range(0, 81, 8):
        matrix[i] = 0
        matrix[i, i] = 1
    return sp.csr_matrix(matrix)


@pytest.mark.parametrize("partition", PARTITIONS)
@pytest.mark.parametrize("name", [*KINDS, "dirichlet"])
def test_it_solves_each_and_the_transpose(world, name, partition):
    matrix = sp.csr_matrix((KINDS | {"dirichlet": _dirichlet})[name]())
    n = matrix.shape[0]
    A = distribute(matrix, world, partition)
    x = np.random.default_rng(1).standard_normal((n, 3))
    for solve, a in ((hs.solve, matrix), (None, matrix.T)):
        b = a @ x
        if solve is None:
            solver = hs.LinearSolver(A, method="fgmres", precond="direct", rtol=1e-11)
            found, info = solver.solve_transpose(spread(A.layout, b))
        else:
            found, info = solve(
                A, spread(A.layout, b), method="fgmres", precond="direct", rtol=1e-11
            )
        assert info.converged and info.iterations <= 3
        got = full(A.layout, found)
        # Row by row: of unlike units the solution itself is uncertain.
        assert (abs(a @ got - b) <= 1e-9 * (abs(a) @ abs(got) + abs(b))).all()


@pytest.mark.parametrize("name", ["plane", "saddle", "unsymmetric"])
def test_neither_ranks_nor_the_partition_change_a_bit(world, name):
    """One rank alone, as each of these can be, is what the others are held to."""
    matrix = sp.csr_matrix(MATRICES[name]())
    r = np.random.default_rng(2).standard_normal((matrix.shape[0], 2))
    alone = hs.DSparseMatrix.from_scipy(matrix, hs.World.serial("cpu"))
    M = hs.Direct().on(alone)
    given = spread(alone.layout, r)
    wanted = [full(alone.layout, f(given, given.clone())) for f in (M.apply, M.apply_transpose)]
    for partition in PARTITIONS:
        A = distribute(matrix, world, partition)
        N = hs.Direct().on(A)
        assert N.describe() == M.describe() and N.entries == M.entries
        mine = spread(A.layout, r)
        before = mine.clone()
        for f, exact in zip((N.apply, N.apply_transpose), wanted, strict=True):
            assert np.array_equal(full(A.layout, f(mine, torch.empty_like(mine))), exact)
        assert everywhere(world, torch.equal(mine, before))
        assert expected(A) == expected(alone)


def test_what_is_expected_is_what_comes(world):
    A = distribute(_saddle(900, 300, 6), world)
    cost = expected(A)
    assert hs.Direct().on(A).entries <= 1.3 * cost.entries and cost.flops > cost.entries
    assert cost.bytes > 8 * cost.entries


def test_looking_is_not_paid_twice(world, monkeypatch):
    A = distribute(_grid(12, 12), world)
    expected(A)
    kept = gather(A)

    def again(*_):
        raise AssertionError("gathered or ordered once more")

    monkeypatch.setattr("hpc_sla.direct.fill._found", again)
    monkeypatch.setattr("hpc_sla.precond.gathered.Gathered.__init__", again)
    M = hs.Direct().on(A)
    assert gather(A.with_values(2 * A.values)) is kept
    r = spread(A.layout, np.ones(144))
    first = M.apply(r, torch.empty_like(r)).clone()
    M.update(A.with_values(2 * A.values))
    torch.testing.assert_close(M.apply(r, torch.empty_like(r)), first / 2)
    monkeypatch.undo()
    with pytest.raises(hs.InputError, match="another pattern"):
        M.update(distribute(_grid(12, 12), world))


def _laplacian(n, seed):
    """Of a random graph with weights over six orders, in several parts."""
    graph = abs(random_matrix(n, 1.5 / n, seed, symmetric=True))
    graph.setdiag(0)
    graph.data *= 10.0 ** np.random.default_rng(seed).uniform(-3, 3)
    return sp.csr_matrix(sp.diags_array(np.asarray(graph.sum(axis=1)).ravel()) - graph)


@pytest.mark.parametrize("make", [lambda: _laplacian(300, 1), lambda: _neumann(20)])
@pytest.mark.parametrize("method", ["cg", "minres", "fgmres"])
def test_a_little_shift_serves_singular_systems_with_a_solution(world, method, make):
    matrix = make()
    A = distribute(matrix, world)
    b = matrix @ np.random.default_rng(3).standard_normal(matrix.shape[0])
    x, info = hs.solve(A, spread(A.layout, b), method=method, precond="direct:shift=1e-9")
    assert info.converged and info.iterations <= 3
    assert np.linalg.norm(matrix @ full(A.layout, x) - b) <= 1.1e-8 * np.linalg.norm(b)


def _neumann(n):
    line = sp.lil_matrix(sp.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(n, n)))
    line[0, 0] = line[n - 1, n - 1] = 1
    return sp.csr_matrix(sp.kronsum(line, line))


@pytest.mark.parametrize(
    "make",
    [
        lambda: sp.csr_matrix(np.ones((4, 4))),
        lambda: sp.csr_matrix((5, 5)),
        lambda: sp.csr_matrix(np.diag([1.0, 0, 2, 3, 4])),
        lambda: _laplacian(40, 4),
    ],
)
def test_singular_ones_are_refused_by_all_with_the_remedy(world, make):
    A = distribute(make(), world)
    with pytest.raises(hs.InputError, match=r"cannot be factorised.*singular.*shift=1e-9"):
        hs.Direct().on(A)


def test_what_cannot_be_updated_serves_on_as_it_was(world):
    A = distribute(sp.csr_matrix(MATRICES["unsymmetric"]()), world)
    M = hs.Direct().on(A)
    r = spread(A.layout, np.ones(80))
    before = M.apply(r, torch.empty_like(r)).clone()
    with pytest.raises(hs.InputError, match="singular"):
        M.update(A.with_values(torch.zeros_like(A.values)))
    assert everywhere(world, torch.equal(M.apply(r, torch.empty_like(r)), before))


def test_what_is_too_large_is_not_looked_at(world, monkeypatch):
    A = distribute(_grid(12, 12), world)
    monkeypatch.setattr("hpc_sla.precond.gathered._MOST_ROWS", 143)
    assert expected(A) is None
    with pytest.raises(hs.InputError, match=r"direct:most|operations"):
        hs.Direct(most=1.0).on(A)
    assert hs.Direct().on(A).entries > 144


def test_where_memory_ends_all_ranks_hear_how_much_it_takes(world, monkeypatch):
    def full_up(*_, **options):
        raise MemoryError

    monkeypatch.setattr("hpc_sla.direct.scipy._splu", full_up)
    A = distribute(sp.csr_matrix(MATRICES["unsymmetric"]()), world)
    for free in (None, 100):  # found out on the way, or beforehand
        monkeypatch.setattr("hpc_sla.precond.direct.available_bytes", lambda free=free: free)
        with pytest.raises(hs.InputError, match=r"no memory for the factors of 80 rows.*GB"):
            hs.Direct().on(A)


def test_what_turns_out_singular_at_a_solve_hangs_nobody(world, monkeypatch):
    A = distribute(sp.csr_matrix(MATRICES["unsymmetric"]()), world)
    M = hs.Direct().on(A)

    def fails(*_):
        raise hs.SingularMatrixError("found only now")

    monkeypatch.setattr(SuperLU, "_solve", fails)
    _, info = hs.solve(A, spread(A.layout, np.ones(80)), method="bicgstab", precond=M)
    assert info.status == "not_finite"


@pytest.mark.parametrize("shift", [-1.0, float("nan"), float("inf")])
def test_shifts_that_are_none(shift):
    with pytest.raises(hs.InputError, match="direct:shift"):
        hs.Direct(shift=shift)


def test_single_precision_is_factorised_in_double(world):
    matrix = sp.csr_matrix(_grid(20, 20).astype(np.float32))
    A = distribute(matrix, world)
    x, info = hs.solve(A, on(world, np.ones(A.layout.n_owned, np.float32)), precond="direct")
    assert x.dtype == torch.float32 and info.iterations <= 2
    exact = spla.spsolve(matrix.astype(np.float64).tocsc(), np.ones(400))
    np.testing.assert_allclose(full(A.layout, x), exact, rtol=3e-6)


def test_symmetry_is_told(world):
    for name, symmetric in (("plane", True), ("saddle", True), ("unsymmetric", False)):
        M = hs.Direct().on(distribute(sp.csr_matrix(MATRICES[name]()), world))
        assert M.symmetric and M.transposable and M.of_nonsymmetric is not symmetric


@pytest.mark.parametrize("symmetric", [True, False])
def test_gradients(world, symmetric):
    matrix = sp.csr_matrix(_grid(5, 5) if symmetric else MATRICES["unsymmetric"]())
    n = matrix.shape[0]
    A = distribute(matrix, world)
    rng = np.random.default_rng(4)
    b, weights = rng.standard_normal((2, n))
    values = A.values.clone().requires_grad_()
    given = spread(A.layout, b).requires_grad_()
    method = "cg" if symmetric else "fgmres"
    x, _ = hs.solve(A.with_values(values), given, method=method, precond="direct", rtol=1e-12)
    A.layout.dot(spread(A.layout, weights), x).backward()
    y = spla.spsolve(sp.csc_matrix(matrix.T), weights)
    exact = spla.spsolve(matrix.tocsc(), b)
    np.testing.assert_allclose(full(A.layout, given.grad), y, rtol=1e-9, atol=1e-12)
    rows, columns = A.entries()
    assert everywhere(
        world, np.allclose(values.grad.cpu(), -y[rows] * exact[columns], rtol=1e-8, atol=1e-11)
    )


def test_those_who_wait_sleep():
    class Late:
        looks = 0

        def Test(self):
            self.looks += 1
            return self.looks > 25

    late = Late()
    wait_asleep(late)
    assert late.looks == 26

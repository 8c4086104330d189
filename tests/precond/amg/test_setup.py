"""Each step of the set-up beside dense algebra."""

from __future__ import annotations

import weakref

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from scipy.sparse.csgraph import connected_components

import hpc_sla as hs
from hpc_sla.distributed.layout import RowLayout
from hpc_sla.kernels import native
from hpc_sla.precond.amg import coarse
from hpc_sla.precond.amg.agglomeration import members
from hpc_sla.precond.amg.aggregation import aggregate
from hpc_sla.precond.amg.blocks import Blocks
from hpc_sla.precond.amg.coarse import DenseSolve
from hpc_sla.precond.amg.eigenvalue import _start, largest_eigenvalue
from hpc_sla.precond.amg.galerkin import galerkin
from hpc_sla.precond.amg.products import LevelOperator
from hpc_sla.precond.amg.prolongator import smoothed_prolongator
from hpc_sla.precond.amg.repartition import Repartition
from hpc_sla.precond.amg.strength import node_graph
from hpc_sla.precond.amg.tentative import tentative
from hpc_sla.precond.jacobi import Jacobi
from tests.collective import distribute_once, everywhere, on, spd_matrix, spread
from tests.precond.amg.systems import (
    PARTITIONS,
    SPD,
    convection,
    dense_of,
    dense_prolongator,
    multigrid,
    poisson,
    stacked,
)
from tests.precond.oracles import stored

pytestmark = pytest.mark.mpi

MATRICES = SPD | {"unsymmetric": lambda: convection(9)}
EVERY = [(name, how) for name in MATRICES for how in PARTITIONS]


def _strong(a, threshold=0.04):
    root = np.sqrt(abs(a.diagonal()))
    strong = (abs(a) > threshold * np.outer(root, root)) & (a != 0)
    np.fill_diagonal(strong, False)
    return strong


@pytest.mark.parametrize(("name", "partition"), EVERY)
def test_aggregates_cover_what_is_connected_whatever_the_partition(world, name, partition):
    A = distribute_once(MATRICES[name](), world, partition)
    layout, group = aggregate(node_graph(A, Blocks.of(A), 1), 0.04)
    group = stacked(A, group)
    strong = _strong(stored(A))
    assert np.array_equal(np.unique(group[group >= 0]), np.arange(layout.n_global))
    assert np.array_equal(group >= 0, strong.any(axis=1))
    for a in range(layout.n_global):
        members = np.flatnonzero(group == a)
        inside = (strong | strong.T)[np.ix_(members, members)]
        assert connected_components(inside, directed=False)[0] == 1
    # Few of them are single nodes, even where no two neighbours share a rank.
    if name == "poisson":
        assert layout.n_global < 0.5 * len(group)


def test_a_node_of_several_unknowns_is_one_node(world):
    """Frobenius norms of the blocks between nodes, and with them the aggregates of nodes."""
    block = np.array([[2.0, 0.5, 0], [0.5, 1, 0], [0, 0, 3]])
    matrix = sp.csr_matrix(sp.kron(poisson(6), block))
    owner = np.arange(108) // 3 % world.size  # nodes whole, neighbours on other ranks
    A = hs.DSparseMatrix.from_scipy(matrix if world.rank == 0 else None, world, owner)
    graph = node_graph(A, Blocks.of(A), 3)
    ours = np.zeros((36, 36))
    first, boundary = graph.layout.start, graph.blocks.boundary
    owned = graph.blocks.owned.toarray()
    ours[first : first + len(owned), first : first + len(owned)] = owned
    ours[np.ix_(first + boundary, graph.plan.halo)] = graph.blocks.halo.toarray()
    ours = world.comm.allreduce(ours)
    blocks = stored(A).reshape(36, 3, 36, 3)
    np.testing.assert_allclose(ours, np.sqrt((blocks**2).sum(axis=(1, 3))), rtol=1e-14)


def _groups(layout, across, block_size=1):
    """Aggregates of five nodes in stored order, on the rank of their first row or another's."""
    world, n = layout.world, layout.n_global
    many = 5 * block_size
    count = -(-n // many)
    owner = np.searchsorted(layout.offsets, np.arange(0, n, many), side="right") - 1
    if across:
        owner = np.sort(np.random.default_rng(3).integers(0, world.size, count))
    counts = np.bincount(owner, minlength=world.size) if count else np.zeros(world.size, int)
    aggregates = RowLayout(world, np.concatenate([[0], np.cumsum(counts)]))
    group = np.arange(n) // many
    group[7::11] = -1
    return aggregates, group[layout.start : layout.start + layout.n_owned]


@pytest.mark.parametrize("across", [False, True])
@pytest.mark.parametrize("m", [1, 3, 6])
@pytest.mark.parametrize("partition", PARTITIONS)
def test_the_tentative_prolongator_gives_the_near_nullspace_and_is_orthonormal(
    world, partition, m, across
):
    A = distribute_once(poisson(8), world, partition)
    aggregates, group = _groups(A.layout, across)
    B = np.random.default_rng(world.rank).standard_normal((A.layout.n_owned, m))
    if m == 3:
        B[:, 2] = 2 * B[:, 0] - B[:, 1]  # dependent everywhere
    Q, R = tentative(aggregates, group, B)
    Q, group, B, R = (stacked(A, part) for part in (Q, group, B, R))
    count = aggregates.n_global
    T = np.zeros((64, count * m))
    for i in np.flatnonzero(group >= 0):
        T[i, group[i] * m : (group[i] + 1) * m] = Q[i]
    inside = group >= 0
    np.testing.assert_allclose((T @ R)[inside], B[inside], atol=1e-7)
    assert (T[~inside] == 0).all()
    if m == 1:
        assert (R == 1).all()
        return
    gram = T.T @ T
    ranks = [np.linalg.matrix_rank(B[group == a]) for a in range(count)]
    assert np.isclose(np.trace(gram), sum(ranks))
    used = np.diag(gram) > 0.5
    np.testing.assert_allclose(gram, np.diag(used.astype(float)), atol=1e-7)
    assert sum(ranks) < count * m


def test_the_near_nullspace_of_one_aggregate_lies_by_rows(world):
    """As compiled loops take it: a rank of many may have only one."""
    aggregates = RowLayout(world, np.arange(world.size + 1))
    B = np.random.default_rng(world.rank).standard_normal((8, 3))
    _, R = tentative(aggregates, np.full(8, world.rank), B)
    assert everywhere(world, R.shape == (3, 3) and R.flags.c_contiguous)


def _prolongator(A, m, across=False, largest=1.8, block_size=1, dtype=np.float64):
    aggregates, group = _groups(A.layout, across, block_size)
    B = np.random.default_rng(A.world.rank + 9).uniform(0.5, 1.5, (A.layout.n_owned, m))
    Q, _ = tentative(aggregates, group, B)
    blocks = Blocks.of(A)
    diagonal = blocks.owned.diagonal()
    inverse = (1 / np.where(diagonal == 0, 1.0, diagonal)).astype(diagonal.dtype)
    plan, tile = A.pattern.plan, (block_size if m > 1 else 1, m)
    P = smoothed_prolongator(blocks, inverse, largest, plan, aggregates, group, Q, tile, dtype)
    Q, group = stacked(A, Q), stacked(A, group)
    T = np.zeros((A.shape[0], aggregates.n_global * m))
    for i in np.flatnonzero(group >= 0):
        T[i, group[i] * m : (group[i] + 1) * m] = Q[i]
    return P, blocks, T


@pytest.mark.parametrize("across", [False, True])
@pytest.mark.parametrize("m", [1, 3])
@pytest.mark.parametrize(("name", "partition"), EVERY)
def test_smoothing_and_the_galerkin_product_are_their_formulas(world, name, partition, m, across):
    A = distribute_once(MATRICES[name](), world, partition)
    P, blocks, T = _prolongator(A, m, across)
    a = stored(A)
    expected = T - 4 / 3 / 1.8 * (a @ T) / a.diagonal()[:, None]
    p = dense_prolongator(A, P)
    if m == 1:
        small = abs(expected) < 0.002 * abs(expected).max(axis=1, keepdims=True)
        kept = np.where(small, 0, expected)
        sums = kept.sum(axis=1, keepdims=True)
        factor = expected.sum(axis=1, keepdims=True) / np.where(sums == 0, 1, sums)
        expected = np.where(
            (small & (expected != 0)).any(axis=1, keepdims=True), kept * factor, kept
        )
    size = abs(expected).max(axis=1, keepdims=True) + 1e-300
    np.testing.assert_allclose(p / size, expected / size, atol=1e-12)
    coarse = galerkin(A, blocks, P)
    assert coarse.shape == (p.shape[1],) * 2 and coarse.layout is P.plan.layout
    ours = dense_of(coarse.pattern, coarse.values.numpy())
    np.testing.assert_allclose(ours, p.T @ a @ p, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("across", [False, True])
@pytest.mark.parametrize(("m", "dtype"), [(6, np.float64), (3, np.float32), (1, np.float64)])
def test_nodes_of_several_unknowns_have_tiles(world, m, dtype, across):
    """Nodes whole, and their neighbours on other ranks; rows 7, 18, ... in no aggregate."""
    matrix = sp.csr_matrix(sp.kron(poisson(6), spd_matrix(3, 1, 1.0)))
    owner = np.arange(108) // 3 % world.size
    A = hs.DSparseMatrix.from_scipy(matrix if world.rank == 0 else None, world, owner)
    P, blocks, T = _prolongator(A, m, across, block_size=3, dtype=dtype)
    a, p = stored(A), dense_prolongator(A, P)
    tolerance = 1e-12 if dtype == np.float64 else 1e-6
    if m > 1:
        expected = T - 4 / 3 / 1.8 * (a @ T) / a.diagonal()[:, None]
        np.testing.assert_allclose(p, expected, rtol=0, atol=tolerance * abs(expected).max())
    assert P.rows.values.dtype == dtype
    coarse = galerkin(A, blocks, P)
    ours = dense_of(coarse.pattern, coarse.values.numpy())
    np.testing.assert_allclose(ours, p.T @ a @ p, rtol=0, atol=1e-12 * abs(ours).max())


@pytest.mark.parametrize("m", [1, 2])
def test_the_galerkin_product_of_float32(world, m):
    A = distribute_once(poisson(8).astype(np.float32), world)
    P, blocks, _ = _prolongator(A, m)
    p = dense_prolongator(A, P)
    coarse = galerkin(A, blocks, P)
    ours = dense_of(coarse.pattern, coarse.values.numpy())
    np.testing.assert_allclose(ours, p.T @ stored(A) @ p, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "partition"), EVERY)
def test_the_eigenvalue_is_the_largest_from_below(world, name, partition):
    A = distribute_once(MATRICES[name](), world, partition)
    inverse = Jacobi.of(A.diagonal()).inverse
    ours = largest_eigenvalue(LevelOperator(A.pattern, A.values), A.layout, inverse).largest
    a = stored(A)
    exact = abs(np.linalg.eigvals(a / a.diagonal()[:, None])).max()
    assert 0.85 * exact <= ours <= (1.2 if name == "unsymmetric" else 1 + 1e-10) * exact


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("partition", PARTITIONS)
def test_the_compiled_start_is_the_plain_one(world, monkeypatch, partition, dtype):
    """Whatever the order of the rows; rows that are not looked at, and of a negative diagonal."""
    A = distribute_once(poisson(9), world, partition)
    inverse = Jacobi.of(A.diagonal()).inverse.to(dtype) * torch.linspace(
        0.5, 2, A.layout.n_owned, dtype=dtype
    )
    inverse[1::5], inverse[2::7] = 0, -1
    found = []
    for _ in range(2):
        u, z = torch.full_like(inverse, 7.0), torch.full_like(inverse, 7.0)
        dot = inverse.new_empty(())
        _start(A.layout, inverse, u, z, dot)
        found.append((u, z, dot))
        monkeypatch.setattr(native, "LIBRARY", None)
    assert everywhere(world, all(map(torch.allclose, *found)))


@pytest.mark.parametrize("factor", [1.0, 0.97, 3.0])
def test_an_estimate_is_brought_up_to_date(world, factor):
    """In fewer products where it hardly changes; as if it were new where it does."""
    A = distribute_once(poisson(12), world)
    inverse = Jacobi.of(A.diagonal()).inverse
    operator = LevelOperator(A.pattern, A.values)
    before = largest_eigenvalue(operator, A.layout, inverse)
    rows, columns = A.entries()
    values = A.values * on(world, np.where(rows == columns, 1.0, factor))
    calls = []
    matmul = A.pattern.matmul
    other = LevelOperator(A.pattern, values)
    A.pattern.matmul = lambda *arguments: (calls.append(1), matmul(*arguments))[1]
    try:
        updated = largest_eigenvalue(other, A.layout, inverse, before)
    finally:
        del A.pattern.matmul
    fresh = largest_eigenvalue(other, A.layout, inverse)
    assert len(calls) == (8 if factor == 3 else 3)
    if factor == 0.97:
        assert updated.largest == pytest.approx(fresh.largest, rel=0.01)
    else:
        assert updated.largest == fresh.largest


@pytest.mark.parametrize("columns", [(), (3,)])
@pytest.mark.parametrize("name", [*MATRICES, "singular"])
def test_the_last_level_is_solved_exactly(world, name, columns):
    matrix = MATRICES.get(name, lambda: poisson(13))()
    if name == "singular":
        matrix.setdiag(matrix.diagonal() - np.asarray(matrix.sum(axis=1)).ravel())
    A = distribute_once(matrix, world)
    direct = DenseSolve(A, torch.float64)
    assert direct.singular == (name == "singular")
    a = stored(A)
    x = np.random.default_rng(5).standard_normal((len(a), *columns))
    mine = slice(A.layout.start, A.layout.start + A.layout.n_owned)
    for transpose in (False, True):
        op = a.T if transpose else a
        b = torch.from_numpy(np.ascontiguousarray((op @ x)[mine]))
        out = torch.empty_like(b)
        direct.solve(b, out, transpose)
        np.testing.assert_allclose(op @ stacked(A, out.numpy()), op @ x, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("partition", [*PARTITIONS, "contiguous"])
def test_other_owners_have_the_same_matrix_and_near_nullspace(world, partition):
    A = distribute_once(convection(7), world, partition)
    rng = np.random.default_rng(8)
    whole = np.arange(98.0).reshape(49, 2)
    mine = slice(A.layout.start, A.layout.start + A.layout.n_owned)
    for ranks in range(1, world.size + 1):
        # One that may be empty, too.
        offsets = np.concatenate([[0], np.sort(rng.integers(0, 50, ranks - 1)), [49]])
        move = Repartition(A.layout, offsets)
        inner, rows = move.moved(A, whole[mine])
        assert (inner is None) == (move.world is None) == (rows is None)
        assert world.comm.allreduce(int(inner is not None)) == ranks
        goes_on = members(world.size, ranks)
        assert (world.rank in goes_on) == (inner is not None)
        expected = np.zeros(world.size, dtype=int)
        expected[goes_on] = np.diff(offsets)
        assert np.array_equal(np.diff(move.among_all.offsets), expected)
        wide = None
        if inner is not None:
            there = slice(inner.layout.start, inner.layout.start + inner.layout.n_owned)
            assert inner.layout.n_owned == move.among_all.n_owned
            assert np.array_equal(rows, whole[there])
            wide = inner.local_csr().toarray()
        parts = [part for part in world.comm.allgather(wide) if part is not None]
        assert np.array_equal(np.concatenate(parts), stored(A))
        assert move.moved(A)[1] is None


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("m", [1, 2])
def test_a_prolongator_for_other_owners_is_the_same(world, monkeypatch, m, compiled):
    if not compiled:
        pytest.importorskip("pyamg")
        monkeypatch.setattr(native, "LIBRARY", None)
    A = distribute_once(poisson(9), world)
    P, _, _ = _prolongator(A, m)
    coarse = P.plan.layout.n_global
    plain = dense_prolongator(A, P)
    for ranks in range(1, world.size + 1):
        offsets = np.arange(ranks + 1) * (coarse // m) // ranks * m
        moved = P.over(Repartition(P.plan.layout, offsets).among_all)
        assert np.array_equal(dense_prolongator(A, moved), plain)
        again = moved.by(P.home)
        for ours, theirs in ((again.rows, P.rows), (again.transposed, P.transposed)):
            assert everywhere(world, (ours.csr() != theirs.csr()).nnz == 0)


def test_levels_shrink_in_rows_and_ranks(world):
    A = distribute_once(poisson(30), world)
    M = multigrid(rows_per_rank=60).on(A)
    levels = M.levels
    assert len(levels) >= 3 and levels[0].rows == 900 and levels[0].ranks == world.size
    assert levels[-1].rows <= 20
    assert all(
        a.rows > 2 * b.rows and a.ranks >= b.ranks for a, b in zip(levels, levels[1:], strict=False)
    )
    if world.size > 2:
        assert levels[-1].ranks < world.size
    assert world.comm.allgather(levels) == [levels] * world.size
    assert 1 < M.operator_complexity < 2 and 1 < M.grid_complexity < 1.5
    capped = multigrid(max_levels=2).on(A)
    assert len(capped.levels) == 2
    spread_out = spread(A.layout, np.ones(900))
    assert torch.isfinite(capped.apply(spread_out, torch.empty_like(spread_out))).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_coarsest_inverse_is_held_by_rows(world, monkeypatch, dtype):
    """Of several ranks none keeps the whole of it."""
    made, inverse = [], coarse._inverse

    def noted(*given):
        found = inverse(*given)
        made.append(weakref.ref(found[0]))
        return found

    monkeypatch.setattr(coarse, "_inverse", noted)
    A = distribute_once(poisson(15), world, "contiguous")
    direct = DenseSolve(A, getattr(torch, dtype))
    assert everywhere(world, len(made) == 1 and (world.size == 1 or made[0]() is None))
    assert direct.bytes == 2 * A.layout.n_owned * 225 * (4 if dtype == "float32" else 8)

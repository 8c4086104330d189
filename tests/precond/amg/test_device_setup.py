"""Each step of the set-up on a device beside a slow one."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch

import hpc_sla as hs
from hpc_sla import problems
from hpc_sla.distributed.layout import RowLayout
from hpc_sla.kernels import native
from hpc_sla.precond.amg.device import arrays, prolongator
from hpc_sla.precond.amg.device.aggregation import aggregates_of
from hpc_sla.precond.amg.device.arrays import segment_sums
from hpc_sla.precond.amg.device.eigenvalue import estimated
from hpc_sla.precond.amg.device.galerkin import product_of
from hpc_sla.precond.amg.device.independent import Around
from hpc_sla.precond.amg.device.prolongator import prolongator_of
from hpc_sla.precond.amg.device.rows import RankRows
from hpc_sla.precond.amg.device.strength import NodeGraph
from hpc_sla.precond.amg.device.tentative import Places, tentative_of
from hpc_sla.precond.amg.device.transfer import DeviceTransfer
from hpc_sla.precond.amg.eigenvalue import largest_eigenvalue
from hpc_sla.precond.amg.products import LevelOperator
from hpc_sla.precond.jacobi import Jacobi, inverse_diagonal
from tests.collective import distribute_once, everywhere, on, spd_matrix
from tests.precond.amg.device_oracles import aggregates, strong_sizes
from tests.precond.amg.systems import (
    PARTITIONS,
    SPD,
    convection,
    dense_of,
    dense_prolongator,
    poisson,
    stacked,
)
from tests.precond.oracles import stored

pytestmark = pytest.mark.mpi

GRIDS = {"space": lambda: problems.make("poisson3d:n=8").matrix()}
MATRICES = SPD | {"unsymmetric": lambda: convection(9), "larger": lambda: poisson(21)} | GRIDS
EVERY = [(name, how) for name in MATRICES for how in PARTITIONS]
NODES = sp.csr_matrix(sp.kron(poisson(6), spd_matrix(3, 1, 1.0)))


def _of_nodes(world):
    """Nodes of three unknowns, whole, and their neighbours on other ranks."""
    owner = np.arange(108) // 3 % world.size
    return hs.DSparseMatrix.from_scipy(NODES if world.rank == 0 else None, world, owner)


def _norms(a, high):
    n = len(a) // high
    return np.sqrt((a.reshape(n, high, n, high) ** 2).sum(axis=(1, 3)))


@pytest.mark.parametrize("high", [1, 3])
def test_what_is_strong(world, monkeypatch, high):
    monkeypatch.setattr(arrays, "ROOM", 100)
    A = _of_nodes(world)
    graph = NodeGraph(A, high)
    strong = graph.strong(0.1)
    first, n = graph.layout.start, graph.layout.n_global
    rows = np.repeat(np.arange(graph.layout.n_owned), np.diff(strong.indptr.cpu().numpy()))
    ours = np.zeros((n, n))
    ours[first + rows, first + strong.columns.cpu().numpy()] = strong.sizes.cpu().numpy()
    far = graph.plan.halo[strong.far_columns.cpu().numpy()]
    ours[first + strong.far_rows.cpu().numpy(), far] = strong.far_sizes.cpu().numpy()
    ours = world.comm.allreduce(ours)
    np.testing.assert_allclose(ours, strong_sizes(_norms(stored(A), high), 0.1), rtol=1e-14)


@pytest.mark.parametrize("degrees", [[0, 0, 4, 1, 0, 2, 3], [0], [7], [1, 1, 1, 0]])
def test_sums_over_neighbours_by_pieces(monkeypatch, degrees):
    """Whatever rows are empty, or more than a piece."""
    ends = torch.tensor([0, *np.cumsum(degrees)])
    columns = torch.arange(int(ends[-1])) % len(degrees)
    values = torch.arange(1.0, len(degrees) + 1)
    whole = Around(ends, columns)(segment_sums, values)
    monkeypatch.setattr(arrays, "ROOM", 3)
    assert torch.equal(Around(ends, columns)(segment_sums, values), whole)
    assert len(whole) == len(degrees)


@pytest.mark.parametrize(("name", "partition"), EVERY)
def test_aggregates_are_those_of_one_node_after_the_other(world, name, partition):
    A = distribute_once(MATRICES[name](), world, partition)
    layout, group = aggregates_of(NodeGraph(A, 1), 0.04)
    group = stacked(A, group.cpu().numpy())
    assert np.array_equal(group, aggregates(stored(A), A.layout.offsets))
    assert np.array_equal(np.unique(group[group >= 0]), np.arange(layout.n_global))
    assert np.array_equal(group >= 0, strong_sizes(stored(A)).any(axis=1))


def test_aggregates_of_nodes(world):
    A = _of_nodes(world)
    _, group = aggregates_of(NodeGraph(A, 3), 0.04)
    expected = aggregates(_norms(stored(A), 3), A.layout.offsets // 3)
    assert np.array_equal(stacked(A, group.cpu().numpy()), expected)


def _groups(layout, across, high=1):
    """Aggregates of five nodes in stored order, on the rank of their first row or another's."""
    world, n, many = layout.world, layout.n_global, 5 * high
    count = -(-n // many)
    owner = np.searchsorted(layout.offsets, np.arange(0, n, many), side="right") - 1
    if across:
        owner = np.sort(np.random.default_rng(3).integers(0, world.size, count))
    counts = np.bincount(owner, minlength=world.size) if count else np.zeros(world.size, int)
    group = np.arange(n) // many
    group[7::11] = -1
    mine = group[layout.start : layout.start + layout.n_owned]
    return RowLayout(world, np.concatenate([[0], np.cumsum(counts)])), on(world, mine)


def _dense_tentative(A, Q, group, m, count):
    Q = np.ones((A.shape[0], 1)) if Q is None else stacked(A, Q.cpu().numpy())
    T = np.zeros((A.shape[0], count * m))
    for i in np.flatnonzero(group >= 0):
        T[i, group[i] * m : (group[i] + 1) * m] = Q[i]
    return T


@pytest.mark.parametrize("across", [False, True])
@pytest.mark.parametrize("m", [1, 3, 6])
@pytest.mark.parametrize("partition", PARTITIONS)
def test_the_tentative_prolongator(world, partition, m, across):
    """It gives the near-nullspace, and is orthonormal."""
    A = distribute_once(poisson(8), world, partition)
    layout, mine = _groups(A.layout, across)
    B = np.random.default_rng(world.rank).standard_normal((A.layout.n_owned, m))
    if m == 3:
        B[:, 2] = 2 * B[:, 0] - B[:, 1]  # dependent everywhere
    Q, R = tentative_of(Places.of(A.pattern.plan, layout, mine), on(world, B))
    group, B, R = (stacked(A, part) for part in (mine.cpu().numpy(), B, R.cpu().numpy()))
    T = _dense_tentative(A, Q, group, m, layout.n_global)
    inside = group >= 0
    np.testing.assert_allclose((T @ R)[inside], B[inside], atol=1e-7)
    assert (T[~inside] == 0).all()
    if m > 1:
        gram = T.T @ T
        used = np.diag(gram) > 0.5
        np.testing.assert_allclose(gram, np.diag(used.astype(float)), atol=1e-7)
        ranks = [np.linalg.matrix_rank(B[group == a]) for a in range(layout.n_global)]
        assert used.sum() == sum(ranks) < layout.n_global * m


def _made(A, m, across=False, high=1, dtype=torch.float64, ones=False):
    """P of a made-up largest eigenvalue, and T."""
    layout, mine = _groups(A.layout, across, high)
    B = np.random.default_rng(A.world.rank + 9).uniform(0.5, 1.5, (A.layout.n_owned, m))
    B = on(A.world, np.ones_like(B) if ones else B)
    plan, inverse = A.pattern.plan, inverse_diagonal(A.diagonal().detach())
    Q, _ = tentative_of(Places.of(plan, layout, mine), B)
    assert (Q is None) == ones
    P, _ = prolongator_of(RankRows(A), plan, inverse, 1.8, layout, mine, B, dtype)
    group = stacked(A, mine.cpu().numpy())
    return P, _dense_tentative(A, Q, group, m, layout.n_global) * (group >= 0)[:, None]


def _truncated(expected):
    small = abs(expected) < 0.002 * abs(expected).max(axis=1, keepdims=True)
    kept = np.where(small, 0, expected)
    sums = kept.sum(axis=1, keepdims=True)
    return kept * np.where(
        sums == 0, 1, expected.sum(axis=1, keepdims=True) / np.where(sums == 0, 1, sums)
    )


def _bits(*tensors):
    return b"".join(t.detach().cpu().contiguous().numpy().tobytes() for t in tensors)


def _all_bits(P, coarse):
    pattern = coarse.pattern
    parts = (pattern.owned, pattern.halo)
    return _bits(
        *(t for rows in (P.rows, P.transposed) for t in (rows.indptr, rows.columns, rows.values)),
        *(t for block in parts for t in (block.indptr, block.indices)),
        pattern.boundary,
        coarse.values,
    )


@pytest.mark.parametrize("across", [False, True])
@pytest.mark.parametrize("m", [1, 3])
@pytest.mark.parametrize(("name", "partition"), EVERY)
def test_prolongator_and_galerkin_product(world, monkeypatch, name, partition, m, across):
    """Their formulas; and bit by bit the same in many pieces and in one."""
    A = distribute_once(MATRICES[name](), world, partition)
    found = []
    for room in (1 << 24, 40):
        monkeypatch.setattr(arrays, "ROOM", room)
        P, T = _made(A, m, across, ones=across and m == 1)
        coarse = product_of(RankRows(A), A.pattern.plan, P)
        found.append(_all_bits(P, coarse))
    assert everywhere(world, found[0] == found[1])
    a, p = stored(A), dense_prolongator(A, P)
    expected = T - 4 / 3 / 1.8 * (a @ T) / a.diagonal()[:, None]
    if m == 1:
        expected = _truncated(expected)
    size = abs(expected).max(axis=1, keepdims=True) + 1e-300
    np.testing.assert_allclose(p / size, expected / size, atol=1e-12)
    p, a = sp.csr_matrix(p), sp.csr_matrix(a)
    ours = dense_of(coarse.pattern, coarse.values.cpu().numpy())
    np.testing.assert_allclose(ours, (p.T @ a @ p).toarray(), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("across", [False, True])
@pytest.mark.parametrize(("m", "dtype"), [(6, "float64"), (3, "float32"), (1, "float32")])
def test_nodes_of_several_unknowns(world, m, dtype, across):
    A = _of_nodes(world)
    P, T = _made(A, m, across, 3, getattr(torch, dtype))
    a, p = stored(A), dense_prolongator(A, P)
    tolerance = 1e-12 if dtype == "float64" else 1e-6
    if m > 1:
        expected = T - 4 / 3 / 1.8 * (a @ T) / a.diagonal()[:, None]
        np.testing.assert_allclose(p, expected, rtol=0, atol=tolerance * abs(expected).max())
    assert P.rows.values.dtype == getattr(torch, dtype)
    coarse = product_of(RankRows(A), A.pattern.plan, P)
    assert coarse.dtype == torch.float64
    ours = dense_of(coarse.pattern, coarse.values.cpu().numpy())
    np.testing.assert_allclose(ours, p.T @ a @ p, rtol=0, atol=1e-12 * abs(ours).max())


def test_small_entries_of_the_prolongator_are_dropped(world):
    """With the halo's columns that only they were in."""
    weak = sp.kronsum(poisson(5) * 1e-4, sp.csr_matrix([[2.0, -1], [-1, 2]]), "csr")
    A = distribute_once(sp.csr_matrix(weak), world, "cyclic")
    P, T = _made(A, 1)
    a, p = stored(A), dense_prolongator(A, P)
    full = T - 4 / 3 / 1.8 * (a @ T) / a.diagonal()[:, None]
    np.testing.assert_allclose(p, _truncated(full), atol=1e-13)
    assert (p != 0).sum() < (full != 0).sum()
    met = np.zeros(P.nodes.layout.n_owned + P.nodes.n_halo, dtype=bool)
    met[P.rows.columns.cpu().numpy()] = True
    assert everywhere(world, met[P.nodes.layout.n_owned :].all())


@pytest.mark.parametrize("m", [1, 3])
def test_the_product_of_other_values_on_its_pattern(world, m):
    """Zeros among the first values, which must leave room for what comes."""
    A = distribute_once(poisson(9), world, "cyclic")
    P, _ = _made(A, m, True)
    zeros = A.with_values(torch.zeros_like(A.values))
    known = product_of(RankRows(zeros), A.pattern.plan, P).pattern
    ours = product_of(RankRows(A), A.pattern.plan, P, known)
    fresh = product_of(RankRows(A), A.pattern.plan, P)
    assert ours.pattern is known
    assert everywhere(world, torch.equal(ours.values, fresh.values))
    assert everywhere(world, torch.equal(known.owned.indices, fresh.pattern.owned.indices))


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("m", [1, 3])
def test_what_transfers(world, monkeypatch, m, compiled):
    if not compiled:
        monkeypatch.setattr(native, "LIBRARY", None)
    A = _of_nodes(world)
    P, _ = _made(A, m, True, 3)
    p, transfer = dense_prolongator(A, P), DeviceTransfer(P, torch.float64)
    again = transfer.prolongator()
    assert np.array_equal(dense_prolongator(A, again), p)
    coarse, fine = transfer.plan.layout, A.layout
    rng = np.random.default_rng(5)
    x, c = rng.standard_normal((108, 2)), rng.standard_normal((coarse.n_global, 2))
    mine, theirs = (
        on(world, v[layout.start : layout.start + layout.n_owned])
        for v, layout in ((x, fine), (c, coarse))
    )
    down, up = torch.full_like(theirs, 7.0), mine.clone()
    transfer.restrict(mine, down)
    transfer.prolong_add(theirs, up)
    np.testing.assert_allclose(stacked(A, down.cpu().numpy()), p.T @ x, atol=1e-12)
    np.testing.assert_allclose(stacked(A, up.cpu().numpy()), x + p @ c, atol=1e-12)
    assert transfer.bytes > 0


@pytest.mark.parametrize(("name", "partition"), EVERY)
def test_the_estimate_is_the_compiled_one(world, name, partition):
    A = distribute_once(MATRICES[name](), world, partition)
    inverse = Jacobi.of(A.diagonal()).inverse
    operator = LevelOperator(A.pattern, A.values)
    ours = estimated(operator, A.layout, inverse)
    theirs = largest_eigenvalue(operator, A.layout, inverse)
    assert ours.largest == pytest.approx(theirs.largest, rel=1e-9)
    assert ours.early == pytest.approx(theirs.early, rel=1e-9)
    assert world.comm.allgather(ours) == [ours] * world.size


@pytest.mark.parametrize("factor", [1.0, 0.97, 3.0])
def test_an_estimate_is_brought_up_to_date(world, factor):
    A = distribute_once(poisson(12), world)
    inverse = Jacobi.of(A.diagonal()).inverse
    before = estimated(LevelOperator(A.pattern, A.values), A.layout, inverse)
    rows, columns = A.entries()
    values = A.values * on(world, np.where(rows == columns, 1.0, factor))
    other = LevelOperator(A.pattern, values)
    ours = estimated(other, A.layout, inverse, before)
    theirs = largest_eigenvalue(other, A.layout, inverse, before)
    assert ours.largest == pytest.approx(theirs.largest, rel=1e-9)
    assert (ours.full, ours.early) == (before.full, before.early)


def test_an_estimate_of_what_is_not_finite(world):
    A = distribute_once(poisson(6), world)
    values = A.values.clone()
    values[:1] = float("nan")
    inverse = Jacobi.of(A.diagonal()).inverse
    assert np.isnan(estimated(LevelOperator(A.pattern, values), A.layout, inverse).largest)


def test_more_entries_than_32_bits_count_are_refused_everywhere(world, monkeypatch):
    A = distribute_once(poisson(9), world)
    P, _ = _made(A, 1)
    monkeypatch.setattr(prolongator, "MOST_ENTRIES", 3)
    with pytest.raises(hs.InputError, match="32-bit"):
        product_of(RankRows(A), A.pattern.plan, P)
    with pytest.raises(hs.InputError, match="a prolongator has"):
        _made(A, 1)

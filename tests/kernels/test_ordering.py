"""Orders of elimination, and what they cost, against the elimination itself."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import scipy.sparse.linalg as spla

from hpc_sla.kernels import native
from hpc_sla.kernels import ordering as kernel
from hpc_sla.partition.metis import adjacency

compiled = pytest.mark.skipif(native.LIBRARY is None, reason="nothing was compiled")


def _grid(*sides):
    lines = [sp.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(n, n)) for n in sides]
    found = lines[0]
    for line in lines[1:]:
        found = sp.kronsum(found, line)
    return sp.csr_matrix(found)


def _random(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 40))
    return sp.random_array((n, n), density=0.3 * rng.random(), rng=rng, format="csr"), rng


def _filled(starts, neighbours, order):
    """Entries of each column of the factor, by dense elimination."""
    n = len(order)
    there = np.zeros((n, n), dtype=bool)
    there[np.repeat(np.arange(n), np.diff(starts)), neighbours] = True
    there = there[np.ix_(order, order)]
    counts = np.empty(n, dtype=int)
    for j in range(n):
        below = j + 1 + np.flatnonzero(there[j + 1 :, j])
        there[np.ix_(below, below)] = True
        counts[j] = len(below) + 1
    return counts


@pytest.mark.parametrize("seed", range(60))
def test_counts_are_those_of_the_elimination(seed):
    matrix, rng = _random(seed)
    graph = adjacency(matrix)
    order = rng.permutation(matrix.shape[0]).astype(np.int32)
    counts, post = kernel.column_counts(*graph, order)
    assert np.array_equal(counts, _filled(*graph, order))
    again, places = kernel.column_counts_reference(*graph, order)
    assert np.array_equal(again, counts)
    for other in (post, order[places]):  # a postorder is another of the same fill
        assert np.array_equal(np.sort(_filled(*graph, other)), np.sort(counts))


@compiled
@pytest.mark.parametrize("seed", range(60))
def test_rows_of_zero_diagonal_are_held_back(seed):
    matrix, rng = _random(100 + seed)
    graph = adjacency(matrix)
    order = kernel.minimum_degree(*graph)
    zero = rng.random(len(order)) < 0.4
    found = kernel.hold_back(*graph, order, zero)
    keys = kernel.hold_back_reference(*graph, order, zero)
    assert np.array_equal(found, np.argsort(keys, kind="stable"))
    assert np.array_equal(np.sort(found), np.arange(len(order)))
    assert np.array_equal(kernel.hold_back(*graph, order, np.zeros_like(zero)), order)


def test_a_row_of_zero_diagonal_comes_behind_a_neighbour_of_its_own():
    """Two multipliers of one unknown each, numbered first."""
    matrix = sp.csr_matrix(
        np.array([[0, 0, 1, 0], [0, 0, 1, 1], [1, 1, 2, 0], [0, 1, 0, 2]], dtype=float)
    )
    graph = adjacency(matrix)
    zero = matrix.diagonal() == 0
    found = kernel.hold_back(*graph, np.arange(4, dtype=np.int32), zero)
    assert found.tolist() == [2, 0, 3, 1]


@compiled
@pytest.mark.parametrize("sides", [(1,), (7,), (30, 31), (9, 10, 11), (200, 150)])
def test_minimum_degree_fills_as_little_as_superlus(sides):
    matrix = _grid(*sides)
    graph = adjacency(matrix)
    order = kernel.minimum_degree(*graph)
    assert np.array_equal(np.sort(order), np.arange(matrix.shape[0]))
    assert np.array_equal(order, kernel.minimum_degree(*graph))
    counts, _ = kernel.column_counts(*graph, order)
    theirs = spla.splu(
        matrix.tocsc(),
        permc_spec="MMD_AT_PLUS_A",
        diag_pivot_thresh=0.0,
        options={"SymmetricMode": True},
    )
    assert counts.sum() <= 1.3 * theirs.L.nnz


@compiled
def test_dense_rows_and_parts_that_hang_together_with_nothing():
    """An arrow, whose tip must come last, beside rows alone and a second component."""
    n = 3000
    arrow = sp.lil_matrix(sp.eye_array(n))
    arrow[0], arrow[:, 0] = 1, 1
    matrix = sp.csr_matrix(sp.block_diag([arrow, sp.eye_array(5), _grid(4, 4)], "csr"))
    graph = adjacency(matrix)
    order = kernel.minimum_degree(*graph)
    assert np.array_equal(np.sort(order), np.arange(matrix.shape[0]))
    assert order[-1] == 0
    counts, _ = kernel.column_counts(*graph, order)
    assert counts[: n - 1].max() <= 8 and counts.sum() <= 2 * n + 5 + 100


@pytest.mark.parametrize("n", [0, 1, 2, 5])
def test_patterns_without_a_neighbour(n):
    graph = adjacency(sp.eye_array(n, format="csr"))
    for order in (kernel.minimum_degree(*graph), kernel.nested_dissection(*graph)):
        if order is not None:
            counts, post = kernel.column_counts(*graph, order)
            assert counts.tolist() == [1] * n and sorted(post) == list(range(n))

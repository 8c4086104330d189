"""Columns of rectangular matrices go where most of their entries are."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from hpc_sla.partition import (
    METHODS,
    column_parts,
    even_offsets,
    partition,
    quality,
    reorder,
    stored_order,
)


def random_matrix(m, n, density, seed):
    rng = np.random.default_rng(seed)
    return sp.csr_array(sp.random_array((m, n), density=density, rng=rng))


def difference_matrix(n, seed):
    """Differences of neighbours on n x n points, rows and columns shuffled: 2 n (n - 1) rows."""
    one = sp.diags_array([-np.ones(n - 1), np.ones(n - 1)], offsets=[0, 1], shape=(n - 1, n))
    eye = sp.eye_array(n)
    matrix = sp.csr_array(sp.vstack([sp.kron(eye, one), sp.kron(one, eye)]))
    rng = np.random.default_rng(seed)
    return matrix[rng.permutation(matrix.shape[0])][:, rng.permutation(n * n)]


@pytest.mark.parametrize("shape", [(30, 12), (12, 30), (1, 5), (5, 1), (4, 0), (0, 4)])
@pytest.mark.parametrize("parts", [1, 2, 3, 7])
@pytest.mark.parametrize("seed", range(3))
def test_most_entries_win_and_ties_go_round_from_home(shape, parts, seed):
    matrix = random_matrix(*shape, 0.2 + 0.3 * seed, seed)
    m, n = shape
    part = np.random.default_rng(seed).integers(0, parts, m)
    offsets = even_offsets(n, parts)
    expected = []
    for j in range(n):
        home = next(p for p in range(parts) if offsets[p] <= j < offsets[p + 1])
        rows = np.flatnonzero(matrix.toarray()[:, j])
        counts = [np.count_nonzero(part[rows] == p) for p in range(parts)]
        best = [p for p in range(parts) if counts[p] == max(counts)]
        expected.append(min(best, key=lambda p, home=home: (p - home) % parts))
    found = column_parts(matrix, part, parts)
    assert found.dtype == np.int32
    assert found.tolist() == expected


def test_dense_columns_are_spread_evenly():
    part = np.repeat(np.arange(4), 25)
    found = column_parts(sp.csr_array(np.ones((100, 20))), part, 4)
    assert np.bincount(found).tolist() == [5, 5, 5, 5]


@pytest.mark.parametrize("shape", [(50, 20), (20, 50)])
def test_no_column_partition_moves_less(shape):
    """A column must reach every part with a row of it, but the one that owns it."""
    matrix = random_matrix(*shape, 0.15, 3)
    part = partition(matrix, 3, "contiguous")
    order = stored_order(matrix, part, 3)
    stored = reorder(matrix, order.permutation, order.column_permutation)
    found = quality(stored, order.part_offsets, order.column_part_offsets)
    dense = matrix.toarray() != 0
    touching = sum((dense[part == p].any(axis=0)).astype(int) for p in range(3))
    assert found.halo.sum() == np.maximum(touching - 1, 0).sum()


@pytest.mark.parametrize("parts", [1, 2, 4, 7, 60])
@pytest.mark.parametrize("method", METHODS)
def test_rows_of_any_shape_are_partitioned(method, parts):
    for seed, shape in enumerate([(50, 20), (20, 50), (9, 1), (3, 0), (1, 6)]):
        matrix = random_matrix(*shape, 0.4, seed)
        points = np.random.default_rng(0).random((shape[0], 2))
        part = partition(matrix, parts, method, points)
        assert part.shape == (shape[0],) and part.dtype == np.int32
        assert ((part >= 0) & (part < parts)).all()
        np.testing.assert_array_equal(part, partition(matrix, parts, method, points))


@pytest.mark.parametrize("parts", [2, 4, 7])
def test_metis_cuts_little_and_evenly(parts):
    matrix = difference_matrix(30, 0)
    halo = {}
    for method in ("metis", "contiguous"):
        part = partition(matrix, parts, method)
        order = stored_order(matrix, part, parts)
        stored = reorder(matrix, order.permutation, order.column_permutation)
        found = quality(stored, order.part_offsets, order.column_part_offsets)
        halo[method] = found.halo.sum()
        assert found.nnz_balance < 1.05
        assert found.columns.max() * parts / 900 < 1.3
    # Shuffled rows reach everywhere; straight cuts of 30 x 30 points, 30 points a time.
    assert halo["metis"] < 30 * (parts - 1) * 2 < halo["contiguous"]


def test_metis_leaves_no_part_empty_that_need_not_be():
    part = partition(sp.csr_array(np.ones((9, 1))), 3, "metis")
    assert np.bincount(part, minlength=3).min() >= 2


@pytest.mark.parametrize("shape", [(17, 6), (6, 17)])
def test_stored_order_and_back(shape):
    matrix = random_matrix(*shape, 0.4, 5)
    order = stored_order(matrix, partition(matrix, 3, "contiguous"), 3)
    stored = reorder(matrix, order.permutation, order.column_permutation)
    expected = matrix.toarray()[np.ix_(order.permutation, order.column_permutation)]
    np.testing.assert_array_equal(stored.toarray(), expected)
    assert stored.has_canonical_format

"""The quality report counts what a reader with pencil and paper would count."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from hpc_sla import problems
from hpc_sla.partition import quality


def by_hand(dense, offsets):
    """Edge cut, halo sizes and neighbours by looking at every entry."""
    parts = len(offsets) - 1
    n = len(dense)
    owner = [p for p in range(parts) for _ in range(offsets[p], offsets[p + 1])]
    cut = set()
    halo = [set() for _ in range(parts)]
    talks = [set() for _ in range(parts)]
    for i in range(n):
        for j in range(n):
            if dense[i, j] and owner[i] != owner[j]:
                cut.add(frozenset((i, j)))
                halo[owner[i]].add(j)
                talks[owner[i]].add(owner[j])
                talks[owner[j]].add(owner[i])
    return len(cut), [len(columns) for columns in halo], [len(others) for others in talks]


@pytest.mark.parametrize("density", [0.0, 0.02, 0.3])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_against_counting(seed, symmetric, density):
    rng = np.random.default_rng(seed)
    n = 40
    matrix = sp.csr_array(sp.random_array((n, n), density=density, rng=rng))
    if symmetric:
        matrix = sp.csr_array(matrix + matrix.T)
    offsets = np.array([0, *np.sort(rng.integers(0, n + 1, 4)), n])
    found = quality(matrix, offsets)
    dense = matrix.toarray() != 0
    edge_cut, halo, neighbours = by_hand(dense, offsets)
    assert found.edge_cut == edge_cut
    assert found.halo.tolist() == halo
    assert found.neighbours.tolist() == neighbours
    assert found.rows.tolist() == np.diff(offsets).tolist()
    runs = zip(offsets[:-1], offsets[1:], strict=True)
    assert found.nnz.tolist() == [int(dense[a:b].sum()) for a, b in runs]
    assert found.row_balance == pytest.approx(np.diff(offsets).max() * 5 / n)
    if matrix.nnz:
        assert found.nnz_balance == pytest.approx(found.nnz.max() * 5 / matrix.nnz)


def test_a_grid_cut_in_strips():
    """n couplings across each cut, n values to receive on each side of it."""
    n = 12
    matrix = problems.make(f"poisson2d:n={n}").matrix()
    found = quality(matrix, np.array([0, n * n // 3, 2 * n * n // 3, n * n]))
    assert found.edge_cut == 2 * n
    assert found.halo.tolist() == [n, 2 * n, n]
    assert found.neighbours.tolist() == [1, 2, 1]
    assert found.row_balance == 1


@pytest.mark.parametrize("offsets", [[0, 0], [0, 0, 0]])
def test_no_rows(offsets):
    found = quality(sp.csr_array((0, 0)), np.array(offsets))
    assert found.edge_cut == 0
    assert found.row_balance == found.nnz_balance == 1


@pytest.mark.parametrize("shape", [(30, 12), (12, 30), (5, 0), (0, 5)])
@pytest.mark.parametrize("seed", range(3))
def test_rectangular_against_counting(seed, shape):
    rng = np.random.default_rng(seed)
    matrix = sp.csr_array(sp.random_array(shape, density=0.3, rng=rng))
    rows_at, columns_at = (np.array([0, *np.sort(rng.integers(0, n + 1, 3)), n]) for n in shape)
    found = quality(matrix, rows_at, columns_at)
    owner_of_row = np.searchsorted(rows_at, np.arange(shape[0]), side="right") - 1
    owner_of_column = np.searchsorted(columns_at, np.arange(shape[1]), side="right") - 1
    halo, talks, cut = [set() for _ in range(4)], [set() for _ in range(4)], 0
    for i, j in zip(*matrix.nonzero(), strict=True):
        p, q = owner_of_row[i], owner_of_column[j]
        if p != q:
            cut += 1
            halo[p].add(j)
            talks[p].add(q)
            talks[q].add(p)
    assert found.edge_cut == cut
    assert found.halo.tolist() == [len(one) for one in halo]
    assert found.neighbours.tolist() == [len(one) for one in talks]
    assert found.rows.tolist() == np.diff(rows_at).tolist()
    assert found.columns.tolist() == np.diff(columns_at).tolist()

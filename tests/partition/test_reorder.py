"""The stored order is the parts' order, and no entry is lost on the way there."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from hpc_sla import problems
from hpc_sla.partition import order_by_part, reorder


@pytest.mark.parametrize("parts", [1, 3, 6])
@pytest.mark.parametrize("with_matrix", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_parts_become_runs(seed, parts, with_matrix):
    rng = np.random.default_rng(seed)
    n = 50
    part = rng.integers(0, max(parts - 1, 1), n).astype(np.int32)  # the last part may be empty
    matrix = sp.csr_array(sp.random_array((n, n), density=0.1, rng=rng))
    permutation, offsets = order_by_part(part, parts, matrix if with_matrix else None)
    assert permutation.dtype == offsets.dtype == np.int64
    assert sorted(permutation) == list(range(n))
    assert len(offsets) == parts + 1
    for p in range(parts):
        assert set(permutation[offsets[p] : offsets[p + 1]]) == set(np.flatnonzero(part == p))


def test_the_users_order_stays_where_it_is_good():
    for spec in ("poisson2d:n=30", "poisson3d:n=9", "anisotropic2d:n=20,angle=30"):
        matrix = problems.make(spec).matrix()
        part = np.random.default_rng(0).integers(0, 2, matrix.shape[0])
        part[: len(part) // 2] = 0
        permutation, offsets = order_by_part(part, 2, matrix)
        assert (np.diff(permutation[: offsets[1]]) > 0).all(), spec


def test_a_scattered_numbering_is_brought_together():
    """Columns come closer to the diagonal; results stay the same matrix, permuted."""
    rng = np.random.default_rng(0)
    natural = problems.make("poisson2d:n=40").matrix()
    n = natural.shape[0]
    matrix = reorder(natural, rng.permutation(n))
    part = (np.arange(n) % 2).astype(np.int32)

    def distance(permutation):
        stored = reorder(matrix, permutation).tocoo()
        own = (stored.row < n // 2) == (stored.col < n // 2)
        return np.abs(stored.row - stored.col)[own].mean()

    plain, _ = order_by_part(part, 2)
    better, offsets = order_by_part(part, 2, matrix)
    assert offsets.tolist() == [0, n // 2, n]
    assert sorted(better) == list(range(n))
    assert distance(better) < distance(plain) / 3


@pytest.mark.parametrize("container", [sp.csr_array, sp.csr_matrix])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_reorder_against_dense(container, dtype):
    rng = np.random.default_rng(1)
    matrix = container(sp.random_array((30, 30), density=0.2, rng=rng, dtype=dtype))
    permutation = rng.permutation(30)
    stored = reorder(matrix, permutation)
    assert stored.dtype == dtype
    assert stored.has_canonical_format
    np.testing.assert_array_equal(
        stored.toarray(), matrix.toarray()[np.ix_(permutation, permutation)]
    )

"""What is counted of a rank's entries: compiled and by NumPy, by dense formulas."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from scipy.sparse.csgraph import connected_components

from hpc_sla.kernels import native
from hpc_sla.kernels.census import Census, asymmetry, connected, joined, tally
from hpc_sla.kernels.csr import CsrPattern
from tests.collective import MATRICES, random_matrix, spd_matrix


@pytest.fixture(params=["compiled", "numpy"], autouse=True)
def how(request, monkeypatch):
    if request.param == "numpy":
        monkeypatch.setattr(native, "LIBRARY", None)
    elif native.LIBRARY is None:
        pytest.skip("the kernels were not compiled (no C compiler at installation)")
    return request.param


def halved(matrix):
    """Symmetric but for one entry, and for one that has no mirror image."""
    changed = sp.lil_matrix(matrix)
    changed[0, 1], changed[1, 0] = 3.0, 2.0
    changed[0, 2], changed[2, 0] = 1.0, 0.0
    return sp.csr_matrix(changed)


def shuffled(matrix, seed):
    """The same, its columns in any order within a row."""
    rows = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    order = np.lexsort((np.random.default_rng(seed).permutation(matrix.nnz), rows))
    return sp.csr_matrix((matrix.data[order], matrix.indices[order], matrix.indptr), matrix.shape)


CASES = MATRICES | {
    "halved": lambda: halved(spd_matrix(12, 3)),
    "any order": lambda: shuffled(halved(spd_matrix(20, 3)), 1),
    "any order, symmetric": lambda: shuffled(spd_matrix(20, 3), 2),
    "float32": lambda: random_matrix(23, 0.2, 4, symmetric=True).astype(np.float32),
    "stored zeros": lambda: sp.csr_matrix(
        (np.array([1.0, 0, 0, 2, 5, 0]), np.array([0, 1, 0, 2, 0, 2]), np.array([0, 2, 4, 6]))
    ),
    "nothing": lambda: sp.csr_matrix((0, 0)),
}


def block_of(matrix):
    indptr, indices = (
        torch.from_numpy(a.astype(np.int32)) for a in (matrix.indptr, matrix.indices)
    )
    return CsrPattern(indptr, indices, matrix.shape[1])


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("diagonal", [True, False])
def test_sums(name, diagonal):
    matrix = CASES[name]()
    a = matrix.toarray().astype(np.float64)
    nonzero = np.abs(a[a != 0])
    found = Census(*a.shape)
    found.count(block_of(matrix), matrix.data, diagonal)
    if diagonal:
        np.fill_diagonal(a, 0)
    up, down = np.maximum(a, 0), np.maximum(-a, 0)
    np.testing.assert_array_equal(found.largest, np.abs(a).max(axis=1, initial=0))
    np.testing.assert_allclose(found.positive, up.sum(axis=1), rtol=1e-14)
    np.testing.assert_allclose(found.negative, down.sum(axis=1), rtol=1e-14)
    np.testing.assert_allclose(found.column_positive, up.sum(axis=0), rtol=1e-14)
    np.testing.assert_allclose(found.column_negative, down.sum(axis=0), rtol=1e-14)
    assert found.smallest[0] == nonzero.min(initial=np.inf)


def test_sums_of_a_halo():
    matrix = random_matrix(5, 0.7, 3)
    found, rows = Census(9, 1), np.array([1, 2, 4, 6, 8], dtype=np.int32)
    found.positive[1] = 1.0
    found.count_halo(block_of(matrix), matrix.data, rows)
    expected = np.zeros((2, 9))
    expected[0, 1] = 1.0
    expected[:, rows] += [np.maximum(s * matrix.toarray(), 0).sum(axis=1) for s in (1, -1)]
    np.testing.assert_allclose([found.positive, found.negative], expected, rtol=1e-14)
    np.testing.assert_array_equal(found.largest[rows], np.abs(matrix.toarray()).max(axis=1))


@pytest.mark.parametrize("name", CASES)
def test_mirror_images(name):
    matrix = CASES[name]()
    a, n = matrix.toarray().astype(np.float64), matrix.shape[0]
    rng = np.random.default_rng(4)
    scale = rng.uniform(0.1, 3, n)
    aside = rng.random(n) < 0.3
    # As of whole matrices: rows of columns set aside have no entry beside the diagonal.
    emptied = sp.lil_matrix(matrix)
    emptied[aside] = 0
    for left, which in ((matrix, np.zeros(n, dtype=bool)), (sp.csr_matrix(emptied), aside)):
        a = left.toarray().astype(np.float64)
        beside = np.maximum(abs(a) + abs(a.T), np.outer(scale, scale))
        share = abs(a - a.T) / beside
        found = asymmetry(block_of(left), left.data, scale, which)
        assert found.worst == share.max(initial=0)
        assert found.worst_rest == share[~which][:, ~which].max(initial=0)
        assert found.unmatched == np.count_nonzero((a != 0) & (a.T == 0))


@pytest.mark.parametrize("name", CASES)
def test_parts(name):
    matrix = CASES[name]()
    label = connected(block_of(matrix), matrix.data)
    cleaned = matrix.copy()
    cleaned.eliminate_zeros()
    parts, expected = connected_components(cleaned, directed=False)
    least = np.array([np.flatnonzero(expected == i).min() for i in range(parts)], dtype=np.int64)
    np.testing.assert_array_equal(label, least[expected] if parts else [])


def test_joining_long_chains():
    order = np.random.default_rng(6).permutation(200)
    assert (joined(200, order[:-1], order[1:]) == 0).all()
    assert (joined(200, order[:99], order[1:100]) == 0).sum() in (1, 100)


def test_tallies():
    rng = np.random.default_rng(7)
    diagonal, positive, negative = rng.integers(-2, 3, (3, 50)).astype(np.float64)
    lines = (rng.random(50) < 0.8, diagonal, abs(positive), abs(negative), np.full(50, 7.0))
    found, null = tally(*lines, 1e-9)
    keep, p, q = lines[0], lines[2], lines[3]
    np.testing.assert_array_equal(null, keep & (diagonal + p - q == 0))
    on, beside = abs(diagonal), p + q
    with_one = keep & (on > 0)
    assert found.lines == keep.sum() and found.null == null.sum() > 0
    assert found.plus == (keep & (diagonal > 0)).sum()
    assert found.minus == (keep & (diagonal < 0)).sum()
    assert found.dominant == (keep & (beside <= on) & (on > 0)).sum() > 0
    wrong = np.where(diagonal > 0, p, q)[with_one].sum() / 7
    assert found.wrong == pytest.approx(wrong, rel=1e-14)
    assert found.beside == pytest.approx(beside[with_one].sum() / 7, rel=1e-14)
    assert (found.high, found.low, found.dominance) == (2.0, 1.0, np.inf)
    none, _ = tally(np.zeros(50, dtype=bool), *lines[1:], 1e-9)
    assert (none.lines, none.high, none.low, none.dominance) == (0, 0, np.inf, 0)

"""The loops of a multigrid set-up: compiled and without C, by their definitions."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from scipy.sparse.csgraph import connected_components

from hpc_sla.errors import InputError
from hpc_sla.kernels import galerkin, native
from hpc_sla.kernels import multigrid as kernels
from hpc_sla.kernels.csr import CsrPattern
from hpc_sla.kernels.packed import Packed
from hpc_sla.kernels.tiles import Tiles
from tests.collective import disconnected, random_matrix, spd_matrix
from tests.kernels.test_aggregates import grid_in_space


@pytest.fixture(params=["compiled", "libraries"], autouse=True)
def how(request, monkeypatch):
    if request.param == "libraries":
        monkeypatch.setattr(native, "LIBRARY", None)
    elif native.LIBRARY is None:
        pytest.skip("the kernels were not compiled (no C compiler at installation)")
    return request.param


def _poisson(n):
    second = sp.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(n, n))
    return sp.csr_matrix(sp.kronsum(second, second))


TILES = [
    *(((1, 1), (a, p)) for a in (np.float64, np.float32) for p in (np.float64, np.float32)),
    ((3, 6), (np.float64, np.float32)),
    ((6, 6), (np.float64, np.float64)),
    ((2, 3), (np.float32, np.float32)),
    ((1, 2), (np.float64, np.float32)),
]
"""Rows and columns of a tile; dtypes of A and of P."""


def _needs_pyamg(how):
    if how == "libraries":
        pytest.importorskip("pyamg")


GRAPHS = {
    "poisson": lambda: _poisson(12),
    "in space": lambda: grid_in_space(6),
    "spd": lambda: spd_matrix(60, 1),
    "path": lambda: sp.csr_matrix(sp.diags_array([-1.0, 2, -1], offsets=[-1, 0, 1], shape=(9, 9))),
    "star": lambda: sp.csr_matrix(
        np.eye(7) * 6 - (np.arange(7) == 3) - (np.arange(7) == 3)[:, None]
    ),
    "unsymmetric": lambda: sp.csr_matrix(random_matrix(50, 0.06, 2) + sp.eye_array(50)),
    "disconnected": lambda: sp.csr_matrix(disconnected(40, 3) + sp.eye_array(40)),
    "diagonal": lambda: sp.csr_matrix(sp.eye_array(5)),
    "one": lambda: sp.csr_matrix(np.array([[2.0]])),
    "stored zeros": lambda: sp.csr_matrix(
        (np.array([1.0, 0, 0, 1]), np.array([0, 1, 0, 1]), np.array([0, 2, 4])), shape=(2, 2)
    ),
    "nothing": lambda: sp.csr_matrix((0, 0)),
}


def _strong(matrix, root, threshold):
    dense = abs(matrix.toarray())
    strong = (dense > threshold * np.outer(root, root)) & (dense > 0)
    np.fill_diagonal(strong, False)
    return strong


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("threshold", [0.0, 0.08, 0.5])
@pytest.mark.parametrize("name", GRAPHS)
def test_aggregates_are_disjoint_connected_and_hold_every_node_with_a_neighbour(
    how, name, threshold, dtype
):
    _needs_pyamg(how)
    matrix = GRAPHS[name]().astype(dtype)
    root = np.sqrt(abs(matrix.diagonal()))
    strong = _strong(matrix, root, threshold)
    group, count = kernels.aggregate(matrix, root, threshold)
    assert group.dtype == np.int32 and len(group) == len(root)
    assert np.array_equal(np.unique(group[group >= 0]), np.arange(count))
    assert (group[strong.any(axis=1)] >= 0).all()
    around = strong | strong.T
    assert (group[~around.any(axis=1)] == -1).all()
    for a in range(count):
        members = np.flatnonzero(group == a)
        assert connected_components(around[np.ix_(members, members)], directed=False)[0] == 1
        # A root's neighbourhood, and guests that are its neighbours' neighbours at most.
        if (strong == strong.T).all():
            inside = strong[np.ix_(members, members)].astype(int) + np.eye(len(members), dtype=int)
            steps = np.linalg.matrix_power(inside, 3 if name == "in space" else 2) > 0
            assert steps.all(axis=1).any()


@pytest.mark.parametrize("n", [4, 9, 30])
def test_a_path_is_cut_as_pyamg_cuts_it(how, n):
    """Each guest has one host at most there, so that no ties can be broken in two ways."""
    pyamg_core = pytest.importorskip("pyamg.amg_core")
    path = sp.csr_matrix(sp.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(n, n)))
    group, count = kernels.aggregate(path, np.sqrt(path.diagonal()), 0.1)
    theirs, roots = np.empty(n, np.int32), np.empty(n, np.int32)
    indptr, indices = path.indptr.astype(np.int32), path.indices.astype(np.int32)
    assert pyamg_core.standard_aggregation(n, indptr, indices, theirs, roots) == count
    assert np.array_equal(group, theirs)


def test_a_guest_goes_to_its_strongest_neighbour(how):
    """Path of seven with a weak and a strong way out for the guest in the middle."""
    if how == "libraries":
        pytest.skip("pyamg takes the first")
    a = np.zeros((7, 7))
    for i, size in enumerate([1, 1, 0.2, 0.9, 1, 1]):
        a[i, i + 1] = a[i + 1, i] = -size
    np.fill_diagonal(a, 2)
    order = [1, 0, 2, 5, 4, 6, 3]  # roots 1 and 5 first, and then what is around them
    group, count = kernels.aggregate(sp.csr_matrix(a[np.ix_(order, order)]), np.full(7, 1.4), 0.01)
    by_node = dict(zip(order, group, strict=True))
    assert count == 2
    assert by_node[3] == by_node[4] == by_node[5] != by_node[2] == by_node[1]


def test_without_c_or_pyamg_it_says_what_to_install(how, monkeypatch):
    if how == "compiled":
        return
    monkeypatch.setitem(sys.modules, "pyamg", None)
    with pytest.raises(InputError, match="pyamg"):
        kernels.aggregate(_poisson(3), np.ones(9), 0.1)


def _parts(n, m, seed, dtype=np.float64):
    rng = np.random.default_rng(seed)
    owned = sp.csr_matrix(random_matrix(n, 0.2, seed) + 3 * sp.eye_array(n)).astype(dtype)
    halo = sp.random_array((n, m), density=0.2, rng=rng, format="csr")
    halo = sp.csr_matrix(halo).astype(dtype)
    return owned, halo


@pytest.mark.parametrize(("tile", "dtypes"), TILES)
@pytest.mark.parametrize("small", [0.0, 0.3])
@pytest.mark.parametrize(("n", "m", "columns"), [(0, 0, 0), (6, 0, 1), (42, 0, 9), (42, 12, 9)])
def test_the_prolongator_is_its_formula(how, n, m, columns, tile, small, dtypes):
    (of_a, of_p), (high, wide) = dtypes, tile
    owned, halo = _parts(n, m, 3, of_a)
    rng = np.random.default_rng(4)
    here, there = (
        (rng.integers(-1, columns, size).astype(np.int32), rng.uniform(0.5, 2, (size, wide)))
        for size in (n, m)
    )
    inverse = rng.uniform(0.1, 0.3, n).astype(of_a)
    parts = owned, halo if m else None, inverse, 0.9, here, there
    P = kernels.prolongator(*parts, columns, (high, wide), small, np.dtype(of_p))
    assert P.values.dtype == of_p and P.size == ((high, wide) if how == "compiled" else (1, 1))
    rows = P.csr()
    assert rows.shape == (n, columns * wide)
    assert all((np.diff(row.indices) > 0).all() for row in rows)
    assert np.array_equal(P.transposed().csr().toarray(), rows.toarray().T)
    chosen = rng.integers(0, max(n, 1), 5 * (n > 0))
    assert np.array_equal(P[chosen].toarray(), rows.toarray()[chosen])

    def tentative(column, values):
        T = np.zeros((len(column), columns, wide))
        inside = np.flatnonzero(column >= 0)
        T[inside, column[inside]] = values[inside]
        return T.reshape(len(column), columns * wide)

    T, T_there = tentative(*here), tentative(*there)
    expected = T - 0.9 * inverse[:, None] * (owned.toarray() @ T + halo.toarray() @ T_there)
    if small and wide == 1:
        for row in expected:
            size = abs(row)
            dropped = size < small * size.max(initial=0)
            kept = row[~dropped].sum()
            factor = row.sum() / kept if dropped[row != 0].any() and kept else 1.0
            row[dropped] = 0
            row *= factor
    tolerance = 1e-12 if of_a == of_p == np.float64 else 1e-4
    np.testing.assert_allclose(rows.toarray(), expected, rtol=tolerance, atol=tolerance)
    if wide == 1:
        ones = [(column, None) for column, _ in (here, there)]
        values = [(column, np.ones((len(column), 1))) for column, _ in ones]
        a, b = (
            kernels.prolongator(*parts[:4], *T, columns, (1, 1), small, np.dtype(of_p)).csr()
            for T in (ones, values)
        )
        assert np.array_equal(a.toarray(), b.toarray())


@pytest.mark.parametrize("high", [1, 2, 3])
def test_nodes_are_connected_by_the_norms_of_their_blocks(high):
    matrix = sp.csr_matrix(random_matrix(42, 0.1, 2))
    between = kernels.condense(matrix, high)
    blocks = matrix.toarray().reshape(42 // high, high, 42 // high, high)
    assert all((np.diff(row.indices) > 0).all() for row in between)
    np.testing.assert_allclose(between.toarray(), np.sqrt((blocks**2).sum(axis=(1, 3))), rtol=1e-14)
    assert kernels.condense(sp.csr_matrix((0, 0)), high).shape == (0, 0)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("m", [0, 12])
def test_moments_are_sums_by_component(m, dtype):
    owned, halo = _parts(42, m, 3, dtype)
    rng = np.random.default_rng(4)
    points, far = rng.uniform(-1, 1, (42, 2)), rng.uniform(-1, 1, (m, 2))
    component = rng.integers(0, 3, m).astype(np.int32)
    parts = owned, halo if m else None
    found = kernels.moments(*parts, 10, 31, 3, points, (far, component))
    a = np.hstack([owned.toarray(), halo.toarray()]).astype(np.float64)[10:31]
    away = np.concatenate([points, far])[None] - points[10:31, None]
    f = np.concatenate([np.ones((*a.shape, 1)), away], axis=2)
    of_column = np.concatenate([np.arange(42) % 3, component])[:, None] == np.arange(3)
    for result, terms in zip(found, (a[:, :, None] * f, abs(a[:, :, None] * f)), strict=True):
        expected = np.einsum("ijk,jc->ick", terms, of_column)
        np.testing.assert_allclose(result, expected, rtol=1e-12, atol=1e-12)


def _tiled(rows, columns, high, wide, fill, dtype, seed):
    """A random matrix of dense tiles, in double precision, and as loops take it."""
    rng = np.random.default_rng(seed)
    between = sp.csr_matrix(sp.random_array((rows, columns), density=fill, rng=rng))
    values = rng.uniform(-1, 1, (between.nnz, high, wide)).astype(dtype)
    indptr, indices = (a.astype(np.int32) for a in (between.indptr, between.indices))
    made = Tiles(indptr, indices, values, columns)
    return made, made.csr().toarray().astype(np.float64)


@pytest.mark.parametrize(("tile", "dtypes"), TILES)
@pytest.mark.parametrize("fill", [0.02, 0.2, 1.0])
@pytest.mark.parametrize(("n", "m", "columns"), [(0, 0, 0), (1, 0, 1), (20, 0, 18), (20, 15, 18)])
def test_the_triple_product_is_one(how, n, m, columns, tile, fill, dtypes):
    """With a full P the result is far larger than A: its memory is enlarged several times."""
    if how == "libraries" and tile != (1, 1):
        pytest.skip("without the compiled loops there are no tiles")
    (of_a, of_p), (high, wide) = dtypes, tile
    owned, halo = _parts(n * high, m, 5, of_a)
    P, p = _tiled(n, columns, high, wide, fill, of_p, 6)
    there, q = _tiled(m, columns, 1, wide, fill, of_p, 7)
    rng = np.random.default_rng(8)
    size = columns * wide
    more = sp.csr_matrix(sp.random_array((size, size), density=0.3, rng=rng))
    near = columns // 2
    parts = P.transposed(), owned, halo if m else None, P, there, near, columns
    expected = p.T @ (owned.toarray() @ p + (halo.toarray() @ q if m else 0)) if n else 0
    tolerance = 1e-12 if of_p == of_a == np.float64 else 1e-4
    for added in (None, more):
        result = galerkin.triple_product(*parts, added)
        arrays = result.values[: len(result.indices)], result.indices, result.indptr
        first = sp.csr_matrix(arrays, shape=(size, size))
        assert (result.indices < near * wide).all() and (result.far_indices >= near * wide).all()
        assert all((np.diff(row.indices) > 0).all() for row in first)
        assert result.values.dtype == of_a
        if columns == 0:
            continue
        total = expected + (0 if added is None else added.toarray())
        made = result.whole(size).toarray()
        np.testing.assert_allclose(made, total, rtol=tolerance, atol=tolerance * 10)
    if fill == 1.0 and (n, tile, how) == (20, (3, 6), "compiled"):
        assert len(result.values) > 2 * (owned.nnz + halo.nnz) + 64
    if how == "libraries":
        return
    # Where its entries are known, in any order, and some that it has not.
    values = np.full_like(result.values, np.nan)
    again = galerkin.triple_product(*parts, more, replace(result, values=values))
    assert np.array_equal(again.values, result.values)
    ends, every = np.arange(size + 1, dtype=np.int32), np.arange(size, dtype=np.int32)
    here, away = (np.tile(half, size) for half in np.split(every, [near * wide]))
    counts = ends * np.int32(near * wide), ends * np.int32(size - near * wide)
    values = np.full(size * size, np.nan, of_a)
    full = galerkin.TwoParts(counts[0], here, counts[1], away, values)
    filled = galerkin.triple_product(*parts, more, full).whole(size).toarray()
    assert np.array_equal(filled, result.whole(size).toarray())


def test_more_entries_than_row_pointers_count_are_refused(how, monkeypatch):
    owned, _ = _parts(300, 0, 5, np.float64)
    P, _ = _tiled(300, 40, 1, 1, 0.2, np.float64, 6)
    there, _ = _tiled(0, 40, 1, 1, 0.2, np.float64, 7)
    arguments = P.transposed(), owned, None, P, there, 20, 40
    entries = len(galerkin.triple_product(*arguments).values)
    for most in (entries - 1, entries // 2 - 1, 10):
        monkeypatch.setattr(galerkin, "_MOST_ENTRIES", most)
        with pytest.raises(InputError, match=f"more than {most} entries .* 32-bit"):
            galerkin.triple_product(*arguments)
    monkeypatch.setattr(galerkin, "_MOST_ENTRIES", 2 * entries)
    assert len(galerkin.triple_product(*arguments).values) == entries


def _stencil(n, block):
    """Few kinds of rows, in runs; nodes of `block` unknowns."""
    return sp.csr_matrix(sp.kron(_poisson(n), np.eye(block) + 0.5))


def _coded(n):
    """Few values in many kinds of rows."""
    matrix = sp.csr_matrix(random_matrix(n, 0.05, 3) + sp.eye_array(n))
    matrix.data = np.round(2 * matrix.data) + 5
    return matrix


@pytest.mark.parametrize("tile", [(1, 1), (3, 6), (2, 3), (1, 2)])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("name", ["rows", "blocks", "coded", "long"])
def test_the_triple_product_of_a_packed_matrix(how, name, tile, dtype):
    """A in fewer bytes; with long and short rows, several hundred columns in rows of the result."""
    if how == "libraries":
        pytest.skip("packed matrices are for compiled loops")
    make = {
        "rows": lambda: _stencil(36, 1),
        "blocks": lambda: _stencil(20, 3)[:1200, :1200],
        "coded": lambda: _coded(600),
        "long": lambda: sp.csr_matrix(random_matrix(600, 0.6, 4)),
    }
    matrix = make[name]().astype(dtype)
    high, wide = tile
    n = matrix.shape[0] // high
    arrays = [torch.from_numpy(a) for a in (matrix.indptr, matrix.indices)]
    pattern = CsrPattern(*(a.to(torch.int32) for a in arrays), matrix.shape[1])
    packed = Packed.of(pattern, torch.from_numpy(matrix.data))
    columns = n if n < 500 else n // 2
    P, p = _tiled(n, columns, high, wide, 3 / columns, np.float32, 6)
    there, _ = _tiled(0, columns, 1, wide, 0.2, np.float32, 7)
    expected = p.T @ matrix.toarray().astype(np.float64) @ p
    tolerance = (1e-12 if dtype == np.float64 else 1e-5) * abs(expected).max()
    for form in (matrix, packed):
        if form is None:
            continue
        parts = P.transposed(), form, None, P, there, columns, columns
        result = galerkin.triple_product(*parts).whole(columns * wide)
        assert all((np.diff(row.indices) > 0).all() for row in result)
        np.testing.assert_allclose(result.toarray(), expected, rtol=0, atol=tolerance)
    assert packed is not None or name == "long"


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("k", [1, 3, 11])
@pytest.mark.parametrize("tile", [(1, 1), (3, 6), (6, 6), (2, 3)])
def test_p_transposed_restricts_and_prolongs(how, tile, k, dtype):
    if how == "libraries":
        pytest.skip("compiled only")
    P, p = _tiled(20, 9, *tile, 0.3, dtype, 2)
    R = P.transposed().transfer()
    rng = np.random.default_rng(3)
    e, x = (rng.standard_normal((size, k)).astype(dtype) for size in p.shape[::-1])
    tolerance = (
        {"rtol": 1e-12, "atol": 1e-12} if dtype == np.float64 else {"rtol": 1e-4, "atol": 1e-4}
    )
    e, x = (torch.from_numpy(v[:, 0].copy() if k == 1 else v) for v in (e, x))
    out, before = torch.full_like(e, float("nan")), x.clone()
    native.call_on("restrict", x, R.address, x, out)
    np.testing.assert_allclose(out.numpy(), p.T @ x.numpy(), **tolerance)
    native.call_on("prolong", x, R.address, e, x)
    np.testing.assert_allclose(x.numpy(), before.numpy() + p @ e.numpy(), **tolerance)

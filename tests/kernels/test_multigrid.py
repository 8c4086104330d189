"""The loops of a multigrid set-up: compiled and without C, by their definitions."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.sparse.csgraph import connected_components

from hpc_sla.errors import InputError
from hpc_sla.kernels import multigrid as kernels
from hpc_sla.kernels import native
from tests.collective import disconnected, random_matrix, spd_matrix


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


def _needs_pyamg(how):
    if how == "libraries":
        pytest.importorskip("pyamg")


GRAPHS = {
    "poisson": lambda: _poisson(12),
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
            two_steps = np.linalg.matrix_power(inside, 2) > 0
            assert two_steps.all(axis=1).any()


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


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("small", [0.0, 0.3])
@pytest.mark.parametrize(("n", "m", "columns"), [(0, 0, 0), (1, 0, 1), (40, 0, 9), (40, 12, 9)])
def test_the_prolongator_is_its_formula(n, m, columns, small, dtype):
    owned, halo = _parts(n, m, 3, dtype)
    rng = np.random.default_rng(4)
    here, there = (
        (rng.integers(-1, columns, size).astype(np.int32), rng.uniform(0.5, 2, size).astype(dtype))
        for size in (n, m)
    )
    damped = rng.uniform(0.1, 0.3, n).astype(dtype)
    P = kernels.prolongator(owned, halo, damped, here, there, columns, small)
    assert P.dtype == dtype and P.shape == (n, columns)
    assert all((np.diff(row.indices) > 0).all() for row in P)

    def tentative(column, value):
        T = np.zeros((len(column), columns))
        inside = np.flatnonzero(column >= 0)
        T[inside, column[inside]] = value[inside]
        return T

    T, T_there = tentative(*here), tentative(*there)
    expected = T - damped[:, None] * (owned.toarray() @ T + halo.toarray() @ T_there)
    if small:
        for row in expected:
            size = abs(row)
            dropped = size < small * size.max(initial=0)
            kept = row[~dropped].sum()
            factor = row.sum() / kept if dropped[row != 0].any() and kept else 1.0
            row[dropped] = 0
            row *= factor
    tolerance = 1e-12 if dtype == np.float64 else 1e-4
    np.testing.assert_allclose(P.toarray(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    "dtypes", [(np.float64,) * 3, (np.float32,) * 3, (np.float32, np.float64, np.float64)]
)
@pytest.mark.parametrize("fill", [0.02, 0.2, 1.0])
@pytest.mark.parametrize(("n", "m", "columns"), [(0, 0, 0), (1, 0, 1), (60, 0, 50), (60, 15, 50)])
def test_the_triple_product_is_one(n, m, columns, fill, dtypes):
    """With a full P the result is far larger than A: its memory is enlarged several times."""
    of_a, of_p, of_there = dtypes
    owned, halo = _parts(n, m, 5, of_a)
    rng = np.random.default_rng(6)
    P, there = (
        sp.csr_matrix(sp.random_array((size, columns), density=fill, rng=rng)).astype(dtype)
        for size, dtype in ((n, of_p), (m, of_there))
    )
    transposed = P.T.tocsr()
    result = kernels.triple_product(transposed, owned, halo, P, there, columns)
    assert result.shape == (columns, columns)
    assert all((np.diff(row.indices) > 0).all() for row in result)
    wide = [part.toarray().astype(np.float64) for part in (P, owned, halo, there)]
    expected = wide[0].T @ (wide[1] @ wide[0] + wide[2] @ wide[3])
    tolerance = 1e-12 if of_p == of_a == np.float64 else 1e-4
    np.testing.assert_allclose(result.toarray(), expected, rtol=tolerance, atol=tolerance * 10)
    if fill == 1.0 and n == 60:
        assert result.nnz > 2 * (owned.nnz + halo.nnz) + 64
    if kernels.native.LIBRARY is None:
        return
    # Where its entries are known, and in two parts.
    first, touched, second = kernels.split(result, columns // 2)
    counts = np.zeros(columns + 1, dtype=np.int32)
    counts[touched + 1] = np.diff(second.indptr)
    values = kernels.triple_values(
        transposed,
        owned,
        halo,
        P,
        there,
        columns,
        (first.indptr, first.indices),
        (np.cumsum(counts, dtype=np.int32), second.indices + np.int32(columns // 2)),
    )
    assert np.array_equal(values, np.concatenate([first.data, second.data]))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("m", [0, 1, 12, 20])
def test_splitting_keeps_every_entry(m, dtype):
    rows = sp.csr_matrix(random_matrix(20, 0.1, 7)).astype(dtype)
    owned, boundary, halo = kernels.split(rows, m)
    assert owned.shape == (20, m) and halo.shape == (len(boundary), 20 - m)
    assert boundary.dtype == np.int32
    assert (np.diff(halo.indptr) > 0).all() and (np.diff(boundary) > 0).all()
    assert np.array_equal(owned.toarray(), rows.toarray()[:, :m])
    whole = np.zeros((20, 20 - m), dtype=dtype)
    whole[boundary] = halo.toarray()
    assert np.array_equal(whole, rows.toarray()[:, m:])
    assert owned.dtype == halo.dtype == dtype

"""The passes of a multigrid cycle: compiled and in torch, beside SciPy."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from hpc_sla.kernels import native as native_kernels
from hpc_sla.kernels import relax as kernels
from hpc_sla.kernels.csr import CsrMatrix, CsrPattern
from hpc_sla.kernels.packed import Packed

COLUMNS = [(), (1,), (3,), (8,), (19,)]
DTYPES = [torch.float64, torch.float32]


@pytest.fixture(params=["compiled", "torch"], autouse=True)
def how(request, monkeypatch):
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    if request.param == "torch":
        monkeypatch.setattr(native_kernels, "LIBRARY", None)
    elif native_kernels.LIBRARY is None:
        pytest.skip("the kernels were not compiled (no C compiler at installation)")
    yield request.param
    torch.set_num_threads(before)


def _matrix(n, m, dtype, seed=0):
    """Rows of every length from 0 up, so that each written-out case is met."""
    rng = np.random.default_rng(seed)
    dense = rng.standard_normal((n, m))
    for i in range(n):
        dense[i, rng.permutation(m)[i % (m + 1) :]] = 0
    matrix = sp.csr_matrix(dense)
    indptr, indices = (torch.from_numpy(a) for a in (matrix.indptr, matrix.indices))
    values = torch.from_numpy(matrix.data).to(dtype)
    return dense, CsrMatrix(CsrPattern(indptr, indices, m), values)


def _vectors(count, n, columns, dtype):
    rng = np.random.default_rng(n + len(columns))
    return [torch.from_numpy(rng.standard_normal((n, *columns))).to(dtype) for _ in range(count)]


def _close(ours, expected, dtype):
    tolerance = 1e-13 if dtype == torch.float64 else 2e-5
    np.testing.assert_allclose(ours.numpy(), expected, rtol=tolerance, atol=tolerance)


def _column(d, like):
    return d.numpy().reshape(-1, *[1] * (like.dim() - 1))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [0, 1, 23])
@pytest.mark.parametrize("columns", COLUMNS)
@pytest.mark.parametrize("in_place", [False, True])
def test_affine_is_its_formula(in_place, columns, n, dtype):
    dense, A = _matrix(n, 13, dtype)
    (x,), (b,) = _vectors(1, 13, columns, dtype), _vectors(1, n, columns, dtype)
    expected = b.numpy() - 0.7 * (dense @ x.numpy())
    out = b if in_place else torch.full_like(b, float("nan"))
    kernels.affine(A, x, -0.7, out, b)
    _close(out, expected, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("columns", COLUMNS)
def test_affine_on_some_rows_adds_to_them(columns, dtype):
    dense, A = _matrix(5, 13, dtype)
    rows = torch.tensor([0, 3, 4, 9, 16], dtype=torch.int32)
    (x,), (out,) = _vectors(1, 13, columns, dtype), _vectors(1, 17, columns, dtype)
    expected = out.numpy().copy()
    expected[rows.numpy()] += 1.3 * (dense @ x.numpy())
    kernels.affine(A, x, 1.3, out, rows=rows)
    _close(out, expected, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [0, 1, 23])
@pytest.mark.parametrize("columns", COLUMNS)
@pytest.mark.parametrize("before", ["none", "x", "other", "after"])
@pytest.mark.parametrize("keeps", [True, False])
def test_relax_is_its_formula(keeps, before, columns, n, dtype):
    dense, A = _matrix(n, n, dtype)
    x, b, other, after = _vectors(4, n, columns, dtype)
    inverse = torch.linspace(0.5, 2, n, dtype=dtype)
    given = {"none": None, "x": x, "other": other, "after": after}[before]
    q = 0.6 * _column(inverse, x) * (b.numpy() - dense @ x.numpy())
    if given is not None:
        q = q - 1.2 * given.numpy()
    expected, unchanged = x.numpy() + q, x.clone()
    out = torch.full_like(x, float("nan"))
    kernels.relax(A, x, b, inverse, 0.6, -1.2, given, after if keeps else None, out)
    _close(out, expected, dtype)
    assert torch.equal(x, unchanged)
    if keeps:
        _close(after, q, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("columns", COLUMNS)
@pytest.mark.parametrize("keeps", [True, False])
def test_the_rest_completes_it(keeps, columns, dtype):
    """A of two blocks, one after the other, gives what the whole of A gives."""
    n, m = 17, 6
    dense, A = _matrix(n, n, dtype)
    rows = torch.tensor([1, 2, 8, 16], dtype=torch.int32)
    there_dense, there_A = _matrix(4, m, dtype, seed=1)
    x, b, after = _vectors(3, n, columns, dtype)
    (there,) = _vectors(1, m, columns, dtype)
    inverse = torch.linspace(0.5, 2, n, dtype=dtype)
    product = dense @ x.numpy()
    product[rows.numpy()] += there_dense @ there.numpy()
    q = 0.6 * _column(inverse, x) * (b.numpy() - product)
    expected = x.numpy() + q
    out, kept = torch.empty_like(x), after if keeps else None
    kernels.relax(A, x, b, inverse, 0.6, 0.0, None, kept, out)
    kernels.relax_rest(there_A, there, rows, inverse, 0.6, kept, out)
    _close(out, expected, dtype)
    if keeps:
        _close(after, q, dtype)


def _repeating(node, dtype):
    """1500 rows of a few kinds, in nodes of so many: plain, and in the form that holds kinds."""
    n = 1500
    rng = np.random.default_rng(node)
    kinds = [rng.standard_normal((node, 2 * node + 1)) for _ in range(3)]
    dense = np.zeros((n, n))
    for first in range(0, n, node):
        kind = kinds[first * 3 // n]
        for offset in range(kind.shape[1]):
            column = first + (offset - node) * 3
            if 0 <= column < n:
                dense[first : first + node, column] = kind[:, offset]
    matrix = sp.csr_matrix(dense)
    indptr, indices = (torch.from_numpy(a) for a in (matrix.indptr, matrix.indices))
    values = torch.from_numpy(matrix.data).to(dtype)
    pattern = CsrPattern(indptr, indices, n)
    packed = Packed.of(pattern, values)
    assert packed is not None
    return CsrMatrix(pattern, values), packed


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("columns", COLUMNS)
@pytest.mark.parametrize("node", [1, 3, 6])
def test_rows_that_repeat_give_what_plain_ones_do(how, node, columns, dtype):
    if how == "torch":
        pytest.skip("the form is of compiled loops alone")
    plain, packed = _repeating(node, dtype)
    x, b, other, after = _vectors(4, 1500, columns, dtype)
    inverse = torch.linspace(0.5, 2, 1500, dtype=dtype)
    rows = torch.arange(0, 3000, 2, dtype=torch.int32)
    wide = torch.linspace(0.5, 2, 3000, dtype=dtype)
    found = []
    for A in (plain, packed):
        results = []
        for before, kept in (
            (None, None),
            (x, None),
            (None, after),
            (other, after),
            (after, after),
        ):
            given = None if before is None else before.clone() if before is not x else x
            keep = None if kept is None else given if before is after else kept.clone()
            out = torch.empty_like(x)
            kernels.relax(A, x, b, inverse, 0.6, -1.2, given, keep, out)
            results += [out] if keep is None else [out, keep]
        out = torch.empty_like(x)
        kernels.affine(A, x, -0.7, out, b)
        results.append(out)
        out, kept = (torch.ones(3000, *columns, dtype=dtype) for _ in range(2))
        kernels.affine(A, x, 1.3, out, rows=rows)
        kernels.relax_rest(A, x, rows, wide, 0.4, kept, out)
        found.append([*results, out, kept])
    for ours, theirs in zip(*found, strict=True):
        _close(ours, theirs.numpy(), dtype)

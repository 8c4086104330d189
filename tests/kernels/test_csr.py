"""The local sparse product beside SciPy and beside its plain torch oracle."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from hpc_sla.kernels import native
from hpc_sla.kernels.csr import CsrPattern
from hpc_sla.kernels.csr_operator import csr_matmul_reference, expand_rows

SHAPES = [(7, 7), (5, 9), (9, 5), (1, 4), (4, 1), (0, 3), (3, 0), (200, 150)]


def _case(shape, density, dtype, index=np.int32):
    rng = np.random.default_rng(30)
    matrix = sp.random_array(shape, density=density, rng=rng, format="csr", dtype=dtype)
    pattern = CsrPattern(
        torch.from_numpy(matrix.indptr.astype(index)),
        torch.from_numpy(matrix.indices.astype(index)),
        shape[1],
    )
    return matrix, pattern, torch.from_numpy(matrix.data.astype(dtype)), rng


@pytest.fixture(params=[1, 2], ids=["compiled loop", "library"])
def _threads(request):
    """One thread takes the compiled loop where there is one, two take the library's."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("_threads")
@pytest.mark.parametrize("columns", [(), (3,)])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("density", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_products_equal_scipys(shape, density, dtype, columns):
    matrix, pattern, values, rng = _case(shape, density, dtype)
    close = {"rtol": 1e-5, "atol": 1e-4} if dtype == np.float32 else {"rtol": 1e-13, "atol": 1e-13}
    for transpose in (False, True):
        n_in, n_out = (shape[0], shape[1]) if transpose else (shape[1], shape[0])
        x = rng.standard_normal((n_in, *columns)).astype(dtype)
        start = rng.standard_normal((n_out, *columns)).astype(dtype)
        expected = (matrix.T if transpose else matrix) @ x
        # NaN before: an output that is read or left unwritten would show.
        out = torch.full((n_out, *columns), float("nan"), dtype=values.dtype)
        if transpose:
            pattern.rmatmul(values, torch.from_numpy(x), out)
            np.testing.assert_allclose(out.numpy(), expected, **close)
            continue
        pattern.matmul(values, torch.from_numpy(x), out)
        np.testing.assert_allclose(out.numpy(), expected, **close)
        oracle = torch.from_numpy(start.copy())
        csr_matmul_reference(pattern.indptr, pattern.indices, values, torch.from_numpy(x), oracle)
        np.testing.assert_allclose(oracle.numpy(), out.numpy(), **close)


@pytest.mark.skipif(native.LIBRARY is None, reason="the kernels were not compiled")
@pytest.mark.parametrize("columns", [(), (1,), (3,), (8,), (19,)])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("density", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_fused_product_sums_adds_and_weighs(shape, density, dtype, columns):
    matrix, pattern, values, rng = _case(shape, density, dtype)
    close = {"rtol": 1e-5, "atol": 1e-4} if dtype == np.float32 else {"rtol": 1e-12, "atol": 1e-12}
    n_out = shape[0] + 4

    def vector(n):
        return rng.standard_normal((n, *columns)).astype(dtype)

    x, start, weights = vector(shape[1]), vector(n_out), vector(n_out)
    rows = rng.permutation(n_out)[: shape[0]].astype(np.int32)
    product, before = matrix @ x, np.asarray(vector(1)[0])
    torch.set_num_threads(1)
    assert pattern.compiled(torch.from_numpy(x))

    out, dot = torch.from_numpy(start.copy()), torch.from_numpy(before.copy())
    pattern.fused_matmul(
        values, torch.from_numpy(x), out, torch.from_numpy(rows), dot, torch.from_numpy(weights)
    )
    expected = start.copy()
    expected[rows] += product
    np.testing.assert_allclose(out.numpy(), expected, **close)
    np.testing.assert_allclose(dot.numpy(), before + (weights[rows] * product).sum(0), **close)
    square = torch.from_numpy(before.copy())
    pattern.fused_matmul(
        values, torch.from_numpy(x), torch.from_numpy(start.copy()), torch.from_numpy(rows), None,
        None, square,
    )  # fmt: skip
    rise = (expected**2).sum(0) - (start**2).sum(0)
    np.testing.assert_allclose(square.numpy(), before + rise, rtol=1e-4, atol=1e-3)

    out = torch.full((shape[0], *columns), float("nan"), dtype=values.dtype)
    dot.zero_()
    pattern.fused_matmul(
        values, torch.from_numpy(x), out, None, dot, torch.from_numpy(weights[: shape[0]]),
        square.zero_(),
    )  # fmt: skip
    np.testing.assert_allclose(square.numpy(), (product**2).sum(0), **close)
    np.testing.assert_allclose(out.numpy(), product, **close)
    np.testing.assert_allclose(dot.numpy(), (weights[: shape[0]] * product).sum(0), **close)


@pytest.mark.usefixtures("_threads")
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("shape", SHAPES)
def test_sample_is_the_outer_product_on_the_pattern(shape, dtype):
    matrix, pattern, _, rng = _case(shape, 0.4, dtype)
    close = {"rtol": 1e-5, "atol": 1e-6} if dtype == np.float32 else {"rtol": 1e-13, "atol": 1e-14}
    coo = matrix.tocoo()
    for columns in [(), (1,), (2,)]:
        g = rng.standard_normal((shape[0], *columns)).astype(dtype)
        x = rng.standard_normal((shape[1], *columns)).astype(dtype)
        products = g[coo.row] * x[coo.col]
        expected = products if not columns else products.sum(1)
        given = torch.from_numpy(g), torch.from_numpy(x)
        np.testing.assert_allclose(pattern.sample(*given).numpy(), expected, **close)
        out = torch.full((pattern.nnz,), float("nan"), dtype=given[0].dtype)
        assert pattern.sample(*given, out) is out
        np.testing.assert_allclose(out.numpy(), expected, **close)


def test_transposed_twice_is_the_pattern():
    _, pattern, values, _ = _case((20, 30), 0.2, np.float64)
    once, order = pattern.transposed
    twice, back = once.transposed
    assert torch.equal(twice.indptr, pattern.indptr)
    assert torch.equal(twice.indices, pattern.indices)
    assert torch.equal(values[order.long()][back.long()], values)
    assert once.indptr.dtype == torch.int32


def test_expand_rows():
    indptr = torch.tensor([0, 2, 2, 3], dtype=torch.int32)
    assert expand_rows(indptr, 3).tolist() == [0, 0, 2]


def test_the_operator_is_one_torch_compile_can_trace():
    _, pattern, values, rng = _case((6, 6), 0.5, np.float64)
    x = torch.from_numpy(rng.standard_normal(6))
    torch.library.opcheck(
        torch.ops.hpc_sla.csr_matmul_out.default,
        (pattern.indptr, pattern.indices, values, x, torch.zeros(6, dtype=torch.float64)),
        test_utils=("test_schema", "test_faketensor"),
    )


@pytest.mark.parametrize("chunk", [1, 3, 1000])
@pytest.mark.parametrize("shape", SHAPES)
def test_diagonal_entries(shape, chunk):
    matrix, pattern, values, _ = _case(shape, 0.4, np.float64)
    where = pattern.diagonal_entries(chunk).numpy()
    expected = np.zeros(shape[0])
    expected[: min(shape)] = matrix.diagonal()
    stored = where >= 0
    assert stored.sum() == (matrix.tocoo().row == matrix.tocoo().col).sum()
    np.testing.assert_array_equal(values.numpy()[where[stored]], expected[stored])

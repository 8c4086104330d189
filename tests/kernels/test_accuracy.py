"""What is asked of a solution row by row: the compiled pass beside torch's operations."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hpc_sla.kernels import absolute, accuracy, native
from hpc_sla.kernels.csr import CsrPattern

DTYPES = [torch.float64, torch.float32]
SHAPES = [(0,), (1,), (1300,), (0, 2), (700, 1), (1300, 3)]


def _vectors(shape, dtype, seed=3):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=dtype) for _ in range(4)]


def _both(monkeypatch, function):
    """By the compiled loop, and without."""
    if native.LIBRARY is None:
        pytest.skip("not compiled")
    found = function()
    monkeypatch.setattr(native, "LIBRARY", None)
    return found, function()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("what", ["plain", "zero", "nan", "infinite", "nan at the end"])
def test_judging_is_what_torch_makes_of_it(monkeypatch, shape, dtype, what):
    b, x, r, scale = _vectors(shape, dtype)
    scale.abs_()
    if shape[0]:
        if what == "zero":  # rows without entries, exact and not
            b[0] = scale[0] = r[0] = 0.0
            b[-1] = scale[-1] = 0.0
        elif what == "nan":
            r[0] = x[0] = torch.nan
        elif what == "nan at the end":
            r[-1] = torch.nan
        elif what == "infinite":
            scale[0] = torch.inf
            x[-1] = -torch.inf
    scales = []

    def judged():
        scales.append(scale.clone())
        return accuracy.judge(b, x, r, scales[-1])

    found, expected = _both(monkeypatch, judged)
    assert found.dtype == expected.dtype == torch.float64
    assert found.shape == expected.shape == (5, 1 if len(shape) == 1 else shape[1])
    torch.testing.assert_close(found, expected, equal_nan=True, rtol=1e-6, atol=0)
    torch.testing.assert_close(*scales, equal_nan=True)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("what", ["plain", "zero", "nan", "infinite", "one number"])
def test_guarding_is_what_torch_makes_of_it(monkeypatch, shape, dtype, what):
    b, r, scale, sizes = _vectors(shape, dtype)
    # Most rows count, some do not, and one is exact.
    scale.abs_().mul_(
        10.0 ** torch.linspace(-12, 0, max(scale.numel(), 1))[: scale.numel()].view(shape)
    )
    sizes.abs_()
    if shape[0]:
        r[-1] = 0.0
        if what == "zero":
            scale[0] = sizes[0] = b[0] = 0.0
        elif what == "nan":
            r[0] = torch.nan
        elif what == "infinite":
            scale[0] = torch.inf
    if what == "one number" and len(shape) == 1:
        b = b.new_full((1,), 3.0).expand(shape)
    columns = 1 if len(shape) == 1 else shape[1]
    largest = [2.0, 0.5, 1e3][:columns]
    sizes = sizes.reshape(shape[0], columns)[:, 0].contiguous()
    before = scale.clone(), sizes.clone()
    found, expected = _both(monkeypatch, lambda: accuracy.guard(b, r, scale, sizes, 1e-3, largest))
    assert found.dtype == expected.dtype == torch.float64
    assert found.shape == expected.shape == (2, columns)
    torch.testing.assert_close(found, expected, equal_nan=True, rtol=1e-6, atol=0)
    torch.testing.assert_close((scale, sizes), before, equal_nan=True)


def _matrix(rng, dtype):
    """[40, 30], with an empty row: dense, and its pattern and values."""
    dense = rng.standard_normal((40, 30)) * (rng.random((40, 30)) < 0.2)
    dense[7] = 0.0
    indptr = np.concatenate([[0], np.cumsum((dense != 0).sum(axis=1))]).astype(np.int32)
    indices = np.nonzero(dense)[1].astype(np.int32)
    pattern = CsrPattern(torch.from_numpy(indptr), torch.from_numpy(indices), 30)
    values = torch.from_numpy(dense[dense != 0]).to(dtype)
    return dense, pattern, values


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("columns", [(), (1,), (4,)])
@pytest.mark.parametrize("beside", [False, True])
def test_the_absolute_product_is_that_of_absolute_values(monkeypatch, dtype, columns, beside):
    rng = np.random.default_rng(5)
    dense, pattern, values = _matrix(rng, dtype)
    x = torch.from_numpy(rng.standard_normal((30, *columns))).to(dtype)
    rows = torch.from_numpy(rng.permutation(60)[:40].astype(np.int32)) if beside else None
    start = torch.ones((60 if beside else 40, *columns), dtype=dtype)

    def product():
        out = start.clone()
        absolute.matmul(pattern, values, x, out, rows)
        return out

    found, plain = _both(monkeypatch, product)
    expected = torch.from_numpy(abs(dense) @ abs(x.double().numpy())).to(dtype)
    if rows is not None:
        expected = start.index_add(0, rows, expected)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(plain, expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("beside", [False, True])
def test_row_sums_are_those_of_absolute_values(monkeypatch, dtype, beside):
    rng = np.random.default_rng(6)
    dense, pattern, values = _matrix(rng, dtype)
    rows = torch.from_numpy(rng.permutation(60)[:40].astype(np.int32)) if beside else None

    def sums():
        out = torch.ones(60 if beside else 40, dtype=dtype)
        absolute.row_sums(pattern, values, out, rows)
        return out

    expected = torch.from_numpy(abs(dense).sum(axis=1)).to(dtype)
    if rows is not None:
        expected = torch.ones(60, dtype=dtype).index_add(0, rows, expected)
    for found in _both(monkeypatch, sums):
        torch.testing.assert_close(found, expected)

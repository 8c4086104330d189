"""What is asked of a matrix's entries, in every form, against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hpc_sla.kernels import native
from hpc_sla.kernels.census import largest_of_rows
from hpc_sla.kernels.csr import CsrPattern
from hpc_sla.kernels.entries import beside, diagonal, largest, plain
from tests.kernels.test_packed import ALL, csr, packed_of

pytestmark = pytest.mark.skipif(native.LIBRARY is None, reason="needs the compiled kernels")


def pattern_of(matrix) -> CsrPattern:
    indptr, indices = (
        torch.from_numpy(a.astype(np.int32)) for a in (matrix.indptr, matrix.indices)
    )
    return CsrPattern(indptr, indices, matrix.shape[1])


@pytest.mark.parametrize("special", [None, np.nan, np.inf, 0.0])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("name", [name for name in ALL if name not in ("wide", "far")])
def test_each_form_says_the_same(name, dtype, special):
    matrix = csr(ALL[name](), dtype)
    if special is not None:
        matrix.data[len(matrix.data) // 3] = special
    block = pattern_of(matrix)
    forms = [packed_of(matrix), plain(block, matrix.data)]
    rows = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    off = (rows != matrix.indices) & (matrix.data != 0)
    expected = np.zeros(matrix.shape[0])
    np.maximum.at(expected, rows, np.abs(matrix.data.astype(np.float64)))
    for form in forms:
        assert form is not None
        np.testing.assert_array_equal(diagonal(form).numpy(), matrix.diagonal())
        found = beside(form).numpy()
        np.testing.assert_array_equal(found, np.bincount(rows[off], minlength=len(found)) > 0)
    assert forms[0] is not None
    np.testing.assert_equal(largest(forms[0]), float(expected.max(initial=0)))
    for values in (forms[0], matrix.data):
        found = np.full(len(expected), 7.0)
        largest_of_rows(block, values, found, None)
        np.testing.assert_array_equal(found, expected)


def test_rows_of_a_halo_are_raised(monkeypatch):
    matrix = csr(ALL["length 3"](), np.float64)[:40]
    block, rows = pattern_of(matrix), np.arange(40, dtype=np.int32) * 2 + 1
    compiled, by_numpy = np.linspace(0, 2, 90), np.linspace(0, 2, 90)
    compiled[7] = by_numpy[7] = np.nan
    largest_of_rows(block, matrix.data, compiled, rows)
    monkeypatch.setattr(native, "LIBRARY", None)
    largest_of_rows(block, matrix.data, by_numpy, rows)
    np.testing.assert_array_equal(compiled, by_numpy)
    whole = np.full(40, 7.0)
    largest_of_rows(block, matrix.data, whole, None)
    np.testing.assert_array_equal(whole, abs(matrix).max(axis=1).toarray().ravel())

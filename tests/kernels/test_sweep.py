"""A step of gmres in one sweep beside the operations it is made of."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from hpc_sla.kernels import basis, native, sweep
from hpc_sla.kernels.csr import CsrMatrix, CsrPattern

pytestmark = pytest.mark.skipif(
    native.LIBRARY is None, reason="the kernels were not compiled (no C compiler at installation)"
)


def _matrix(n, dtype, bandwidth):
    """Of a given half bandwidth, with rows that are empty."""
    rng = np.random.default_rng(n)
    rows = rng.integers(0, max(n, 1), 4 * n)
    columns = np.clip(rows + rng.integers(-bandwidth, bandwidth + 1, 4 * n), 0, max(n - 1, 0))
    matrix = sp.csr_matrix((rng.standard_normal(4 * n), (rows, columns)), shape=(n, n))
    pattern = CsrPattern(torch.from_numpy(matrix.indptr), torch.from_numpy(matrix.indices), n)
    return pattern, torch.from_numpy(matrix.data).to(dtype)


def _stored(pattern, values):
    return CsrMatrix(pattern, values).matrix


@pytest.mark.parametrize("n", [0, 1, 5, 2047, 2048, 2049, 9001])
@pytest.mark.parametrize("bandwidth", [0, 3, 3000])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("jacobi", [False, True])
@pytest.mark.parametrize("j", [0, 1, 2, 5, 9])
@pytest.mark.parametrize("pending", [False, True])
def test_a_step(n, bandwidth, dtype, jacobi, j, pending, monkeypatch):
    """Fails where a product comes before what it reads, or a vector is updated twice or never."""
    monkeypatch.setattr(native, "serves", native.can_take)
    torch.manual_seed(n)
    pattern, values = _matrix(n, dtype, bandwidth)
    inverse = torch.rand(n, dtype=dtype) if jacobi else None
    sums = found = None
    ours = basis.Basis(j + 2, torch.empty(n, dtype=dtype))
    ours.tensor.normal_()
    ours.vectors[j + 1].fill_(torch.nan)  # written, not read
    expected = ours.tensor.clone()
    if pending and j:
        sums, found = torch.randn(2, j + 1, dtype=dtype), torch.rand(3, dtype=dtype)
        basis.update(expected, j - 1, *sums[:, : j - 1], found[0], found[1])
    z = expected[j] if inverse is None else inverse * expected[j]
    pattern.matmul(values, z, expected[j + 1])
    sent = torch.randperm(n)[:7].int()
    boundary, part = torch.randperm(n)[:9].int(), torch.randn(min(n, 9), dtype=dtype)
    expected[j + 1, boundary.long()] += part
    inner = torch.empty(2, j + 2, dtype=dtype)
    basis.dots(expected, j + 2, j, inner)

    swept = sweep.BasisSweep(ours, pattern, _stored(pattern, values), inverse, sent, boundary)
    others, out = torch.empty(len(sent), dtype=dtype), torch.empty(2, j + 2, dtype=dtype)
    swept(sweep.Phase.SEND, j, sums, found, others)
    swept(sweep.Phase.MAIN, j, sums, found)
    swept(sweep.Phase.RECEIVE, j, None, None, part, out)
    tolerance = (
        {"rtol": 1e-4, "atol": 2e-3} if dtype == torch.float32 else {"rtol": 1e-10, "atol": 1e-10}
    )
    torch.testing.assert_close(others, z[sent.long()], **tolerance)
    torch.testing.assert_close(ours.tensor, expected, **tolerance)
    torch.testing.assert_close(out, inner, **tolerance)


@pytest.mark.parametrize("n", [0, 3, 5000])
@pytest.mark.parametrize("j", [1, 4, 9])
def test_the_update_alone_and_the_end_of_a_cycle(n, j, monkeypatch):
    monkeypatch.setattr(native, "serves", native.can_take)
    torch.manual_seed(n)
    pattern, values = _matrix(n, torch.float64, 3)
    sums = torch.randn(2, j + 1, dtype=torch.float64)
    found = torch.rand(3, dtype=torch.float64)
    none = torch.empty(0, dtype=torch.int32)
    for phase in (sweep.Phase.UPDATE, sweep.Phase.END):
        ours = basis.Basis(j + 2, torch.empty(n, dtype=torch.float64))
        ours.tensor.normal_()
        expected = ours.tensor.clone()
        basis.update(expected, j - 1, *sums[:, : j - 1], found[0], found[1])
        out, inner = (torch.zeros(1, j + 1, dtype=torch.float64) for _ in range(2))
        if phase == sweep.Phase.END:
            basis.dots(expected, j + 1, j, inner)
        swept = sweep.BasisSweep(ours, pattern, _stored(pattern, values), None, none, none)
        swept(phase, j, sums, found, None, out)
        torch.testing.assert_close(ours.tensor, expected)
        torch.testing.assert_close(out, inner)


def test_where_it_pays():
    none, few = torch.empty(0, dtype=torch.int32), torch.arange(100, dtype=torch.int32)
    assert sweep.pays(0, none) and sweep.pays(1000, none, few)
    assert not sweep.pays(1000, 8 * few)  # a line of every vector each


@pytest.mark.parametrize("n", [1, 7, 2051])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("j", [1, 2, 4, 8, 12])
def test_updated_on_the_way_or_before_it_is_the_same_to_the_bit(n, dtype, j, monkeypatch):
    """What is resumed was updated before; and what others are sent is what this rank has."""
    monkeypatch.setattr(native, "serves", native.can_take)
    torch.manual_seed(n)
    pattern, values = _matrix(n, dtype, 3)
    inverse, start = torch.rand(n, dtype=dtype), torch.randn(j + 2, n, dtype=dtype)
    sums, found = torch.randn(2, j + 1, dtype=dtype), torch.rand(3, dtype=dtype)
    rows, none = torch.randperm(n).int(), torch.empty(0, dtype=torch.int32)
    results = []
    for before in (False, True):
        ours = basis.Basis(j + 2, start[0])
        ours.tensor.copy_(start)
        swept = sweep.BasisSweep(ours, pattern, _stored(pattern, values), inverse, rows, none)
        sent, out = torch.empty(n, dtype=dtype), torch.empty(2, j + 2, dtype=dtype)
        pending = (sums, found)
        if before:
            swept(sweep.Phase.UPDATE, j, *pending)
            pending = (None, None)
        swept(sweep.Phase.SEND, j, *pending, sent)
        swept(sweep.Phase.MAIN, j, *pending)
        swept(sweep.Phase.RECEIVE, j, None, None, none.to(dtype), out)
        assert torch.equal(sent, (inverse * ours.tensor[j])[rows.long()])
        results.append((ours.tensor, sent, out))
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))

"""Restriction and prolongation by P^T in every form that it may be held in, beside SciPy."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from hpc_sla.kernels import native
from hpc_sla.kernels.csr import CsrPattern
from hpc_sla.kernels.matrix import CODED_8, CODED_16, CSR, SHORT
from hpc_sla.kernels.packed import Packed
from hpc_sla.kernels.packing import compressed
from hpc_sla.kernels.tiles import Tiles

pytestmark = pytest.mark.skipif(native.LIBRARY is None, reason="the kernels were not compiled")

VALUES = {CODED_8: 7, CODED_16: 900, SHORT: None}
"""How many values are distinct."""


@pytest.fixture(params=[1, 2])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def _prolongator(form, order, dtype, fine=200_000, coarse=5000):
    """Two entries a row: of aggregates one after another, or of any, some of which have none."""
    rng = np.random.default_rng(form)
    near = np.arange(fine) * coarse // fine
    columns = np.stack([near, np.minimum(near + 1 + near % 2, coarse - 1)], 1)
    if order == "far":
        columns = rng.integers(0, coarse - 7, (fine, 2))
    rows = np.repeat(np.arange(fine), 2)
    matrix = sp.csr_matrix((np.ones(2 * fine), (rows, columns.ravel())), shape=(fine, coarse))
    few = VALUES[form]
    values = rng.standard_normal(matrix.nnz if few is None else few).astype(dtype)
    if few is not None:
        values = values[rng.integers(0, few, matrix.nnz)]
    return Tiles(matrix.indptr, matrix.indices, values.reshape(-1, 1, 1), coarse)


@pytest.mark.parametrize("columns", [(), (3,), (9,)])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("order", ["near", "far"])
@pytest.mark.parametrize("form", VALUES)
def test_every_form(threads, form, order, dtype, columns):
    P = _prolongator(form, order, dtype)
    oracle, transposed = P.csr().astype(np.float64), P.transposed()
    R = transposed.transfer()
    assert R.form == form
    assert (len(R.tensors[5]) > 0) == (order == "far") == (len(R.tensors[4]) == 0)
    held = Packed(R, getattr(torch, dtype)).csr()
    expected = transposed.indptr, transposed.indices, transposed.values.ravel()
    assert all(map(np.array_equal, held, expected))
    torch.manual_seed(4)
    x = torch.randn(P.rows, *columns, dtype=getattr(torch, dtype))
    e = torch.randn(P.columns, *columns, dtype=x.dtype)
    tolerance = 1e-12 if dtype == "float64" else 1e-4
    out = torch.full_like(e, float("nan"))
    native.call_on("restrict", x, R.address, x, out)
    expected = torch.from_numpy(oracle.T @ x.double().numpy())
    torch.testing.assert_close(out.double(), expected, rtol=tolerance, atol=100 * tolerance)
    expected = torch.from_numpy(x.double().numpy() + oracle @ e.double().numpy())
    native.call_on("prolong", x, R.address, e, x)
    torch.testing.assert_close(x.double(), expected, rtol=tolerance, atol=10 * tolerance)


def test_few_rows_and_none():
    for coarse in (0, 1, 300):
        empty = sp.csr_matrix((9, coarse), dtype=np.float32)
        R = Tiles.of(sp.csr_matrix(empty.T)).transfer()
        x, e, out = torch.ones(9), torch.ones(coarse), torch.full((coarse,), float("nan"))
        native.call_on("prolong", x, R.address, e, x)
        native.call_on("restrict", x, R.address, x, out)
        assert R.form == CSR and torch.equal(x, torch.ones(9)) and not out.any()


@pytest.mark.parametrize("values", ["few", "many"])
def test_rows_that_could_lie_side_by_side_do_not(values):
    """Prolongation reads them one by one, however even they are."""
    rng = np.random.default_rng(0)
    rows, columns = 600, 3000
    matrix = sp.csr_matrix(sp.random_array((rows, columns), density=0.01, rng=rng))
    indices = np.sort([rng.choice(columns, 8, replace=False) for _ in range(rows)]).ravel()
    data = rng.integers(1, 4, 8 * rows) if values == "few" else rng.random(8 * rows)
    matrix = sp.csr_matrix((data.astype(float), indices, np.arange(0, 8 * rows + 1, 8)))
    arrays = (torch.from_numpy(a.astype(np.int32)) for a in (matrix.indptr, matrix.indices))
    made = compressed(CsrPattern(*arrays, columns), torch.from_numpy(matrix.data))
    assert made.form == (CODED_8 if values == "few" else SHORT)

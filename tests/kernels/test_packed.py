"""Compressed forms of a rank-local matrix against SciPy and against their expansion by NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from hpc_sla.kernels import native, packing
from hpc_sla.kernels.csr import CsrPattern
from hpc_sla.kernels.packed import Packed, Packer
from hpc_sla.problems import make

pytestmark = pytest.mark.skipif(native.LIBRARY is None, reason="needs the compiled kernels")


def csr(matrix, dtype) -> sp.csr_matrix:
    matrix = sp.csr_matrix(matrix).astype(dtype)
    matrix.sort_indices()
    return matrix


def repeating(n: int, length: int, seed: int) -> sp.csr_matrix:
    """Rows of `length` entries of three kinds, in runs; rows without an entry among them."""
    rng = np.random.default_rng(seed)
    offsets = np.sort(rng.permutation(np.arange(-40, 41))[:length])
    kinds = rng.standard_normal((3, length))
    rows, columns, values = [], [], []
    for i in range(n):
        kind = i // 50 % 4
        if kind == 3:
            continue
        inside = (i + offsets >= 0) & (i + offsets < n)
        rows += [i] * inside.sum()
        columns += list(i + offsets[inside])
        values += list(kinds[kind][inside])
    return sp.csr_matrix((values, (rows, columns)), shape=(n, n))


def of_nodes(n: int, b: int, seed: int) -> sp.csr_matrix:
    """Nodes of b rows, their blocks full and the same for many nodes."""
    rng = np.random.default_rng(seed)
    ones = sp.diags_array([1.0, 1.0, 1.0], offsets=[-7, 0, 3], shape=(n, n))
    return sp.kron(ones, rng.standard_normal((b, b)), format="csr")


ROWS = {
    **{f"length {m}": lambda m=m: repeating(1300, m, m) for m in (1, 2, 3, 4, 5, 6, 7, 8, 9, 27)},
    **{f"nodes of {b}": lambda b=b: of_nodes(701, b, b) for b in range(2, 7)},
    "poisson2d": lambda: make("poisson2d:n=40").matrix(),
    "poisson3d": lambda: make("poisson3d:n=13").matrix(),
    "elasticity3d": lambda: make("elasticity3d:n=6").matrix(),
    "wide": lambda: sp.diags_array([1.0, 2.0], offsets=[0, 900], shape=(1000, 2000)),
    "far": lambda: sp.diags_array([1.0, 2.0], offsets=[0, 10**5], shape=(1000, 2 * 10**5)),
}


def values_of_their_own(matrix: sp.csr_matrix, seed: int = 0) -> sp.csr_matrix:
    matrix = sp.csr_matrix(matrix)
    matrix.data = np.random.default_rng(seed).standard_normal(matrix.nnz)
    return matrix


def scattered(n: int, seed: int, values: int | None = None) -> sp.csr_matrix:
    """Rows of 0 to 20 entries near the diagonal, some far away; with so many different values."""
    rng = np.random.default_rng(seed)
    rows = np.repeat(np.arange(n), rng.integers(0, 21, n))
    columns = np.clip(rows + rng.integers(-300, 301, len(rows)), 0, n - 1)
    columns[rows // 256 == 2] = rng.integers(0, n, (rows // 256 == 2).sum())
    matrix = sp.csr_matrix((np.ones(len(rows)), (rows, columns)), shape=(n, n))
    matrix = values_of_their_own(matrix)
    if values is not None:
        matrix.data = rng.permutation(rng.standard_normal(values))[
            rng.integers(0, values, matrix.nnz)
        ]
    return matrix


def uneven(n: int, seed: int, values: int | None = None) -> sp.csr_matrix:
    """As `scattered`, with one row of 900 entries."""
    matrix = scattered(n, seed, values)
    hub = sp.random_array((1, n), density=900 / n, rng=np.random.default_rng(seed)).tocsr()
    hub.data = np.random.default_rng(seed).choice(matrix.data, hub.nnz)
    return sp.vstack([matrix[: n // 2], hub, matrix[n // 2 + 1 :]], format="csr")


FORMS = {
    "patterns": lambda: values_of_their_own(make("poisson2d:n=40").matrix()),
    "patterns of 27": lambda: values_of_their_own(repeating(1300, 27, 0)),
    **{f"nodes of {b}": lambda b=b: values_of_their_own(of_nodes(701, b, b)) for b in range(2, 7)},
    "short": lambda: uneven(70000, 1),
    "coded 8": lambda: uneven(70000, 2, 200),
    "coded 16": lambda: uneven(70000, 3, 3000),
    "sliced": lambda: scattered(70003, 4),
    "sliced 8": lambda: scattered(70003, 5, 200),
    "sliced 16": lambda: scattered(70003, 6, 3000),
}
"""Matrices that suit the other forms."""

ALL = ROWS | FORMS


def packed_of(matrix: sp.csr_matrix) -> Packed | None:
    indptr, indices = (
        torch.from_numpy(a.astype(np.int32)) for a in (matrix.indptr, matrix.indices)
    )
    return Packed.of(CsrPattern(indptr, indices, matrix.shape[1]), torch.from_numpy(matrix.data))


def same(packed: Packed, matrix: sp.csr_matrix) -> None:
    for found in (packed.csr(), packed.expanded()):
        for part, expected in zip(found, (matrix.indptr, matrix.indices, matrix.data), strict=True):
            np.testing.assert_array_equal(part, expected)
    assert packed.nnz == matrix.nnz


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("k", [None, 1, 11])
@pytest.mark.parametrize("name", ALL)
def test_products_and_inner_products(name, k, dtype):
    matrix = csr(ALL[name](), dtype)
    packed = packed_of(matrix)
    assert packed is not None
    assert packed.form == (name.split(" of")[0] if name in FORMS else "rows")
    if k is None:
        same(packed, matrix)
    rng = np.random.default_rng(0)
    shape = () if k is None else (k,)
    x, w, y = (
        torch.from_numpy(rng.standard_normal((m, *shape)).astype(dtype))
        for m in (matrix.shape[1], matrix.shape[0], matrix.shape[0])
    )
    expected = matrix.astype(np.float64) @ x.double().numpy()
    tolerance = (
        {"rtol": 1e-12, "atol": 1e-12} if dtype == np.float64 else {"rtol": 1e-4, "atol": 1e-4}
    )
    dot, square = torch.zeros(shape, dtype=x.dtype), torch.zeros(shape, dtype=x.dtype)
    packed.matmul(x, y, None, dot, w, square)
    np.testing.assert_allclose(y.numpy(), expected, **tolerance)
    sums = {"rtol": 1e-4, "atol": 1e-2} if dtype == np.float32 else {"rtol": 1e-11, "atol": 1e-10}
    np.testing.assert_allclose(dot.numpy(), (w.double().numpy() * expected).sum(0), **sums)
    np.testing.assert_allclose(square.numpy(), (expected**2).sum(0), **sums)
    again = torch.full_like(y, torch.nan)
    packed.matmul(x, again)
    assert torch.equal(y, again)
    packed.reference(x, again)
    np.testing.assert_allclose(y.numpy(), again.numpy(), **tolerance)

    # To some rows of a longer vector, and what its square rises by.
    rows = torch.randperm(matrix.shape[0] + 5)[: matrix.shape[0]].int()
    long = torch.from_numpy(rng.standard_normal((matrix.shape[0] + 5, *shape)).astype(dtype))
    before, weights = long.clone(), torch.ones_like(long)
    dot.zero_(), square.zero_()
    packed.matmul(x, long, rows, dot, weights, square)
    np.testing.assert_allclose(long[rows.long()] - before[rows.long()], expected, **tolerance)
    np.testing.assert_allclose(dot.numpy(), expected.sum(0), **sums)
    rise = (long.double() ** 2 - before.double() ** 2).sum(0)
    np.testing.assert_allclose(square.numpy(), rise.numpy(), **sums)


@pytest.mark.parametrize("step", [7, 64, 5000])
@pytest.mark.parametrize("name", ALL)
def test_by_blocks_of_rows(name, step):
    matrix = csr(ALL[name](), np.float64)
    packer = Packer(*matrix.shape, torch.float64)
    for first in range(0, matrix.shape[0], step):
        block = matrix[first : first + step]
        packer.add(block.indptr.astype(np.int64) + 17, block.indices, block.data)
    packed = packer.finish()
    if packed is not None:
        same(packed, matrix)
    for part, expected in zip(
        packer.csr(), (matrix.indptr, matrix.indices, matrix.data), strict=True
    ):
        np.testing.assert_array_equal(part, expected)


def test_what_does_not_repeat_comes_back_whole():
    """Rows that repeat at first, so that the dictionary is given up halfway."""
    rng = np.random.default_rng(1)
    matrix = sp.vstack(
        [repeating(20000, 5, 1), sp.random_array((5000, 20000), density=2e-4, rng=rng)]
    )
    matrix = csr(matrix, np.float64)
    packer = Packer(*matrix.shape, torch.float64)
    for first in range(0, matrix.shape[0], 999):
        block = matrix[first : first + 999]
        packer.add(block.indptr, block.indices, block.data)
    packed = packer.finish()
    for found in [packer.csr()] if packed is None else [packed.csr(), packed.expanded()]:
        for part, expected in zip(found, (matrix.indptr, matrix.indices, matrix.data), strict=True):
            np.testing.assert_array_equal(part, expected)


@pytest.mark.parametrize("name", ["length 5", "nodes of 3", *FORMS])
def test_it_knows_its_values(name):
    """To the bit, and whatever they are changed by."""
    matrix = csr(ALL[name](), np.float64)
    packed = packed_of(matrix)
    mine = torch.from_numpy(matrix.data)
    assert packed.holds(mine)
    for entry in (0, matrix.nnz // 2, -1) if not packed.refers else ():
        matrix.data[entry] = -matrix.data[entry]
        assert not packed.holds(mine)
        matrix.data[entry] = -matrix.data[entry]


def test_bits_are_kept():
    """-0.0 is not 0.0, and NaNs are as they were."""
    n = 4000
    values = np.where(np.arange(n) < n // 2, 0.0, -0.0)
    values[-50:] = np.nan
    packed = packed_of(csr(sp.csr_matrix((values, np.arange(n), np.arange(n + 1))), np.float64))
    assert packed is not None
    for found in (packed.csr(), packed.expanded()):
        np.testing.assert_array_equal(found[2].view(np.int64), values.view(np.int64))


def windows(spans: list[int], seed: int) -> sp.csr_matrix:
    """Blocks of 256 rows of ten entries, each block from column 5 on over so many more."""
    rng = np.random.default_rng(seed)
    columns = np.concatenate(
        [np.sort(rng.integers(1, span // 10, (256, 10)) * 10 + np.arange(10)) for span in spans]
    )
    starts = 256 * np.arange(len(spans))
    columns[starts, 0], columns[starts + 255, 9] = 5, 5 + np.array(spans)
    indptr = np.arange(0, columns.size + 1, 10)
    return sp.csr_matrix((rng.standard_normal(columns.size), columns.ravel(), indptr))


@pytest.mark.parametrize("sliced", [True, False])
@pytest.mark.parametrize("kinds", [None, 3, 256, 257, 4096, 4097])
def test_what_just_fits_and_what_just_does_not(kinds, sliced, monkeypatch):
    """Columns within 16 bits of each other, and values that a dictionary has room for."""
    if not sliced:
        monkeypatch.setattr(packing, "_PADDED", 0.0)
    matrix = csr(windows([65535, *[40000] * 9, 65536, 65537], 1), np.float64)
    if kinds is not None:
        values = np.random.default_rng(2).standard_normal(kinds)
        values[:3] = 0.0, -0.0, np.nan
        matrix.data[:] = values[np.arange(matrix.nnz) * 7 % kinds]
    packed = packed_of(matrix)
    plain, coded = ("sliced", "sliced") if sliced else ("short", "coded")
    form = plain if kinds in (None, 4097) else f"{coded} 8" if kinds <= 256 else f"{coded} 16"
    assert packed is not None and packed.form == form
    same(packed, matrix)
    for found in (packed.csr(), packed.expanded()):
        np.testing.assert_array_equal(found[2].view(np.int64), matrix.data.view(np.int64))
    if kinds is None:
        x = torch.from_numpy(np.random.default_rng(3).standard_normal(matrix.shape[1]))
        y = torch.empty(matrix.shape[0], dtype=x.dtype)
        packed.matmul(x, y)
        np.testing.assert_allclose(y.numpy(), matrix @ x.numpy(), rtol=1e-12, atol=1e-12)


def test_nodes_between_columns_of_nodes():
    """Rows in nodes of three, whose columns are three together from the second on."""
    inner = values_of_their_own(of_nodes(701, 3, 3))
    beside = sp.csr_matrix((inner.shape[0], 1))
    matrix = csr(sp.hstack([beside, inner, beside, beside]), np.float64)
    packed = packed_of(matrix)
    assert packed is not None and packed.form != "nodes"
    same(packed, matrix)


@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (1, 1), (1, 9), (6, 6), (4, 0)])
def test_next_to_nothing(shape):
    """None where there is nothing to gain, or a matrix that is right."""
    matrix = csr(sp.random_array(shape, density=0.5, rng=np.random.default_rng(0)), np.float64)
    packed = packed_of(matrix)
    if packed is not None:
        same(packed, matrix)


def test_diagonal():
    for name in ("length 5", "nodes of 3", *FORMS):
        check_diagonal(csr(ALL[name](), np.float64))


def check_diagonal(matrix):
    packed = packed_of(matrix)
    np.testing.assert_array_equal(packed.diagonal().numpy(), matrix.diagonal())

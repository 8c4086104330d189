"""The compiled loops on several threads beside one: the same but for the order of sums."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from hpc_sla.kernels import basis, cycle, fused, native, passes, relax
from hpc_sla.kernels.csr import CsrMatrix, CsrPattern
from hpc_sla.kernels.packed import Packed
from hpc_sla.kernels.tiles import Tiles

pytestmark = pytest.mark.skipif(not native.THREADED, reason="the compiled loops have one thread")

SHAPES = [(32769, ()), (60003, ()), (11003, (3,)), (5001, (9,))]
"""Each of more than two threads' worth of numbers, and of no even share."""


@pytest.fixture(params=[2, 3])
def threads(request):
    before = torch.get_num_threads()
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture(params=[(*shape, d) for shape in SHAPES for d in (torch.float64, torch.float32)])
def vector(request):
    n, columns, dtype = request.param
    torch.manual_seed(n)
    return lambda: torch.randn(n, *columns, dtype=dtype)


def _beside_one(threads, function, changed, *sums):
    """Vectors that a function changes are the same to the bit; sums are close, and repeatable."""
    results = []
    for count in (1, threads, threads, threads):
        torch.set_num_threads(count)
        vectors, totals = [v.clone() for v in changed], [s.clone() for s in sums]
        function(*vectors, *totals)
        results.append((vectors, totals))
    (one, alone), *others = results
    for vectors, totals in others:
        assert all(torch.equal(a, b) for a, b in zip(vectors, one, strict=True))
        assert all(torch.equal(a, b) for a, b in zip(totals, others[0][1], strict=True))
        for total, reference in zip(totals, alone, strict=True):
            single = reference.dtype == torch.float32
            size = float(reference.abs().max()) if reference.numel() else 0.0
            torch.testing.assert_close(
                total, reference, rtol=0, atol=(1e-4 if single else 1e-11) * (size + 300)
            )


def _scalar(v, value):
    return torch.full(v.shape[1:], value, dtype=v.dtype) if v.dim() > 1 else value


@pytest.mark.parametrize("jacobi", [False, True])
def test_passes(vector, threads, jacobi):
    a, b, c, d, e, f = (vector() for _ in range(6))
    inverse = torch.rand(len(a), dtype=a.dtype) if jacobi else None
    s, t = _scalar(a, 0.3), _scalar(a, -0.7)

    def room(count):
        return torch.zeros(count, *a.shape[1:], dtype=a.dtype)

    _beside_one(threads, lambda r, out: fused.residual_pass(r, b, s, inverse, out), [a], room(2))
    _beside_one(threads, lambda x, p: fused.direction_pass(x, p, c, inverse, s, t), [a, b])
    _beside_one(threads, lambda r, z: passes.bicgstab_half(r, s, c, inverse, z), [a, b])
    _beside_one(threads, lambda p: passes.bicgstab_turn(p, s, t, b, c, inverse), [a])
    _beside_one(
        threads,
        lambda x, r, out: passes.bicgstab_full(x, r, s, t, c, d, e, f, out),
        [a, b],
        room(2),
    )
    _beside_one(
        threads,
        lambda q, v, out: passes.minres_lanczos(q, v, c, d, s, t, s, inverse, out),
        [a, b],
        room(3),
    )
    _beside_one(
        threads,
        lambda w, x, r: passes.minres_direction(w, b, c, d, x, r, s, t, s, t, s, t),
        [a, e, f],
    )


@pytest.mark.parametrize("jacobi", [False, True])
def test_pipelined(threads, jacobi):
    torch.manual_seed(2)
    vectors = [torch.randn(50001, dtype=torch.float64) for _ in range(10)]
    inverse = torch.rand(50001, dtype=torch.float64) if jacobi else None
    room = torch.zeros(3, dtype=torch.float64)

    def step(x, r, u, w, m, n, z, q, s, p, out):
        passes.pipelined_step(x, r, u, w, m, n, z, q, s, p, 0.3, -0.2, inverse, out)

    _beside_one(threads, step, vectors, room)
    r, u, w = vectors[:3]
    _beside_one(
        threads,
        lambda m, out: passes.pipelined_sums(r, u, w, m, inverse, out),
        [vectors[3]],
        room,
    )


def test_a_basis(vector, threads):
    like = vector()
    vectors = torch.stack([vector() for _ in range(6)])
    sums, found = torch.randn(2, 6, *like.shape[1:]), torch.rand(3, *like.shape[1:])
    sums, found = sums.to(like.dtype), found.to(like.dtype)

    def dots(given, out):
        ours = basis.Basis(6, like)
        ours.tensor.copy_(given)
        out.copy_(ours.dots(6, 4, 2))

    def update(given):
        ours = basis.Basis(6, like)
        ours.tensor.copy_(given)
        ours.update(4, sums, found)
        given.copy_(ours.tensor)

    _beside_one(threads, dots, [vectors], torch.zeros_like(sums))
    _beside_one(threads, update, [vectors])


def _matrix(n, dtype, kind):
    rng = np.random.default_rng(n)
    if kind == "ragged":  # rows without entries, and one that has as many as a third of all
        matrix = sp.random_array((n, n), density=3 / n, rng=rng, format="lil")
        matrix[n // 3, : n // 2] = 1.0
        matrix = sp.csr_matrix(matrix)
    elif kind == "rows":
        matrix = sp.csr_matrix(sp.diags_array([-1.0, 4.0, -1.0], offsets=[-50, 0, 1], shape=(n, n)))
    else:  # nodes of three rows
        chain = sp.diags_array([1.0, 3.0, 2.0], offsets=[-7, 0, 1], shape=(n // 3, n // 3))
        matrix = sp.csr_matrix(sp.kron(chain, np.arange(1.0, 10.0).reshape(3, 3)))
    n = matrix.shape[0]
    indptr, indices = (
        torch.from_numpy(p.astype(np.int32)) for p in (matrix.indptr, matrix.indices)
    )
    return matrix, CsrPattern(indptr, indices, n), torch.from_numpy(matrix.data).to(dtype)


@pytest.mark.parametrize("kind", ["ragged", "rows", "nodes"])
@pytest.mark.parametrize("columns", [(), (3,), (19,)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_products(threads, kind, columns, dtype):
    matrix, pattern, values = _matrix(36000, dtype, kind)
    n = pattern.n_rows
    torch.manual_seed(1)
    x, y, w, b = (torch.randn(n, *columns, dtype=dtype) for _ in range(4))
    dot, square = (torch.ones(columns, dtype=dtype) for _ in range(2))
    forms = [lambda *a: pattern.fused_matmul(values, *a)]
    if kind != "ragged":
        packed = Packed.of(pattern, values)
        assert packed is not None and packed.matrix.block == (3 if kind == "nodes" else 1)
        forms.append(packed.matmul)
    for product in forms:

        def weighed(out, first, second, product=product):
            product(x, out, None, first, w, second)

        _beside_one(threads, weighed, [y], dot, square)
        _beside_one(threads, lambda out, product=product: product(x, out), [y])
        torch.set_num_threads(threads)
        product(x, y)
        expected = torch.from_numpy(matrix @ x.double().numpy()).to(dtype)
        torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-3)
    rows = torch.randperm(n).int()
    _beside_one(
        threads,
        lambda out, first, second: pattern.fused_matmul(values, x, out, rows, first, w, second),
        [y],
        dot,
        square,
    )
    A, inverse = CsrMatrix(pattern, values), torch.rand(n, dtype=dtype)
    _beside_one(threads, lambda out: relax.affine(A, x, -1.0, out, b), [y])
    _beside_one(threads, lambda q, out: relax.relax(A, x, b, inverse, 0.5, 0.2, w, q, out), [b, y])
    _beside_one(threads, lambda out: pattern.sample(b, x, out), [torch.zeros_like(values)])


def test_a_crew_that_is_too_small(threads):
    """More parts than threads that come: all are done, in the same order."""
    r, q, out = torch.randn(99999), torch.randn(99999), torch.zeros(2)
    torch.set_num_threads(1)
    expected = torch.zeros(2)
    fused.residual_pass(r.clone(), q, 0.1, None, expected)
    torch.set_num_threads(64)
    fused.residual_pass(r, q, 0.1, None, out)
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize("columns", [(), (3,), (11,)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("high", "wide"), [(1, 1), (3, 6), (6, 6), (2, 3)])
@pytest.mark.parametrize("order", ["near", "far"])
def test_transfers(threads, order, high, wide, dtype, columns):
    """P^T of any order: aggregates side by side, or of unknowns from everywhere."""
    fine, coarse = 36000 // high, 4001
    rng = np.random.default_rng(high)
    near = np.arange(fine) * coarse // fine
    columns_of = np.stack([near, np.minimum(near + 1 + near % 2, coarse - 1)], 1)
    if order == "far":
        columns_of = rng.integers(0, coarse - 7, (fine, 2))  # and some without any
    ones = np.ones(2 * fine, dtype=np.float32)
    rows = np.repeat(np.arange(fine), 2)
    pattern = sp.csr_matrix((ones, (rows, columns_of.ravel())), shape=(fine, coarse))
    pattern.sum_duplicates()
    entries = rng.standard_normal((pattern.nnz, high, wide))
    values = entries.astype(str(dtype).removeprefix("torch."))
    P = Tiles(pattern.indptr, pattern.indices, values, coarse)
    oracle = P.csr().astype(np.float64)
    R = P.transposed().transfer()
    torch.manual_seed(4)
    x = torch.randn(fine * high, *columns, dtype=dtype)
    e = torch.randn(coarse * wide, *columns, dtype=dtype)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-4

    def up(out):
        native.call_on("prolong", out, R.address, e, out)

    def down(out):
        native.call_on("restrict", out, R.address, x, out)

    _beside_one(threads, up, [x])
    _beside_one(threads, down, [torch.full_like(e, float("nan"))])
    torch.set_num_threads(threads)
    out = x.clone()
    up(out)
    expected = torch.from_numpy(x.double().numpy() + oracle @ e.double().numpy())
    torch.testing.assert_close(out.double(), expected, rtol=tolerance, atol=10 * tolerance)
    out = torch.empty_like(e)
    down(out)
    expected = torch.from_numpy(oracle.T @ x.double().numpy())
    torch.testing.assert_close(out.double(), expected, rtol=tolerance, atol=100 * tolerance)


@pytest.mark.parametrize("columns", [(), (3,), (11,)])
def test_a_dense_product(threads, columns):
    M, x = torch.randn(401, 403), torch.randn(403, *columns)
    _beside_one(threads, lambda out: cycle.dense(M, x, out), [torch.empty(401, *columns)])

"""The compiled passes of bicgstab, minres and Gram-Schmidt beside torch operations."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hpc_sla.kernels import basis, native, pages, passes
from hpc_sla.linear import hessenberg

pytestmark = pytest.mark.skipif(
    native.LIBRARY is None, reason="the kernels were not compiled (no C compiler at installation)"
)

SIZES = [0, 1, 5, 1000, 3001]
COLUMNS = [(), (1,), (3,), (9,)]
DTYPES = [torch.float64, torch.float32]


def _both(function, *arguments):
    """What a function leaves in its arguments and returns: compiled, and in torch operations."""
    results = []
    for serves in (native.can_take, lambda like: False):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(native, "serves", serves)
            copies = [a.clone() if isinstance(a, torch.Tensor) else a for a in arguments]
            returned = function(*copies)
            tensors = [a for a in copies if isinstance(a, torch.Tensor)]
            results.append([*tensors, *([returned] if returned is not None else [])])
    return results


def _same(function, *arguments):
    ours, theirs = _both(function, *arguments)
    single = ours[0].dtype == torch.float32
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(
            one, other, rtol=2e-4 if single else 1e-11, atol=2e-3 if single else 1e-11
        )


@pytest.fixture(
    params=[(n, c, d, j) for n in SIZES for c in COLUMNS for d in DTYPES for j in (0, 1)]
)
def case(request):
    n, columns, dtype, jacobi = request.param
    torch.manual_seed(n)

    def vector():
        return torch.randn(n, *columns, dtype=dtype)

    def scalar():
        return torch.randn(columns, dtype=dtype) if columns else float(torch.randn(()))

    inverse = torch.rand(n, dtype=dtype) if jacobi else None
    return vector, scalar, inverse, (lambda m: torch.zeros(m, *columns, dtype=dtype))


def test_bicgstab(case):
    v, s, inverse, sums = case
    _same(passes.bicgstab_half, v(), s(), v(), inverse, v())
    _same(passes.bicgstab_full, v(), v(), s(), s(), v(), v(), v(), v(), sums(2))
    _same(passes.bicgstab_turn, v(), s(), s(), v(), v(), inverse)


def test_bicgstab_may_use_r_for_the_preconditioned_r(case):
    v, s, _, sums = case

    def full(x, r, alpha, omega, p_hat, t, shadow, out):
        passes.bicgstab_full(x, r, alpha, omega, p_hat, r, t, shadow, out)

    _same(full, v(), v(), s(), s(), v(), v(), v(), sums(2))


def test_minres(case):
    v, s, inverse, sums = case
    _same(passes.minres_lanczos, v(), v(), v(), v(), s(), s(), s(), inverse, sums(3))
    _same(passes.minres_direction, *(v() for _ in range(6)), *(s() for _ in range(6)))


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("columns", COLUMNS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("j", [0, 1, 2, 3, 4, 6, 9])
def test_gram_schmidt(n, columns, dtype, j, monkeypatch):
    monkeypatch.setattr(native, "serves", native.can_take)  # however many threads there are
    torch.manual_seed(n)
    vectors = torch.randn(j + 2, n, *columns, dtype=dtype)
    tolerance = {"rtol": 1e-4, "atol": 1e-3} if dtype == torch.float32 else {}
    compiled = basis.Basis(j + 2, vectors[0])
    compiled.tensor.copy_(vectors)
    for targets in (1, 2):
        count = j + targets
        expected = torch.full((targets, count, *columns), float("nan"), dtype=dtype)
        basis.dots(vectors, count, j, expected)
        torch.testing.assert_close(compiled.dots(count, j, targets), expected, **tolerance)
    sums = torch.randn(2, j + 2, *columns, dtype=dtype)
    found = torch.randn(3, *columns, dtype=dtype)
    compiled.update(j, sums, found)
    s, c = sums[:, :j]
    basis.update(vectors, j, s, c, found[0], found[1])
    torch.testing.assert_close(compiled.tensor, vectors, **tolerance)
    x = vectors[-1].clone()
    basis.add_combination(vectors, s, x)
    expected = vectors[-1] + (s.unsqueeze(1) * vectors[:j]).sum(0)
    torch.testing.assert_close(x, expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("columns", COLUMNS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_small_matrix_of_gmres(columns, dtype):
    """The compiled steps do what those in torch operations do, frozen columns included."""
    torch.manual_seed(0)
    restart, n = 6, 40
    like = torch.zeros(n, *columns, dtype=dtype)
    target = torch.full(columns, 1e-3, dtype=dtype)
    active = torch.arange(max(columns, default=1)).reshape(columns) != 1
    compiled, oracle = (
        kind(restart, like, target) for kind in (hessenberg.HostHessenberg, hessenberg.Hessenberg)
    )
    tolerance = {"rtol": 1e-3, "atol": 1e-4} if dtype == torch.float32 else {}
    square = torch.full(columns, 4.0, dtype=dtype)
    for small in (compiled, oracle):
        small.begin(square, active)
    for j in range(restart):
        # u and w nearly orthogonal to what came before, as in the middle of GMRES.
        sums = 0.1 * torch.rand(2, j + 2, *columns, dtype=dtype)
        sums[0, j], sums[1, j + 1] = 1.5, 2.0 if j < 4 else 0.0  # and in the end, dependent
        found = compiled.step(j, sums)
        torch.testing.assert_close(found, oracle.step(j, sums), **tolerance)
        torch.testing.assert_close(compiled.live, oracle.live)
    last = torch.rand(restart + 1, *columns, dtype=dtype)
    for small in (compiled, oracle):
        small.finish(restart, last)
    for name in ("matrix", "null", "length"):
        expected = getattr(oracle, name)
        torch.testing.assert_close(getattr(compiled, name), expected, **tolerance)
    y, expected = compiled.least_squares(restart), hessenberg.Hessenberg.least_squares
    np.testing.assert_allclose(y, expected(compiled, restart), rtol=1e-9)
    compiled.matrix[:, 1] = 0  # an H of less than full rank, and one that is lost
    np.testing.assert_array_equal(compiled.least_squares(restart), expected(compiled, restart))
    compiled.matrix[0, 0] = torch.nan
    np.testing.assert_array_equal(compiled.least_squares(restart), 0.0)


def test_large_tensors_lie_in_aligned_memory_of_their_own():
    like = torch.empty(3, dtype=torch.float32)
    large = pages.empty((5, 1 << 20), like)
    assert large.shape == (5, 1 << 20) and large.dtype == torch.float32 and large.is_contiguous()
    large.fill_(7)
    assert float(large.sum()) == 35 << 20
    assert pages.empty((0, 3), like).shape == (0, 3)

"""The compiled passes of bicgstab, minres and Gram-Schmidt beside torch operations."""

from __future__ import annotations

import pytest
import torch

from hpc_sla.kernels import basis, native, passes

pytestmark = pytest.mark.skipif(
    native.LIBRARY is None, reason="the kernels were not compiled (no C compiler at installation)"
)

SIZES = [0, 1, 5, 1000, 3001]
COLUMNS = [(), (1,), (3,), (9,)]
DTYPES = [torch.float64, torch.float32]


def _both(function, *arguments):
    """What a function leaves in its arguments and returns: compiled, and in torch operations."""
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            copies = [a.clone() if isinstance(a, torch.Tensor) else a for a in arguments]
            returned = function(*copies)
            tensors = [a for a in copies if isinstance(a, torch.Tensor)]
            results.append([*tensors, *([returned] if returned is not None else [])])
    finally:
        torch.set_num_threads(before)
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
    _same(passes.bicgstab_turn, v(), s(), s(), v(), v(), inverse, v())


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
@pytest.mark.parametrize("j", [0, 1, 6])
def test_gram_schmidt(n, columns, dtype, j):
    torch.manual_seed(n)
    vectors = torch.randn(j + 2, n, *columns, dtype=dtype)
    for targets in (1, 2):
        count = j + targets
        out = torch.full((targets, count, *columns), float("nan"), dtype=dtype)
        _same(basis.dots, vectors, count, j, out)
    s, c = (torch.randn(j, *columns, dtype=dtype) for _ in range(2))
    last, inverse = (torch.randn(columns, dtype=dtype) for _ in range(2))
    _same(basis.update, vectors, j, s, c, last, inverse)
    x = vectors[-1].clone()
    basis.add_combination(vectors, s, x)
    expected = vectors[-1] + (s.unsqueeze(1) * vectors[:j]).sum(0)
    torch.testing.assert_close(x, expected, rtol=1e-4, atol=1e-3)

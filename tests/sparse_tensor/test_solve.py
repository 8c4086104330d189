"""SparseTensor.solve against dense solves."""

from __future__ import annotations

import warnings

import pytest
import torch

import hpc_sla as hs
from hpc_sla.linear import METHODS
from hpc_sla.sparse_tensor import DIRECT_ROWS
from hpc_sla.sparse_tensor.backends import BACKENDS, choose_backend
from tests.collective import spd_matrix
from tests.linear.test_lost_in_rounding import star

CPU = torch.device("cpu")
HERE = [name for name, b in BACKENDS.items() if "cpu" in b.devices and b.available()]
SHAPES = [
    ((), (8,)),
    ((), (8, 3)),
    ((), (2, 8, 3)),
    ((4,), (8,)),
    ((4,), (4, 8)),
    ((4,), (1, 8)),
    ((4,), (4, 8, 3)),
    ((4,), (1, 8, 3)),
    ((1,), (4, 8)),
    ((8,), (8, 8)),
]


def double(*shape: int) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def spd(*batch: int, n: int = 8) -> torch.Tensor:
    """Positive definite, sparse, another in each member of the batch."""
    matrix = torch.from_numpy(spd_matrix(n, 2, density=0.3).toarray())
    scale = 1 + double(*batch).abs()[..., None, None] if batch else torch.ones(())
    return matrix * scale


def tridiagonal(n: int, dtype: torch.dtype = torch.float64) -> hs.SparseTensor:
    i = torch.arange(n)
    row, col = torch.cat([i, i[1:], i[:-1]]), torch.cat([i, i[:-1], i[1:]])
    values = torch.where(row == col, 2.0, -1.0).to(dtype)
    return hs.SparseTensor(values, row, col, (n, n))


def expected(dense: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    if b.dim() == 1 or (b.dim() == 2 and dense.dim() == 3):
        return torch.linalg.solve(dense, b.unsqueeze(-1)).squeeze(-1)
    return torch.linalg.solve(dense, b)


@pytest.mark.parametrize("backend", ["auto", *HERE])
@pytest.mark.parametrize(("batch", "shape"), SHAPES)
def test_shapes(backend, batch, shape):
    dense, b = spd(*batch), double(*shape)
    S = hs.SparseTensor.from_dense(dense)
    x = S.solve(b, backend=backend, rtol=1e-12 if backend == "torch" else None)
    answer = expected(dense, b)
    assert x.shape == answer.shape
    torch.testing.assert_close(x, answer, rtol=1e-7, atol=1e-9)
    _, infos = S.solve_with_info(b, backend=backend)
    assert len(infos) == answer.numel() // 8
    assert all(info.converged and info.relative_residual <= 1e-8 for info in infos)


@pytest.mark.parametrize("backend", ["scipy", "torch"])
@pytest.mark.parametrize("batch", [(), (2,)])
def test_infos_come_by_members_and_then_by_columns(backend, batch):
    """A scale of its own for each system tells their residuals apart."""
    scales = torch.tensor([[1.0, 1e4], [1e8, 1e12]], dtype=torch.float64)
    S = hs.SparseTensor.from_dense(spd(*batch))
    b = scales[:, None, :] * double(8, 1)
    _, infos = S.solve_with_info(b, backend=backend, rtol=1e-6)
    norms = [info.residual_norm for info in infos]
    assert len(norms) == 4 and all(100 * a < b for a, b in zip(norms, norms[1:], strict=False))


def test_x0_follows_the_shapes_of_b():
    dense, x = spd(3), double(3, 8)
    S = hs.SparseTensor.from_dense(dense)
    b = S @ x
    _, infos = S.solve_with_info(b, x0=x)
    assert [info.iterations for info in infos] == [0, 0, 0]
    one = S[0]
    _, infos = one.solve_with_info(b[:, :, None], x0=x[:1, :, None], rtol=1e-6)
    assert infos[0].iterations == 0 and infos[1].iterations > 0
    with pytest.raises(hs.InputError, match="a batch of 2"):
        S.solve(b, x0=x[:2])
    with pytest.raises(hs.InputError, match="does not go with b's"):
        one.solve(b[0], x0=x[0, :, None])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("backend", HERE)
def test_the_default_tolerance_suits_the_dtype(backend, dtype):
    S, b = tridiagonal(30, dtype), torch.ones(30, dtype=dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        x = S.solve(b, backend=backend)
    assert x.dtype == dtype
    assert float((S @ x - b).norm() / b.norm()) < {torch.float64: 1e-8, torch.float32: 1e-5}[dtype]


def test_a_direct_solution_is_refined():
    """With the same factors, as long as that helps."""
    S = tridiagonal(300, torch.float32)
    b = torch.ones(300)
    _, (info,) = S.solve_with_info(b, backend="scipy", rtol=1e-20)
    assert info.status == "stagnated"
    assert info.iterations > 0
    history = info.residual_history
    assert history == sorted(history, reverse=True) and info.iterations == len(history) - 1
    residual = float((b.double() - S.to(torch.float64) @ S.solve(b).double()).norm())
    assert residual < 1e-5 * float(b.norm())


@pytest.mark.parametrize(
    ("options", "status"),
    [
        ({"method": "cg", "precond": "jacobi", "max_iterations": 2}, "max_iterations"),
        ({"backend": "scipy", "rtol": 1e-30}, "stagnated"),
    ],
)
def test_what_does_not_converge_warns_by_its_status(options, status):
    S, b = tridiagonal(50), double(50, 2)
    with pytest.warns(hs.NotConvergedWarning, match=f"2 of 2 systems.*{status}") as caught:
        x = S.solve(b, **options)
    assert caught[0].filename == __file__
    assert x.shape == b.shape and issubclass(hs.NotConvergedWarning, RuntimeWarning)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, infos = S.solve_with_info(b, **options)
    assert [info.status for info in infos] == [status, status]


@pytest.mark.parametrize("batch", [(), (2,)])
@pytest.mark.parametrize("columns", [(), (3,)])
@pytest.mark.parametrize("options", [{}, {"method": "gmres"}, {"method": "lu"}])
def test_solutions_are_differentiable(options, columns, batch):
    """In the values and b, twice, of a batch and of several columns."""
    S = tridiagonal(4)
    values = S.values.expand(*batch, -1) * (1 + 0.1 * double(*batch, S.nnz))

    def solution(values, b):
        return S.with_values(values).solve(b, rtol=1e-13, **options)

    inputs = values.clone().requires_grad_(), double(*batch, 4, *columns).requires_grad_()
    torch.manual_seed(0)
    assert torch.autograd.gradcheck(solution, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(solution, inputs, fast_mode=True)
    with torch.no_grad():
        assert not solution(*inputs).requires_grad


def test_a_gradient_that_cannot_be_had_to_the_tolerance_is_an_error():
    S, b = tridiagonal(50), double(50).requires_grad_()
    x, (info,) = S.solve_with_info(b, adjoint_rtol=1e-19)
    with pytest.raises(hs.AdjointSolveError, match="stagnated"):
        x.sum().backward()
    assert info.adjoint.status == "stagnated" and b.grad is None
    x, (info,) = S.solve_with_info(b)
    x.sum().backward()
    assert info.adjoint.converged and b.grad is not None


@pytest.mark.parametrize("backend", ["auto", "scipy"])
def test_singular(backend):
    S = hs.SparseTensor.from_dense(torch.ones(2, 2, dtype=torch.float64))
    with pytest.raises(hs.SingularMatrixError):
        S.solve(torch.ones(2, dtype=torch.float64), backend=backend)


@pytest.mark.parametrize(
    ("backend", "n"),
    [("auto", 0), ("auto", 1), ("torch", 1), ("torch", 0)],
)
def test_the_smallest(backend, n):
    S = hs.SparseTensor.from_dense(4 * torch.eye(n, dtype=torch.float64))
    for shape in ((n,), (n, 2), (n, 0), (3, n, 1), (0, n, 2)):
        x = S.solve(torch.ones(shape, dtype=torch.float64), backend=backend)
        assert x.shape == shape and bool((x == 0.25).all())
    none = S.with_values(torch.zeros(0, S.nnz, dtype=torch.float64))
    assert none.solve(torch.ones(n, dtype=torch.float64)).shape == (0, n)


def test_a_zero_right_hand_side():
    S, b = tridiagonal(4), torch.zeros(4, dtype=torch.float64)
    for backend in ("scipy", "torch"):
        x, (info,) = S.solve_with_info(b, backend=backend)
        assert not x.any() and info.converged and info.relative_residual == 0


def test_factors_can_be_kept():
    S, b = tridiagonal(20), double(20)
    factors = S.factorize("scipy")
    torch.testing.assert_close(S @ factors.solve(b), b)
    torch.testing.assert_close(S.T @ factors.solve(b, transpose=True), b)


def test_auto():
    krylov = next(name for name in METHODS if name != "auto")

    def chosen(method="auto", n=10, m=None, device=CPU, options=()):
        return choose_backend("auto", method, (m or n, n), device, options)

    assert chosen() == chosen(n=DIRECT_ROWS) == "auto"  # a direct backend, whichever is best
    assert chosen(n=DIRECT_ROWS + 1) == "torch"
    assert chosen(m=11) == "torch"
    assert chosen(device=torch.device("cuda", 0)) == "torch"
    assert chosen(krylov) == chosen(f"{krylov}:option=1") == "torch"
    assert chosen(options=("precond",)) == "torch"
    for method in ("lu", "llt", "cholesky", "ldlt", "qr"):
        assert chosen(method, n=DIRECT_ROWS + 1, device=torch.device("cuda", 0)) == "auto"


def test_a_method_alone_decides_the_kind():
    S, b = tridiagonal(20), double(20)
    assert S.solve_with_info(b, method="cg")[1][0].method == "cg"
    assert S.solve_with_info(b, method="lu")[1][0].method == "scipy lu"
    assert S.solve_with_info(b, precond="jacobi")[1][0].precond == "jacobi"
    if BACKENDS["eigen"].available():
        assert S.solve_with_info(b)[1][0].method == "eigen llt"
        assert S.solve_with_info(b, backend="eigen", method="ldlt")[1][0].method == "eigen ldlt"


def test_what_cannot_be_is_refused():
    S, b = tridiagonal(4), torch.ones(4, dtype=torch.float64)
    wide = hs.SparseTensor.from_dense(torch.ones(2, 3, dtype=torch.float64))
    cases = [
        ("unknown backend", lambda: S.solve(b, backend="mumps")),
        ("unknown method", lambda: S.solve(b, method="magic")),
        ("unknown method", lambda: S.solve(b, backend="torch", method="lu")),
        ("unknown method", lambda: S.solve(b, backend="scipy", method="cg")),
        ("no precond or max_iter", lambda: S.solve(b, "scipy", precond=None, max_iterations=3)),
        ("no x0", lambda: S.solve(b, method="lu", x0=b)),
        ("cannot be factorised", lambda: wide.solve(b[:2], backend="scipy")),
        ("does not go with", lambda: S.solve(b.float())),
        ("does not go with a matrix", lambda: S.solve(b[:3])),
        ("right-hand side", lambda: S.solve(b * torch.nan, backend="scipy")),
    ]
    for message, call in cases:
        with pytest.raises(hs.InputError, match=message):
            call()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("backend", HERE)
def test_no_solution_is_found_where_there_is_none(backend, dtype):
    """As in tests/linear/test_lost_in_rounding.py: x is a constant of 1 / eps."""
    found = []
    for n in range(4, 30):
        A = hs.SparseTensor.from_scipy(star(n)).to(dtype)
        for b in torch.eye(n, dtype=dtype)[:2]:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", hs.NotConvergedWarning)
                    _x, infos = A.solve_with_info(b, backend=backend)
            except hs.HpcSlaError:  # it may say that the matrix is singular
                continue
            if infos[0].converged:
                found.append((n, b.tolist()))
    assert not found

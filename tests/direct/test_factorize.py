"""The direct backends of the CPU against dense solves."""

from __future__ import annotations

import dataclasses
import sys
import types

import numpy as np
import pytest
import scipy.sparse as sp
import torch

import hpc_sla as hs
from hpc_sla.direct import BACKENDS, METHODS, Factorization, factorize
from hpc_sla.direct.base import LocalMatrix
from hpc_sla.direct.factorize import _choose
from hpc_sla.kernels.csr import CsrPattern
from tests.collective import random_matrix, spd_matrix

ON_CPU = [b for b in BACKENDS.values() if "cpu" in b.devices and b.available()]
CPU = [(b.name, m) for b in ON_CPU for m in b.methods if b.available(m)]


def nonsymmetric(n: int = 40) -> sp.csr_matrix:
    """Pivoting needed: no diagonal entry is stored in the first rows."""
    matrix = random_matrix(n, 0.15, 5).tolil()
    matrix.setdiag(3.0)
    matrix[[0, 1]] = matrix[[1, 0]]
    return sp.csr_matrix(matrix)


def suitable(method: str) -> sp.csr_matrix:
    return spd_matrix(40, 1) if method in ("llt", "ldlt") else nonsymmetric()


def pattern_of(matrix: sp.csr_matrix) -> tuple[CsrPattern, torch.Tensor]:
    matrix.sort_indices()
    indptr, indices = (
        torch.from_numpy(a.astype(np.int32)) for a in (matrix.indptr, matrix.indices)
    )
    return CsrPattern(indptr, indices, matrix.shape[1]), torch.from_numpy(matrix.data)


def test_eigen_is_tested_where_the_extra_is_installed():
    pytest.importorskip("eigenpy")
    assert {("eigen", m) for m in ("llt", "ldlt", "lu")} <= set(CPU)


def test_umfpack_is_tested_where_the_extra_is_installed():
    pytest.importorskip("cvxopt")
    assert ("scipy", "umfpack") in CPU


@pytest.mark.parametrize(("backend", "method"), CPU)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("columns", [None, 1, 3])
@pytest.mark.parametrize("transpose", [False, True])
def test_solves(backend, method, dtype, columns, transpose):
    matrix = suitable(method)
    pattern, values = pattern_of(matrix)
    factors = factorize(pattern, values.to(dtype), backend=backend, method=method)
    dense = matrix.toarray().T if transpose else matrix.toarray()
    x = np.random.default_rng(0).standard_normal((40, columns) if columns else 40)
    b = torch.from_numpy(dense @ x)
    found = factors.solve(b.to(dtype), transpose=transpose)
    assert found.dtype == dtype and found.shape == b.shape
    residual = np.linalg.norm(b.numpy() - dense @ found.double().numpy())
    backward_error = residual / (np.linalg.norm(dense) * np.linalg.norm(x))
    assert backward_error < {torch.float64: 1e-14, torch.float32: 1e-6}[dtype]


@pytest.mark.parametrize("kind", [sp.csr_matrix, sp.csc_array, sp.coo_matrix])
def test_any_scipy_matrix_with_repeated_entries(kind):
    coo = sp.coo_matrix(nonsymmetric())
    again = [np.concatenate([a, a]) for a in (coo.data, coo.row, coo.col)]
    twice = sp.coo_matrix((again[0], (again[1], again[2])), shape=coo.shape)
    b = torch.ones(40, dtype=torch.float64)
    x = factorize(twice if kind is sp.coo_matrix else kind(twice)).solve(b)
    assert abs(2 * coo @ x.numpy() - 1).max() < 1e-12


def test_b_keeps_its_dtype_and_is_not_changed():
    factors = factorize(nonsymmetric())
    b = torch.ones(2, 40).t()
    before = b.clone()
    assert factors.solve(b).dtype == torch.float32
    assert torch.equal(b, before)


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        (spd_matrix(20, 2), ("eigen", "llt")),
        (nonsymmetric(), ("scipy", "lu")),
        (sp.csr_matrix(spd_matrix(20, 2) - 1e6 * sp.eye(20)), ("scipy", "lu")),
        # Symmetric with a positive diagonal, and indefinite: Cholesky fails and LU takes over.
        (sp.csr_matrix(np.array([[1.0, 2.0], [2.0, 1.0]])), ("scipy", "lu")),
    ],
)
def test_auto(matrix, expected):
    pytest.importorskip("eigenpy")
    factors = factorize(matrix)
    assert (factors.backend, factors.method) == expected
    b = torch.ones(matrix.shape[0], dtype=torch.float64)
    assert abs(matrix @ factors.solve(b).numpy() - 1).max() < 1e-9


def test_auto_without_eigen(monkeypatch):
    monkeypatch.setitem(sys.modules, "eigenpy", None)
    assert "eigenpy is not installed" in BACKENDS["eigen"].why_not()
    factors = factorize(spd_matrix(20, 2))
    assert (factors.backend, factors.method) == ("scipy", "lu")
    with pytest.raises(hs.HpcSlaError, match="eigenpy is not installed"):
        factorize(spd_matrix(20, 2), backend="eigen")
    with pytest.raises(hs.HpcSlaError, match="no backend for 'ldlt'"):
        factorize(spd_matrix(20, 2), method="ldlt")


@pytest.mark.parametrize(
    ("missing", "once", "repeated"),
    [
        ((), "cudss", "cudss"),
        (("cudss",), "cusolver", "triangular"),
        (("cudss", "cusolver"), "scipy", "triangular"),
    ],
)
def test_auto_on_a_gpu(monkeypatch, missing, once, repeated):
    for name in ("cudss", "cusolver"):
        reason = "hidden" if name in missing else None
        backend = dataclasses.replace(BACKENDS[name], probe=lambda method, r=reason: r)
        monkeypatch.setitem(BACKENDS, name, backend)
    values = types.SimpleNamespace(device=torch.device("cuda"))
    local = types.SimpleNamespace(values=values, positive_diagonal=False, symmetric=False)
    assert _choose(local, "auto", False).name == once
    assert _choose(local, "auto", True).name == repeated


@pytest.mark.parametrize(("backend", "method"), CPU)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_apply_is_solve_without_its_judgement(backend, method, dtype):
    pattern, values = pattern_of(suitable(method))
    factors = factorize(pattern, values, backend=backend, method=method)
    b = torch.from_numpy(np.random.default_rng(2).standard_normal((40, 3))).to(dtype)
    for transpose in (False, True):
        for rhs in (b, b[:, 0]):
            x = factors.apply(rhs, transpose)
            assert torch.equal(x, factors.solve(rhs, transpose)) and x.is_contiguous()
        bad = b.clone()
        bad[7, 1] = torch.nan
        x = factors.apply(bad, transpose)
        assert bool(x[:, 1].isnan().any()) and not bool(x[:, [0, 2]].isnan().any())
    assert factors.apply(b[:, :0]).shape == (40, 0)


def test_apply_raises_nothing_that_other_ranks_do_not():
    class Failing(Factorization):
        backend = "failing"

        def _solve(self, b, transpose):
            raise hs.SingularMatrixError("found only now")

    local = LocalMatrix.of(nonsymmetric(), None)
    factors = Failing(local, "lu", torch.float64, torch.device("cpu"))
    assert bool(factors.apply(torch.ones(40, 2)).isnan().all())
    with pytest.raises(hs.SingularMatrixError, match="only now"):
        factors.solve(torch.ones(40))


def test_a_badly_scaled_nonsymmetric_matrix_is_not_taken_for_symmetric():
    """Its asymmetry is tiny beside the largest entry, and all of a small row."""
    matrix = np.diag([1e12, 1e12, 2e-6, 2e-6])
    matrix[2, 3] = 1e-6
    factors = factorize(sp.csr_matrix(matrix))
    b = torch.ones(4, dtype=torch.float64)
    np.testing.assert_allclose(factors.solve(b).numpy(), np.linalg.solve(matrix, np.ones(4)))
    matrix[3, 2] = -1e-6  # symmetric in pattern
    factors = factorize(sp.csr_matrix(matrix))
    np.testing.assert_allclose(factors.solve(b).numpy(), np.linalg.solve(matrix, np.ones(4)))
    if BACKENDS["eigen"].available():
        with pytest.raises(hs.InputError, match="symmetric"):
            factorize(sp.csr_matrix(matrix), method="ldlt", backend="eigen")


@pytest.mark.parametrize(("backend", "method"), CPU)
@pytest.mark.parametrize("n", [0, 1])
def test_the_smallest(backend, method, n):
    matrix = sp.csr_matrix(4.0 * np.eye(n))
    factors = factorize(matrix, backend=backend, method=method)
    for shape in ((n,), (n, 1), (n, 2), (n, 0)):
        x = factors.solve(torch.ones(shape, dtype=torch.float64), transpose=True)
        assert x.shape == shape and bool((x == 0.25).all())


@pytest.mark.parametrize(("backend", "method"), CPU)
@pytest.mark.parametrize(
    "matrix",
    [
        [[1.0, 1.0], [1.0, 1.0]],
        [[1.0, 0.0], [0.0, 0.0]],
        [[0.0, 0.0], [0.0, 0.0]],
        [[0.0]],
    ],
)
def test_singular_matrices_are_named(backend, method, matrix):
    with pytest.raises(hs.SingularMatrixError, match=f"{backend} {method}"):
        factorize(sp.csr_matrix(np.array(matrix)), backend=backend, method=method)


@pytest.mark.parametrize(("backend", "method"), CPU)
def test_a_solution_that_overflows_is_an_error_and_not_inf(backend, method):
    factors = factorize(sp.csr_matrix(np.diag([1.0, 1e-300])), backend=backend, method=method)
    with pytest.raises(hs.SingularMatrixError, match="not finite"):
        factors.solve(torch.tensor([1.0, 1e300], dtype=torch.float64))


def test_cholesky_of_an_indefinite_matrix_is_refused():
    pytest.importorskip("eigenpy")
    with pytest.raises(hs.SingularMatrixError, match="not positive definite"):
        factorize(sp.csr_matrix(np.array([[1.0, 2.0], [2.0, 1.0]])), method="cholesky")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_not_finite(bad):
    with pytest.raises(hs.InputError, match="NaN or infinite"):
        factorize(sp.csr_matrix(np.array([[bad]])))
    factors = factorize(sp.csr_matrix(np.eye(2)))
    with pytest.raises(hs.InputError, match="right-hand side"):
        factors.solve(torch.tensor([1.0, bad], dtype=torch.float64))


def test_what_cannot_be_is_refused():
    eye = sp.csr_matrix(np.eye(3))
    pattern, values = pattern_of(eye)
    cases = [
        ("not square", lambda: factorize(sp.csr_matrix((2, 3)))),
        ("unknown backend", lambda: factorize(eye, backend="mumps")),
        ("unknown method", lambda: factorize(eye, method="cg")),
        ("has no method", lambda: factorize(eye, backend="scipy", method="qr")),
        ("complex", lambda: factorize(eye * 1j)),
        ("neither a CsrPattern", lambda: factorize(np.eye(3))),
        ("values of its own", lambda: factorize(eye, values)),
        ("has 3 entries", lambda: factorize(pattern, values[:2])),
        ("has 3 entries", lambda: factorize(pattern)),
        ("not supported", lambda: factorize(pattern, values.half())),
        ("sees no GPU|cannot be loaded|on the cpu", lambda: factorize(eye, backend="cudss")),
        ("sees no GPU|cannot be loaded|on the cpu", lambda: factorize(eye, backend="cusolver")),
        ("3 equations", lambda: factorize(eye).solve(torch.ones(2, dtype=torch.float64))),
        ("neither float64", lambda: factorize(eye).solve(torch.ones(3, dtype=torch.int64))),
    ]
    for message, call in cases:
        with pytest.raises(hs.InputError, match=message):
            call()


@pytest.mark.parametrize(("backend", "method"), [p for p in CPU if p[1] in ("lu", "umfpack")])
@pytest.mark.parametrize("transpose", [False, True])
def test_solutions_are_differentiable(backend, method, transpose):
    """In b and in the values, twice, and in forward mode."""
    rng = np.random.default_rng(7)
    matrix = sp.random_array((6, 6), density=0.4, rng=rng) + 4 * sp.eye_array(6)
    pattern, values = pattern_of(sp.csr_matrix(matrix))

    def solution(values, b):
        return factorize(pattern, values, backend=backend, method=method).solve(b, transpose)

    b = torch.from_numpy(rng.standard_normal((6, 2)))
    inputs = values.requires_grad_(), b.requires_grad_()
    assert torch.autograd.gradcheck(solution, inputs)
    assert torch.autograd.gradgradcheck(solution, inputs)
    factors = factorize(pattern, values, backend=backend, method=method)
    assert torch.autograd.gradcheck(
        lambda b: factors.solve(b, transpose), inputs[1:], check_forward_ad=True
    )
    with torch.no_grad():
        assert not factors.solve(b).requires_grad


def test_without_umfpack(monkeypatch):
    for hidden in ("cvxopt", "cvxopt.umfpack"):
        monkeypatch.setitem(sys.modules, hidden, None)
    for backend in ("scipy", "auto"):
        with pytest.raises(hs.HpcSlaError, match=r"pip install 'hpc_sla\[umfpack\]'"):
            factorize(nonsymmetric(), backend=backend, method="umfpack")
    assert factorize(nonsymmetric(), backend="scipy").method == "lu"


def test_the_registry_says_what_users_need():
    for name, backend in BACKENDS.items():
        assert backend.name == name and backend.best_use and set(backend.methods) <= set(METHODS)
        assert set(backend.devices) <= {"cpu", "cuda"}
        assert backend.available() == (backend.why_not() is None)


def test_zeros_that_are_stored_leave_the_pattern_as_it_is():
    """Other values on it are factorised next, as Newton does: against a dense solve."""
    matrix = nonsymmetric()
    pattern, values = pattern_of(matrix)
    b = torch.ones(40, dtype=torch.float64)
    first = values.clone()
    first[torch.arange(len(values)) % 3 == 1] = 0
    rows = np.repeat(np.arange(40), np.diff(matrix.indptr))
    first[torch.from_numpy(rows == matrix.indices)] = 5.0
    for now in (first, values, first):
        dense = sp.csr_matrix((now.numpy(), matrix.indices, matrix.indptr), (40, 40)).toarray()
        x = factorize(pattern, now, backend="scipy").solve(b)
        np.testing.assert_allclose(x, np.linalg.solve(dense, np.ones(40)), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("method", ["auto", "llt", "ldlt"])
def test_a_zero_that_is_stored_on_one_side_leaves_a_matrix_symmetric(method):
    """As assemblies and boundary conditions leave them."""
    whole = spd_matrix(40, 1).tocoo()
    above = np.argwhere(np.triu(whole.toarray() == 0))[:3].T
    rows, columns = np.hstack([whole.coords, above])
    matrix = sp.coo_matrix((np.append(whole.data, np.zeros(3)), (rows, columns)), whole.shape)
    matrix = matrix.tocsr()
    assert matrix.nnz == whole.nnz + 3
    factors = factorize(matrix, method=method, backend="eigen")
    assert factors.method == method.replace("auto", "llt")
    b = torch.linspace(-1, 1, 40, dtype=torch.float64)
    expected = np.linalg.solve(whole.toarray(), b.numpy())
    np.testing.assert_allclose(factors.solve(b).numpy(), expected, rtol=1e-9, atol=1e-12)
    changed = matrix.copy()
    changed.data[changed.data == 0] = 1e-3
    if method == "auto":
        assert factorize(changed, backend="eigen").method == "lu"
    else:
        with pytest.raises(hs.InputError, match="symmetric"):
            factorize(changed, method=method, backend="eigen")

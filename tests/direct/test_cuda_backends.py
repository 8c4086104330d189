"""The CUDA backends against stand-ins for their libraries, which check how they are called.

No GPU takes part: the stand-ins compute on the CPU, and the tensors are the CPU's.
"""

from __future__ import annotations

import ctypes
import enum
import gc
import sys
import types
from contextlib import contextmanager
from typing import ClassVar

import numpy as np
import pytest
import scipy.sparse as sp
import torch

import hpc_sla as hs
from hpc_sla.direct import BACKENDS, cudss, cusolver
from hpc_sla.direct.base import LocalMatrix
from tests.collective import random_matrix, spd_matrix


class Stream:
    cuda_stream = 77

    def synchronize(self):
        """Nothing runs."""


@pytest.fixture(autouse=True)
def gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: Stream())


class MatrixType(enum.IntEnum):
    GENERAL, SYMMETRIC, SPD = range(3)


class ViewType(enum.IntEnum):
    FULL, LOWER, UPPER = range(3)


class Outcome:
    def __init__(self, info, npivots):
        self.info, self.npivots = info, npivots


class DirectSolver:
    """`nvmath.sparse.advanced.DirectSolver` of nvmath-python 1.0: its checks, a dense solve."""

    made: ClassVar[list[DirectSolver]] = []

    def __init__(self, a, b, *, options):
        assert a.layout == torch.sparse_csr and a.crow_indices().dtype == torch.int32
        assert a.col_indices().dtype == torch.int32 and a.dtype == b.dtype
        assert a.device == b.device and b.shape == (a.shape[0],) and b.stride() == (1,)
        assert set(options) == {"sparse_system_type", "sparse_system_view", "logger"}
        self.kind, self.view = options["sparse_system_type"], options["sparse_system_view"]
        dense = a.to_dense()
        if self.view == ViewType.LOWER:
            assert self.kind != MatrixType.GENERAL
            dense = dense.tril() + dense.tril(-1).mT
        self.dense, self.b, self.stage = dense, b, "made"
        DirectSolver.made.append(self)

    def plan(self):
        assert self.stage == "made"
        self.stage = "planned"

    def factorize(self):
        assert self.stage == "planned"
        self.stage = "factorized"
        eigenvalues = torch.linalg.eigvals(self.dense)
        if self.kind == MatrixType.SPD and bool((eigenvalues.real <= 0).any()):
            return Outcome(2, 0)
        small = int((eigenvalues.abs() < 1e-12).sum())
        self.dense = self.dense + 1e-8 * small * torch.eye(len(self.dense), dtype=self.dense.dtype)
        return Outcome(0, small)

    def reset_operands(self, a=None, b=None):
        assert self.stage == "factorized" and a is None
        assert (b.shape, b.stride(), b.dtype) == (self.b.shape, self.b.stride(), self.b.dtype)
        self.b = b

    def solve(self):
        assert self.stage == "factorized"
        return torch.linalg.solve(self.dense, self.b)

    def free(self):
        self.stage = "freed"


@pytest.fixture
def nvmath(monkeypatch):
    modules = [types.ModuleType(n) for n in ("nvmath", "nvmath.sparse", "nvmath.sparse.advanced")]
    modules[0].sparse, modules[1].advanced = modules[1:]
    modules[2].DirectSolver = DirectSolver
    modules[2].DirectSolverMatrixType = MatrixType
    modules[2].DirectSolverMatrixViewType = ViewType
    for module in modules:
        monkeypatch.setitem(sys.modules, module.__name__, module)
    DirectSolver.made.clear()


def array_at(pointer: int, kind, count: int) -> np.ndarray:
    return np.ctypeslib.as_array(ctypes.cast(pointer, ctypes.POINTER(kind)), shape=(count,))


class Calls:
    """`cupy_backends.cuda.libs.cusolver`: reads and writes through the pointers it is given."""

    def __init__(self):
        self.made: list[str] = []
        self.inside = 0

    def __getattr__(self, name):
        if name not in ("scsrlsvqr", "dcsrlsvqr", "scsrlsvchol", "dcsrlsvchol"):
            raise AttributeError(name)

        def call(handle, m, nnz, descr, val, row_ptr, col_ind, b, tol, reorder, x, singularity):
            assert self.inside == 2, "outside the device or the stream"
            assert (handle, descr) == (11, 22) and reorder in range(4)
            assert tol == 0 if "chol" in name else 0 < tol < 2e-6
            kind = ctypes.c_float if name[0] == "s" else ctypes.c_double
            indptr = array_at(row_ptr, ctypes.c_int32, m + 1)
            indices = array_at(col_ind, ctypes.c_int32, nnz)
            data = array_at(val, kind, nnz)
            dense = sp.csr_matrix((data, indices, indptr), shape=(m, m)).toarray().astype(float)
            flag = array_at(singularity, ctypes.c_int32, 1)
            self.made.append(name)
            values = np.linalg.eigvals(dense)
            bad = values.real <= 0 if "chol" in name else abs(values) < 1e-12
            flag[0] = m - 1 if bad.any() else -1
            if not bad.any():
                array_at(x, kind, m)[:] = np.linalg.solve(dense, array_at(b, kind, m))

        return call


@pytest.fixture
def cupy(monkeypatch):
    calls = Calls()

    @contextmanager
    def entered(*arguments):
        calls.inside += 1
        try:
            yield
        finally:
            calls.inside -= 1

    def external_stream(pointer, device_id):
        assert pointer == 77
        return entered()

    class MatDescriptor:
        descriptor = 22

        @classmethod
        def create(cls):
            return cls()

    tree = {
        "cupy": {"cuda": types.SimpleNamespace(Device=entered, ExternalStream=external_stream)},
        "cupy.cuda": {},
        "cupy.cuda.device": {"get_cusolver_sp_handle": lambda: 11},
        "cupy_backends": {},
        "cupy_backends.cuda": {},
        "cupy_backends.cuda.libs": {"cusolver": calls},
        "cupyx": {"cusparse": types.SimpleNamespace(MatDescriptor=MatDescriptor)},
        "cupyx.cusparse": {"MatDescriptor": MatDescriptor},
    }
    for name, attributes in tree.items():
        module = types.ModuleType(name)
        vars(module).update(attributes)
        monkeypatch.setitem(sys.modules, name, module)
    return calls


def matrix_for(method: str) -> sp.csr_matrix:
    if method in ("llt", "ldlt"):
        return spd_matrix(25, 3)
    return sp.csr_matrix(random_matrix(25, 0.2, 6) + 4 * sp.eye(25))


CASES = [(cudss, m, "nvmath") for m in ("lu", "llt", "ldlt")]
CASES += [(cusolver, m, "cupy") for m in ("qr", "llt")]


@pytest.mark.parametrize(("module", "method", "library"), CASES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("columns", [None, 3])
@pytest.mark.parametrize("transpose", [False, True])
def test_solves(module, method, library, dtype, columns, transpose, request):
    request.getfixturevalue(library)
    matrix = matrix_for(method)
    local = LocalMatrix.of(matrix.astype(np.float32 if dtype == torch.float32 else float), None)
    factors = module.make(local, method)
    assert factors.dtype == dtype
    x = np.random.default_rng(1).standard_normal((25, columns) if columns else 25)
    dense = matrix.toarray().T if transpose else matrix.toarray()
    b = torch.from_numpy(dense @ x).to(dtype)
    if columns:
        b = b.t().contiguous().t()  # another memory order must not matter
    for _ in range(2):
        found = factors.solve(b, transpose)
        assert found.dtype == dtype and found.shape == b.shape
        residual = np.linalg.norm(b.numpy() - dense @ found.double().numpy())
        error = residual / (np.linalg.norm(dense) * np.linalg.norm(x))
        assert error < {torch.float64: 1e-14, torch.float32: 1e-6}[dtype]


def test_cudss_factorises_once_and_its_transpose_once(nvmath):
    factors = cudss.make(LocalMatrix.of(matrix_for("lu"), None), "lu")
    b = torch.ones(25, 2, dtype=torch.float64)
    for transpose in (False, False, True, True):
        factors.solve(b, transpose)
    assert len(DirectSolver.made) == 2
    symmetric = cudss.make(LocalMatrix.of(matrix_for("llt"), None), "llt")
    symmetric.solve(b, transpose=True)
    assert len(DirectSolver.made) == 3
    assert [(s.kind, s.view) for s in DirectSolver.made[1:]] == [
        (MatrixType.GENERAL, ViewType.FULL),
        (MatrixType.SPD, ViewType.LOWER),
    ]
    del factors, symmetric
    gc.collect()
    assert {solver.stage for solver in DirectSolver.made} == {"freed"}


def test_cudss_singular(nvmath):
    indefinite = LocalMatrix.of(sp.csr_matrix(np.array([[1.0, 2.0], [2.0, 1.0]])), None)
    with pytest.raises(hs.SingularMatrixError, match="not positive definite"):
        cudss.make(indefinite, "llt")
    # A replaced pivot: an inconsistent right-hand side is an error, a consistent one is solved.
    ones = cudss.make(LocalMatrix.of(sp.csr_matrix(np.ones((2, 2))), None), "lu")
    b = torch.tensor([1.0, 1.0], dtype=torch.float64)
    assert abs(float(ones.solve(b).sum()) - 1) < 1e-6
    with pytest.raises(hs.SingularMatrixError, match="singular to working precision"):
        ones.solve(torch.tensor([1.0, -1.0], dtype=torch.float64))
    with pytest.raises(hs.SingularMatrixError, match="singular to working precision"):
        ones.solve(torch.tensor([1.0, -1.0], dtype=torch.float64), transpose=True)


def test_inside_a_loop_a_singular_matrix_is_a_nan_and_never_raised(nvmath, cupy):
    b = torch.tensor([1.0, -1.0], dtype=torch.float64)
    ones = LocalMatrix.of(sp.csr_matrix(np.ones((2, 2))), None)
    for transpose in (False, True):
        # A replaced pivot: what solve() then refuses is for the Krylov method to judge.
        assert bool(torch.isfinite(cudss.make(ones, "lu").apply(b, transpose)).all())
        assert bool(cusolver.make(ones, "qr").apply(b, transpose).isnan().all())


def test_cusolver_singular(cupy):
    ones = cusolver.make(LocalMatrix.of(sp.csr_matrix(np.ones((2, 2))), None), "qr")
    with pytest.raises(hs.SingularMatrixError, match="singular"):
        ones.solve(torch.ones(2, dtype=torch.float64))
    indefinite = sp.csr_matrix(np.array([[1.0, 2.0], [2.0, 1.0]]))
    with pytest.raises(hs.SingularMatrixError, match="not positive definite"):
        cusolver.make(LocalMatrix.of(indefinite, None), "llt")
    assert cupy.made == ["dcsrlsvqr", "dcsrlsvchol"]


def test_both_can_be_used_once_their_libraries_are_there(nvmath, cupy):
    assert BACKENDS["cudss"].available() and BACKENDS["cusolver"].available()


def test_the_reason_where_they_cannot(monkeypatch):
    for name, package in (("cudss", "nvmath"), ("cusolver", "cupy")):
        monkeypatch.setitem(sys.modules, package, None)
        assert "hpc_sla[cuda]" in BACKENDS[name].why_not()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert BACKENDS["cudss"].why_not() == BACKENDS["cusolver"].why_not() == "torch sees no GPU"


def test_a_matrix_on_the_cpu_is_not_for_them(nvmath, cupy):
    for name in ("cudss", "cusolver"):
        with pytest.raises(hs.InputError, match="the matrix is on the cpu"):
            hs.direct.factorize(matrix_for("llt"), backend=name)

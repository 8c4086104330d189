"""Every method with every preconditioner: the answer, or a status that tells the truth.

A new method or preconditioner is covered by its entry in `ENTRIES` or `GENERAL`.
"""

from __future__ import annotations

import zlib

import numpy as np
import pytest
import scipy.sparse as sp
import scipy.sparse.linalg as spla
import torch

import hpc_sla as hs
from hpc_sla.precond import make_preconditioner
from tests.collective import (
    distribute,
    distribute_once,
    everywhere,
    full,
    random_matrix,
    spd_matrix,
    spread,
)
from tests.methods import ENTRIES, GENERAL

pytestmark = pytest.mark.mpi

N = 61


def _dominant():
    matrix = random_matrix(N, 0.1, 40).tolil()
    matrix.setdiag(0)
    sums = np.asarray(abs(matrix).sum(axis=1)).ravel()
    return sp.csr_matrix(matrix + sp.diags_array(1.5 * sums + 0.5))


def _indefinite():
    """Symmetric, eigenvalues of both signs and none near 0."""
    rng = np.random.default_rng(41)
    signs = np.where(np.arange(N) % 3 == 0, -1.0, 1.0) * rng.uniform(2, 5, N)
    coupling = random_matrix(N, 0.05, 42, symmetric=True)
    coupling = coupling * (0.3 / max(1.0, abs(coupling).sum(axis=1).max()))
    return sp.csr_matrix(sp.diags_array(signs) + coupling)


def _convection(n=8, wind=6.0):
    h = 1.0 / (n + 1)
    one = sp.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(n, n)) / h**2
    upwind = sp.diags_array([-1.0, 1.0], offsets=[-1, 0], shape=(n, n)) * (wind / h)
    return sp.csr_matrix(sp.kronsum(one + upwind, one + 0.5 * upwind))


FAMILIES = {
    "spd": lambda: spd_matrix(N, 43),
    "indefinite": _indefinite,
    "dominant": _dominant,
    "convection": _convection,
}
SYMMETRIC = {"spd", "indefinite"}
LEAST_SQUARES = ("lsqr", "lsmr")
"""They square the condition number."""
DTYPES = {"float64": (np.float64, 1e-9), "float32": (np.float32, 1e-3)}


def _makes_sense(method: str, family: str) -> bool:
    solves = ENTRIES[method].solves
    return {
        "spd": family == "spd",
        "symmetric": family in SYMMETRIC,
        "square": True,
        "any": True,
    }[solves]


KINDS = {"float64": (), "float32": (3,)}
"""Dtype, and columns: each preconditioner with one, the common ones with both."""

CASES = [
    (family, method, precond, dtype)
    for dtype in KINDS
    for family in FAMILIES
    for method in ENTRIES
    if _makes_sense(method, family)
    for precond in (GENERAL if dtype == "float64" else ("jacobi", "additive_schwarz"))
    # Preconditioners for definite matrices would make an indefinite M of an indefinite diagonal.
    if not (family == "indefinite" and method == "minres" and precond != "none")
]


@pytest.mark.parametrize(("family", "method", "precond", "dtype"), CASES)
def test_equals_a_direct_solve(world, family, method, precond, dtype):
    kind, rtol = DTYPES[dtype]
    columns = KINDS[dtype]
    matrix = FAMILIES[family]().astype(kind)
    A = distribute_once(matrix, world)
    M = make_preconditioner(precond, A)
    b = np.random.default_rng(44).standard_normal((matrix.shape[0], *columns)).astype(kind)
    # Unpreconditioned, the badly scaled family is beyond short and restarted recurrences (and
    # lsqr squares its condition number); and a polynomial about 1 suits no indefinite matrix.
    hard = family == "spd" and (precond == "none" or method in LEAST_SQUARES)
    hard = hard or family == "indefinite"
    hard = hard and not (family == "indefinite" and precond in ("none", "jacobi"))
    # A stationary iteration converges where the preconditioner is good enough, and says if not.
    hard = hard or method == "richardson"
    # Of those only that the status is true is asked, which no thousand iterations more would say.
    limit = 100 if hard else 3000
    options = {"method": method, "precond": M, "rtol": rtol, "max_iterations": limit}
    if ENTRIES[method].needs_symmetric and not M.symmetric:
        with pytest.raises(hs.InputError, match="symmetric preconditioner"):
            hs.solve(A, spread(A.layout, b), **options)
        return
    x, info = hs.solve(A, spread(A.layout, b), **options)
    ours = full(A.layout, x)
    _told_the_truth(matrix, b, ours, info, rtol)
    assert hard or info.converged, info
    if info.converged:
        exact = spla.spsolve(matrix.astype(np.float64).tocsc(), b.astype(np.float64))
        room = 1e8 if family == "spd" else 1e3
        assert np.linalg.norm(ours - exact) <= room * rtol * np.linalg.norm(exact)


def _told_the_truth(matrix, b, x, info, rtol):
    """The status and the norms are those of the true residual, column by column."""
    wide, b, x = matrix.astype(np.float64), b.astype(np.float64), x.astype(np.float64)
    columns = info.columns or (info,)
    b, x = b.reshape(len(b), -1), x.reshape(len(x), -1)
    assert info.converged == all(c.converged for c in columns)
    assert info.iterations == max(c.iterations for c in columns)
    for j, one in enumerate(columns):
        norm = np.linalg.norm(b[:, j])
        true = np.linalg.norm(b[:, j] - wide @ x[:, j]) / (norm or 1.0)
        if one.converged:
            assert true <= 10 * rtol
        if np.isfinite(true) and true < 1e3:
            single = matrix.dtype == np.float32
            scale = abs(wide) @ abs(x[:, j])
            room = (3e-6 if single else 1e-14) * np.linalg.norm(scale) / (norm or 1.0)
            assert abs(one.relative_residual - true) <= 1e-2 * true + room
        assert len(one.residual_history) == one.iterations + 1


@pytest.mark.parametrize("method", ENTRIES)
def test_columns_are_solved_as_if_alone(world, method):
    """Zero columns, solved columns and hard ones beside each other."""
    matrix = FAMILIES["dominant" if method in LEAST_SQUARES else "spd"]()
    A = distribute_once(matrix, world)
    rng = np.random.default_rng(45)
    b = rng.standard_normal((N, 4)) * np.array([1.0, 1e-3, 1e9, 1.0])
    b[:, 1] = matrix[:, [3]].toarray().ravel()
    b[:, 3] = 0.0
    x0 = rng.standard_normal((N, 4))
    x, info = hs.solve(A, spread(A.layout, b), method=method, x0=spread(A.layout, x0), rtol=1e-10)
    assert info.converged and len(info.columns) == 4
    assert info.columns[3].iterations == 0
    assert everywhere(world, not x[:, 3].any())
    for j in range(3):
        mine, start = spread(A.layout, b[:, j]), spread(A.layout, x0[:, j])
        alone, one = hs.solve(A, mine, method=method, x0=start, rtol=1e-10)
        assert one.converged
        assert abs(one.iterations - info.columns[j].iterations) <= 2
        scale = float(A.layout.norm(alone))
        assert float(A.layout.norm(alone - x[:, j].contiguous())) <= 1e-4 * scale


SMALL = {
    "one row": sp.csr_matrix([[4.0]]),
    "negative one row": sp.csr_matrix([[-4.0]]),
    "diagonal": sp.csr_matrix(sp.diags_array([1.0, 2.0, 5.0, 0.5, 3.0])),
    "fewer rows than ranks": sp.csr_matrix([[2.0, 1.0], [1.0, 3.0]]),
    "zero": sp.csr_matrix((5, 5)),
    "nilpotent": sp.csr_matrix(np.eye(6, k=1)),
    "singular, symmetric": sp.csr_matrix(np.ones((6, 6))),
    "cyclic shift": sp.csr_matrix(np.roll(np.eye(7), 1, axis=0)),
    "skew": sp.csr_matrix(np.array([[0.0, 1.0], [-1.0, 0.0]])),
    "saddle": sp.csr_matrix(np.array([[2.0, 0, 1], [0, 2, 1], [1, 1, 0]])),
}


@pytest.mark.parametrize("precond", ["none", "jacobi"])
@pytest.mark.parametrize("method", ENTRIES)
@pytest.mark.parametrize("name", SMALL)
def test_small_and_awkward_systems(world, name, method, precond):
    matrix = SMALL[name]
    A = distribute_once(matrix, world, "contiguous")
    b = np.arange(1.0, matrix.shape[0] + 1)
    # From zero and from a guess, as the preconditioner happens to be.
    x0 = None if precond == "none" else spread(A.layout, np.ones(matrix.shape[0]))
    options = {"method": method, "precond": precond, "x0": x0, "max_iterations": 60}
    x, info = hs.solve(A, spread(A.layout, b), **options)
    _told_the_truth(matrix, b, full(A.layout, x), info, 1e-8)
    if name in ("one row", "diagonal", "fewer rows than ranks") and method != "richardson":
        assert info.converged and info.iterations <= matrix.shape[0] + 1
    if name in ("zero", "nilpotent", "singular, symmetric"):
        assert not info.converged
    if name in ("saddle", "cyclic shift") and method in ("gmres", "fgmres"):
        assert info.converged


def _drawn(seed):
    """A system of any kind, singular and badly scaled ones included, the same on every rank."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 14))
    matrix = rng.standard_normal((n, n)) * (rng.random((n, n)) < rng.uniform(0.2, 1.0))
    shape = rng.integers(0, 6)
    if shape == 1:
        matrix = matrix + matrix.T
    elif shape == 2:
        matrix = matrix @ matrix.T
    elif shape == 3:
        matrix[rng.integers(0, n)] = 0.0
    elif shape == 4:
        matrix *= 10.0 ** rng.uniform(-8, 8, (n, 1))
    elif shape == 5:
        matrix = np.outer(matrix[0], matrix[:, 0])
    b = rng.standard_normal(n) * 10.0 ** rng.uniform(-6, 6)
    return sp.csr_matrix(matrix), b


@pytest.mark.parametrize("method", ENTRIES)
def test_no_status_lies(world, method):
    """Drawn systems: `converged` is never said of a residual above ten tolerances."""
    # All on 2 ranks, on 1 and 3 every second one, on 4 the others.
    for draw in range(30) if world.size == 2 else range(world.size % 2, 30, 2):
        matrix, b = _drawn(zlib.crc32(f"{method} {draw}".encode()))
        A = distribute(matrix, world, "contiguous")
        rtol = 10.0 ** -(2 + draw % 11)
        precond = ["none", "jacobi"][draw // 2 % 2]
        x, info = hs.solve(
            A, spread(A.layout, b), method=method, precond=precond, rtol=rtol, max_iterations=60
        )
        _told_the_truth(matrix, b, full(A.layout, x), info, rtol)


@pytest.mark.parametrize("method", ENTRIES)
def test_the_same_run_is_bitwise_repeatable(world, method):
    A = distribute_once(FAMILIES["dominant" if method in LEAST_SQUARES else "spd"](), world)
    b = torch.ones(A.layout.n_owned, dtype=torch.float64, device=A.device)
    (x, one), (y, two) = (hs.solve(A, b, method=method) for _ in range(2))
    assert everywhere(world, torch.equal(x, y))
    assert one.residual_history == two.residual_history

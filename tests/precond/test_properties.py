"""Every preconditioner: what it is, what it promises, and that it helps."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import scipy.sparse.linalg as spla
import torch

import hpc_sla as hs
from hpc_sla.precond import make_preconditioner
from tests.collective import (
    disconnected,
    distribute_once,
    everywhere,
    full,
    on,
    random_matrix,
    spd_matrix,
    spread,
)
from tests.methods import GENERAL
from tests.precond.oracles import ORACLES, inverse_of, stored

pytestmark = pytest.mark.mpi

SPECS = [
    *(name for name in GENERAL if name != "amg"),
    "amg:dtype=float64",  # single precision would need tolerances of its own
    "chebyshev:degree=1",
    "chebyshev:degree=7,eigenvalue_ratio=4.5",
    "polynomial:degree=0",
    "block_jacobi:factor=ic0",
    "block_jacobi:factor=lu",
    "block_jacobi:factor=lu,backend=triangular",
    "additive_schwarz:overlap=0",
    "additive_schwarz:overlap=2,factor=lu",
    "additive_schwarz:type=basic",
    "additive_schwarz:overlap=2,type=basic,factor=ic0",
    "direct:shift=0.5",
]
FALLS_BACK = [spec for spec in SPECS if "factor=lu" not in spec and "direct" not in spec]
"""Those that make something of any matrix."""


def _poisson(n):
    second = sp.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(n, n))
    return sp.csr_matrix(sp.kronsum(second, second))


def _unsymmetric(n, seed):
    matrix = random_matrix(n, 0.15, seed)
    matrix.setdiag(0)
    dominant = np.asarray(abs(matrix).sum(axis=1)).ravel() + 0.5
    return sp.csr_matrix(matrix + sp.diags_array(dominant))


SPD = {
    "scaled": lambda: spd_matrix(31, 1),
    "poisson": lambda: _poisson(5),
    "two components": lambda: sp.block_diag([spd_matrix(11, 2), spd_matrix(6, 3)], "csr"),
    "fewer rows than ranks": lambda: spd_matrix(2, 4, density=1.0),
    "one row": lambda: sp.csr_matrix(np.array([[4.0]])),
    "diagonal": lambda: sp.csr_matrix(np.diag(np.arange(1.0, 8.0))),
}
MATRICES = SPD | {
    "unsymmetric": lambda: _unsymmetric(29, 5),
    "negative": lambda: -spd_matrix(13, 6),
}
CHECKED = [
    (spec, name)
    for spec in SPECS
    for name in MATRICES
    # These have no such factor, but a shifted one.
    if not (name in ("negative", "unsymmetric") and "ic0" in spec)
]
# Each spec with each matrix, and with each partition: of the matrices, those whose halos, scales
# and empty ranks differ.
PARTITIONED = {
    "metis": list(MATRICES),
    "cyclic": ["scaled", "unsymmetric", "two components"],
    "all on the last": ["unsymmetric", "one row"],
}


def test_every_choice_has_an_oracle():
    assert set(ORACLES) == set(GENERAL)


def _as_dense(A, apply):
    """What a preconditioner does to each unit vector, in stored row order, on every rank."""
    n, start = A.layout.n_global, A.layout.start
    identity = np.eye(n)[start : start + A.layout.n_owned]
    r = on(A.world, identity).to(A.dtype)
    before = r.clone()
    z = apply(r, torch.full_like(r, float("nan")))
    assert everywhere(A.world, torch.equal(r, before))
    assert everywhere(A.world, z.dtype == A.dtype and z.shape == r.shape)
    return np.concatenate(A.world.comm.allgather(z.cpu().numpy()))


def _close(ours, theirs, rtol=1e-9):
    scale = abs(theirs).max(initial=0.0)
    np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=rtol * 1e-2 * scale)


@pytest.mark.parametrize(
    ("spec", "name", "partition"),
    [(s, n, how) for s, n in CHECKED for how, names in PARTITIONED.items() if n in names],
)
def test_is_its_definition_and_its_transpose(world, spec, name, partition):
    A = distribute_once(MATRICES[name](), world, partition)
    M = make_preconditioner(spec, A)
    ours = _as_dense(A, M.apply)
    _close(ours, inverse_of(spec, stored(A), A.layout.offsets, M))
    transposed = _as_dense(A, M.apply_transpose)
    _close(transposed, ours.T)
    if M.symmetric and name != "unsymmetric":
        _close(ours, ours.T)
    if M.pointwise and M.inverse is not None:
        whole = np.concatenate(world.comm.allgather(M.inverse.cpu().numpy()))
        assert np.array_equal(ours, np.diag(whole))
    assert getattr(M, "shift", 0.0) == (0.5 if "shift" in spec else 0)


@pytest.mark.parametrize("spec", SPECS)
def test_is_linear_by_columns_and_adjoint(world, spec):
    A = distribute_once(_unsymmetric(29, 7), world)
    M = make_preconditioner(spec, A)
    rng = np.random.default_rng(8)
    x, y = (spread(A.layout, rng.standard_normal((29, 11))) for _ in range(2))

    def apply(v, how=M.apply):
        return how(v, torch.empty_like(v)).clone()

    both = full(A.layout, apply(2.0 * x - 3.0 * y))
    _close(both, full(A.layout, 2.0 * apply(x) - 3.0 * apply(y)))
    for j in (0, 8, 10):
        column = apply(x[:, j].contiguous())
        _close(full(A.layout, apply(x))[:, j], full(A.layout, column))
    left = A.layout.dot(apply(x), y)
    right = A.layout.dot(x, apply(y, M.apply_transpose))
    np.testing.assert_allclose(left.cpu(), right.cpu(), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("spec", SPECS)
def test_two_setups_agree_to_the_last_bit(world, spec):
    A = distribute_once(_poisson(6), world)
    r = spread(A.layout, np.random.default_rng(9).standard_normal(36))
    results = []
    for _ in range(2):
        M = make_preconditioner(spec, A)
        results += [M.apply(r, torch.empty_like(r)).clone() for _ in range(2)]
    assert everywhere(world, all(torch.equal(results[0], other) for other in results))


@pytest.mark.parametrize("spec", SPECS)
def test_float32_is_as_good_as_it_can_be(world, spec):
    matrix = _poisson(5)
    double, single = (distribute_once(matrix.astype(t), world) for t in (np.float64, np.float32))
    results = [_as_dense(A, make_preconditioner(spec, A).apply) for A in (double, single)]
    assert results[1].dtype == np.float32
    np.testing.assert_allclose(results[1], results[0], atol=1e-5)


@pytest.mark.parametrize("spec", FALLS_BACK)
@pytest.mark.parametrize("make", [lambda: disconnected(23, 10), lambda: sp.csr_matrix((6, 6))])
def test_rows_without_a_diagonal_or_an_entry_give_no_nan(world, make, spec):
    A = distribute_once(make(), world)
    M = make_preconditioner(spec, A)
    assert np.isfinite(_as_dense(A, M.apply)).all()
    assert np.isfinite(_as_dense(A, M.apply_transpose)).all()
    # amg takes the pseudo-inverse, which here is zero.
    others = ("chebyshev", "polynomial", "amg")
    if make().nnz == 0 and not spec.startswith(others):
        assert np.array_equal(_as_dense(A, M.apply), np.eye(6))


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("name", SPD)
def test_cg_solves_with_the_symmetric_ones(world, name, spec):
    _solve_with_cg(world, SPD[name](), spec)


@pytest.mark.parametrize("spec", [*GENERAL, "additive_schwarz:overlap=2,type=basic,factor=ic0"])
def test_cg_solves_over_torch_distributed(torch_world, spec):
    """A matrix of few iterations: the transport is what differs from the test above."""
    _solve_with_cg(torch_world, SPD["poisson"](), spec)


def _solve_with_cg(world, matrix, spec):
    A = distribute_once(matrix, world)
    M = make_preconditioner(spec, A)
    if not M.symmetric:
        assert "restrict" in M.name and A.world.sum(A.n_halo) > 0
        return
    b = np.random.default_rng(11).standard_normal(matrix.shape[0])
    x, info = hs.solve(A, spread(A.layout, b), method="cg", precond=M, rtol=1e-10)
    assert info.converged and info.precond == M.name
    exact = spla.spsolve(matrix.tocsc(), b)
    assert np.linalg.norm(full(A.layout, x) - exact) <= 1e-6 * np.linalg.norm(exact)
    # By name it is the same, and its name says all that it takes to make it again.
    _, again = hs.solve(A, spread(A.layout, b), precond=M.name, rtol=1e-10)
    assert again.residual_history == info.residual_history


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ("chebyshev", "polynomial"),
        ("chebyshev:degree=8", "chebyshev:degree=3"),
        ("polynomial:degree=6", "polynomial"),
        ("polynomial", "jacobi"),
        ("block_jacobi", "jacobi"),
        ("block_jacobi:factor=lu", "block_jacobi"),
        ("additive_schwarz:overlap=2,type=basic,factor=lu", "jacobi"),
    ],
)
def test_more_work_means_fewer_iterations(world, better, worse):
    A = distribute_once(_poisson(24), world)
    b = spread(A.layout, np.random.default_rng(12).standard_normal(24 * 24))
    counts = [hs.solve(A, b, "cg", spec)[1].iterations for spec in (better, worse)]
    assert counts[0] < counts[1]


def test_overlap_reduces_iterations(world):
    """Of Richardson's method, which converges for each of these and needs no symmetry."""
    if world.size == 1:
        return
    A = distribute_once(_poisson(16), world, "contiguous")
    b = spread(A.layout, np.ones(256))
    norms = []
    for overlap in (0, 1, 3):
        M = make_preconditioner(f"additive_schwarz:overlap={overlap},factor=lu", A)
        x = torch.zeros_like(b)
        for _ in range(10):
            x = x + M.apply(b - A @ x, torch.empty_like(b))
        norms.append(float(A.layout.norm(b - A @ x)))
    assert norms[0] > 1.5 * norms[1] > 1.5**2 * norms[2]

"""A matrix whose entries are packed until somebody asks for them, beside one that is plain."""

import copy
import pickle

import numpy as np
import pytest
import torch

import hpc_sla as hs
from hpc_sla import problems
from hpc_sla.kernels import native
from hpc_sla.kernels.census import asymmetry
from hpc_sla.kernels.entries import beside, diagonal, largest
from hpc_sla.kernels.packed import Packed
from hpc_sla.linear.facts import look
from hpc_sla.precond.amg import products
from hpc_sla.precond.decoupled import any_decoupled
from hpc_sla.sparse import split
from hpc_sla.sparse.fingerprint import matrix_fingerprint
from hpc_sla.sparse.symmetry import is_symmetric

pytestmark = pytest.mark.skipif(native.LIBRARY is None, reason="nothing is packed without loops")


@pytest.fixture(autouse=True)
def few_rows(monkeypatch):
    """Few rows suffice to be packed."""
    monkeypatch.setattr(split, "FEWEST_ROWS", 1)
    monkeypatch.setattr(products, "_FEWEST_ROWS", 1)


SPECS = ["poisson2d:n=24", "elasticity3d:n=4", "jumps2d:n=9", "convection2d:n=21", "neumann2d:n=20"]


def _pair(spec, world, dtype=torch.float64):
    """The matrix as it comes, and the same with a tensor of values and arrays of indices."""
    A, plain = (problems.distribute(problems.make(spec), world, dtype) for _ in range(2))
    assert plain.values is plain.values and plain.held.packed is None
    plain.pattern.owned.indices  # noqa: B018
    return A, plain


def _packed(A):
    """Whether nobody has asked for anything yet, where there was something to pack."""
    return A.held.packed is not None and not A.pattern.owned.written


def _b(A):
    rows = torch.from_numpy(np.asarray(A.layout.rows)).double()
    return (1.5 + torch.sin(rows)).to(A.device, A.dtype)


@pytest.mark.mpi
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("spec", SPECS)
def test_what_is_seen_is_the_same(world, spec, dtype):
    A, plain = _pair(spec, world, dtype)
    repeats = spec != SPECS[2] and A.layout.n_owned > 100
    assert _packed(A) or not repeats
    for mine, other in zip(A.entries(), plain.entries(), strict=True):
        assert np.array_equal(mine, other)
    assert matrix_fingerprint(A) == matrix_fingerprint(plain)
    assert (A.nnz_owned, A.nnz_global, A.n_halo) == (
        plain.nnz_owned,
        plain.nnz_global,
        plain.n_halo,
    )
    assert np.array_equal(A.pattern.plan.halo, plain.pattern.plan.halo)
    assert torch.equal(A.diagonal(), plain.diagonal())
    assert (A.local_csr() != plain.local_csr()).nnz == 0
    assert A.dtype == dtype and A.device == plain.device
    assert any_decoupled(A) == any_decoupled(plain)
    assert is_symmetric(A) == is_symmetric(plain)
    x = _b(A)
    rounding = 500 * torch.finfo(dtype).eps * (float(plain.held.largest()) or 1)
    assert torch.allclose(A @ x, plain @ x, rtol=0, atol=rounding)
    assert _packed(A) or not repeats  # none of these has left a copy behind
    assert look(A) == look(plain)
    assert torch.equal(A.values, plain.values)
    assert torch.equal(A.pattern.owned.indices, plain.pattern.owned.indices)
    assert torch.equal(A.pattern.owned.indptr, plain.pattern.owned.indptr)
    assert torch.allclose(A.T @ x, plain.T @ x, rtol=0, atol=rounding)


@pytest.mark.mpi
@pytest.mark.parametrize("precond", ["jacobi", "amg", "auto"])
def test_a_solve_leaves_nothing_behind(world, precond):
    A, plain = _pair("poisson2d:n=50", world)
    b = _b(A)
    method = {} if precond == "auto" else {"method": "cg"}
    x, info = hs.solve(A, b, precond=precond, rtol=1e-10, **method)
    y, other = hs.solve(plain, b, precond=precond, rtol=1e-10, **method)
    assert info.converged and abs(info.iterations - other.iterations) <= 1
    assert torch.allclose(x, y, rtol=1e-7, atol=1e-7)
    if precond != "auto":  # which may gather it to factorise
        assert _packed(A)


@pytest.mark.mpi
def test_a_change_in_place_is_seen(world):
    A, _ = _pair("poisson2d:n=30", world)
    b = _b(A)
    solver = hs.LinearSolver(A, "cg", "jacobi", rtol=1e-12)
    x, _ = solver.solve(b)
    with torch.no_grad():
        A.values.mul_(2)
    assert A.held.packed is None
    for found in (solver.solve(b)[0], hs.solve(A, b, method="cg", rtol=1e-12)[0]):
        assert torch.allclose(2 * found, x, rtol=1e-9)
    # Behind torch's back, which says nothing to anybody.
    A.values.detach().numpy()[...] *= 2
    assert torch.allclose(4 * hs.solve(A, b, method="cg", rtol=1e-12)[0], x, rtol=1e-9)
    assert torch.allclose(A @ x, 4 * b, rtol=1e-8)


@pytest.mark.mpi
def test_a_change_behind_torchs_back_is_seen_by_a_solver_that_was_set_up(world):
    A, _ = _pair("poisson2d:n=30", world)
    b = _b(A)
    solver = hs.LinearSolver(A, "cg", "jacobi", rtol=1e-12)
    x, _ = solver.solve(b)
    A.values.numpy()[...] *= 2  # of values that nobody has had in hand before
    assert torch.allclose(2 * solver.solve(b)[0], x, rtol=1e-9)


@pytest.mark.mpi
def test_gradients(world):
    A, plain = _pair("convection2d:n=16", world)
    found = []
    for M in (A, plain):
        b = _b(M).requires_grad_()
        x, _ = hs.solve(M, b, method="bicgstab", precond="jacobi", rtol=1e-12)
        if M is A:
            assert M.held.packed is not None
        (db,) = torch.autograd.grad(M.layout.dot(x, x), b, create_graph=True)
        (ddb,) = torch.autograd.grad(M.layout.dot(db, db), b)
        M.values.requires_grad_()
        x, _ = hs.solve(M, b.detach(), method="bicgstab", precond="jacobi", rtol=1e-12)
        M.layout.dot(x, x).backward()
        found.append((db.detach(), ddb, M.values.grad))
    for mine, other in zip(*found, strict=True):
        assert torch.allclose(mine, other, rtol=1e-7, atol=1e-9)


@pytest.mark.mpi
def test_a_gradient_that_one_rank_wants(world):
    """The others' entries are packed, and they follow."""
    A, _ = _pair("poisson2d:n=20", world)
    if world.rank == 0:
        A.values.requires_grad_()
    x, _ = hs.solve(A, _b(A), method="cg", precond="jacobi", rtol=1e-12)
    A.layout.dot(x, x).backward()
    B, _ = _pair("poisson2d:n=20", world)
    B.values.requires_grad_()
    x, _ = hs.solve(B, _b(B), method="cg", precond="jacobi", rtol=1e-12)
    B.layout.dot(x, x).backward()
    if world.rank == 0:
        assert torch.allclose(A.values.grad, B.values.grad, rtol=1e-8)


@pytest.mark.mpi
def test_a_change_before_the_backward_pass_is_not_taken_for_the_matrix(world):
    A, plain = _pair("poisson2d:n=20", world)
    b = _b(A).requires_grad_()
    x, _ = hs.solve(A, b, method="cg", precond="jacobi", rtol=1e-12)
    with torch.no_grad():
        A.values.mul_(3)
    (found,) = torch.autograd.grad(A.layout.dot(x, x), b)
    c = _b(plain).requires_grad_()
    y, _ = hs.solve(plain, c, method="cg", precond="jacobi", rtol=1e-12)
    (right,) = torch.autograd.grad(plain.layout.dot(y, y), c)
    assert torch.allclose(found, right, rtol=1e-8)


@pytest.mark.mpi
def test_copies(world):
    A, plain = _pair("poisson2d:n=20", world)
    twin, other = copy.copy(A), copy.deepcopy(A)
    assert _packed(A) or A.layout.n_owned < 200
    assert twin.values is A.values  # as of a copy that is no deep one
    with torch.no_grad():
        A.values.mul_(2)
    assert torch.equal(twin.values, 2 * plain.values)
    assert torch.equal(other.values, plain.values)
    new = A.with_values(torch.ones(A.nnz_owned, dtype=A.dtype))
    x = _b(A)
    assert torch.allclose(new @ x, plain.with_values(new.values) @ x)
    A.values = plain.values
    assert torch.equal(A.values, plain.values) and torch.equal(twin.values, 2 * plain.values)


def test_pickling():
    from hpc_sla.distributed.transport.serial import SerialComm

    world = hs.World(SerialComm(), "cpu")
    A, plain = _pair("poisson2d:n=20", world)
    again = pickle.loads(pickle.dumps(A))
    assert _packed(A)
    assert torch.equal(again.values, plain.values)
    assert matrix_fingerprint(again) == matrix_fingerprint(plain)


@pytest.mark.mpi
def test_products_on_more_threads(world):
    """They have no use for what is packed, and take a tensor."""
    A, plain = _pair("poisson2d:n=30", world)
    x = _b(A).unsqueeze(1).expand(-1, 3).contiguous()
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert torch.allclose(A @ x, plain @ x)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.mpi
@pytest.mark.parametrize("method", ["metis", "contiguous"])
@pytest.mark.parametrize("dtype", [None, torch.float32])
def test_files(world, tmp_path_factory, method, dtype):
    from hpc_sla.cli.prepare import load_source, write_partitioned

    base = world.comm.bcast(str(tmp_path_factory.mktemp("m")) if world.rank == 0 else None)
    path = f"{base}/{method}.h5"
    world.on_root(lambda: write_partitioned(load_source("poisson2d:n=40"), path, 3, method))
    A = hs.DSparseMatrix.from_hdf5(path, world, dtype)
    B = problems.distribute(problems.make("poisson2d:n=40"), world, dtype)
    assert matrix_fingerprint(A) == matrix_fingerprint(B)
    ones = torch.ones(A.layout.n_owned, dtype=A.dtype)
    x, info = hs.solve(A, ones, method="cg", precond="amg")
    y, _ = hs.solve(B, torch.ones_like(B.diagonal()), method="cg", precond="amg")
    assert info.converged
    assert torch.allclose(A.layout.allgather(x), B.layout.allgather(y), rtol=1e-3)


# The loops beside NumPy


def _random(block, dtype, seed=0):
    """Few kinds of rows, unsymmetric, with zeros, a row of nothing and one with a diagonal only."""
    rng = np.random.default_rng(seed)
    n = 60
    kinds = []
    for kind in range(3):
        offsets = np.unique(rng.integers(-6, 7, 5))
        values = np.round(rng.normal(size=(block, len(offsets), block)), 1 if kind else 0)
        kinds.append((offsets, values))
    dense = np.zeros((n * block, n * block))
    for node in range(n):
        offsets, values = kinds[0 if node < 25 else 1 if node < 45 else 2]
        for o, part in zip(offsets, values.transpose(1, 0, 2), strict=True):
            if 0 <= node + o < n:
                there = (node + o) * block
                dense[node * block : (node + 1) * block, there : there + block] = part
    return dense.astype(dtype)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("block", [1, 2, 3, 6])
def test_loops_over_packed_rows(block, dtype):
    import scipy.sparse as sp

    from hpc_sla.kernels.csr import CsrPattern

    for seed in range(8):
        matrix = sp.csr_matrix(_random(block, dtype, seed))
        pattern = CsrPattern(
            torch.from_numpy(matrix.indptr), torch.from_numpy(matrix.indices), matrix.shape[1]
        )
        packed = Packed.of(pattern, torch.from_numpy(matrix.data))
        if packed is None:
            continue
        dense = matrix.toarray()
        off = dense - np.diag(np.diag(dense))
        assert np.array_equal(beside(packed).numpy(), (off != 0).any(axis=1))
        assert np.array_equal(diagonal(packed).numpy(), np.diag(dense))
        assert largest(packed) == np.abs(dense).max()
        scale = np.random.default_rng(seed).random(len(dense)) + 0.1
        aside = np.zeros(len(dense), dtype=bool)
        aside[::7] = True
        found = asymmetry(CsrPattern.of_rows(packed), packed, scale, aside)
        assert found == asymmetry(pattern, matrix.data, scale, aside)
        assert found.unmatched == np.count_nonzero((dense != 0) & (dense.T == 0)) * 1

"""A matrix that a GPU has in slices alone until somebody asks for its values; on CPU tensors."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch

import hpc_sla as hs
from hpc_sla import problems
from hpc_sla.kernels import device_matrix, slices
from hpc_sla.precond import make_preconditioner
from hpc_sla.precond.decoupled import any_decoupled
from hpc_sla.sparse.compressed import in_slices
from hpc_sla.sparse.fingerprint import matrix_fingerprint
from tests.collective import everywhere
from tests.linear.emulated_device import on_device

SPECS = ["poisson2d:n=20", "jumps2d:n=19", "unstructured3d:n=6", "convection2d:n=21"]


@pytest.fixture(autouse=True)
def _on_device(monkeypatch):
    """Few rows suffice, in several pieces."""
    on_device(monkeypatch)
    monkeypatch.setattr(device_matrix, "FEWEST_ROWS", 1)
    monkeypatch.setattr(device_matrix, "_WORTH", 9.0)
    monkeypatch.setattr(slices, "_COLUMNS", 9)


def _pair(spec, world):
    """The matrix as it comes, and the same with a tensor of values and columns."""
    A, plain = (problems.distribute(problems.make(spec), world) for _ in range(2))
    assert plain.values is plain.values and plain.held.sliced is None
    plain.pattern.owned.indices  # noqa: B018
    return A, plain


def _alone(A):
    """Whether nobody has asked for anything yet."""
    return A.held.sliced is not None and not A.held.written and not A.pattern.owned.written


def _b(A):
    return 1.5 + torch.sin(torch.from_numpy(np.asarray(A.layout.rows)).double())


@pytest.mark.mpi
@pytest.mark.parametrize("reach", [65534, 12])
@pytest.mark.parametrize("spec", SPECS)
def test_what_is_seen_is_the_same(world, spec, reach, monkeypatch):
    """With 16-bit columns, whole ones, and both."""
    monkeypatch.setattr(slices, "_REACH", reach)
    A, plain = _pair(spec, world)
    assert everywhere(world, _alone(A) or A.layout.n_owned < 40)
    for mine, other in zip(A.entries(), plain.entries(), strict=True):
        assert np.array_equal(mine, other)
    assert matrix_fingerprint(A) == matrix_fingerprint(plain)
    assert torch.equal(A.diagonal(), plain.diagonal())
    assert (A.local_csr() != plain.local_csr()).nnz == 0
    assert any_decoupled(A) == any_decoupled(plain)
    assert A.held.largest() == plain.held.largest()
    x = _b(A)
    torch.testing.assert_close(A @ x, plain @ x, rtol=0, atol=1e-10 * A.held.largest())
    assert everywhere(world, _alone(A) or A.layout.n_owned < 40)
    assert torch.equal(A.values, plain.values)
    assert torch.equal(A.pattern.owned.indices, plain.pattern.owned.indices)
    assert A.held.sliced is None
    torch.testing.assert_close(A.T @ x, plain.T @ x, rtol=0, atol=1e-10 * plain.held.largest())


@pytest.mark.mpi
@pytest.mark.parametrize("precond", ["jacobi", "amg"])
def test_a_solve_leaves_nothing_behind(world, precond):
    A, plain = _pair("poisson2d:n=24", world)
    b = _b(A)
    x, info = hs.solve(A, b, method="cg", precond=precond, rtol=1e-10)
    y, other = hs.solve(plain, b, method="cg", precond=precond, rtol=1e-10)
    assert info.converged and abs(info.iterations - other.iterations) <= 1
    torch.testing.assert_close(x, y, rtol=1e-7, atol=1e-7)
    assert everywhere(world, _alone(A))


@pytest.mark.mpi
def test_changes_in_place_are_seen(world):
    A, _ = _pair("poisson2d:n=20", world)
    b = _b(A)
    solver = hs.LinearSolver(A, "cg", "jacobi", rtol=1e-12)
    x, _ = solver.solve(b)
    assert everywhere(world, _alone(A))
    with torch.no_grad():
        A.values.mul_(2)
    for found in (solver.solve(b)[0], hs.solve(A, b, method="cg", rtol=1e-12)[0]):
        torch.testing.assert_close(2 * found, x, rtol=1e-9, atol=1e-9)
    A.values.data.mul_(2)  # which nobody counts
    torch.testing.assert_close(4 * solver.solve(b)[0], x, rtol=1e-9, atol=1e-9)


@pytest.mark.mpi
@pytest.mark.parametrize("precond", ["jacobi", "amg"])
def test_several_columns_and_gradients_have_it_written_out(world, precond):
    A, plain = _pair("poisson2d:n=20", world)
    b = torch.stack([_b(A), torch.cos(_b(A))], dim=1)
    solver = hs.LinearSolver(A, "cg", precond, rtol=1e-10)
    one, _ = solver.solve(b[:, 0].contiguous())
    x, info = solver.solve(b)
    assert info.converged
    torch.testing.assert_close(x[:, 0], one, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(plain @ x, b, rtol=1e-7, atol=1e-7)
    grads = []
    for matrix in (A, plain):
        values = matrix.values.clone().requires_grad_()
        y, _ = hs.solve(matrix.with_values(values), b[:, 0].contiguous(), "cg", rtol=1e-11)
        A.layout.dot(y, y).backward()
        grads.append(values.grad)
    torch.testing.assert_close(*grads, rtol=1e-7, atol=1e-7)


def test_copies_stay_so(monkeypatch):
    world = hs.World.serial("cpu")
    A, plain = _pair("poisson2d:n=20", world)
    for other in (copy.copy(A), copy.deepcopy(A), A.as_it_is(), A.rescaled(-0.5)):
        assert other.held.sliced is not None
    assert torch.equal(A.rescaled(-0.5).values, -0.5 * plain.values)
    again = pickle.loads(pickle.dumps(A))
    assert torch.equal(again.values, plain.values)
    assert A.held.sliced is not None
    # One that somebody has had the values of is left as it is.
    assert in_slices(plain.pattern, hs.DSparseMatrix(plain.pattern, A.held).held) is A.held


@pytest.mark.parametrize("smoother", ["chebyshev", "l1_jacobi"])
def test_multigrid_leaves_no_columns_behind(smoother):
    A, plain = _pair("poisson2d:n=40", hs.World.serial("cpu"))
    M = hs.AMG(smoother=smoother, coarse_size=20).on(A)
    assert _alone(A)
    held = [level.operator for level in M.hierarchy.levels if level.operator._sliced is not None]
    assert len(held) > 1  # more than A
    assert not any(operator.pattern.owned.written for operator in held)
    expected = hs.AMG(smoother=smoother, coarse_size=20).on(plain)
    for mine, other in zip(M.hierarchy.levels, expected.hierarchy.levels, strict=True):
        torch.testing.assert_close(mine.steps.inverse, other.steps.inverse, rtol=1e-5, atol=0)


def test_what_a_form_is_worth_is_counted_without_the_columns():
    A, _ = _pair("poisson2d:n=20", hs.World.serial("cpu"))
    owned = A.pattern.owned
    made = device_matrix.DeviceMatrix.of(owned, A.held.plain)
    assert made.form != "csr" and not owned.written
    bytes_of_csr = device_matrix._plain_bytes(owned, A.held.plain)
    assert not owned.written
    parts = owned.indptr, owned.indices, A.held.plain
    assert bytes_of_csr == sum(part.numel() * part.element_size() for part in parts)


@pytest.mark.mpi
def test_l1_jacobi_asks_for_nothing(world):
    A, plain = _pair("poisson2d:n=20", world)
    expected = make_preconditioner("l1_jacobi", plain).inverse
    found = make_preconditioner("l1_jacobi", A).inverse
    assert everywhere(world, torch.equal(found, expected) and _alone(A))

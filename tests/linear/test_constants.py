"""Vectors that are one number need no memory: right-hand sides, and diagonals of Jacobi's."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch

import hpc_sla as hs
from hpc_sla.linear.method import System
from hpc_sla.precond import jacobi
from tests.checkpoints import poisson
from tests.collective import distribute, everywhere, full, spread
from tests.methods import ENTRIES

pytestmark = pytest.mark.mpi

SQUARE = [name for name, method in ENTRIES.items() if method.solves != "any"]
SCALE_FREE = [name for name in SQUARE if ENTRIES[name].scale_free]


@pytest.fixture
def looked_for(monkeypatch):
    """Constant diagonals, of matrices of any size."""
    monkeypatch.setattr(jacobi, "CONSTANT_FROM", 0)


@pytest.fixture
def used(monkeypatch):
    """What the methods multiplied by."""
    found = []
    made = System.__init__

    def watched(self, *arguments, **named):
        made(self, *arguments, **named)
        found.append(self.precond.inverse)

    monkeypatch.setattr(System, "__init__", watched)
    return found


def test_there_are_such_methods():
    assert {"cg", "pipelined_cg", "minres", "bicgstab", "gmres"} <= set(SCALE_FREE)
    assert not ENTRIES["richardson"].scale_free


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("method", SQUARE)
def test_a_constant_diagonal(method, dtype, world, looked_for, used):
    matrix = sp.csr_matrix((3.0 * poisson(9)).astype(dtype))
    A = distribute(matrix, world)
    b = spread(A.layout, np.random.default_rng(0).standard_normal(A.shape[0]).astype(dtype))
    choices = {"rtol": 1e-9 if dtype is np.float64 else 1e-4, "max_iterations": 5000}
    x, info = hs.solve(A, b, method, "jacobi", **choices)
    assert info.converged and info.precond == "jacobi"
    free = ENTRIES[method].scale_free
    assert everywhere(world, (used[-1] is None) == free)
    one_other = hs.solve(A, b, method, jacobi.Jacobi.of(A.diagonal()), **choices)
    assert everywhere(world, used[-1] is not None)
    assert abs(info.iterations - one_other[1].iterations) <= 1
    exact = np.linalg.solve(matrix.toarray().astype(float), full(A.layout, b))
    np.testing.assert_allclose(full(A.layout, x), exact, rtol=0, atol=1e-2 * abs(exact).max())


DIAGONALS = {
    "one number": (lambda rows: np.full(len(rows), 4.0), True),
    "negative": (lambda rows: np.full(len(rows), -4.0), False),
    "all but the last": (lambda rows: np.where(rows == 39, 5.0, 4.0), False),
    "two numbers": (lambda rows: np.where(rows < 20, 2.0, 4.0), False),
    "not a number": (lambda rows: np.where(rows == 3, np.nan, 4.0), False),
    "infinite": (lambda rows: np.full(len(rows), np.inf), False),
    "zeros, which count as ones": (lambda rows: np.zeros(len(rows)), True),
}


@pytest.mark.parametrize("name", DIAGONALS)
def test_what_is_constant(name, world, looked_for):
    make, constant = DIAGONALS[name]
    A = distribute(sp.csr_matrix(sp.eye_array(40)), world)
    own = make(A.layout.rows)
    A = A.with_values(torch.from_numpy(own).to(world.device))
    M = hs.Jacobi().on(A)
    assert everywhere(world, (M.up_to_a_factor is not M) == constant)
    assert M.pointwise
    r = spread(A.layout, np.random.default_rng(1).standard_normal(40))
    expected = r.clone()
    expected /= torch.from_numpy(np.where(own == 0, 1.0, own)).to(r)
    for found in (M.apply(r, torch.empty_like(r)), r * M.inverse):
        torch.testing.assert_close(found, expected, equal_nan=True)
    block = torch.stack([r, 2 * r], dim=1)
    found = M.apply(block, torch.empty_like(block))
    torch.testing.assert_close(found[:, 0], expected, equal_nan=True)
    M.check(A.layout.n_owned, A.dtype, A.device)


def test_on_one_process_alone(looked_for, used):
    """Which needs no MPI."""
    A = hs.DSparseMatrix.from_scipy(sp.csr_matrix(poisson(6)), hs.World.serial("cpu"))
    _, info = hs.solve(A, torch.ones(36, dtype=torch.float64), "cg", "jacobi")
    assert info.converged and used[-1] is None


def test_a_class_of_the_user_s_own_has_its_preconditioner(world, looked_for, used):
    class Own(hs.CG):
        def step(self):
            super().step()

    class Halved(hs.Jacobi):
        def apply(self, r, out):
            return torch.mul(super().apply(r, out), 0.5, out=out)

    A = distribute(poisson(6), world)
    b = torch.ones(A.layout.n_owned, dtype=torch.float64, device=world.device)
    hs.solve(A, b, Own(), "jacobi")
    assert everywhere(world, used[-1] is not None)
    M = Halved().on(A)
    assert M.up_to_a_factor is M


def test_small_matrices_are_not_looked_at(world):
    M = hs.Jacobi().on(distribute(poisson(5), world))
    assert M.up_to_a_factor is M


@pytest.mark.parametrize("precond", ["none", "jacobi", "amg"])
@pytest.mark.parametrize("method", SQUARE)
def test_a_right_hand_side_of_one_number(method, precond, world):
    A = distribute(poisson(12), world)
    one = torch.full((1,), 3.0, dtype=A.dtype, device=A.device).expand(A.layout.n_owned)
    solver = hs.LinearSolver(A, method, precond, 1e-8, max_iterations=3000)
    (x, info), (y, other) = (solver.solve(b) for b in (one, one.contiguous()))
    assert everywhere(world, torch.equal(x, y))
    assert (info.iterations, info.status) == (other.iterations, other.status)
    assert info.backward_error == other.backward_error


def test_its_gradient(world):
    A = distribute(poisson(7), world)
    one = torch.full((1,), 3.0, dtype=A.dtype, device=A.device, requires_grad=True)
    x, _ = hs.solve(A, one.expand(A.layout.n_owned), "cg", "jacobi", rtol=1e-12)
    world.all_sum(x.square().sum()).backward()
    inverse = np.linalg.inv(poisson(7).toarray())
    slope = 2 * 3.0 * np.square(inverse.sum(axis=1)).sum()
    assert world.sum(float(one.grad)) == pytest.approx(slope)

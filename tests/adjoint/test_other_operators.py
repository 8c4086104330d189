"""Gradients through matrix-free operators, and through least-squares solutions."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch

import hpc_sla as hs
from tests.adjoint.systems import FAMILIES, N, Whole, error, leaves, random
from tests.collective import dense, distribute, everywhere, full, random_matrix, spread

pytestmark = pytest.mark.mpi


class Shifted(torch.nn.Module):
    """A + diag(exp(d)) + s I with d owned and s replicated."""

    def __init__(self, A, d, s):
        super().__init__()
        self.A, self.layout, self.dtype = A, A.layout, A.dtype
        self.d, self.s = torch.nn.Parameter(d), torch.nn.Parameter(s)

    def _shift(self, x):
        return (torch.exp(self.d) + self.A.world.replicate(self.s)) * x

    def matvec(self, x):
        return self.A @ x + self._shift(x)

    def rmatvec(self, x):
        return self.A.T @ x + self._shift(x)


class Symmetric(Shifted):
    rmatvec = None


def _dense_loss(matrix, d, s, b):
    whole = matrix + torch.diag(torch.exp(d) + s)
    return (torch.linalg.solve(whole, b) ** 3).sum()


@pytest.mark.parametrize(
    ("kind", "family", "method"),
    [(Shifted, "nonsymmetric", "gmres"), (Symmetric, "spd", "cg"), (Shifted, "spd", "auto")],
)
def test_parameters_of_a_module(world, kind, family, method):
    A = distribute(FAMILIES[family](), world)
    d = spread(A.layout, random(N, 100) * 0.3)
    s = torch.tensor(0.4, dtype=torch.float64)
    b = spread(A.layout, random(N, 101)).requires_grad_()
    op = kind(A, d, s)
    x, _ = hs.solve(op, b, method=method, precond="none", rtol=1e-13)
    loss = A.layout.dot(x, x * x)
    inputs = (op.d, op.s, b)
    found = torch.autograd.grad(loss, inputs, create_graph=True)
    whole = [torch.from_numpy(t).requires_grad_() for t in (full(A.layout, d), full(A.layout, b))]
    shift = s.clone().requires_grad_()
    matrix = torch.from_numpy(dense(A))
    order = (whole[0], shift, whole[1])
    expected = torch.autograd.grad(_dense_loss(matrix, *order), order, create_graph=True)
    _agree(A, found, expected, 1e-10)
    # And their Hessian times a vector.
    slope = world.all_sum((found[0] * torch.cos(found[0].detach())).sum()) + found[1]
    slope = slope + A.layout.dot(found[2], found[2])
    second = torch.autograd.grad(slope, inputs)
    slope = (expected[0] * torch.cos(expected[0].detach())).sum() + expected[1]
    slope = slope + (expected[2] ** 2).sum()
    _agree(A, second, torch.autograd.grad(slope, order), 1e-9)


def _agree(A, ours, expected, tolerance):
    d, s, b = ours
    whole_d, whole_s, whole_b = (t.detach() for t in expected)
    assert error(full(A.layout, d), whole_d.numpy()) < tolerance
    assert error(full(A.layout, b), whole_b.numpy()) < tolerance
    assert everywhere(A.world, abs(float((s - whole_s).detach())) < tolerance * abs(float(whole_s)))


class Plain:
    def __init__(self, A):
        self.A, self.layout, self.dtype = A, A.layout, A.dtype

    def matvec(self, x):
        return self.A @ x


def test_an_operator_without_parameters(world):
    A = distribute(FAMILIES["spd"](), world)
    b = spread(A.layout, random(N, 102)).requires_grad_()
    x, _ = hs.solve(Plain(A), b, precond="none", rtol=1e-12)
    (found,) = torch.autograd.grad(A.layout.dot(x, x), b)
    y, _ = hs.solve(A, 2 * x.detach(), rtol=1e-13)
    assert everywhere(world, torch.allclose(found, y, atol=1e-10))
    with pytest.raises(hs.InputError, match="needs its transpose"):
        hs.solve(Plain(A), b, method="gmres", precond="none")
    x, info = hs.solve(Plain(A), b.detach(), method="gmres", precond="none")
    assert info.converged and not x.requires_grad
    _, tangent = torch.func.jvp(
        lambda b: hs.solve(Plain(A), b, method="gmres", precond="none", rtol=1e-12)[0],
        (b.detach(),),
        (2 * x.detach(),),
    )
    assert everywhere(world, torch.allclose(tangent, y, atol=1e-6))


def test_parameters_that_go_unnamed_are_refused(world):
    A = distribute(FAMILIES["spd"](), world)
    values, b = leaves(A, random(N, 103))
    operator = Plain(A.with_values(values))
    for rhs in (b, b.detach()):
        with pytest.raises(hs.InputError, match=r"1 tensor\(s\).*parameters"):
            hs.solve(operator, rhs, precond="none")
    with torch.no_grad():
        assert hs.solve(operator, b, precond="none")[1].converged
    operator.parameters = lambda: [values]
    x, _ = hs.solve(operator, b, precond="none", rtol=1e-12)
    A.layout.dot(x, x).backward()
    mine = values.grad.clone()
    values.grad = None
    x, _ = hs.solve(A.with_values(values), b, precond="none", rtol=1e-12)
    A.layout.dot(x, x).backward()
    assert everywhere(world, torch.allclose(values.grad, mine, atol=1e-10))


def _tall(m, n, seed):
    matrix = sp.lil_matrix(random_matrix(max(m, n), 0.25, seed)[:m, :n])
    matrix.setdiag(2.0)
    return sp.csr_matrix(matrix)


@pytest.mark.parametrize("precond", ["none", "jacobi"])
@pytest.mark.parametrize("transposed", [False, True])
def test_least_squares(world, transposed, precond):
    matrix = _tall(17, 11, 104)
    A = distribute(matrix.T.tocsr() if transposed else matrix, world, "contiguous")
    used = A.T if transposed else A
    b, c = random((17, 2), 105), random((11, 2), 106)
    values = A.values.clone().requires_grad_()
    mine = spread(used.layout, b).requires_grad_()
    both = A.with_values(values)
    x, info = hs.solve(
        both.T if transposed else both, mine, method="auto", precond=precond, rtol=1e-13
    )
    used.columns.dot(spread(used.columns, c), x).sum().backward()
    D = torch.from_numpy(matrix.toarray()).requires_grad_()
    r = torch.from_numpy(b).requires_grad_()
    X = torch.linalg.solve(D.T @ D, D.T @ r)
    of_d, of_r = torch.autograd.grad((X * torch.from_numpy(c)).sum(), (D, r))
    found = dense(A, values.grad)
    expected = of_d.numpy() * (matrix.toarray() != 0)
    assert error(found.T if transposed else found, expected) < 1e-9
    assert error(full(used.layout, mine.grad), of_r.numpy()) < 1e-9
    assert info.adjoint.converged and info.adjoint.method == "cg"


def test_least_squares_twice_and_forward(world):
    matrix = _tall(7, 4, 107)
    A = distribute(matrix, world, "contiguous")
    whole = Whole(A)
    rows = torch.from_numpy(A.layout.rows)
    columns = torch.from_numpy(A.columns.rows)

    def solution(values, b):
        used = A.with_values(whole.own_values(values))
        x, _ = hs.solve(used, world.replicate(b)[rows], method="lsqr", rtol=1e-13)
        return world.all_sum(x.new_zeros(4).index_add(0, columns, x))

    b = torch.from_numpy(random(7, 108))
    inputs = whole.values().requires_grad_(), b.requires_grad_()
    check = {"fast_mode": True}
    torch.manual_seed(0)
    assert torch.autograd.gradcheck(solution, inputs, check_forward_ad=True, **check)
    torch.manual_seed(0)
    assert torch.autograd.gradgradcheck(solution, inputs, **check)


def test_least_squares_without_full_column_rank(world):
    wide = distribute(_tall(6, 9, 109), world, "contiguous")
    b = spread(wide.layout, random(6, 110)).requires_grad_()
    with pytest.raises(hs.InputError, match="full column rank"):
        hs.solve(wide, b, method="lsqr")
    matrix = _tall(12, 6, 111).toarray()
    matrix[:, 4] = matrix[:, 1] - matrix[:, 2]
    A = distribute(sp.csr_matrix(matrix), world, "contiguous")
    b = spread(A.layout, random(12, 112)).requires_grad_()
    x, info = hs.solve(A, b, method="lsqr", precond="none", rtol=1e-10)
    assert info.converged
    with pytest.raises(hs.AdjointSolveError):
        A.columns.dot(x, spread(A.columns, random(6, 113))).backward()
    assert b.grad is None
    assert np.isfinite(full(A.columns, x)).all()

"""Nothing stays after a backward pass: no reference cycles."""

from __future__ import annotations

import gc
import weakref
from collections import Counter

import numpy as np
import pytest
import scipy.sparse as sp
import torch

import hpc_sla as hs
from hpc_sla.linear.choices import METHODS
from tests.collective import distribute, everywhere, random_rectangular

N = 24
MATRIX = sp.csr_matrix(sp.diags_array([-1.0, 3.0, -1.0], offsets=[-1, 0, 1], shape=(N, N)))
F64 = torch.float64


def _left_over(step) -> Counter:
    """What the collector finds after `step`, once everything made at a first use is there."""
    gc.freeze()  # it need not look at all that other tests and torch have made
    step()
    gc.collect()
    gc.disable()
    try:
        step()
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        return Counter(type(thing).__name__ for thing in gc.garbage)
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
        gc.unfreeze()


def _leaves(A):
    values = A.values.detach().clone().requires_grad_()
    return values, torch.ones(A.layout.n_owned, dtype=F64, device=A.device).requires_grad_()


def _solve(A, **options):
    values, b = _leaves(A)
    x, _ = hs.solve(A.with_values(values), b, **options)
    A.layout.norm(x).backward()


def _transposed(A):
    values, b = _leaves(A)
    x, _ = hs.solve(A.with_values(values).T, b, method="gmres")
    A.layout.norm(x).backward()


def _twice(A, method):
    values, b = _leaves(A)
    x, _ = hs.solve(A.with_values(values), b, method=method)
    (slope,) = torch.autograd.grad(A.layout.dot(x, x), b, create_graph=True)
    A.layout.dot(slope, slope).backward()


def _products(A):
    values, b = _leaves(A)
    B = A.with_values(values)
    A.layout.norm(B @ (B.T @ b) + B.with_halo(b)[: len(b)] + B.diagonal()).backward()


def _nonlinear(A, **options):
    values, b = _leaves(A)
    u, _ = hs.nonlinear_solve(
        lambda u, v, b: A.with_values(v) @ u + u**3 - b, torch.zeros_like(b).detach(), values, b,
        layout=A.layout, **options,
    )  # fmt: skip
    A.layout.norm(u).backward()


def _eigenvalues(A):
    values, _ = _leaves(A)
    hs.eigsh(A.with_values(values), k=2, precond="amg")[0].sum().backward()


def _eigenvectors(A):
    values, b = _leaves(A)
    V = hs.eigsh(A.with_values(values), k=2, precond="amg")[1]
    A.layout.dot(V[:, 0], b).backward()


def _replicated(A):
    net = torch.nn.Linear(1, 1).double().to(A.device)
    call = A.world.replicate_module(net)
    A.layout.norm(
        call(torch.ones(A.layout.n_owned, 1, dtype=F64, device=A.device))[:, 0]
    ).backward()


STEPS = {
    **{method: lambda A, m=method: _solve(A, method=m) for method in (*METHODS, "auto")},
    "amg": lambda A: _solve(A, precond="amg"),
    "gmres, amg": lambda A: _solve(A, method="gmres", precond="amg"),
    "schwarz": lambda A: _solve(A, method="gmres", precond="additive_schwarz"),
    "transposed": _transposed,
    "cg twice": lambda A: _twice(A, "cg"),
    "gmres twice": lambda A: _twice(A, "gmres"),
    "products": _products,
    "newton": _nonlinear,
    "newton, coloured": lambda A: _nonlinear(A, pattern=A, jacobian="coloured", precond="amg"),
    "anderson": lambda A: _nonlinear(A, method="anderson"),
    "eigenvalues": _eigenvalues,
    "eigenvectors": _eigenvectors,
    "replicated": _replicated,
}


@pytest.mark.mpi
@pytest.mark.parametrize("step", STEPS)
def test_no_cycles(world, step):
    A = distribute(MATRIX, world, "contiguous")
    left = _left_over(lambda: STEPS[step](A))
    assert everywhere(world, not left), left


@pytest.mark.mpi
def test_no_cycles_of_least_squares(world):
    A = distribute(random_rectangular(31, 9, 0.5, 3), world)

    def step():
        values, b = _leaves(A)
        x, _ = hs.solve(A.with_values(values), b, method="lsqr")
        A.columns.norm(x).backward()

    assert everywhere(world, not _left_over(step))


@pytest.mark.mpi
@pytest.mark.parametrize("precond", ["jacobi", "amg"])
def test_training_for_long_holds_no_more(world, precond):
    """With the collector off, as many tensors are alive after many steps as after few."""
    A = distribute(MATRIX, world, "contiguous")
    alive: list[weakref.ref] = []

    def step():
        values, b = _leaves(A)
        x, info = hs.solve(A.with_values(values), b, precond=precond)
        loss = A.layout.norm(x)
        loss.backward()
        alive.extend(map(weakref.ref, (values, b, x, loss, info)))

    gc.collect()
    gc.disable()
    try:
        for _ in range(30):
            step()
        still = sum(ref() is not None for ref in alive)
    finally:
        gc.enable()
    assert everywhere(world, still == 0)


def _serial(run):
    def step(S):
        values = S.values.detach().clone().requires_grad_()
        b = torch.ones(N, dtype=F64).requires_grad_()
        run(S.with_values(values), b).sum().backward()

    return step


SERIAL = {
    "direct": lambda S, b: S.solve(b),
    "batch": lambda S, b: S.with_values(torch.stack([S.values, S.values * 2])).solve(b),
    "iteration": lambda S, b: S.solve(b, backend="torch"),
    "amg": lambda S, b: S.solve(b, backend="torch", precond="amg"),
    "factors": lambda S, b: S.factorize().solve(b),
    "eigsh": lambda S, b: S.eigsh(2)[1] * b[:, None],
    "nonlinear": lambda S, b: S.nonlinear_solve(
        lambda u, S, b: S @ u + u**3 - b, torch.zeros(N, dtype=F64), b
    ),
    "algebra": lambda S, b: S.T @ (S @ b) + S.to_dense() @ b + S.norm(),
}


@pytest.mark.parametrize("use", SERIAL)
def test_no_cycles_of_a_sparse_tensor(use):
    S = hs.SparseTensor.from_scipy(MATRIX)
    step = _serial(SERIAL[use])
    left = _left_over(lambda: step(S))
    assert not left, left


def test_the_check_sees_a_cycle():
    def step():
        a: list = []
        a.append((a, np.zeros(1)))

    assert _left_over(step)

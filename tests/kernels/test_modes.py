"""First used where torch is in another mode, then where gradients are wanted; torch.compile."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch

import hpc_sla as hs
from hpc_sla.linear.choices import METHODS
from hpc_sla.precond import make_preconditioner
from tests.collective import distribute, everywhere, spread
from tests.methods import GENERAL

N = 24
MATRIX = sp.csr_matrix(sp.diags_array([-1.0, 3.0, -1.0], offsets=[-1, 0, 1], shape=(N, N)))
MODES = {"inference_mode": torch.inference_mode, "no_grad": torch.no_grad}
F64 = torch.float64


def _train(A, run):
    """The gradients of a loss of `run(A of leaves, b)`, and the numbers in them."""
    values = A.values.detach().clone().requires_grad_()
    b = spread(A.layout, np.linspace(1, 2, N)).requires_grad_()
    x = run(A.with_values(values), b)
    A.layout.dot(x, x).backward()
    return [t.grad for t in (values, b) if t.grad is not None]


def _check(world, run, mode, make=lambda world: distribute(MATRIX, world, "contiguous")):
    """As if the matrix had never been used; and it can be used in that mode again."""
    expected = _train(make(world), run)
    A = make(world)
    with MODES[mode]():
        b = spread(A.layout, np.linspace(1, 2, N))
        A.layout.norm(run(A, b))
    found = _train(A, run)
    same = all(torch.equal(f, e) for f, e in zip(found, expected, strict=True))
    assert everywhere(world, same and len(found) == len(expected) > 0)
    with MODES[mode]():
        run(A, b)


PAIRS = [(method, "jacobi") for method in (*METHODS, "auto")]
PAIRS += [("gmres", precond) for precond in GENERAL] + [("cg", "amg")]


@pytest.mark.mpi
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("method", "precond"), PAIRS)
def test_solves(world, method, precond, mode):
    def run(A, b):
        return hs.solve(A, b, method=method, precond=precond, rtol=1e-9)[0]

    _check(world, run, mode)


def _nonlinear(A, b):
    return hs.nonlinear_solve(
        lambda u, v, b: A.with_values(v) @ u + u**3 - b, torch.zeros_like(b), A.values, b,
        layout=A.layout, pattern=A, jacobian="coloured",
    )[0]  # fmt: skip


USES = {
    "product": lambda A, b: A @ b,
    "transposed product": lambda A, b: A.T @ (A @ b),
    "columns": lambda A, b: (A @ torch.stack([b, b], 1)).sum(1),
    "halo": lambda A, b: A.with_halo(b)[: len(b)] * A.halo(b).sum(),
    "diagonal": lambda A, b: A.diagonal() * b,
    "transposed solve": lambda A, b: hs.solve(A.T, b, method="gmres")[0],
    "eigenvalues": lambda A, b: hs.eigsh(A, k=2, x0=b.detach())[0].sum() * b,
    "eigenvectors": lambda A, b: hs.eigsh(A, k=2, precond="amg")[1][:, 0] * b,
    "nonlinear": _nonlinear,
    "order": lambda A, b: A.layout.scatter(A.layout.gather(b)) * (A @ b),
}


@pytest.mark.mpi
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("use", USES)
def test_uses(world, use, mode):
    _check(world, USES[use], mode)


@pytest.mark.mpi
def test_preconditioners_applied_by_hand(world):
    A = distribute(MATRIX, world, "contiguous")
    for name in GENERAL:
        with torch.inference_mode():
            M = make_preconditioner(name, A)
            r = spread(A.layout, np.ones(N))
            expected = M.apply(r, torch.empty_like(r)).clone()
        found = M.apply(r.clone(), torch.empty_like(r.clone()))
        assert everywhere(world, torch.equal(found, expected))
        b = spread(A.layout, np.ones(N)).requires_grad_()
        method = "cg" if M.symmetric else "gmres"
        A.layout.norm(hs.solve(A, b, method=method, precond=M)[0]).backward()
        assert everywhere(world, bool(b.grad.isfinite().all()))


@pytest.mark.mpi
@pytest.mark.parametrize("use", ["product", "transposed solve", "eigenvectors", "nonlinear"])
def test_a_matrix_made_in_inference_mode(world, use):
    def make(world):
        with torch.inference_mode():
            A = distribute(MATRIX, world, "contiguous")
            rows, columns = A.entries()
            return hs.DSparseMatrix.from_coo(rows, columns, A.values, A.shape, world)

    _check(world, USES[use], "no_grad", make)
    # With its own values, which need no gradient, beside what does.
    A = make(world)
    b = spread(A.layout, np.linspace(1, 2, N)).requires_grad_()
    x = USES[use](A, b)
    A.layout.dot(x, x).backward()
    assert everywhere(world, bool(b.grad.isfinite().all()))


def _tensor(matrix=MATRIX):
    return hs.SparseTensor.from_scipy(matrix)


SERIAL = {
    "product": lambda S, b: S @ b,
    "transpose": lambda S, b: S.T @ b,
    "direct": lambda S, b: S.solve(b),
    "iteration": lambda S, b: S.solve(b, backend="torch", precond="amg"),
    "factors": lambda S, b: S.factorize().solve(b),
    "eigsh": lambda S, b: S.eigsh(2)[1][:, 0] * b,
    "nonlinear": lambda S, b: S.nonlinear_solve(
        lambda u, S, b: S @ u + u**3 - b, torch.zeros_like(b), b
    ),
}


@pytest.mark.parametrize("made_within", [False, True])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("use", SERIAL)
def test_sparse_tensor(use, mode, made_within):
    run = SERIAL[use]

    def train(S):
        values = S.values.detach().clone().requires_grad_()
        b = torch.linspace(1, 2, N, dtype=F64).requires_grad_()
        run(S.with_values(values), b).square().sum().backward()
        return values.grad, b.grad

    expected = train(_tensor())
    S = _tensor()
    with MODES[mode]():
        if made_within:
            S = _tensor()
        run(S, torch.ones(N, dtype=F64))
        kept = S.factorize()
    found = train(S)
    assert all(torch.equal(f, e) for f, e in zip(found, expected, strict=True))
    b = torch.ones(N, dtype=F64, requires_grad=True)
    (run(S, b).sum() + kept.solve(b).sum()).backward()
    assert bool(b.grad.isfinite().all())


# torch.compile


def _step(A, theta, b):
    scaled = A.with_values(A.values * (1 + theta.sin()))
    x, info = hs.solve(scaled, b * 2, precond="amg", rtol=1e-10)
    y = A @ (x.cos() + 1) + A.T @ x + A.halo(x).sum()
    w, V, _ = hs.eigsh(scaled, k=1)
    u, _ = hs.nonlinear_solve(
        lambda u, v, f: A.with_values(v) @ u + u**3 - f, torch.zeros_like(b), scaled.values, b,
        layout=A.layout,
    )  # fmt: skip
    world = A.world
    total = world.all_sum((y * u).sum()) + A.layout.norm(y) * w.sum() + A.layout.dot(u, x)
    return total + A.layout.dot(V[:, 0], y) ** 2, info.iterations


@pytest.mark.slow
@pytest.mark.mpi
def test_compiled_code_leaves_these_calls_alone(world):
    """With the same values as without."""
    A = distribute(MATRIX, world, "contiguous")

    def run(step):
        theta = torch.full_like(A.values, 0.1).requires_grad_()
        b = spread(A.layout, np.linspace(1, 2, N)).requires_grad_()
        loss, iterations = step(A, theta, b)
        loss.backward()
        return loss.detach(), iterations, theta.grad, b.grad

    plain = run(_step)
    compiled = run(torch.compile(_step, backend="aot_eager"))
    assert compiled[1] == plain[1]
    for found, expected in zip(compiled[::2], plain[::2], strict=True):
        assert everywhere(world, torch.allclose(found, expected, rtol=1e-12, atol=0))


def _serial_step(S, values, b):
    T = S.with_values(values * 2)
    x = T.solve(b.sin() + 2) + S.factorize().solve(b)
    x = x + T.solve(x, backend="torch", precond="amg") + T.T @ x + T.to_dense() @ x
    w, V = T.eigsh(2)
    u = T.nonlinear_solve(lambda u, S, b: S @ u + u**3 - b, torch.zeros_like(b), b)
    return (x * u).sum() + w.sum() + T.norm() + V[:, 0].square().sum()


@pytest.mark.slow
def test_compiled_code_leaves_a_sparse_tensor_alone():
    S = _tensor()

    def run(step):
        values, b = S.values.clone().requires_grad_(), torch.ones(N, dtype=F64, requires_grad=True)
        loss = step(S, values, b)
        loss.backward()
        return loss.detach(), values.grad, b.grad

    torch._dynamo.reset()
    for found, expected in zip(
        run(torch.compile(_serial_step, backend="aot_eager")), run(_serial_step), strict=True
    ):
        assert torch.allclose(found, expected, rtol=1e-11, atol=0)


class _Model(torch.nn.Module):
    def __init__(self, A):
        super().__init__()
        self.A = A
        self.layer = torch.nn.Linear(1, 1).double().to(A.device)
        self.inner = A.world.replicate_module(self.layer)

    def forward(self, x):
        return hs.solve(self.A, self.inner(x[:, None])[:, 0])[0] * 2


@pytest.mark.mpi
def test_a_compiled_module(world):
    torch.manual_seed(0)
    A = distribute(MATRIX, world, "contiguous")
    model, x = _Model(A), spread(A.layout, np.linspace(0, 1, N))
    grads = []
    for call in (model, torch.compile(model, backend="aot_eager")):
        A.layout.norm(call(x)).backward()
        grads.append(model.layer.weight.grad.clone())
        model.zero_grad()
    assert everywhere(world, torch.allclose(*grads, rtol=1e-12, atol=0))


def test_the_default_device_is_none_of_the_solvers_business(world):
    """What they make for themselves says where: the C loops read no memory of another device."""
    matrix = sp.csr_matrix(sp.diags_array([-1.0, 4.0, -1.0], offsets=[-1, 0, 1], shape=(290, 290)))
    A = distribute(matrix, world)
    b = torch.ones(A.layout.n_owned, dtype=torch.float64, device=world.device, requires_grad=True)
    one = torch.ones((), dtype=torch.float64, device="cpu")
    index = torch.zeros(1, dtype=torch.int64, device="cpu")
    torch.set_default_device("meta")
    try:
        statuses = []
        for method, precond in (("gmres", "amg"), ("lsqr", "jacobi"), ("minres", "chebyshev")):
            x, info = hs.solve(A, b, method, precond)
            A.layout.dot(x, x).backward()
            statuses.append(info.status)
        _, info = hs.nonlinear_solve(lambda u: A @ u + u**3 - 1, b.detach(), layout=A.layout)
        statuses.append(info.status)
        statuses.append(hs.eigsh(A, 2)[2].status)
        small = hs.SparseTensor(one.reshape(1) * 2, index, index, (1, 1)).solve(one.reshape(1))
    finally:
        torch.set_default_device(None)
    assert statuses == ["converged"] * 5 and abs(float(small) - 0.5) < 1e-15


def test_vmap_is_refused_in_words(world):
    A = distribute(sp.csr_matrix(2.0 * sp.eye_array(6)), world)
    block = torch.ones(3, A.layout.n_owned, dtype=torch.float64, device=world.device)
    with pytest.raises(hs.InputError, match="columns"):
        torch.vmap(lambda b: hs.solve(A, b)[0])(block)

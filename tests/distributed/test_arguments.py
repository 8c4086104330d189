"""Lists and arrays where tensors belong, blocks without columns, and what gets no gradient."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import scipy.sparse as sp
import torch

import hpc_sla as hs
from hpc_sla.errors import InputError, NotConvergedWarning
from tests.collective import distribute, everywhere, spread

N = 12
MATRIX = sp.csr_matrix(sp.diags_array([-1.0, 3.0, -1.0], offsets=[-1, 0, 1], shape=(N, N)))
F64 = torch.float64

USES = {
    "solve": lambda A, v: hs.solve(A, v)[0],
    "x0": lambda A, v: hs.solve(A, torch.ones_like(A.diagonal()), x0=v)[0],
    "product": lambda A, v: A @ v,
    "transposed": lambda A, v: A.T @ v,
    "rmatvec": lambda A, v: A.rmatvec(v),
    "halo": lambda A, v: A.halo(v),
    "with_halo": lambda A, v: A.with_halo(v),
    "dot": lambda A, v: A.layout.dot(v, v),
    "norm": lambda A, v: A.layout.norm(v),
    "allgather": lambda A, v: A.layout.allgather(v),
    "all_sum": lambda A, v: A.world.all_sum(v[:1]),
    "replicate": lambda A, v: A.world.replicate(v),
    "eigsh x0": lambda A, v: hs.eigsh(A, 1, x0=v)[0],
    "nonlinear": lambda A, v: hs.nonlinear_solve(lambda u: A @ u - 1, v, layout=A.layout)[0],
}


@pytest.mark.mpi
@pytest.mark.parametrize("use", USES)
def test_arrays_and_lists_are_taken_for_tensors(world, use):
    A = distribute(MATRIX, world, "cyclic")
    v = spread(A.layout, np.linspace(1, 2, N))
    expected = USES[use](A, v)
    for given in (v.cpu().numpy(), v.tolist()):
        assert everywhere(world, torch.equal(USES[use](A, given), expected))


@pytest.mark.mpi
@pytest.mark.parametrize("use", [u for u in USES if u not in ("all_sum",)])
@pytest.mark.parametrize("wrong", [None, "text", {}, [[1], [2, 3]], np.array([1j])])
def test_what_is_no_tensor_is_named(world, use, wrong):
    if use in ("x0", "eigsh x0") and wrong is None:
        pytest.skip("no guess at all")
    A = distribute(MATRIX, world)
    with pytest.raises(InputError, match="is not a tensor, nor an array of real numbers"):
        USES[use](A, wrong)


@pytest.mark.mpi
def test_integers_of_an_array_become_the_matrix_s_numbers(world):
    A = distribute(MATRIX, world)
    ones = np.ones(A.layout.n_owned, dtype=np.int64)
    x = hs.solve(A, ones)[0]
    assert x.dtype == F64 and everywhere(
        world, torch.equal(A @ ones, A @ torch.from_numpy(ones).double())
    )
    with pytest.raises(InputError, match=r"b: torch.int64 .* Pass b.to\('cpu', torch.float64\)"):
        hs.solve(A, torch.from_numpy(ones))
    for wrong in (torch.from_numpy(ones), torch.from_numpy(ones).float()):
        with pytest.raises(InputError, match="does not go with a matrix of"):
            A @ wrong


@pytest.mark.mpi
def test_other_arguments(world):
    A = distribute(MATRIX, world)
    b = spread(A.layout, np.ones(N))
    for options in ({"rtol": "1e-3"}, {"dtol": "1"}, {"atol": [1, 2]}, {"max_iterations": "5"}):
        with pytest.raises(InputError, match="is not a number"):
            hs.solve(A, b, **options)
    with pytest.raises(InputError, match="unknown method"):
        hs.solve(A, b, method=None)
    with pytest.raises(InputError, match=r"DSparseMatrix\.from_scipy"):
        hs.solve(MATRIX, b)
    with pytest.raises(InputError, match=r"k: 2\.5 is not a whole number"):
        hs.eigsh(A, 2.5)
    with pytest.raises(InputError, match="what the preconditioner <lambda> gave: a NoneType"):
        hs.solve(A, b, precond=lambda r: None)
    with pytest.raises(InputError, match="residual: the residual gave a ndarray"):
        hs.nonlinear_solve(lambda u: (A @ u).detach().numpy(), b, layout=A.layout)
    with pytest.raises(InputError, match="residual: a int cannot be called"):
        hs.nonlinear_solve(3, b, layout=A.layout)
    with pytest.raises(InputError, match="pass float64 or float32"):
        A.with_values(torch.ones(A.nnz_owned, dtype=torch.int64))
    with pytest.raises(InputError, match="do not go together"):
        A.layout.dot(b, b[:, None])
    with pytest.raises(InputError, match="scatter needs 12 entries"):
        A.layout.scatter(3.0)


@pytest.mark.mpi
def test_a_block_without_columns(world):
    """Gives a block without columns, and gradients of zero in place of none."""
    A = distribute(MATRIX, world)
    values = A.values.clone().requires_grad_()
    b = torch.ones(A.layout.n_owned, 0, dtype=F64, device=A.device, requires_grad=True)
    x, info = hs.solve(A.with_values(values), b, x0=torch.ones_like(b))
    assert x.shape == b.shape and info.converged and info.iterations == 0
    A.layout.dot(x, x).sum().backward()
    assert everywhere(world, b.grad.shape == b.shape and not values.grad.any())


@pytest.mark.mpi
def test_the_gradient_of_a_guess_is_zero(world):
    A = distribute(MATRIX, world)
    b, x0 = (spread(A.layout, np.linspace(1, 2, N)).requires_grad_() for _ in range(2))
    x, _ = hs.solve(A, b, x0=x0, rtol=1e-12)
    A.layout.norm(x).backward()
    assert everywhere(world, not x0.grad.any() and bool(b.grad.any()) == (len(b) > 0))


class _Learned(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.full((), 0.3, dtype=F64))

    def forward(self, r):
        return self.scale * r


class _Applied:
    def __init__(self):
        self.inner = _Learned()

    def apply(self, r):
        return self.inner(r)

    apply_transpose = apply


def _closure():
    weight = torch.full((), 0.3, dtype=F64, requires_grad=True)
    return lambda r: weight * r


def _caught(category, function) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        function()
    return [w for w in caught if w.category is category]


@pytest.mark.mpi
@pytest.mark.parametrize("make", [_Learned, _Applied, _closure])
def test_a_preconditioner_that_would_learn(world, make):
    A = distribute(MATRIX, world)
    b = spread(A.layout, np.ones(N))
    M = make()
    with torch.no_grad():
        assert not _caught(UserWarning, lambda: hs.solve(A, b, precond=M))
    told = _caught(UserWarning, lambda: hs.solve(A, b, precond=M))
    assert len(told) == 1 and "does not depend on its preconditioner" in str(told[0].message)
    assert told[0].filename == __file__
    assert not _caught(UserWarning, lambda: hs.solve(A, b, precond=M))
    assert not _caught(UserWarning, lambda: hs.solve(A, b, precond=lambda r: r / 3))


@pytest.mark.mpi
@pytest.mark.parametrize("make", [_Learned, _Applied])
def test_a_preconditioner_that_is_thawed_later(world, make):
    A = distribute(MATRIX, world)
    b, M = spread(A.layout, np.ones(N)), make()
    learns = getattr(M, "inner", M)
    learns.requires_grad_(False)
    assert not _caught(UserWarning, lambda: hs.solve(A, b, precond=M))
    learns.requires_grad_(True)
    assert len(_caught(UserWarning, lambda: hs.solve(A, b, precond=M))) == 1


# Gradients of what did not converge


@pytest.mark.mpi
@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.parametrize("method", ["cg", "gmres", "lsqr", "auto"])
def test_a_gradient_of_what_did_not_converge(world, method, twice):
    """Is one of an x that solves nothing, and says so."""
    A = distribute(MATRIX, world)
    b = spread(A.layout, np.linspace(1, 2, N)).requires_grad_()
    options = {"rtol": 1e-12, "adjoint_rtol": 0.5, "max_iterations": 3}
    x, info = hs.solve(A, b, method, "jacobi", **options)
    assert not info.converged

    def back():
        (slope,) = torch.autograd.grad(A.layout.dot(x, x), b, create_graph=twice)
        if twice:
            A.layout.norm(slope).backward()

    for _ in range(2):  # made an error, it is one on every rank, and each time
        with warnings.catch_warnings():
            warnings.simplefilter("error", NotConvergedWarning)
            with pytest.raises(NotConvergedWarning, match=info.status):
                A.layout.norm(x).backward(retain_graph=True)
    told = _caught(NotConvergedWarning, back)
    assert len(told) == 1 and f"{info.status} after {info.iterations}" in str(told[0].message)
    assert told[0].filename == __file__
    x, info = hs.solve(A, b, method="cg")
    assert info.converged and not _caught(NotConvergedWarning, lambda: A.layout.norm(x).backward())


@pytest.mark.mpi
def test_a_gradient_of_eigenpairs_that_did_not_converge(world):
    big = sp.csr_matrix(sp.diags_array(np.linspace(1, 100, 300)))
    A = distribute(big, world)
    values = A.values.clone().requires_grad_()
    w, _, info = hs.eigsh(A.with_values(values), 1, precond="none", max_iterations=45)
    assert not info.converged
    with warnings.catch_warnings():
        warnings.simplefilter("error", NotConvergedWarning)
        with pytest.raises(NotConvergedWarning, match="max_iterations"):
            w.sum().backward(retain_graph=True)
    assert len(_caught(NotConvergedWarning, lambda: w.sum().backward())) == 1


@pytest.mark.mpi
def test_a_gradient_of_a_nonlinear_solve_that_did_not_converge(world):
    A = distribute(MATRIX, world)
    theta = torch.ones(A.layout.n_owned, dtype=torch.float64, requires_grad=True)
    u, info = hs.nonlinear_solve(
        lambda u, t: A @ u + u.exp() - 5 * t, torch.zeros_like(theta), theta, layout=A.layout,
        max_iterations=1, rtol=1e-12,
    )  # fmt: skip
    assert info.status == "max_iterations"
    with warnings.catch_warnings():
        warnings.simplefilter("error", NotConvergedWarning)
        with pytest.raises(NotConvergedWarning, match="a nonlinear solve"):
            A.layout.norm(u).backward(retain_graph=True)
    assert len(_caught(NotConvergedWarning, lambda: A.layout.norm(u).backward())) == 1


# Of one process


def test_a_sparse_tensor_takes_arrays():
    S = hs.SparseTensor.from_scipy(MATRIX)
    v = torch.linspace(1, 2, N, dtype=F64)
    for use in (
        lambda v: S @ v,
        lambda v: S.solve(v),
        lambda v: S.solve(S.values.new_ones(N), x0=v, backend="torch"),
        lambda v: S.factorize().solve(v),
        lambda v: S.eigsh(1, x0=v)[0],
        lambda v: S.nonlinear_solve(lambda u, S: S @ u - 1, v),
    ):
        expected = use(v)
        assert torch.equal(use(v.numpy()), expected) and torch.equal(use(v.tolist()), expected)
        for wrong in ("text", {}, [[1], [2, 3]]):
            with pytest.raises(InputError, match="nor an array of real numbers"):
                use(wrong)
    for wrong in ("ab", None, [[1.0], [2.0, 3.0]]):
        with pytest.raises(InputError, match=r"values: a .* is not a tensor"):
            hs.SparseTensor(wrong, [0, 1], [0, 1], (2, 2))
    for shape in (3, (2.5, 2), None):
        with pytest.raises(InputError, match=r"shape: .* is not two integers"):
            hs.SparseTensor([1.0, 2.0], [0, 1], [0, 1], shape)


EMPTY = {
    "solve": lambda S, b: S.solve(b),
    "iterate": lambda S, b: S.solve(b, backend="torch"),
    "product": lambda S, b: S @ b,
    "eigenvalues": lambda S, b: S.eigsh(2)[0] + b.sum(),
    "eigenvectors": lambda S, b: S.eigsh(2)[1] * b.sum(),
}


@pytest.mark.parametrize("use", EMPTY)
def test_an_empty_batch_stays_in_the_graph(use):
    S = hs.SparseTensor.from_scipy(MATRIX)
    values = torch.ones(0, S.nnz, dtype=F64, requires_grad=True)
    b = torch.ones(0, N, dtype=F64, requires_grad=True)
    found = EMPTY[use](S.with_values(values), b)
    assert len(found) == 0
    found.sum().backward()
    assert values.grad.shape == values.shape and b.grad.shape == b.shape


@pytest.mark.parametrize("backend", ["scipy", "torch"])
def test_no_columns_of_a_sparse_tensor(backend):
    S = hs.SparseTensor.from_scipy(MATRIX)
    values, b = S.values.clone().requires_grad_(), torch.ones(N, 0, dtype=F64, requires_grad=True)
    x = S.with_values(values).solve(b, backend=backend) + S.with_values(values) @ b
    x.sum().backward()
    assert x.shape == (N, 0) and not values.grad.any() and b.grad.shape == (N, 0)


def test_a_direct_gradient_of_what_did_not_converge():
    """For rounding it is no fault; else one word for all columns."""
    S = hs.SparseTensor.from_scipy(MATRIX)
    b = torch.linspace(1, 2, 2 * N, dtype=F64).reshape(N, 2).requires_grad_()
    x, infos = S.solve_with_info(b, backend="scipy", rtol=1e-30, adjoint_rtol=1e-8)
    assert all(info.at_rounding and not info.converged for info in infos)
    assert not _caught(NotConvergedWarning, lambda: x.sum().backward(retain_graph=True))
    for info in infos:
        info.at_rounding = False
    for count in (1, 0):
        told = _caught(NotConvergedWarning, lambda: x.sum().backward(retain_graph=True))
        assert len(told) == count

"""The solvers' view of a matrix, its transpose and matrix-free objects, beside SciPy."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch

import hpc_sla as hs
from hpc_sla.sparse.operator import Operator
from hpc_sla.sparse.operators import as_operator
from tests.collective import (
    ALL_SHAPES,
    MATRICES,
    RECTANGULAR,
    distribute,
    everywhere,
    full,
    random_matrix,
    spd_matrix,
    spread,
)

pytestmark = pytest.mark.mpi


class Free:
    """A matrix behind the least a matrix-free operator can have."""

    def __init__(self, A):
        self.inner = A
        self.layout = A.layout
        if A.columns is not A.layout:
            self.columns = A.columns

    def matvec(self, x):
        return self.inner @ x


class Complete(Free):
    def __init__(self, A):
        super().__init__(A)
        self.dtype, self.device = A.dtype, A.device

    def rmatvec(self, y):
        return self.inner.T @ y

    def diagonal(self):
        return self.inner.diagonal()


KINDS = {
    "matrix": lambda A: as_operator(A),
    "transpose of the transpose": lambda A: as_operator(A.T).T,
    "matrix-free": lambda A: as_operator(Complete(A), ("rmatvec",)),
    "again": lambda A: as_operator(as_operator(A)),
}


@pytest.mark.parametrize("columns", [(), (3,)])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ALL_SHAPES)
def test_products_equal_scipys(world, name, kind, columns):
    matrix = ALL_SHAPES[name]()
    A = distribute(matrix, world, "cyclic")
    operator = KINDS[kind](A)
    assert isinstance(operator, Operator)
    assert operator.shape == matrix.shape and operator.n_global == matrix.shape[1]
    assert operator.world is world and operator.dtype == A.dtype
    assert operator.layout is A.layout and operator.columns is A.columns
    assert operator.T.layout is A.columns and operator.T.shape == matrix.shape[::-1]
    rng = np.random.default_rng(5)
    for _ in range(2):  # the second time with what the first has kept
        x = rng.standard_normal((matrix.shape[1], *columns))
        y = rng.standard_normal((matrix.shape[0], *columns))
        mine, left = spread(A.columns, x), spread(A.layout, y)
        for forward, backward in ((operator, operator.adjoint), (operator.T.adjoint, operator.T)):
            out, back = torch.full_like(left, torch.nan), torch.full_like(mine, torch.nan)
            forward(mine, out)
            backward(left, back)
            np.testing.assert_allclose(full(A.layout, out), matrix @ x, atol=1e-13)
            np.testing.assert_allclose(full(A.columns, back), matrix.T @ y, atol=1e-13)


@pytest.mark.parametrize("columns", [(), (3,)])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["random", "one row", "no entries"])
def test_the_inner_product_comes_along(world, name, kind, columns):
    A = distribute(MATRICES[name](), world, "cyclic")
    x = torch.randn((A.layout.n_owned, *columns), dtype=A.dtype)
    out, dot = torch.empty_like(x), torch.full(columns, 7.0, dtype=A.dtype)
    for operator in (KINDS[kind](A), KINDS[kind](A).T):
        operator(x, out, dot)
        assert everywhere(world, torch.allclose(dot, (x * out).sum(dim=0), atol=1e-13))


@pytest.mark.parametrize("kind", KINDS)
def test_a_rectangular_one_has_no_inner_product(world, kind):
    A = distribute(RECTANGULAR["tall"](), world)
    x, y = (torch.ones(layout.n_owned, dtype=A.dtype) for layout in (A.columns, A.layout))
    operator = KINDS[kind](A)
    for one, vector, out in ((operator, x, y), (operator.T, y, x)):
        with pytest.raises(ValueError, match=r"same layout|one layout"):
            one(vector, out, torch.zeros((), dtype=A.dtype))


def test_the_transposed_values_are_gathered_once(world, monkeypatch):
    A = distribute(RECTANGULAR["tall"](), world)
    operator = as_operator(A)
    x, y = (torch.ones(layout.n_owned, dtype=A.dtype) for layout in (A.columns, A.layout))
    operator.adjoint(y, x)
    monkeypatch.setattr(type(A.pattern), "transpose_values", None)
    monkeypatch.setattr(type(A.pattern.owned), "transpose_values", None)
    operator.adjoint(y, x)
    with pytest.raises(TypeError):
        as_operator(A).adjoint(y, x)


def test_diagonal(world):
    matrix = MATRICES["random"]()
    A = distribute(matrix, world)
    for operator in (as_operator(A), as_operator(A.T), as_operator(Complete(A), ("diagonal",))):
        np.testing.assert_array_equal(full(A.layout, operator.diagonal()), matrix.diagonal())


def test_what_a_matrix_free_operator_need_not_say(world):
    A = distribute(MATRICES["random"](), world)
    operator = as_operator(Free(A))
    assert operator.dtype is None and operator.device == world.device
    assert operator.columns is operator.layout
    with pytest.raises(hs.InputError, match="Free has no rmatvec"):
        operator.adjoint(A.diagonal(), A.diagonal())
    with pytest.raises(hs.InputError, match="Free has no diagonal"):
        operator.diagonal()


class Bad:
    def __init__(self, **members):
        vars(self).update(members)


@pytest.mark.parametrize(
    ("members", "needs", "message"),
    [
        ({}, (), "Bad has no matvec"),
        ({"matvec": 3}, (), "Bad has no matvec"),
        ({"matvec": abs, "columns": 5}, (), "columns of Bad is a int"),
        ({"matvec": abs, "dtype": torch.int64}, (), "dtype of Bad is torch.int64"),
        ({"matvec": abs}, ("rmatvec",), "Bad has no rmatvec"),
        ({"matvec": abs, "rmatvec": abs}, ("rmatvec", "diagonal"), "Bad has no diagonal"),
    ],
)
def test_what_is_missing_is_named_on_every_rank(world, members, needs, message):
    layout = hs.RowLayout.even(5, world)
    whole = {"matvec": abs, "rmatvec": abs, "diagonal": abs}
    mine = members if world.rank == world.size - 1 else whole
    with pytest.raises(hs.InputError, match=message):
        as_operator(Bad(layout=layout, **mine), needs)


def test_without_a_layout(world):
    with pytest.raises(hs.InputError, match="ndarray has no layout"):
        as_operator(np.eye(3))


@pytest.mark.parametrize("change", ["shape", "dtype"])
def test_a_product_that_does_not_fit_is_refused(world, change):
    A = distribute(MATRICES["random"](), world)
    free = Free(A)
    wrong = {"shape": lambda x: torch.ones(1).double(), "dtype": lambda x: x.float()}
    free.matvec = wrong[change]
    x = torch.ones(A.layout.n_owned, dtype=A.dtype)
    with pytest.raises(ValueError, match=r"Free\.matvec gave"):
        as_operator(free)(x, torch.empty_like(x))


def one_entry_off(n, amount):
    matrix = sp.lil_matrix(spd_matrix(n, 8))
    matrix[n // 2, n // 2 + 1] += amount
    return sp.csr_matrix(matrix)


SYMMETRIC = {
    "spd": lambda: spd_matrix(31, 4),
    "indefinite": lambda: random_matrix(37, 0.2, 6, symmetric=True),
    "in exact arithmetic": lambda: sp.csr_matrix(
        (lambda B: B @ B.T)(random_matrix(50, 0.3, 7).multiply(1 / 3))
    ),
    "one row": lambda: sp.csr_matrix(np.array([[3.0]])),
    "no entries": lambda: sp.csr_matrix((6, 6)),
    "nothing": lambda: sp.csr_matrix((0, 0)),
    "huge": lambda: spd_matrix(31, 4) * 1e250,
    "tiny": lambda: spd_matrix(31, 4) * 1e-250,
}
UNSYMMETRIC = {
    "random": lambda: random_matrix(37, 0.15, 0),
    "triangular": lambda: sp.csr_matrix(np.array([[1.0, 1.0], [0.0, 1.0]])),
    "skew": lambda: sp.csr_matrix(np.array([[0.0, 1.0], [-1.0, 0.0]])),
    "one entry": lambda: one_entry_off(40, 0.1),
    "one entry, a little": lambda: one_entry_off(40, 1e-6),
    "huge": lambda: random_matrix(37, 0.15, 0) * 1e250,
    "tall": RECTANGULAR["tall"],
}


@pytest.mark.parametrize("free", [False, True])
@pytest.mark.parametrize("name", SYMMETRIC)
def test_symmetric(world, name, free):
    A = distribute(SYMMETRIC[name](), world, "cyclic")
    assert everywhere(world, as_operator(Free(A) if free else A).symmetric())
    assert everywhere(world, as_operator(A.T).symmetric())


@pytest.mark.parametrize("free", [False, True])
@pytest.mark.parametrize("name", UNSYMMETRIC)
def test_not_symmetric(world, name, free):
    A = distribute(UNSYMMETRIC[name](), world, "cyclic")
    assert everywhere(world, not as_operator(Free(A) if free else A).symmetric())
    assert everywhere(world, not as_operator(A.T).symmetric())


def test_symmetric_in_single_precision(world):
    A = distribute(sp.csr_matrix(spd_matrix(200, 4), dtype=np.float32), world)
    assert everywhere(world, as_operator(A).symmetric())
    assert everywhere(world, as_operator(Free(A)).symmetric(torch.float32))
    B = distribute(sp.csr_matrix(random_matrix(200, 0.1, 4), dtype=np.float32), world)
    assert everywhere(world, not as_operator(B).symmetric())


def test_not_a_number_is_not_symmetric(world):
    A = distribute(spd_matrix(31, 4), world)
    values = A.values.clone()
    if A.nnz_owned and world.rank == world.size - 1:
        values[0] = torch.nan
    assert everywhere(world, not as_operator(A.with_values(values)).symmetric())


def test_two_products_and_no_more(world):
    A = distribute(spd_matrix(31, 4), world)
    free, calls = Free(A), []
    free.matvec = lambda x: (calls.append(1), A @ x)[1]
    as_operator(free).symmetric(torch.float64)
    assert everywhere(world, len(calls) == 2)


def test_the_random_vectors_do_not_depend_on_the_ranks(world):
    A = distribute(spd_matrix(31, 4), world, "cyclic")
    for seed in (1, 2):
        vector = as_operator(A).noise(seed, torch.float64)
        alone = hs.RowLayout(hs.World(comm=world.comm.Split(world.rank), device="cpu"), [0, 31])
        expected = as_operator(Bad(layout=alone, matvec=abs)).noise(seed, torch.float64)
        np.testing.assert_array_equal(full(A.layout, vector), expected.numpy())
        assert abs(expected).max() <= 1 and abs(expected.mean()) < 0.3 and expected.std() > 0.4

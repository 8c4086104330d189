"""Solvers multiply by the owned block in fewer bytes, whatever happens to its values."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch

import hpc_sla as hs
from hpc_sla.kernels import native
from hpc_sla.problems import make
from hpc_sla.sparse.operators import as_operator
from tests.collective import everywhere, full, spread

pytestmark = [
    pytest.mark.mpi,
    pytest.mark.skipif(native.LIBRARY is None, reason="needs the compiled kernels"),
]


def varied(matrix: sp.csr_matrix) -> sp.csr_matrix:
    """Symmetric, each entry other than the next."""
    scale = sp.diags_array(1 + np.random.default_rng(0).random(matrix.shape[0]))
    return sp.csr_matrix(scale @ matrix @ scale)


def with_a_hub(matrix: sp.csr_matrix) -> sp.csr_matrix:
    """With a row and column of 300 entries in each tenth of the rows: too long for slices."""
    n = matrix.shape[0]
    hubs = np.repeat(np.arange(10) * (n // 10), 300)
    others = hubs + np.tile(np.arange(1, 301), 10)
    ones = sp.coo_array((np.full(len(hubs), -1.0), (hubs, others)), shape=(n, n)).tocsr()
    joined = sp.csr_array(ones + ones.T)
    return sp.csr_matrix(matrix + joined - sp.diags_array(joined.sum(axis=1)))


MATRICES = {
    "rows": lambda: make("poisson2d:n=100").matrix(),
    "rows of a small part": lambda: make("poisson2d:n=45").matrix(),
    "rows of nodes": lambda: make("elasticity3d:n=14").matrix(),
    "patterns": lambda: varied(make("poisson2d:n=100").matrix()),
    "sliced": lambda: varied(make("graph_laplacian:n=10000").matrix()),
    "sliced codes": lambda: make("graph_laplacian:n=10000").matrix(),
    "short": lambda: varied(with_a_hub(make("graph_laplacian:n=10000").matrix())),
}


def spread_matrix(name: str, world: hs.World) -> tuple[sp.csr_matrix, hs.DSparseMatrix]:
    matrix = sp.csr_matrix(MATRICES[name]())
    mine = matrix if world.rank == 0 else None
    return matrix, hs.DSparseMatrix.from_scipy(mine, world, "contiguous")


@pytest.mark.parametrize("name", MATRICES)
def test_products(name, world):
    matrix, A = spread_matrix(name, world)
    operator = as_operator(A)
    rng = np.random.default_rng(2)
    for shape in ((), (3,)):
        x, w = (rng.standard_normal((A.shape[0], *shape)) for _ in range(2))
        mine, weights = spread(A.layout, x), spread(A.layout, w)
        out, dot, square = torch.empty_like(mine), torch.empty(shape), torch.empty(shape)
        dot, square = dot.double(), square.double()
        operator(mine, out, dot, weights, square)
        packed = operator._compressed(mine)
        # In a small part kinds of nodes may be more than the dictionary has room for.
        forms = {name.split()[0], *(["sliced"] if name == "rows of nodes" else [])}
        assert everywhere(world, packed and packed.form.split()[0] in forms)
        expected = matrix @ x
        np.testing.assert_allclose(full(A.layout, out), expected, rtol=1e-12, atol=1e-12)
        sums = world.all_sum(torch.stack([dot, square])).numpy()
        np.testing.assert_allclose(sums[0], (w * expected).sum(0), rtol=1e-10, atol=1e-9)
        np.testing.assert_allclose(sums[1], (expected**2).sum(0), rtol=1e-10)


@pytest.mark.parametrize("name", MATRICES)
def test_a_solve_and_its_gradients(name, world):
    matrix, A = spread_matrix(name, world)
    values = A.values.clone().requires_grad_()
    b = spread(A.layout, np.random.default_rng(3).standard_normal(A.shape[0])).requires_grad_()
    x, info = hs.solve(A.with_values(values), b, "cg", "jacobi", rtol=1e-11)
    assert info.converged
    y = full(A.layout, x.detach())
    np.testing.assert_allclose(matrix @ y, full(A.layout, b.detach()), atol=1e-8)
    weights = spread(A.layout, np.cos(np.arange(A.shape[0])))
    A.layout.dot(weights, x).backward()
    g = full(A.layout, b.grad)
    np.testing.assert_allclose(matrix.T @ g, np.cos(np.arange(A.shape[0])), atol=1e-7)
    rows, columns = A.entries()
    expected = -g[rows] * y[columns]
    close = np.allclose(values.grad.numpy(), expected, rtol=1e-6, atol=1e-6 * abs(y).max())
    assert everywhere(world, close)


@pytest.mark.parametrize("how", ["counted", "by data", "by numpy"])
@pytest.mark.parametrize("name", MATRICES)
def test_values_changed_in_place(name, how, world):
    """What was made of the old ones is not used: by one kept solver, nor by the next."""
    _, A = spread_matrix(name, world)
    b = spread(A.layout, np.random.default_rng(4).standard_normal(A.shape[0]))
    solver = hs.LinearSolver(A, "cg", "jacobi", rtol=1e-10)
    first, _ = solver.solve(b)
    if how == "counted":
        A.values.mul_(2)
    elif how == "by data":
        A.values.data.mul_(2)
    else:
        np.multiply(A.values.numpy(), 2, out=A.values.numpy())
    for x, info in (solver.solve(b), hs.solve(A, b, "cg", "jacobi", rtol=1e-10)):
        assert info.converged
        np.testing.assert_allclose(full(A.layout, 2 * x), full(A.layout, first), rtol=1e-6)


@pytest.mark.parametrize("name", MATRICES)
def test_other_values_on_one_pattern(name, world):
    """Values that do not repeat where the first did, and back again."""
    _, A = spread_matrix(name, world)
    x = np.random.default_rng(5).standard_normal(A.shape[0])
    mine = spread(A.layout, x)
    noise = torch.from_numpy(np.random.default_rng(world.rank).random(A.nnz_owned))
    for values in (A.values, A.values * noise, A.values.clone(), A.values * 3):
        B = A.with_values(values)
        out = torch.empty_like(mine)
        as_operator(B)(mine, out)
        assert everywhere(world, torch.allclose(out, (B @ mine).detach(), rtol=1e-12, atol=1e-12))


def test_a_small_part_is_packed_where_its_rows_repeat(world):
    """And what holds of one set of values is not taken for others."""
    matrix, A = spread_matrix("rows of a small part", world)
    B = A.with_values(A.values * torch.linspace(1.0, 2.0, A.nnz_owned, dtype=torch.float64))
    x = np.random.default_rng(6).standard_normal(A.shape[0])
    mine = spread(A.layout, x)
    out, forms = torch.empty_like(mine), []
    for one in (A, B, A.with_values(A.values.clone())):
        operator = as_operator(one)
        operator(mine, out)
        packed = operator._compressed(mine)
        forms.append(packed and packed.form)
        assert everywhere(world, torch.allclose(out, one @ mine, rtol=1e-12, atol=1e-12))
    np.testing.assert_allclose(full(A.layout, out), matrix @ x, rtol=1e-12, atol=1e-12)
    assert everywhere(world, forms == ["rows", None, "rows"])


@pytest.mark.parametrize("number", [0.0, 1.0])
def test_values_of_another_dtype_are_others(number):
    """Whatever their bits say."""
    world = hs.World.serial("cpu")
    A = hs.DSparseMatrix.from_scipy(sp.diags_array(np.ones(3000), format="csr"), world)
    for dtype in (torch.float32, torch.float64, torch.float32):
        B = A.with_values(torch.full((3000,), number, dtype=dtype))
        out = torch.full((3000,), 7.0, dtype=dtype)
        as_operator(B)(torch.ones(3000, dtype=dtype), out)
        assert torch.equal(out, torch.full_like(out, number))

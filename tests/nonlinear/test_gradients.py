"""Gradients of nonlinear_solve beside the dense implicit formula and central differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import hpc_sla as hs
from tests.collective import distribute, everywhere, full, spread
from tests.nonlinear.systems import known, matrix, on_ranks, on_world, parameters, vector

pytestmark = pytest.mark.mpi

S = 0.7
WAYS = {
    "matrix-free": {},
    "found": {"pattern": None},
    "exact": {"jacobian": "matrix_free", "pattern": None},
    "differences": {"jvp": "fd", "rtol": 1e-11},
    "coloured": {"jacobian": "coloured", "precond": "block_jacobi"},
    "schwarz": {"precond": "additive_schwarz", "linear_method": "bicgstab", "precond_lag": 0},
    "auto": {"linear_method": "auto", "precond": "none"},
    "picard": {"method": "picard:relaxation=0.6", "precond": "jacobi"},
    "anderson": {"method": "anderson", "precond": "jacobi"},
}


@pytest.fixture(scope="module")
def dense():
    return known()


def _pattern(A):
    """A u and its sine have the entries of A; the cube those of the diagonal, which A has."""
    return A.with_values(A.values.detach())


def _check(world, A, dense, found, tolerance=1e-8):
    """found: gradients of values, d, s, f."""
    of_A, of_d, of_s, of_f = dense.gradients()
    rows, columns = A.entries()
    assert everywhere(world, np.allclose(found[0], of_A[rows, columns], atol=tolerance))
    assert np.allclose(full(A.layout, found[1]), of_d, atol=tolerance)
    assert everywhere(world, np.isclose(float(found[2]), float(of_s), atol=tolerance))
    assert np.allclose(full(A.layout, found[3]), of_f, atol=tolerance)


@pytest.mark.parametrize("way", WAYS)
def test_equal_the_dense_formula(world, dense, way):
    A = on_world(world)
    values, d, s, f = parameters(A, vector(201), S, 3 * vector(202))
    options = {"rtol": 1e-12, "adjoint_rtol": 1e-12, "pattern": _pattern(A), **WAYS[way]}
    u, info = hs.nonlinear_solve(
        on_ranks(world, A), torch.zeros_like(f).detach(), A.with_values(values), d, s, f, **options
    )
    assert info.converged and info.adjoint is None
    assert np.allclose(full(A.layout, u), dense.u, atol=1e-9)
    loss = A.layout.dot(spread(A.layout, vector(203)), u) + A.layout.dot(u, u)
    loss.backward()
    assert info.adjoint.converged
    _check(world, A, dense, [t.grad for t in (values, d, s, f)])


@pytest.mark.parametrize("partition", ["cyclic", "all on the last"])
def test_whatever_the_partition(world, dense, partition):
    A = distribute(matrix(), world, partition)
    values, d, s, f = parameters(A, vector(201), S, 3 * vector(202))
    u, _ = hs.nonlinear_solve(
        on_ranks(world, A), torch.zeros_like(f), A.with_values(values), d, s, f, rtol=1e-12
    )
    loss = A.layout.dot(spread(A.layout, vector(203)), u) + A.layout.dot(u, u)
    _check(world, A, dense, torch.autograd.grad(loss, (values, d, s, f)))


def test_replicated_outside_in_a_dict_and_wanted_on_one_rank_only(world, dense):
    A = on_world(world)
    values, d, s, f = parameters(A, vector(201), S, 3 * vector(202))
    last = world.size - 1
    values.requires_grad_(world.rank == 0)
    f.requires_grad_(world.rank == last)

    def residual(u, given, scale):
        Au = given["A"] @ u
        cube = given["more"][0] * given["more"][1].square() * u**3
        return Au + cube + torch.sin(Au) * scale - given["f"]

    given = {"A": A.with_values(values), "more": [world.replicate(s), d.detach()], "f": f}
    u, _ = hs.nonlinear_solve(residual, torch.zeros_like(f).detach(), given, 0.3, rtol=1e-12)
    loss = A.layout.dot(spread(A.layout, vector(203)), u) + A.layout.dot(u, u)
    loss.backward()
    of_A, _, of_s, of_f = dense.gradients()
    rows, columns = A.entries()
    ok = values.grad is None or np.allclose(values.grad, of_A[rows, columns], atol=1e-8)
    assert everywhere(world, ok and (values.grad is None) == (world.rank != 0))
    ok = f.grad is None or np.allclose(f.grad, of_f[A.layout.rows], atol=1e-8)
    assert everywhere(world, ok and (f.grad is None) == (world.rank != last))
    assert everywhere(world, np.isclose(float(s.grad), float(of_s), atol=1e-8))


@pytest.mark.parametrize("way", ["matrix-free", "coloured"])
def test_central_differences_and_twice(world, way):
    """First derivatives along a direction, and second ones of those."""
    A = on_world(world)
    leaves = parameters(A, vector(201), S, 3 * vector(202))
    directions = [
        spread(A.layout, vector(210))[A.pattern.local_rows()] * A.values,
        spread(A.layout, vector(211)),
        torch.tensor(0.3, dtype=torch.float64),
        spread(A.layout, vector(212)),
    ]
    options = {"rtol": 1e-13, "adjoint_rtol": 1e-12, "pattern": _pattern(A), **WAYS[way]}

    def loss(values, d, s, f):
        start = torch.zeros_like(f).detach()
        u, info = hs.nonlinear_solve(
            on_ranks(world, A), start, A.with_values(values), d, s, f, **options
        )
        assert info.status in ("converged", "stagnated")
        return A.layout.norm(u) + A.layout.dot(u, u.exp())

    def slope(tensors, create_graph=False):
        found = torch.autograd.grad(loss(*tensors), tensors, create_graph=create_graph)
        own = sum(
            (g * v).sum() for g, v, k in zip(found, directions, range(4), strict=True) if k != 2
        )
        return world.all_sum(own) + found[2] * directions[2]

    def moved(h):
        return [
            (t + h * v).detach().requires_grad_() for t, v in zip(leaves, directions, strict=True)
        ]

    h = 1e-4
    first = slope(leaves, create_graph=True)
    with torch.no_grad():
        ends = [loss(*moved(k * h)) for k in (-1, 1)]
    numerical = float(ends[1] - ends[0]) / (2 * h)
    assert abs(first.item() - numerical) < 1e-6 * abs(numerical)
    second = torch.autograd.grad(first, leaves)
    # s is used outside replicate in `slope`, alike on all ranks, and counts once.
    own = sum((g * v).sum() for g, v, k in zip(second, directions, range(4), strict=True) if k != 2)
    curvature = float(world.all_sum(own.detach()) + second[2] * directions[2])
    ends = [slope(moved(k * h)).item() for k in (-1, 1)]
    numerical = (ends[1] - ends[0]) / (2 * h)
    assert abs(curvature - numerical) < 1e-6 * abs(numerical)


def test_forward_mode(world, dense):
    A = on_world(world)
    _, d, s, f = (t.detach() for t in parameters(A, vector(201), S, 3 * vector(202)))
    df = spread(A.layout, vector(213))

    def solution(f, s):
        residual = on_ranks(world, A)
        return hs.nonlinear_solve(
            residual, torch.zeros_like(f), A, d, s, f, rtol=1e-12, jvp="forward"
        )[0]

    with torch.autograd.forward_ad.dual_level():
        dual = solution(torch.autograd.forward_ad.make_dual(f, df), s)
        tangent = torch.autograd.forward_ad.unpack_dual(dual).tangent
    J = torch.func.jacrev(lambda u: dense.residual(u))(dense.u)
    expected = torch.linalg.solve(J, torch.from_numpy(vector(213)))
    assert np.allclose(full(A.layout, tangent), expected, atol=1e-8)


def test_a_jacobian_that_is_not_quite_one_costs_no_accuracy(world, dense):
    """A user's without the sine; a pattern without many of the entries."""
    A = distribute(matrix(), world, "contiguous")
    values, d, s, f = parameters(A, vector(201), S, 3 * vector(202))
    rows, columns = A.entries()

    def wrong(u, A, d, s, f):
        added = 3 * s * d.square() * u.square()
        diagonal = torch.from_numpy(rows == columns)
        return A.with_values(A.values + added[A.pattern.local_rows()] * diagonal)

    few = matrix().multiply(abs(matrix()) > 1.0).tocsr()
    thin = hs.DSparseMatrix.from_scipy(few if world.rank == 0 else None, world, layout=A.layout)
    assert thin.nnz_global < 0.8 * A.nnz_global
    for options in ({"jacobian": wrong}, {"jacobian": "coloured", "pattern": thin}):
        options |= {"rtol": 1e-12, "forcing": 0.1}
        start = torch.zeros_like(f).detach()
        u, info = hs.nonlinear_solve(
            on_ranks(world, A), start, A.with_values(values), d, s, f, **options
        )
        assert info.converged
        loss = A.layout.dot(spread(A.layout, vector(203)), u) + A.layout.dot(u, u)
        _check(world, A, dense, torch.autograd.grad(loss, (values, d, s, f)))


def _nodes(tensor):
    seen, todo = set(), [tensor.grad_fn]
    while todo:
        node = todo.pop()
        if node is not None and node not in seen:
            seen.add(node)
            todo.extend(next_node for next_node, _ in node.next_functions)
    return len(seen)


def test_nothing_grows_with_the_iterations_and_backward_is_one_solve(world):
    A = on_world(world)
    values, d, s, f = parameters(A, vector(201), S, 3 * vector(202))
    counts = []
    for rtol in (1e-1, 1e-12):
        u, info = hs.nonlinear_solve(
            on_ranks(world, A),
            torch.zeros_like(f),
            A.with_values(values),
            d,
            s,
            f,
            rtol=rtol,
            jacobian="matrix_free",
        )
        before = info.jacobian_products
        nodes = _nodes(u)
        A.layout.dot(u, u).backward()
        assert info.jacobian_products - before <= info.adjoint.iterations + 3
        counts.append((nodes, info.iterations))
    assert counts[0][0] == counts[1][0] < 10 and counts[0][1] < counts[1][1]


def test_what_has_no_gradient_says_so(world):
    A = on_world(world)
    _, d, s, f = parameters(A, vector(201), S, 3 * vector(202))
    start = torch.zeros_like(f).detach()
    with pytest.raises(hs.InputError, match="not among its arguments"):
        hs.nonlinear_solve(lambda u: A @ u - f, start, layout=A.layout)
    diagonal = A.diagonal()
    with pytest.raises(hs.InputError, match="transpose"):
        hs.nonlinear_solve(
            lambda u, f: A @ u - f, start, f, layout=A.layout, precond=lambda r: r / diagonal
        )
    # One iteration is too few for the backward solve, and enough for a step towards the root.
    u, _ = hs.nonlinear_solve(
        on_ranks(world, A),
        start,
        A,
        d,
        s,
        f,
        linear_max_iterations=1,
        max_iterations=200,
        jacobian="matrix_free",
    )
    with pytest.raises(hs.AdjointSolveError, match="max_iterations"):
        A.layout.dot(u, u).backward()
    u0 = torch.ones(A.layout.n_owned, dtype=torch.float64, requires_grad=True)
    u, _ = hs.nonlinear_solve(lambda u: A @ u - f.detach(), u0, layout=A.layout)
    A.layout.dot(u, u).backward()
    assert everywhere(world, not u0.grad.any())

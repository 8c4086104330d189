"""The gradient of solve: every method with every preconditioner beside the dense formula."""

from __future__ import annotations

import gc

import numpy as np
import pytest
import scipy.sparse as sp
import torch

import hpc_sla as hs
from hpc_sla.observe.memory import peak_rss_bytes, reset_peak, rss_bytes
from hpc_sla.precond import Chebyshev, Preconditioner
from tests.adjoint.systems import FAMILIES, N, error, errors, leaves, random
from tests.collective import PARTITIONS, dense, distribute, everywhere, full, spread
from tests.methods import ENTRIES, GENERAL

pytestmark = pytest.mark.mpi

SYMMETRIC = ("spd", "indefinite")
TIGHT = {"rtol": 1e-13, "adjoint_rtol": 1e-13, "max_iterations": 2000}


def _makes_sense(method, family, precond):
    if family == "indefinite" and precond not in ("none", "jacobi"):
        return False  # made for definite matrices
    if method == "richardson" and precond == "none":
        return False  # no matrix of these has eigenvalues between 0 and 2
    solves = "square" if method == "auto" else ENTRIES[method].solves
    if solves in ("square", "any") and method != "auto":
        return family == "nonsymmetric" or precond == "jacobi"
    return {"spd": family == "spd", "symmetric": family in SYMMETRIC, "square": True}[solves]


CASES = [
    (family, method, precond)
    for family in FAMILIES
    for method in (*ENTRIES, "auto")
    for precond in GENERAL
    if _makes_sense(method, family, precond)
]


def _precond(method, precond):
    needs_symmetric = method != "auto" and ENTRIES[method].needs_symmetric
    basic = needs_symmetric and precond == "additive_schwarz"
    return "additive_schwarz:type=basic" if basic else precond


@pytest.mark.parametrize(("family", "method", "precond"), CASES)
def test_equals_the_dense_formula(world, family, method, precond):
    matrix = FAMILIES[family]()
    A = distribute(matrix, world)
    b, c = random(N, 64), random(N, 65)
    values, mine = leaves(A, b)
    spec = _precond(method, precond)
    rtol = 1e-12
    x, info = hs.solve(
        A.with_values(values), mine, method=method, precond=spec, rtol=rtol, max_iterations=2000
    )
    assert info.converged and info.adjoint is None
    A.layout.dot(spread(A.layout, c), x).backward()
    of_a, of_b = errors(A, values, mine, matrix, b, c)
    assert max(of_a, of_b) < 1e-10
    assert info.adjoint.converged and info.adjoint.relative_residual <= rtol
    assert info.adjoint.method == info.method and info.adjoint.precond == info.precond


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("partition", PARTITIONS)
def test_several_columns_of_a_matrix_and_of_its_transpose(any_world, partition, transposed):
    matrix = FAMILIES["nonsymmetric"]()
    A = distribute(matrix, any_world, partition)
    b, c = random((N, 3), 66), random((N, 3), 67)
    values, mine = leaves(A, b)
    used = A.with_values(values)
    x, _ = hs.solve(used.T if transposed else used, mine, method="gmres", rtol=1e-12)
    A.layout.dot(spread(A.layout, c), x).sum().backward()
    assert max(errors(A, values, mine, matrix, b, c, transposed)) < 1e-10


@pytest.mark.parametrize("method", ["cg", "bicgstab", "gmres", "lsqr"])
def test_single_precision(world, method):
    matrix = FAMILIES["spd"]().astype(np.float32)
    A = distribute(matrix, world)
    b, c = random(N, 68, np.float32), random(N, 69, np.float32)
    values, mine = leaves(A, b)
    x, _ = hs.solve(A.with_values(values), mine, method=method, rtol=1e-5)
    A.layout.dot(spread(A.layout, c), x).backward()
    assert values.grad.dtype == mine.grad.dtype == torch.float32
    assert max(errors(A, values, mine, matrix, b, c)) < 1e-4


AWKWARD = {
    "one row": sp.csr_matrix([[4.0]]),
    "diagonal": sp.csr_matrix(sp.diags_array([1.0, 2.0, 5.0, 0.5, 3.0])),
    "fewer rows than ranks": sp.csr_matrix([[2.0, 1.0], [1.0, 3.0]]),
    "disconnected": sp.block_diag([FAMILIES["spd"](), sp.csr_matrix([[2.0, 1], [1, 2]])], "csr"),
}


@pytest.mark.parametrize("name", AWKWARD)
@pytest.mark.parametrize("method", ["cg", "gmres"])
def test_awkward_systems(world, name, method):
    matrix = AWKWARD[name]
    n = matrix.shape[0]
    A = distribute(matrix, world, "contiguous")
    b, c = random(n, 70), random(n, 71)
    values, mine = leaves(A, b)
    x, _ = hs.solve(A.with_values(values), mine, method=method, precond="block_jacobi", rtol=1e-12)
    A.layout.dot(spread(A.layout, c), x).backward()
    assert max(errors(A, values, mine, matrix, b, c)) < 1e-10


def test_central_differences(world):
    matrix = FAMILIES["nonsymmetric"]()
    A = distribute(matrix, world)
    values, b = leaves(A, random(N, 72))
    dv = spread(A.layout, random(N, 73))[A.pattern.local_rows()] * A.values
    db = spread(A.layout, random(N, 74))

    def loss(values, b):
        x, _ = hs.solve(A.with_values(values), b, method="bicgstab", rtol=1e-13)
        return A.layout.norm(x - b) + A.layout.dot(x, x)

    of_v, of_b = torch.autograd.grad(loss(values, b), (values, b))
    slope = float(world.all_sum((of_v * dv).sum() + (of_b * db).sum()))
    with torch.no_grad():
        h = 1e-5
        there, back = loss(values + h * dv, b + h * db), loss(values - h * dv, b - h * db)
    assert abs(float(there - back) / (2 * h) - slope) < 1e-6 * abs(slope)


def test_ranks_with_nothing_need_not_ask(world):
    """requires_grad set on one rank only, of values, of b, or of each on another rank."""
    matrix = FAMILIES["spd"]()
    A = distribute(matrix, world)
    b, c = random(N, 75), random(N, 76)
    last = world.size - 1
    for of_values, of_b in ((0, None), (None, last), (0, last)):
        values, mine = A.values.clone(), spread(A.layout, b)
        values.requires_grad_(world.rank == of_values)
        mine.requires_grad_(world.rank == of_b)
        x, _ = hs.solve(A.with_values(values), mine, method="gmres", rtol=1e-12)
        A.layout.dot(spread(A.layout, c), x).backward()
        y, _ = hs.solve(A.T, spread(A.layout, c), method="gmres", rtol=1e-12)
        outer = -y[A.pattern.local_rows()] * _at_columns(A, x.detach())
        ok = values.grad is None or torch.allclose(values.grad, outer, atol=1e-10)
        assert everywhere(world, ok and (values.grad is not None) == (world.rank == of_values))
        ok = mine.grad is None or torch.allclose(mine.grad, y, atol=1e-10)
        assert everywhere(world, ok and (mine.grad is not None) == (world.rank == of_b))


def _at_columns(A, x):
    """x_j of each entry, halo columns included."""
    _rows, columns = A.entries()
    return torch.from_numpy(full(A.layout, x)[columns])


def test_the_initial_guess_has_gradient_zero(world):
    A = distribute(FAMILIES["spd"](), world)
    _values, b = leaves(A, random(N, 77))
    x0 = spread(A.layout, random(N, 78)).requires_grad_()
    for inputs in ((x0,), (x0, b)):
        given = b if len(inputs) == 2 else b.detach()
        x, info = hs.solve(A, given, x0=x0, rtol=1e-12)
        found = torch.autograd.grad(A.layout.dot(x, x), inputs)
        assert everywhere(world, not found[0].any())
        assert (info.adjoint is None) == (len(inputs) == 1)


class Counting(Preconditioner):
    """Jacobi, counting its set-ups and its applications either way."""

    name, symmetric = "counting", False

    def __init__(self, inner):
        self.inner, self.there, self.back = inner, 0, 0

    def apply(self, r, out):
        self.there += 1
        return self.inner.apply(r, out)

    def apply_transpose(self, r, out):
        self.back += 1
        return self.inner.apply_transpose(r, out)


def test_one_transposed_solve_with_the_set_up_reused(world, monkeypatch):
    made = []
    real = Chebyshev.set_up
    monkeypatch.setattr(Chebyshev, "set_up", lambda self, A: (made.append(self), real(self, A))[1])
    A = distribute(FAMILIES["nonsymmetric"](), world)
    values, b = leaves(A, random(N, 79))
    x, _ = hs.solve(A.with_values(values), b, method="gmres", precond="chebyshev")
    A.layout.dot(x, x).backward()
    assert len(made) == 1
    M = Counting(made[0])
    x, info = hs.solve(A.with_values(values), b, method="gmres", precond=M)
    forward = M.there
    assert forward > 0 and M.back == 0
    A.layout.dot(x, x).backward()
    assert M.there == forward and abs(M.back - forward) <= 3
    assert info.adjoint.iterations <= M.back <= info.adjoint.iterations + 2
    # Two gradients in one backward pass are still one solve.
    assert M.back < 1.5 * forward


def test_a_symmetric_method_needs_no_transpose(world):
    """Neither of the operator nor of the preconditioner."""
    A = distribute(FAMILIES["spd"](), world)
    diagonal = A.diagonal()
    b = spread(A.layout, random(N, 80)).requires_grad_()
    x, _ = hs.solve(A, b, precond=lambda r: r / diagonal, rtol=1e-12)
    A.layout.dot(x, x).backward()
    y, _ = hs.solve(A, 2 * x.detach(), rtol=1e-13)
    assert everywhere(world, torch.allclose(b.grad, y, atol=1e-10))
    with pytest.raises(hs.InputError, match="apply_transpose"):
        hs.solve(A, b, method="gmres", precond=lambda r: r / diagonal)
    with torch.no_grad():
        hs.solve(A, b, method="gmres", precond=lambda r: r / diagonal)


def test_a_backward_solve_that_does_not_converge_is_an_error(world):
    # Symmetric in no norm: the transposed system is as hard, and five iterations are too few.
    A = distribute(FAMILIES["nonsymmetric"](), world)
    values, b = leaves(A, random(N, 81))
    exact = torch.from_numpy(np.linalg.solve(dense(A), full(A.layout, b)))
    x0 = exact[torch.from_numpy(A.layout.rows)]
    x, info = hs.solve(
        A.with_values(values), b, method="gmres", x0=x0, max_iterations=3, rtol=1e-10
    )
    assert info.converged
    with pytest.raises(hs.AdjointSolveError, match="max_iterations after 3 iterations") as caught:
        A.layout.dot(x, x).backward()
    assert caught.value.status == "max_iterations" and caught.value.info.iterations == 3
    assert isinstance(caught.value, hs.HpcSlaError) and info.adjoint is caught.value.info
    assert everywhere(world, values.grad is None and b.grad is None)
    # The same through a loss that is not finite.
    x, info = hs.solve(A.with_values(values), b, method="gmres")
    with pytest.raises(hs.AdjointSolveError, match="not_finite"):
        (A.layout.dot(x, x) * float("nan")).backward()


def test_the_tolerance_of_the_backward_solve_is_its_own(world):
    A = distribute(FAMILIES["spd"](), world)
    values, b = leaves(A, random(N, 82))
    reached = []
    for options in ({"rtol": 1e-4}, {"rtol": 1e-4, "adjoint_rtol": 1e-12}, {"rtol": 1e-12}):
        x, info = hs.solve(A.with_values(values), b, "cg", "jacobi", **options)
        A.layout.dot(x, x).backward()
        reached.append((info.relative_residual, info.adjoint.relative_residual))
        assert info.adjoint.relative_residual <= options.get("adjoint_rtol", options["rtol"])
    assert reached[0][1] > 1e-7 and reached[1][0] > 1e-7
    assert info.adjoint.iterations > 0
    with pytest.raises(hs.InputError, match="adjoint_rtol"):
        hs.solve(A, b, rtol=0.0, atol=1e-9)
    x, _ = hs.solve(A, b, rtol=0.0, atol=1e-9, adjoint_rtol=1e-9)
    with pytest.raises(hs.InputError, match="not a tolerance"):
        hs.solve(A, b, adjoint_rtol=-1.0)


def _nodes(tensor):
    seen, todo = set(), [tensor.grad_fn]
    while todo:
        node = todo.pop()
        if node is not None and node not in seen:
            seen.add(node)
            todo.extend(next_node for next_node, _ in node.next_functions)
    return len(seen)


def test_nothing_grows_with_the_iterations(world):
    """Graph nodes, and tensors that a forward pass keeps for the backward pass."""
    n, most = 100, 5000 if world.size == 1 else 500  # more ranks take longer, and do the same
    second = sp.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(n, n))
    A = distribute(sp.csr_matrix(second), world, "contiguous")
    values, b = leaves(A, np.ones(n))

    def measured(limit):
        options = {"method": "gmres:restart=2", "precond": "none", "max_iterations": limit}
        # It never converges; the backward solve, of zero, does.
        x, info = hs.solve(A.with_values(values), b, rtol=1e-300, adjoint_rtol=1e-8, **options)
        gc.collect()
        alive = sum(issubclass(type(o), torch.Tensor) for o in gc.get_objects())
        nodes = _nodes(x)
        A.layout.dot(x, torch.zeros_like(x)).backward()
        return info.iterations, nodes, alive

    measured(5)
    few, many = measured(50), measured(most)
    assert few[0] == 50 and many[0] == most
    assert few[1:] == many[1:] and few[1] < 10


def test_memory_of_a_backward_pass(world):
    """At 50 and 5000 iterations, of backward as of forward: no iterate is kept."""
    if reset_peak() is not None:
        pytest.skip("the kernel's counter cannot be set back")
    n, many = 20_000, 5000 if world.size == 1 else 500
    first = np.arange(world.rank * n, (world.rank + 1) * n)
    rows, cols = np.repeat(first, 3), (first[:, None] + [-1, 0, 1]).ravel()
    inside = (cols >= 0) & (cols < world.size * n)

    def measured(iterations):
        # The iterates' error falls by 1 + shift / 2 each time, to 1e-8.
        shift = 2 * (1e8 ** (1 / iterations) - 1)
        data = np.where(rows == cols, 2.0 + shift, -1.0)[inside]
        shape = (world.size * n, world.size * n)
        A = hs.DSparseMatrix.from_coo(rows[inside], cols[inside], data, shape, world)
        values, b = leaves(A, np.ones(shape[0]))
        gc.collect()
        reset_peak()
        before = rss_bytes()
        x, info = hs.solve(A.with_values(values), b, "richardson", "jacobi", rtol=1e-8)
        nodes = _nodes(x)
        A.layout.dot(x, x).backward()
        assert info.converged and info.adjoint.converged
        for count in (info.iterations, info.adjoint.iterations):
            assert 0.5 * iterations < count < 1.5 * iterations
        return nodes, peak_rss_bytes() - before

    measured(20)
    few, much = measured(50), measured(many)
    assert everywhere(world, few[0] == much[0])
    # All iterates would be 8 n bytes each.
    assert everywhere(world, much[1] - few[1] < 0.1 * 8 * n * (many - 50))


def test_independent_solves_in_one_graph(world):
    """Their backward solves run in one order on all ranks, whatever they were made of."""
    first, second = (distribute(FAMILIES[f](), world) for f in ("spd", "nonsymmetric"))
    v1, b1 = leaves(first, random(N, 83))
    v2, b2 = leaves(second, random(N, 84))
    x, _ = hs.solve(first.with_values(v1), b1, rtol=1e-12)
    y, _ = hs.solve(second.with_values(v2), b2, method="gmres", rtol=1e-12)
    if world.rank % 2:
        x, y = x * 1.0, (y + 0.0) * 1.0  # local work that others have not
    z, _ = hs.solve(first.with_values(v1), x.detach(), rtol=1e-12)
    loss = first.layout.dot(x, x) + second.layout.dot(y, y) + first.layout.dot(z, x)
    loss.backward()
    assert everywhere(world, all(bool(t.grad.isfinite().all()) for t in (v1, b1, v2, b2)))
    D = torch.from_numpy(FAMILIES["nonsymmetric"]().toarray())
    expected = torch.linalg.solve(D.T, 2 * torch.from_numpy(full(second.layout, y)))
    assert error(full(second.layout, b2.grad), expected.numpy()) < 1e-10


def test_on_part_of_the_ranks(world):
    """Each half differentiates a system of its own, while the other does."""
    half = world.comm.Split(world.rank % 2, world.rank)
    part = hs.World(comm=half, device="cpu")
    matrix = FAMILIES["nonsymmetric"]() * (1.0 + world.rank % 2)
    A = distribute(matrix, part)
    b, c = random(N, 85), random(N, 86)
    values, mine = leaves(A, b)
    x, _ = hs.solve(A.with_values(values), mine, method="bicgstab", rtol=1e-12)
    A.layout.dot(spread(A.layout, c), x).backward()
    assert everywhere(world, max(errors(A, values, mine, matrix, b, c)) < 1e-10)
    part.close()

"""Solves with a hierarchy that was set up on the device's way, beside those with the compiled one.

The same torch operations run on a GPU and, as here, on the CPU.
"""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch

import hpc_sla as hs
from hpc_sla import problems
from hpc_sla.kernels import native
from hpc_sla.precond.amg.device import arrays
from hpc_sla.precond.amg.device import hierarchy as device
from tests.adjoint.systems import dense_gradients, error, leaves
from tests.collective import dense, distribute_once, everywhere, full, on, spread
from tests.precond.amg.systems import (
    convection,
    dense_of,
    dense_prolongator,
    iterations,
    multigrid,
    poisson,
)
from tests.precond.oracles import stored

pytestmark = pytest.mark.mpi

KEEPS = ["prolongators", "aggregates"]
SPECS = [
    "poisson2d:n=60",
    "poisson3d:n=14",
    "jumps2d:n=50",
    "anisotropic2d:n=48",
    "elasticity3d:n=5",
    "unstructured3d:n=9",
    "convection2d:n=40",
    "graph_laplacian:n=900",
]


@pytest.fixture(autouse=True)
def _on_device(monkeypatch):
    monkeypatch.setattr(device, "ON_CPU", True)


def _system(world, spec):
    problem = problems.make(spec)
    A = problems.distribute(problem, world)
    mine = A.layout.start, A.layout.start + A.layout.n_owned
    near = None if problem.block_size == 1 else problem.near_nullspace(*mine)
    return problem, A, near


def _by_device(A, **options):
    M = multigrid(**options).on(A)
    assert isinstance(M.hierarchy, device.DeviceHierarchy)
    return M


def _by_host(monkeypatch, A, **options):
    with monkeypatch.context() as patch:
        patch.setattr(device, "ON_CPU", False)
        M = multigrid(**options).on(A)
    assert not isinstance(M.hierarchy, device.DeviceHierarchy)
    return M


def _applied(M, r, how="apply"):
    return getattr(M, how)(r, torch.empty_like(r)).clone()


def _bits(M):
    """All that the levels are made of."""
    found = []
    for level in M.hierarchy.levels:
        found += [level.operator.values, level.steps.inverse]
        pattern = level.operator.pattern
        found += [pattern.owned.indptr, pattern.owned.indices, pattern.halo.indices]
        if level.transfer is not None:
            P = level.transfer.prolongator()
            found += [P.rows.indptr, P.rows.columns, P.rows.values, P.transposed.values]
    return b"".join(t.cpu().numpy().tobytes() for t in found)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("spec", SPECS)
def test_iterations_are_those_of_the_compiled_set_up(world, monkeypatch, spec, dtype):
    """Within a tenth, or one."""
    problem, A, near = _system(world, spec)
    options = {"block_size": problem.block_size, "near_nullspace": near, "dtype": dtype}
    options |= {"coarse_size": 60}
    b = spread(A.layout, np.random.default_rng(4).standard_normal(problem.n_rows))
    method = "gmres" if "convection" in spec else "cg"
    ours, theirs = _by_device(A, **options), _by_host(monkeypatch, A, **options)
    count, allowed = (iterations(A, b, M, method) for M in (ours, theirs))
    assert count <= max(1.1 * allowed, allowed + 1)
    assert len(ours.levels) > 1
    most = 1.3 * theirs.operator_complexity
    if "poisson3d" not in spec:  # where aggregates are widened
        most = max(1.6 * theirs.operator_complexity, 2.2)
    assert ours.operator_complexity < most


@pytest.mark.parametrize("room", [1 << 24, 300])
@pytest.mark.parametrize("spec", ["poisson2d:n=30", "elasticity3d:n=4", "unstructured3d:n=7"])
def test_it_is_repeatable_bit_by_bit(world, monkeypatch, spec, room):
    """However much is done at a time."""
    problem, A, near = _system(world, spec)
    options = {"block_size": problem.block_size, "near_nullspace": near}
    first = _bits(_by_device(A, **options))
    monkeypatch.setattr(arrays, "ROOM", room)
    assert everywhere(world, _bits(_by_device(A, **options)) == first)


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("spec", ["poisson2d:n=30", "elasticity3d:n=4"])
def test_levels_are_the_products_of_their_prolongators(world, monkeypatch, spec, compiled):
    """Whether the CPU's compiled loops cycle, or the operations that a GPU has."""
    if not compiled:
        monkeypatch.setattr(native, "LIBRARY", None)
    problem, A, near = _system(world, spec)
    M = _by_device(A, block_size=problem.block_size, near_nullspace=near, rows_per_rank=1)
    a = stored(A)
    for depth, level in enumerate(M.hierarchy.levels[:-1]):
        if M.hierarchy._kept[depth].move is not None:
            break  # the levels below are not on every rank
        p = dense_prolongator(level, level.transfer.prolongator())
        operator = M.hierarchy.levels[depth + 1].operator
        a = p.T @ a @ p
        ours = dense_of(operator.pattern, operator.values.cpu().numpy())
        np.testing.assert_allclose(ours, a, rtol=0, atol=1e-11 * abs(a).max())
    b = spread(A.layout, np.ones(problem.n_rows))
    assert iterations(A, b, M) < 25


@pytest.mark.parametrize("keep", KEEPS)
@pytest.mark.parametrize("spec", ["poisson2d:n=30", "elasticity3d:n=4", "graph_laplacian:n=500"])
def test_the_same_values_give_the_same_cycle(world, spec, keep):
    problem, A, near = _system(world, spec)
    again = A.with_values(A.values.clone())
    M = _by_device(A, block_size=problem.block_size, near_nullspace=near)
    r = spread(A.layout, np.random.default_rng(3).standard_normal(problem.n_rows))
    before, levels = _applied(M, r), M.levels
    M.update(again, keep)
    assert everywhere(world, torch.equal(_applied(M, r), before))
    assert M.levels == levels and isinstance(M.hierarchy, device.DeviceHierarchy)


@pytest.mark.parametrize("keep", KEEPS)
def test_other_values_than_before_are_really_used(world, keep):
    A = distribute_once(poisson(30), world)
    b = spread(A.layout, np.ones(900))
    for factor in (4.0**5, -4.0):
        other = A.with_values(A.values * factor)
        M, fresh = _by_device(A).update(other, keep), _by_device(other)
        ours, theirs = (full(A.layout, _applied(m, b)) for m in (M, fresh))
        np.testing.assert_allclose(ours, theirs, rtol=1e-9)
    rows, columns = A.entries()
    shifted = A.with_values(A.values + on(world, np.where(rows == columns, 4.0, 0.0)))
    count = iterations(shifted, b, _by_device(A).update(shifted, keep))
    assert count <= iterations(shifted, b, _by_device(shifted)) + 4


@pytest.mark.parametrize("keep", KEEPS)
def test_entries_that_were_zero_at_first(world, keep):
    A = distribute_once(poisson(20), world)
    rows, columns = A.entries()
    lines = A.with_values(torch.where(on(world, abs(rows - columns) > 1), 0.0, A.values))
    M = _by_device(lines, rows_per_rank=1).update(A, keep)
    level, coarse = M.hierarchy.levels[0], M.hierarchy.levels[1].operator
    p = dense_prolongator(A, level.transfer.prolongator())
    ours = dense_of(coarse.pattern, coarse.values.cpu().numpy())
    np.testing.assert_allclose(ours, p.T @ stored(A) @ p, rtol=1e-12, atol=1e-12)


def _dirichlet():
    matrix = poisson(12).tolil()
    for i in range(0, 144, 13):
        matrix[i, :] = 0
        matrix[i, i] = 1e6
    return sp.csr_matrix(matrix)


AWKWARD = {
    "two components": lambda: sp.block_diag([poisson(9), poisson(7)], "csr"),
    "decoupled rows": _dirichlet,
    "diagonal": lambda: sp.csr_matrix(sp.diags_array(np.arange(1.0, 50.0))),
    "one row": lambda: sp.csr_matrix(np.array([[4.0]])),
}


@pytest.mark.parametrize("partition", ["metis", "cyclic", "all on the last"])
@pytest.mark.parametrize("name", AWKWARD)
def test_what_is_awkward(world, monkeypatch, name, partition):
    """Empty ranks, rows on their own, neighbours that are all elsewhere."""
    matrix = AWKWARD[name]()
    A = distribute_once(matrix, world, partition)
    b = spread(A.layout, np.random.default_rng(1).standard_normal(A.shape[0]))
    ours, theirs = (iterations(A, b, M, "gmres") for M in (_by_device(A), _by_host(monkeypatch, A)))
    assert ours <= max(1.1 * theirs, theirs + 1)


@pytest.mark.parametrize(("make", "method"), [(poisson, "cg"), (convection, "gmres")])
def test_gradients_are_the_dense_formula(world, make, method):
    matrix = make(11)
    A = distribute_once(matrix, world)
    b, c = np.random.default_rng(12).standard_normal((2, 121))
    values, mine = leaves(A, b)
    M = _by_device(A, rows_per_rank=60)
    x, info = hs.solve(A.with_values(values), mine, method=method, precond=M, rtol=1e-12)
    assert info.converged
    A.layout.dot(spread(A.layout, c), x).sum().backward()
    exact, of_a, of_b = dense_gradients(matrix, b, c)
    assert error(full(A.layout, x.detach()), exact) < 1e-9
    assert error(dense(A, values.grad), of_a) < 1e-9
    assert error(full(A.layout, mine.grad), of_b) < 1e-9
    assert info.adjoint.converged and info.adjoint.iterations <= info.iterations + 4

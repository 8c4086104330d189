"""Dirichlet conditions as identity rows beside a stiffness of any scale."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import scipy.sparse as sp
import torch

import hpc_sla as hs
from hpc_sla import problems
from hpc_sla.precond import make_preconditioner
from tests.collective import everywhere, full, spread
from tests.precond.amg.systems import as_dense, iterations, multigrid, poisson

STIFFNESS = (1e-12, 1.0, 1e12)


def _border(*shape: int) -> np.ndarray:
    """Which points of a grid lie on its faces."""
    inner = np.zeros(shape, dtype=bool)
    inner[tuple(slice(1, -1) for _ in shape)] = True
    return ~inner.ravel()


def _poisson3d(n: int) -> sp.csr_matrix:
    line = sp.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(n, n))
    return sp.csr_matrix(sp.kronsum(sp.kronsum(line, line), line))


def _elastic(held) -> tuple[sp.csr_matrix, np.ndarray, np.ndarray]:
    """A free cube, which of its unknowns are held, and its rigid body modes."""
    problem = problems.make("elasticity3d:n=5,clamped=false")
    n = problem.n_rows
    return problem.matrix(), held(problem.coordinates(0, n)), problem.near_nullspace(0, n)


def _clamped(points: np.ndarray) -> np.ndarray:
    return points[:, 0] == 0


def _rollers(points: np.ndarray) -> np.ndarray:
    """Each face through the origin held in its normal direction: nodes with some rows held."""
    component = np.arange(len(points)) % 3
    return points[np.arange(len(points)), component] == 0


@cache
def _system(name: str) -> tuple[sp.csr_matrix, np.ndarray, np.ndarray | None, int]:
    """The matrix without conditions, the rows to hold, modes, and the block size."""
    if name == "poisson2d":
        return poisson(30), _border(30, 30), None, 1
    if name == "poisson3d":
        return _poisson3d(11), _border(11, 11, 11), None, 1
    matrix, held, modes = _elastic(_rollers if "rollers" in name else _clamped)
    return matrix, held, modes if "modes" in name else None, 3


def _held(matrix: sp.csr_matrix, held: np.ndarray, stiffness: float, rows_only: bool):
    """Identity rows, and identity columns too unless rows alone are replaced."""
    free = sp.diags_array(1.0 * ~held)
    inner = free @ matrix if rows_only else free @ matrix @ free
    result = sp.csr_matrix(stiffness * inner + sp.diags_array(1.0 * held))
    result.eliminate_zeros()
    return result


SYSTEMS = [
    "poisson2d",
    "poisson3d",
    "clamped, modes",
    "clamped, block_size alone",
    "rollers, modes",
    "rollers, block_size alone",
]


def _set_up(world, name: str, stiffness: float, rows_only: bool):
    matrix, held, modes, block_size = _system(name)
    A = hs.DSparseMatrix.from_scipy(
        _held(matrix, held, stiffness, rows_only) if world.rank == 0 else None,
        world,
        block_size=block_size,
    )
    mine = None if modes is None else modes[A.layout.rows]
    return A, held, multigrid(dtype="float32", block_size=block_size, near_nullspace=mine).on(A)


@pytest.mark.mpi
@pytest.mark.parametrize("rows_only", [False, True])
@pytest.mark.parametrize("name", SYSTEMS)
def test_iterations_do_not_know_the_stiffness(world, name, rows_only):
    """With conditions of zero, and of others where they are no longer all there is to solve."""
    counts: dict[str, list[int]] = {}
    for stiffness in STIFFNESS:
        A, held, M = _set_up(world, name, stiffness, rows_only)
        force = stiffness * np.random.default_rng(0).standard_normal(len(held))
        for kind, value in (("zero", 0.0), ("other", 1e-3)):
            if kind == "other" and stiffness < 1:
                continue
            b = spread(A.layout, np.where(held, value, force))
            for method in ("gmres", "bicgstab") if rows_only else ("cg",):
                found = counts.setdefault(f"{kind} {method}", [])
                found.append(iterations(A, b, M, method))
    assert all(max(found) - min(found) <= 2 for found in counts.values()), counts


@pytest.mark.mpi
def test_as_few_as_pyamg(world):
    pytest.importorskip("pyamg")
    for rows_only, method in ((False, "cg"), (True, "gmres")):
        for stiffness in STIFFNESS[1:]:
            A, held, M = _set_up(world, "poisson2d", stiffness, rows_only)
            b = np.where(held, 1e-3, stiffness * 1e-4)
            ours = iterations(A, spread(A.layout, b), M, method)
            theirs = _pyamgs(_held(*_system("poisson2d")[:2], stiffness, rows_only), b, method)
            # Aggregates end where a rank's rows do, and these are few.
            assert ours <= theirs + 5, (ours, theirs)


def _pyamgs(matrix: sp.csr_matrix, b: np.ndarray, method: str) -> int:
    """Iterations of our method, whose residual is the true one, around pyamg's cycle."""
    pyamg = pytest.importorskip("pyamg")
    cycle = pyamg.smoothed_aggregation_solver(matrix).aspreconditioner()
    alone, entries = hs.World.serial("cpu"), matrix.tocoo()
    A = hs.DSparseMatrix.from_coo(entries.row, entries.col, entries.data, matrix.shape, alone)
    return iterations(A, torch.from_numpy(b), lambda r: cycle.matvec(r.numpy()), method)


@pytest.mark.mpi
@pytest.mark.parametrize("rows_only", [False, True])
@pytest.mark.parametrize("name", ["poisson2d", "rollers, modes"])
def test_update_sees_what_is_decoupled_now(world, name, rows_only):
    A, held, M = _set_up(world, name, 1.0, rows_only)
    b = spread(A.layout, np.where(held, 0.0, 1.0))
    method = "gmres" if rows_only else "cg"
    before = iterations(A, b, M, method)
    rows, _ = A.entries()
    stiff = torch.from_numpy(np.where(held[rows], 1.0, 1e11)).to(A.values)
    for keep in ("prolongators", "aggregates"):
        other = A.with_values(A.values * stiff)
        assert abs(iterations(other, b, M.update(other, keep), method) - before) <= 1
    # Conditions that go: explicit zeros are no entries, and what was held has no aggregate.
    matrix, _, modes, block_size = _system(name)
    stored = _with_zeros(matrix, held, rows_only)
    C = hs.DSparseMatrix.from_scipy(
        stored if world.rank == 0 else None, world, block_size=block_size
    )
    mine = None if modes is None else modes[C.layout.rows]
    N = multigrid(dtype="float32", block_size=block_size, near_nullspace=mine).on(C)
    assert abs(iterations(C, spread(C.layout, np.where(held, 0.0, 1.0)), N, method) - before) <= 1


def _with_zeros(matrix: sp.csr_matrix, held: np.ndarray, rows_only: bool) -> sp.csr_matrix:
    """As `_held`, its zeros stored."""
    matrix = sp.csr_matrix(matrix, copy=True)
    rows = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    gone = held[rows] | (held[matrix.indices] & (not rows_only))
    matrix.data[gone] = 1.0 * (rows == matrix.indices)[gone]
    return matrix


@pytest.mark.mpi
@pytest.mark.parametrize("rows_only", [False, True])
@pytest.mark.parametrize("smoother", ["chebyshev", "jacobi", "l1_jacobi"])
def test_decoupled_rows_are_solved_exactly_and_the_transpose_is_one(world, rows_only, smoother):
    held = _border(9, 9)
    matrix = _held(poisson(9), held, 1e3, rows_only)
    matrix[0, 0], matrix[8, 8] = -7.0, 0.0  # of any sign; nothing counts as 1
    A = hs.DSparseMatrix.from_scipy(matrix if world.rank == 0 else None, world)
    M = multigrid(smoother=smoother, cycle="W").on(A)
    ours, transposed = as_dense(A, M.apply), as_dense(A, M.apply_transpose)
    size = abs(ours).max()
    np.testing.assert_allclose(transposed, ours.T, rtol=1e-9, atol=1e-12 * size)
    order = np.concatenate(world.comm.allgather(A.layout.rows))
    first = np.flatnonzero(held[order])
    a = matrix.toarray()[np.ix_(order, order)]
    d = np.diag(a)[first]
    d = np.where(d == 0, 1, d)
    np.testing.assert_allclose(ours[first], np.eye(81)[first] / d[:, None], rtol=1e-14)
    rest = np.flatnonzero(~held[order])
    wanted = -ours[np.ix_(rest, rest)] @ a[np.ix_(rest, first)] / d
    np.testing.assert_allclose(ours[np.ix_(rest, first)], wanted, rtol=1e-9, atol=1e-12 * size)
    # K's part is definite and symmetric, whatever the rest.
    inner = ours[np.ix_(rest, rest)]
    np.testing.assert_allclose(inner, inner.T, rtol=1e-9, atol=1e-12 * size)
    assert np.linalg.eigvalsh(inner)[0] > 0


@pytest.mark.mpi
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_held_rows_of_any_scale_do_not_overflow_single_precision(world, dtype):
    held = _border(24, 24)
    matrix = _held(poisson(24), held, 1.0, False)
    scale = 1e30 if dtype == np.float32 else 1e200
    matrix = sp.csr_matrix(sp.diags_array(np.where(held, scale, 1.0)) @ matrix).astype(dtype)
    A = hs.DSparseMatrix.from_scipy(matrix if world.rank == 0 else None, world)
    b = spread(A.layout, np.where(held, scale, 1.0).astype(dtype))
    M = multigrid(dtype="float32").on(A)
    z = full(A.layout, M.apply(b, torch.empty_like(b)))
    assert everywhere(world, np.isfinite(z).all())
    np.testing.assert_allclose(z[held], 1.0, rtol=1e-6)
    inner = spread(A.layout, np.where(held, 0, 1).astype(dtype))
    rtol = 1e-5 if dtype == np.float32 else 1e-8
    assert iterations(A, inner, M, rtol=rtol) <= 9


@pytest.mark.mpi
@pytest.mark.parametrize("rows_only", [False, True])
@pytest.mark.parametrize("spec", ["chebyshev", "polynomial", "block_jacobi:factor=lu"])
def test_other_preconditioners_do_not_know_the_stiffness(world, spec, rows_only):
    counts, largest = [], []
    for stiffness in STIFFNESS:
        matrix, held, _, block_size = _system("clamped, modes")
        A = hs.DSparseMatrix.from_scipy(
            _held(matrix, held, stiffness, rows_only) if world.rank == 0 else None,
            world,
            block_size=block_size,
        )
        M = make_preconditioner(spec, A)
        largest.append(getattr(M, "largest", 0.0))
        force = stiffness * np.random.default_rng(0).standard_normal(len(held))
        b = spread(A.layout, np.where(held, 0.0, force))
        counts.append(iterations(A, b, M, "gmres:restart=100" if rows_only else "cg"))
    assert max(counts) - min(counts) <= 2, counts
    np.testing.assert_allclose(largest, largest[1], rtol=0.05)


@pytest.mark.mpi
@pytest.mark.parametrize(
    "spec", ["block_jacobi:factor=lu", "block_jacobi", "additive_schwarz:type=basic"]
)
def test_a_method_for_symmetric_matrices_names_the_matrix(world, spec):
    """It is the rows-only conditions that are not symmetric; the preconditioner would be."""
    held = _border(9, 9)
    for rows_only in (True, False):
        matrix = _held(poisson(9), held, 1.0, rows_only)
        A = hs.DSparseMatrix.from_scipy(matrix if world.rank == 0 else None, world)
        b = spread(A.layout, np.ones(81))
        if not rows_only:
            assert hs.solve(A, b, "cg", spec)[1].converged
            continue
        for method in ("cg", "minres"):
            with pytest.raises(hs.InputError, match="symmetric matrix, and this one is not") as e:
                hs.solve(A, b, method, spec)
            assert e.value.field == "method" and "gmres" in e.value.remedy

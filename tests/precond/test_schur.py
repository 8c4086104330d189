"""The block preconditioner of saddle points: by its definition, and what it is worth."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import scipy.sparse as sp
import scipy.sparse.linalg as spla
import torch

import hpc_sla as hs
from hpc_sla.precond import make_preconditioner
from hpc_sla.precond.saddle import translations
from tests.collective import PARTITIONS, distribute, everywhere, full, on, spd_matrix, spread
from tests.precond.saddles import mixed_poisson, stokes, tied

pytestmark = pytest.mark.mpi

EXACT = "inner=amg:dtype=float64"  # so few rows are solved directly


def _split(matrix):
    """Which of the user's rows are constraints, and A, B, C, D."""
    dense, diagonal = matrix.toarray(), matrix.diagonal()
    second = np.sign(diagonal) != (1 if (diagonal > 0).sum() >= (diagonal < 0).sum() else -1)
    first = ~second
    return second, *(
        sign * dense[np.ix_(rows, columns)]
        for sign, rows, columns in (
            (1, first, first),
            (1, first, second),
            (1, second, first),
            (-1, second, second),
        )
    )


def _inverse_of(matrix, M, form, name):
    """M^-1 in the user's order; of M itself only the factor is taken."""
    second, A, B, C, D = _split(matrix)
    scaled = B / np.diag(A)[:, None]
    lumped = C @ scaled + D
    if name == "dense":
        S = C @ np.linalg.inv(A) @ B + D
    elif name == "diagonal":
        S = np.diag(np.diag(lumped))
    else:
        S = lumped
    inverse = np.linalg.inv(S)
    if name == "lsc":
        inverse = inverse @ (C @ (A @ scaled / np.diag(A)[:, None])) @ inverse
    inverse *= M._factor
    n, m = A.shape[0], len(D)
    corner = np.zeros((m, n))
    sign = np.sign(np.diag(A).sum())
    if form == "diagonal":
        blocks = [[sign * np.linalg.inv(A), corner.T], [corner, sign * inverse]]
    else:
        a = np.linalg.inv(A)
        blocks = [[a, corner.T], [inverse @ C @ a, -inverse]]
    order = np.concatenate([np.flatnonzero(~second), np.flatnonzero(second)])
    result = np.empty((n + m, n + m))
    result[np.ix_(order, order)] = np.block(blocks)
    return result


def _as_dense(A, apply):
    r = spread(A.layout, np.eye(A.shape[0]))
    before = r.clone()
    z = apply(r, torch.full_like(r, float("nan")))
    assert everywhere(A.world, torch.equal(r, before))
    return full(A.layout, z)


def _shuffled(matrix, seed=0):
    order = np.random.default_rng(seed).permutation(matrix.shape[0])
    return sp.csr_matrix(matrix[order][:, order])


DEFINED = {
    "stokes": lambda: stokes(5, penalty=0.1),
    "stokes, shuffled": lambda: _shuffled(stokes(5, penalty=0.1)),
    "convection": lambda: stokes(5, wind=20.0, penalty=0.1),
    "mixed": lambda: mixed_poisson(5),
    "negative": lambda: -mixed_poisson(4),
}


@pytest.mark.parametrize("form", ["lower", "diagonal"])
@pytest.mark.parametrize("name", ["diagonal", "lumped", "lsc", "dense"])
@pytest.mark.parametrize("case", DEFINED)
def test_is_its_definition_and_its_transpose(world, case, name, form):
    matrix = DEFINED[case]()
    if name == "lsc" and "mixed" not in case:
        return  # the commutator knows of no penalty
    for partition in PARTITIONS if name == "diagonal" else PARTITIONS[:1]:
        A = distribute(matrix, world, partition)
        M = make_preconditioner(f"schur:approximation={name},form={form},{EXACT}", A)
        ours, theirs = _as_dense(A, M.apply), _inverse_of(matrix, M, form, name)
        rtol = 1e-9 if name in ("diagonal", "dense") else 1e-4  # multigrid's are float32
        scale = abs(theirs).max()
        np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=rtol * scale)
        atol = (1e-13 if rtol < 1e-5 else 1e-5) * scale
        np.testing.assert_allclose(_as_dense(A, M.apply_transpose), ours.T, atol=atol)
        assert M.symmetric == (form == "diagonal") and M.transposable
        if form == "diagonal" and case != "convection":
            np.testing.assert_allclose(ours, ours.T, atol=atol)
            assert np.linalg.eigvalsh(ours + ours.T).min() > 0


@pytest.mark.parametrize("partition", PARTITIONS)
@pytest.mark.parametrize("size", [1, 2, 3])
def test_nodes_are_seen_in_the_pattern(world, size, partition):
    """In runs, one after another, and with an unknown more that is alone."""
    body, coupling = stokes(7).tocsr()[:42, :42], np.eye(size) + np.ones((size, size))
    cases = ((body, coupling), False), ((coupling, body), False), ((body, coupling), True)
    for factors, more in cases:
        matrix = sp.csr_matrix(sp.kron(*factors))
        unknown = np.arange(42 * size) % size
        if factors[0] is coupling:
            unknown = np.arange(42 * size) // 42
        if more:
            matrix = sp.csr_matrix(sp.block_diag([matrix, 1.0]))
            unknown = np.append(unknown, 0)
        A = distribute(matrix, world, partition)
        found = translations(A)
        if size == 1:
            assert found is None
            continue
        same = np.array_equal(found, np.eye(size)[unknown][A.layout.rows])
        assert everywhere(world, same)


def _solve(world, matrix, method="fgmres", precond="schur", **options):
    """Iterations, the choice, and the error beside SciPy's solution of a consistent system."""
    A = distribute(matrix, world)
    exact = np.random.default_rng(5).standard_normal(matrix.shape[0])
    b = spread(A.layout, matrix @ exact)
    M = make_preconditioner(precond, A)
    x, info = hs.solve(A, b, method=method, precond=M, rtol=1e-9, **options)
    assert info.converged, info
    return info.iterations, M, full(A.layout, x) - exact


def test_stokes_takes_as_many_iterations_on_any_mesh(world):
    counts = []
    for n in (12, 24, 48):
        count, M, error = _solve(world, stokes(n))
        counts.append(count)
        assert M.chosen == "diagonal"
        pressure = error[2 * n * (n - 1) :]
        error[2 * n * (n - 1) :] -= pressure.mean()  # known but for a constant
        assert abs(error).max() < 1e-5
    assert counts[-1] <= 26 and counts[-1] <= 1.4 * counts[1], counts


def test_a_pinned_pressure_costs_nothing(world):
    """Its constant is nearly one of the nullspace: without deflation it takes half as many more."""
    free = _solve(world, stokes(24))[0]
    count, M, error = _solve(world, stokes(24, pinned=True))
    assert type(M._second).__name__ == "Deflated" and count <= free + 3
    assert abs(error).max() < 1e-4
    r = spread(M._saddle.second.layout, np.random.default_rng(0).standard_normal(24 * 24 - 1))
    z, t = (f(r, torch.empty_like(r)).clone() for f in (M._second.apply, M._second.apply_transpose))
    assert everywhere(world, torch.allclose(z, t, rtol=1e-12))


def test_mixed_poisson_takes_as_many_iterations_on_any_mesh(world):
    counts = []
    for n, jump in ((12, 1.0), (24, 1.0), (48, 1e6)):
        count, M, error = _solve(world, mixed_poisson(n, jump))
        counts.append(count)
        assert M.chosen == "lumped" and abs(error).max() < 1e-4
    assert counts[-1] <= 40 and counts[1] <= 1.4 * counts[0], counts


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("case", [lambda: stokes(16), lambda: mixed_poisson(16), lambda: tied(10)])
def test_minres_with_the_diagonal_form(world, case, sign):
    count, M, _ = _solve(world, sign * case(), "minres", "schur:form=diagonal")
    assert M.symmetric and count < 90
    with pytest.raises(hs.InputError, match="needs a symmetric preconditioner"):
        _solve(world, case(), "minres", "schur")


def test_ties_between_bodies_of_which_one_floats(world):
    count, M, error = _solve(world, tied(24))
    assert M.chosen == "dense" and count < 30 and abs(error).max() < 1e-5


def test_convection(world):
    """Not symmetric: by gmres, for several right-hand sides, transposed, and with gradients."""
    matrix = stokes(12, wind=40.0, penalty=1e-2)
    A = distribute(matrix, world)
    rng = np.random.default_rng(2)
    exact = rng.standard_normal((matrix.shape[0], 3))
    solver = hs.LinearSolver(A, "gmres", "schur", rtol=1e-10)
    lu = spla.splu(matrix.tocsc())
    x, infos = solver.solve(spread(A.layout, matrix @ exact))
    assert infos.converged and infos.iterations < 60
    np.testing.assert_allclose(full(A.layout, x), exact, atol=1e-5)
    y, info = solver.solve_transpose(spread(A.layout, exact[:, 0]))
    assert info.converged and info.iterations < 60
    theirs = lu.solve(exact[:, 0], trans="T")
    np.testing.assert_allclose(full(A.layout, y), theirs, atol=1e-7 * abs(theirs).max())
    b = spread(A.layout, exact[:, 1]).requires_grad_()
    values = A.values.clone().requires_grad_()
    z, _ = hs.solve(A.with_values(values), b, method="gmres", precond="schur", rtol=1e-11)
    weights = spread(A.layout, exact[:, 2])
    A.layout.dot(weights, z).backward()
    theirs = lu.solve(exact[:, 2], trans="T")
    np.testing.assert_allclose(full(A.layout, b.grad), theirs, atol=1e-6 * abs(theirs).max())
    rows, columns = A.entries()
    found, solution = values.grad.cpu().numpy(), lu.solve(exact[:, 1])
    wanted = -theirs[rows] * solution[columns]
    scale = abs(theirs).max() * abs(solution).max()
    assert everywhere(world, np.allclose(found, wanted, atol=1e-6 * scale))


def test_constraints_of_any_scale_and_such_that_bind_nothing(world):
    """Choice and quality are those of the unscaled matrix, and every row comes out finite."""
    plain = mixed_poisson(16)
    n = plain.shape[0]
    sizes = np.ones(n)
    sizes[-256:] = 10.0 ** np.random.default_rng(7).uniform(-4, 4, 256)
    scaled = sp.csr_matrix(sp.diags_array(sizes) @ plain @ sp.diags_array(sizes))
    A, B = distribute(plain, world), distribute(scaled, world)
    M, N = (make_preconditioner("schur", matrix) for matrix in (A, B))
    assert M.chosen == N.chosen == "lumped"
    assert N.trials["diagonal"].reduction == pytest.approx(M.trials["diagonal"].reduction, rel=1e-3)
    assert N.trials["lumped"].reduction < M.trials["lumped"].reduction + 0.15
    lone = sp.block_diag([plain, sp.csr_matrix((3, 3)), -2 * sp.eye_array(2)], "csr")
    A = distribute(sp.csr_matrix(lone), world)
    exact = np.random.default_rng(8).standard_normal(n + 5)
    b = np.asarray(lone @ exact)
    x, info = hs.solve(A, spread(A.layout, b), method="fgmres", precond="schur", rtol=1e-9)
    assert info.converged and info.iterations < 40
    error = full(A.layout, x) - exact
    assert abs(np.delete(error, [n, n + 1, n + 2])).max() < 1e-5


@pytest.mark.parametrize("matrix", [stokes(6), mixed_poisson(3), tied(4)])
@pytest.mark.parametrize("partition", ["cyclic", "all on the last", "constraints on the last"])
def test_ranks_without_rows_or_without_constraints(world, partition, matrix):
    if partition == "constraints on the last":
        last = world.size - 1
        ranks = np.where(matrix.diagonal() == 0, last, np.arange(matrix.shape[0]) % max(1, last))
        A = hs.DSparseMatrix.from_scipy(matrix if world.rank == 0 else None, world, ranks)
    else:
        A = distribute(matrix, world, partition)
    b = spread(A.layout, matrix @ np.random.default_rng(1).standard_normal(matrix.shape[0]))
    for precond in ("schur", "schur:approximation=lumped", "schur:approximation=lsc"):
        x, info = hs.solve(A, b, method="fgmres", precond=precond, rtol=1e-9)
        assert info.converged and float(A.layout.norm(A @ x - b)) <= 1e-8 * float(A.layout.norm(b))


NO_SADDLES = {
    "definite": (lambda: spd_matrix(20, 1), "each row has a diagonal, all of one sign"),
    "no diagonal": (lambda: sp.csr_matrix((6, 6)), "no row has a diagonal"),
    "unbound": (
        lambda: sp.csr_matrix(sp.diags_array([1.0, 2.0, -1.0])),
        "1 rows .* bind",
    ),
}


@pytest.mark.parametrize("name", NO_SADDLES)
def test_what_is_no_saddle_point_is_refused(world, name):
    make, message = NO_SADDLES[name]
    matrix = make()
    A = distribute(matrix, world)
    with pytest.raises(hs.InputError, match=f"no saddle point: {message}"):
        hs.Schur().on(A)
    with pytest.raises(hs.InputError, match="no saddle point"):
        hs.solve(A, spread(A.layout, np.ones(matrix.shape[0])), method="fgmres", precond="schur")


def test_options(world):
    for text, message in (
        ("approximation=best", "schur:approximation: unknown approximation 'best'"),
        ("form=upper", "schur:form: unknown form 'upper'"),
        ("inner=magic", "unknown preconditioner 'magic'"),
    ):
        with pytest.raises(hs.InputError, match=message):
            make_preconditioner(f"schur:{text}", distribute(stokes(4), world))
    with pytest.raises(hs.InputError, match="dense with 2025 constraints, more than 2000"):
        make_preconditioner("schur:approximation=dense", distribute(stokes(45), world))


def test_a_nan_is_the_solvers_to_tell(world):
    A = distribute(stokes(6), world)
    values = A.values.clone()
    values[:1] = float("nan")
    b = spread(A.layout, np.ones(A.shape[0]))
    _, info = hs.solve(A.with_values(values), b, method="fgmres", precond="schur")
    assert info.status == "not_finite"


def test_serves_threads_modes_and_copies_as_others_do(world):
    A = distribute(stokes(8), world)
    r = on(world, np.random.default_rng(3).standard_normal(A.shape[0])[A.layout.rows])
    with torch.inference_mode():
        M = make_preconditioner("schur", A)
        expected = M.apply(r, torch.empty_like(r)).clone()
    assert everywhere(world, torch.equal(M.apply(r, torch.empty_like(r)), expected))
    again = hs.Schur().on(A)
    assert everywhere(world, torch.equal(again.apply(r, torch.empty_like(r)), expected))
    assert copy.deepcopy(M) is M and "Schur complement dense" in M.describe()[1]
    single = distribute(stokes(8).astype(np.float32), world)
    N = make_preconditioner("schur", single)
    found = N.apply(r.float(), torch.empty_like(r, dtype=torch.float32))
    scale = float(A.layout.norm(expected))
    assert float(A.layout.norm(found.double() - expected)) < 1e-3 * scale

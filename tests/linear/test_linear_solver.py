"""LinearSolver: one set-up for many solves, with their transposes, updates and gradients."""

import sys
import warnings

import numpy as np
import pytest
import scipy.sparse as sp
import scipy.sparse.linalg as spla
import torch

import hpc_sla as hs
from hpc_sla.kernels import native
from hpc_sla.linear import linear_solver
from hpc_sla.linear.bursts import CompiledSteps, serve
from hpc_sla.linear.choices import METHODS
from tests.collective import everywhere, full, spd_matrix, spread
from tests.methods import GENERAL

SQUARE = [name for name in METHODS.classes if name not in ("lsqr", "lsmr")]


def nonsymmetric(n, seed=0):
    upwind = sp.diags_array([-1.5, 4.0, -0.5], offsets=[-1, 0, 1], shape=(n, n))
    noise = sp.random_array((n, n), density=0.05, rng=np.random.default_rng(seed))
    return (upwind + 0.3 * noise).tocsr()


def distributed(world, matrix, layout=None):
    return hs.DSparseMatrix.from_scipy(matrix if world.rank == 0 else None, world, layout=layout)


@pytest.mark.mpi
def test_a_preconditioner_that_is_none_is_refused_before_it_is_needed(world):
    """When the solver is made; and by a solve for no columns."""
    A = distributed(world, spd_matrix(12, seed=1))
    nothing = torch.empty(A.layout.n_owned, 0, dtype=torch.float64)
    for precond in ("nonsense", "chebyshev:nonsense=1", 3, hs.Jacobi):
        with pytest.raises(hs.InputError, match=r"precond|nonsense"):
            hs.LinearSolver(A, "cg", precond)
        with pytest.raises(hs.InputError, match=r"precond|nonsense"):
            hs.solve(A, nothing, "cg", precond)
    for precond in (None, "auto", "jacobi", hs.Jacobi(), lambda r: r):
        x, info = hs.solve(A, nothing, "cg", precond)
        assert info.converged and x.shape == nothing.shape


@pytest.mark.mpi
@pytest.mark.parametrize("method", SQUARE)
def test_a_solver_is_solve(world, method):
    """The same bits, for one right-hand side after another."""
    A = distributed(world, spd_matrix(37, seed=1))
    solver = hs.LinearSolver(A, method, "jacobi", rtol=1e-9)
    rng = np.random.default_rng(2)
    for shape in ((37,), (37, 3), (37,)):
        b = spread(A.layout, rng.standard_normal(shape))
        x, info = solver.solve(b)
        y, told = hs.solve(A, b, method, "jacobi", rtol=1e-9)
        assert torch.equal(x, y)
        assert info.status == told.status == "converged" and info.iterations == told.iterations


@pytest.mark.mpi
@pytest.mark.parametrize("method", SQUARE)
def test_later_solves_know_what_the_first_found_out(world, method):
    """||b|| is summed while ranks agree: the same bits, though ranks differ much in their b."""
    A = distributed(world, spd_matrix(37, seed=1))
    solver = hs.LinearSolver(A, method, "jacobi", rtol=1e-9)
    b = spread(A.layout, 10.0 ** -np.arange(37))
    x, info = solver.solve(b)
    y, told = solver.solve(b)
    assert torch.equal(x, y) and told.residual_history == info.residual_history
    assert told.relative_residual == info.relative_residual


@pytest.mark.mpi
def test_steps_are_compiled_on_all_ranks_or_on_none(world, monkeypatch):
    A = distributed(world, spd_matrix(37, seed=1))
    solver = hs.LinearSolver(A, "cg", "jacobi", rtol=1e-9)
    b = spread(A.layout, np.ones(37))
    x, _ = solver.solve(b)
    ran = []
    advance = CompiledSteps.advance
    monkeypatch.setattr(CompiledSteps, "advance", lambda *those: ran.append(1) or advance(*those))
    solver.solve(b)
    compiled = len(ran)
    assert (compiled > 0) == (native.LIBRARY is not None)
    last = world.rank == world.size - 1
    monkeypatch.setattr(linear_solver, "serve", lambda *those: not last and serve(*those))
    y, _ = solver.solve(b)
    assert len(ran) == compiled
    assert torch.equal(x, y)


@pytest.mark.mpi
@pytest.mark.parametrize("precond", [name for name in GENERAL if name != "polynomial"])
def test_the_transpose(world, precond):
    """A^T x = b with the preconditioner of A, against SciPy; set up once."""
    matrix = nonsymmetric(40)
    A = distributed(world, matrix)
    b = np.random.default_rng(3).standard_normal(40)
    solver = hs.LinearSolver(A, "gmres", precond, rtol=1e-11)
    x, info = solver.solve_transpose(spread(A.layout, b))
    M = solver.precond
    y, _ = solver.solve(spread(A.layout, b))
    assert info.converged and solver.precond is M
    np.testing.assert_allclose(full(A.layout, x), spla.spsolve(matrix.T.tocsc(), b), rtol=1e-8)
    np.testing.assert_allclose(full(A.layout, y), spla.spsolve(matrix.tocsc(), b), rtol=1e-8)


@pytest.mark.mpi
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("method", ["auto", "cg", "gmres"])
def test_gradients_of_several_solves(world, method, transposed):
    """Of a loss of two solves with one solver: against the dense formula."""
    matrix = spd_matrix(23, seed=4) if method == "cg" else nonsymmetric(23)
    A = distributed(world, matrix)
    A = A.with_values(A.values.clone().requires_grad_())
    rng = np.random.default_rng(5)
    b, c = rng.standard_normal((2, 23))
    solver = hs.LinearSolver(A, method, "jacobi", rtol=1e-12)
    solve = solver.solve_transpose if transposed else solver.solve
    first = spread(A.layout, b).requires_grad_()
    x, _ = solve(first)
    y, _ = solve(spread(A.layout, c))
    A.layout.dot(x, y).backward()

    K = matrix.toarray().T if transposed else matrix.toarray()
    dense_x, dense_y = np.linalg.solve(K, b), np.linalg.solve(K, c)
    adjoint_x, adjoint_y = np.linalg.solve(K.T, dense_y), np.linalg.solve(K.T, dense_x)
    np.testing.assert_allclose(full(A.layout, first.grad), adjoint_x, rtol=1e-7)
    expected = -np.outer(adjoint_x, dense_x) - np.outer(adjoint_y, dense_y)
    row, column = A.entries()
    expected = (expected.T if transposed else expected)[row, column]
    np.testing.assert_allclose(A.values.grad.numpy(), expected, rtol=1e-6, atol=1e-9)


@pytest.mark.mpi
@pytest.mark.parametrize("keep", [None, "aggregates", "prolongators"])
def test_update(world, keep):
    """Another matrix: its solution, and the gradients of the solution before as they were."""
    matrix = spd_matrix(60, seed=6)
    A = distributed(world, matrix)
    A = A.with_values(A.values.clone().requires_grad_())
    b = spread(A.layout, np.ones(60))
    solver = hs.LinearSolver(A, "cg", "amg", rtol=1e-11)
    x, _ = solver.solve(b)
    B = A.with_values(A.values.detach() * 3.0)
    assert solver.update(B, keep=keep) is solver
    y, info = solver.solve(b)
    assert info.converged
    np.testing.assert_allclose(full(A.layout, y), spla.spsolve(3 * matrix.tocsc(), np.ones(60)))
    A.layout.dot(x, b).backward()
    dense_x = np.linalg.solve(matrix.toarray(), np.ones(60))
    row, column = A.entries()
    np.testing.assert_allclose(
        A.values.grad.numpy(), -dense_x[row] * dense_x[column], rtol=1e-7, atol=1e-12
    )


@pytest.mark.mpi
def test_values_changed_in_place(world):
    """As an optimiser does: preconditioner and transpose are of the new values."""
    matrix = nonsymmetric(30)
    A = distributed(world, matrix)
    A = A.with_values(A.values.clone().requires_grad_())
    b = spread(A.layout, np.ones(30))
    solver = hs.LinearSolver(A, "gmres", "block_jacobi", rtol=1e-11)
    solver.solve(b)
    solver.solve_transpose(b)
    with torch.no_grad():
        A.values.mul_(torch.linspace(1.0, 2.0, len(A.values), dtype=torch.float64))
    now = full_matrix(world, A)
    for solve, K in ((solver.solve_transpose, now.T), (solver.solve, now)):
        x, info = solve(b)
        assert info.converged
        np.testing.assert_allclose(full(A.layout, x), np.linalg.solve(K, np.ones(30)), rtol=1e-8)
    first = b.clone().requires_grad_()
    A.layout.dot(solver.solve(first)[0], b).backward()
    expected = np.linalg.solve(now.T, np.ones(30))
    np.testing.assert_allclose(full(A.layout, first.grad), expected, rtol=1e-8)


@pytest.mark.mpi
def test_symmetry_is_looked_at_again(world):
    """A method for symmetric matrices on one, and then on one that is not: the gradient follows."""
    matrix = spd_matrix(20, seed=3)
    A = distributed(world, matrix)
    skew = sp.random_array((20, 20), density=0.2, rng=np.random.default_rng(2)).tocsr() * 1e-3
    B = distributed(world, (matrix + skew).tocsr(), layout=A.layout)
    solver = hs.LinearSolver(A, "cg", "none", rtol=1e-3, adjoint_rtol=1e-10)
    solver.view()
    solver.update(B)
    b = spread(A.layout, np.ones(20)).requires_grad_()
    A.layout.dot(solver.solve(b)[0], b.detach()).backward()
    expected = np.linalg.solve((matrix + skew).toarray().T, np.ones(20))
    np.testing.assert_allclose(full(A.layout, b.grad), expected, rtol=1e-7)
    assert "not symmetric" in solver.view()


@pytest.mark.mpi
def test_no_tolerance_for_a_gradient(world):
    A = distributed(world, spd_matrix(12, seed=3))
    b = spread(A.layout, np.ones(12)).requires_grad_()
    for options in ({"adjoint_rtol": 0.0}, {"rtol": 0.0, "atol": 1e-6}):
        with pytest.raises(hs.InputError, match="adjoint_rtol"):
            hs.LinearSolver(A, "cg", "jacobi", **options).solve(b)


def full_matrix(world, A):
    row, column = A.entries()
    parts = world.comm.allgather((row, column, A.values.detach().numpy()))
    row, column, values = (np.concatenate(part) for part in zip(*parts, strict=True))
    return sp.coo_array((values, (row, column)), shape=A.shape).toarray()


@pytest.mark.mpi
def test_what_was_chosen_is_remembered(world):
    """Conjugate gradients fail on an indefinite matrix once, and not again."""
    values = np.r_[np.linspace(1, 2, 15), 3.0]
    saddle = sp.diags_array(values).tolil()
    saddle[0, 1] = saddle[1, 0] = 4.0  # indefinite, its diagonal positive
    A = distributed(world, saddle.tocsr())
    solver = hs.LinearSolver(A, "auto", "none", rtol=1e-10)
    b = np.random.default_rng(7).standard_normal(16)
    first, info = solver.solve(spread(A.layout, b))
    assert info.converged and "indefinite: minres" in info.reason
    assert solver.method.name == "minres"
    again, told = solver.solve(spread(A.layout, b))
    assert torch.allclose(first, again) and told.reason == info.reason
    assert told.iterations < info.iterations  # which count those that failed
    solver.update(A)
    _, told = solver.solve(spread(A.layout, b))
    assert told.reason == info.reason


@pytest.mark.mpi
def test_view(world):
    line = sp.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(600, 600)).tocsr()
    A = distributed(world, line)
    text = hs.LinearSolver(A, "auto", "amg:coarse_size=50", rtol=1e-7).view()
    assert everywhere(world, text == world.comm.bcast(text))
    for part in (
        "600 x 600",
        "float64",
        "cg, preconditioned symmetrically",
        "symmetric, its diagonal positive: cg",
        "where it fails: minres",
        "1e-07 ||b||_2",
        "-ksp_type cg",
        "amg:coarse_size=50, symmetric",
        "level 0: 600 rows",
        "level 1:",
        "operator complexity",
    ):
        assert part in text, text


@pytest.mark.mpi
def test_bad_arguments_are_refused_at_once(world):
    A = distributed(world, spd_matrix(20, seed=9))
    for wrong, field in (
        ({"method": "gc"}, "method"),
        ({"rtol": -1.0}, "rtol"),
        ({"rtol": 0.0}, "rtol"),
        ({"max_iterations": -3}, "max_iterations"),
        ({"max_iterations": 2.5}, "max_iterations"),
        ({"dtol": 0.5}, "dtol"),
        ({"adjoint_rtol": float("nan")}, "adjoint_rtol"),
    ):
        with pytest.raises(hs.InputError) as caught:
            hs.LinearSolver(A, **wrong)
        assert everywhere(world, field in str(caught.value))
    solver = hs.LinearSolver(A, "cg", "jacobi")
    with pytest.raises(hs.InputError, match="20 x 20"):
        solver.update(distributed(world, spd_matrix(21, seed=9)))
    with pytest.raises(hs.InputError, match="keeps nothing"):
        solver.set_up().update(A, keep="aggregates")
    with pytest.raises(hs.InputError, match=r"A\.T"):
        wide = sp.random_array((20, 12), density=0.5, rng=np.random.default_rng(1)).tocsr()
        rows = distributed(world, wide)
        hs.LinearSolver(rows, "lsqr").solve_transpose(torch.ones(rows.layout.n_owned))
    if world.size > 1:
        with pytest.raises(hs.InputError, match="ranks differ"):
            hs.LinearSolver(A, rtol=1e-6 if world.rank else 1e-8)
        with pytest.raises(hs.InputError, match="ranks differ"):
            hs.LinearSolver(A, "cg", "amg").update(A, keep="aggregates" if world.rank else None)
    # And it is usable afterwards.
    assert solver.solve(spread(A.layout, np.ones(20)))[1].converged


@pytest.mark.mpi
def test_an_operator_without_a_transpose(world):
    A = distributed(world, nonsymmetric(24))

    class Forward:
        layout, dtype = A.layout, torch.float64

        def matvec(self, x):
            return A @ x

    with pytest.raises(hs.InputError, match="Forward has no transpose"):
        hs.LinearSolver(Forward(), "gmres", "none").solve_transpose(spread(A.layout, np.ones(24)))
    S = distributed(world, spd_matrix(24, seed=2))
    Forward.layout = S.layout
    Forward.matvec = lambda self, x: S @ x
    solver = hs.LinearSolver(Forward(), "cg", "none")
    b = spread(S.layout, np.ones(24))
    assert torch.equal(solver.solve_transpose(b)[0], solver.solve(b)[0])


@pytest.mark.mpi
def test_torch_func_goes_through_a_solver(world):
    """torch.func.jvp over a solver that is made within, and over one made before."""
    matrix = nonsymmetric(18)
    A = distributed(world, matrix)
    b, db = (spread(A.layout, v) for v in np.random.default_rng(8).standard_normal((2, 18)))
    dv = torch.ones_like(A.values)

    def within(values, b):
        return hs.LinearSolver(A.with_values(values), "gmres", "jacobi", rtol=1e-12).solve(b)[0]

    K, dK = matrix.toarray(), (matrix != 0).toarray().astype(float)
    x = np.linalg.solve(K, full(A.layout, b))
    expected = np.linalg.solve(K, full(A.layout, db) - dK @ x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        _, tangent = torch.func.jvp(within, (A.values.detach(), b), (dv, db))
    np.testing.assert_allclose(full(A.layout, tangent), expected, rtol=1e-7)

    before = hs.LinearSolver(A, "gmres", "jacobi", rtol=1e-12)
    before.solve(b)
    _, tangent = torch.func.jvp(lambda b: before.solve(b)[0], (b,), (db,))
    np.testing.assert_allclose(
        full(A.layout, tangent), np.linalg.solve(K, full(A.layout, db)), rtol=1e-7
    )


@pytest.mark.mpi
def test_few_frames_from_solve_to_the_first_step(world, monkeypatch):
    """Who reads a traceback or steps through a solve meets the method soon."""
    A = distributed(world, spd_matrix(20, seed=5))
    depths, step = [], hs.CG.step

    def counted(self):
        frame, names = sys._getframe(1), []
        while frame.f_code.co_name != "solve" or not frame.f_globals["__name__"].endswith(
            ".solver"
        ):
            if frame.f_globals["__name__"].startswith("hpc_sla"):
                names.append(frame.f_code.co_name)
            frame = frame.f_back
        depths.append(names)
        step(self)

    monkeypatch.setattr(hs.CG, "step", counted)
    hs.solve(A, spread(A.layout, np.ones(20)), "cg", "jacobi")
    assert everywhere(world, len(depths[0]) <= 5), depths[0]

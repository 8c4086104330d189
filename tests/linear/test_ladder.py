"""Nothing named: what is chosen, what comes next where it fails, and that the answer is right."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import scipy.sparse.linalg as spla
import torch

import hpc_sla as hs
from hpc_sla.linear.outcome import Outcome
from hpc_sla.linear.watch import ROOM, hopeless
from tests.collective import distribute, everywhere, full, spread


def grid(n, dimensions=2):
    line = sp.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(n, n))
    found = line
    for _ in range(dimensions - 1):
        m = found.shape[0]
        found = sp.kron(found, sp.eye_array(n)) + sp.kron(sp.eye_array(m), line)
    return sp.csr_matrix(found)


def wind(n):
    """Convection by upwind differences, with a little diffusion."""
    back = sp.diags_array([-1.0, 1.0], offsets=[-1, 0], shape=(n, n))
    return sp.csr_matrix(0.05 * grid(n) + sp.kron(sp.eye_array(n), back))


def saddle(n):
    """As of an incompressible flow: two grids of unknowns tied by their sum's differences."""
    B = sp.hstack([sp.eye_array(n * n, format="csr")[::3]] * 2)
    A = sp.block_diag([grid(n), grid(n)])
    return sp.csr_matrix(sp.bmat([[A, B.T], [B, None]]))


def neumann(n):
    """A graph's Laplacian: singular, constants its nullspace."""
    A = abs(grid(n))
    A.setdiag(0)
    return sp.csr_matrix(sp.diags_array(np.asarray(A.sum(axis=1)).ravel()) - A)


def dominant(n):
    rng = np.random.default_rng(5)
    A = sp.random_array((n, n), density=8 / n, rng=rng).tocsr()
    A.setdiag(0)
    return sp.csr_matrix(A + sp.diags_array(2.0 * np.asarray(abs(A).sum(axis=1)).ravel() + 1e-3))


def beam(n):
    """Deflections beside rotations: units of their own, 1e6 apart."""
    units = sp.diags_array(np.tile([1.0, 1e3], n * n // 2))
    return sp.csr_matrix(units @ grid(n) @ units)


SYSTEMS = {
    # a matrix, and what the first choice is: a method and a preconditioner
    "spd": (lambda: grid(12), "fgmres", "direct"),
    "spd, 3D, large": (lambda: grid(28, 3), "cg", "amg"),
    "negative": (lambda: -1.0 * grid(12), "fgmres", "direct"),
    "negative, 3D, large": (lambda: -1.0 * grid(28, 3), "gmres", "amg"),
    "convection": (lambda: wind(12), "fgmres", "direct"),
    "indefinite": (lambda: grid(12) - 0.7 * sp.eye_array(144), "fgmres", "direct"),
    "saddle": (lambda: saddle(9), "fgmres", "direct"),
    "neumann": (lambda: neumann(12), "fgmres", "direct:shift"),
    "dominant": (lambda: dominant(40_000), "bicgstab", "jacobi"),
    "units": (lambda: beam(12), "fgmres", "direct"),
    "one": (lambda: sp.csr_matrix([[4.0]]), "fgmres", "direct"),
}


def right_hand_side(matrix):
    b = np.random.default_rng(8).standard_normal(matrix.shape[0])
    return matrix @ b  # consistent, should it be singular


@pytest.mark.mpi
@pytest.mark.parametrize("name", SYSTEMS)
def test_the_default_solves(world, name):
    """By the choice that is expected, whatever the number of ranks; it is told."""
    make, method, precond = SYSTEMS[name]
    matrix = sp.csr_matrix(make())
    A, b = distribute(matrix, world), right_hand_side(matrix)
    x, info = hs.solve(A, spread(A.layout, b))
    assert info.converged
    assert np.linalg.norm(b - matrix @ full(A.layout, x)) <= 1.01e-8 * np.linalg.norm(b)
    assert info.method.startswith(method) and info.precond.startswith(precond)
    assert f"{method}" in info.reason and info.reason.startswith("the matrix is ")


@pytest.mark.mpi
def test_a_reason_calls_symmetric_what_is(world):
    """And not what has had rows, but no columns, replaced by those of the identity."""
    matrix = sp.lil_array(grid(12))
    matrix[[5, 17]] = 0
    matrix[[5, 17], [5, 17]] = 1
    A = distribute(sp.csr_matrix(matrix), world)
    x, info = hs.solve(A, torch.ones(A.layout.n_owned, dtype=A.dtype))
    assert "symmetric but for rows of a diagonal alone, its diagonal positive" in info.reason
    residual = np.ones(144) - matrix @ full(A.layout, x)
    assert np.linalg.norm(residual) <= 1.01e-8 * 12


@pytest.mark.mpi
@pytest.mark.parametrize("name", ["spd", "convection", "saddle", "units", "indefinite"])
@pytest.mark.parametrize("transposed", [False, True])
def test_gradients(world, name, transposed):
    """Beside the dense formula: of b, and of the values."""
    matrix = sp.csr_matrix(SYSTEMS[name][0]())
    A = distribute(matrix, world)
    A = A.with_values(A.values.clone().requires_grad_())
    rng = np.random.default_rng(3)
    b, c = rng.standard_normal((2, matrix.shape[0]))
    mine = spread(A.layout, b).requires_grad_()
    x, info = hs.solve(A.T if transposed else A, mine, rtol=1e-11)
    assert info.converged
    A.layout.dot(x, spread(A.layout, c)).backward()
    assert max(info.iterations, info.adjoint.iterations) <= 3  # by the factors, or their transpose
    K = matrix.toarray().T if transposed else matrix.toarray()
    solution, y = np.linalg.solve(K, b), np.linalg.solve(K.T, c)
    scale = np.abs(y).max()
    np.testing.assert_allclose(full(A.layout, mine.grad), y, rtol=1e-5, atol=1e-8 * scale)
    expected = -np.outer(y, solution)
    row, column = A.entries()
    expected = (expected.T if transposed else expected)[row, column]
    scale = np.abs(expected).max(initial=1e-300)
    np.testing.assert_allclose(A.values.grad.numpy(), expected, rtol=1e-4, atol=1e-8 * scale)


@pytest.mark.mpi
def test_the_next_rung(world, monkeypatch):
    """Of a choice that does not pay: x is kept, iterations are counted through, all is told."""
    from hpc_sla.linear import set_up
    from hpc_sla.linear.ladder import Rung

    rungs = [
        Rung("minres", "none", "to see it fail", 15),
        Rung("minres", "schur", "has no zeros"),
        Rung("minres", "jacobi", "the last", 15),
    ]
    monkeypatch.setattr(set_up, "rungs_for", lambda *_: list(rungs))
    matrix = grid(40)
    A, b = distribute(matrix, world), right_hand_side(matrix)
    seen = []
    solver = hs.LinearSolver(A)
    _, info = solver.solve(spread(A.layout, b), callback=lambda i, norm: seen.append((i, norm)))
    assert info.converged and info.precond == "jacobi"
    assert "that is too slow: minres + schur; that cannot be set up (" in info.reason
    assert info.reason.endswith("): minres + jacobi")
    left = next(k for k in range(1, len(seen)) if seen[k][0] == seen[k - 1][0])
    assert 15 <= seen[left][0] <= ROOM * 15 and info.iterations == seen[-1][0]
    # From where the one before it ended: a step from 0 would not get there.
    assert seen[left + 1][1] <= 1.001 * seen[left - 1][1] < 0.5 * seen[1][1]
    assert len(info.residual_history) == info.iterations + 1
    # The next solve goes by what served, and tells how it came to that.
    _, again = solver.solve(spread(A.layout, b))
    assert again.precond == "jacobi" and again.reason == info.reason
    # One limit for all of them.
    _, limited = hs.solve(A, spread(A.layout, b), max_iterations=seen[left][0] + 2)
    assert limited.status == "max_iterations" and limited.iterations == seen[left][0] + 2


@pytest.mark.mpi
@pytest.mark.parametrize("second", [("minres", "block_jacobi"), ("bicgstab", "block_jacobi")])
def test_resumed_on_another_rung_by_a_solver_that_is_set_up(world, folder, monkeypatch, second):
    """What it knew of steps of the first rung says nothing of those of the second."""
    from hpc_sla.linear import set_up
    from hpc_sla.linear.ladder import Rung

    rungs = [Rung("cg", "none", "to see it fail", 15), Rung(*second, "then")]
    monkeypatch.setattr(set_up, "rungs_for", lambda *_: list(rungs))
    matrix = grid(40)
    A, b = distribute(matrix, world), spread(distribute(matrix, world).layout, np.ones(1600))
    x, info = hs.solve(A, b)
    assert info.converged and info.method == second[0]
    assert info.iterations > 30  # ranks take a few to hear that they are to stop
    first, at = hs.Checkpoint(folder / "solve.h5"), 17
    callback = lambda i, norm: i == at and first.request_stop()  # noqa: E731
    _, told = hs.solve(A, b, checkpoint=first, callback=callback)
    assert told.status == "preempted" and told.method == second[0]
    solver = hs.LinearSolver(A).set_up()
    assert solver.method.name == "cg"
    again = hs.Checkpoint(folder / "solve.h5", resume=True)
    y, resumed = solver.solve(b, checkpoint=again)
    assert resumed.method == second[0] and resumed.iterations == info.iterations
    assert everywhere(world, torch.equal(x, y))


@pytest.mark.mpi
def test_a_gradient_climbs_too(world, monkeypatch):
    """A right-hand side that the choice serves, and a cotangent that it does not."""
    from hpc_sla.linear import set_up
    from hpc_sla.linear.ladder import Rung

    rungs = [Rung("gmres", "none", "at first", 15), Rung("fgmres", "direct", "then")]
    monkeypatch.setattr(set_up, "rungs_for", lambda *_: list(rungs))
    matrix = wind(25)
    A = distribute(matrix, world)
    b = spread(A.layout, matrix @ np.ones(625)).requires_grad_()
    ones = spread(A.layout, np.ones(625))
    x, info = hs.solve(A, b, x0=ones)
    assert info.converged and info.iterations == 0 and info.precond == "none"
    c = np.random.default_rng(2).standard_normal(625)
    A.layout.dot(x, spread(A.layout, c)).backward()
    expected = spla.spsolve(matrix.T.tocsc(), c)
    np.testing.assert_allclose(full(A.layout, b.grad), expected, rtol=1e-5, atol=1e-7)
    assert info.adjoint.precond.startswith("direct")


@pytest.mark.mpi
def test_multigrid_that_sees_an_indefinite_matrix(world):
    """Is not iterated with."""
    matrix = sp.csr_matrix(grid(28, 3) - 0.3 * sp.eye_array(28**3))
    A, b = distribute(matrix, world), right_hand_side(matrix)
    _, info = hs.solve(A, spread(A.layout, b), max_iterations=1)
    assert "cg + amg; that cannot be set up (its coarsest level shows" in info.reason


@pytest.mark.mpi
@pytest.mark.parametrize(
    ("n", "method", "precond"), [(12, "cg", "jacobi"), (60, "cg", "amg"), (60, "minres", "amg")]
)
def test_a_method_that_is_named(world, n, method, precond):
    """It stays, and gets a preconditioner worth its set-up."""
    A = distribute(grid(n), world)
    _, info = hs.solve(A, spread(A.layout, np.ones(n * n)), method)
    assert info.converged and info.method == method and info.precond == precond


@pytest.mark.mpi
def test_a_preconditioner_that_is_named(world):
    A = distribute(wind(12), world)
    _, info = hs.solve(A, spread(A.layout, np.ones(144)), precond="jacobi")
    assert info.converged and (info.method, info.precond) == ("bicgstab", "jacobi")


@pytest.mark.mpi
def test_several_right_hand_sides(world):
    matrix = wind(12)
    A = distribute(matrix, world)
    b = np.random.default_rng(4).standard_normal((144, 3))
    x, info = hs.solve(A, spread(A.layout, b))
    assert info.converged and len(info.columns) == 3
    np.testing.assert_allclose(full(A.layout, x), spla.spsolve(matrix.tocsc(), b), rtol=1e-6)


@pytest.mark.mpi
def test_an_inconsistent_system_is_not_solved(world):
    """Of no solution there is no `converged`."""
    matrix = neumann(12)
    A = distribute(matrix, world)
    x, info = hs.solve(A, spread(A.layout, np.ones(144)), max_iterations=500)
    assert not info.converged
    assert everywhere(world, bool(torch.isfinite(x).all()))


@pytest.mark.mpi
def test_rectangular(world):
    matrix = sp.csr_matrix(np.arange(12.0).reshape(4, 3) + np.eye(4, 3))
    A = hs.DSparseMatrix.from_scipy(matrix if world.rank == 0 else None, world, "contiguous")
    _, info = hs.solve(A, torch.ones(A.layout.n_owned, dtype=torch.float64), rtol=1e-6)
    assert info.converged and info.method == "lsqr" and "4 x 3" in info.reason


@pytest.mark.mpi
def test_view(world):
    A = distribute(grid(12), world)
    solver = hs.LinearSolver(A)
    text = solver.view()
    for part in (
        "symmetric, to the last bit",
        "positive diagonal",
        "chosen: the matrix is symmetric, its diagonal positive, and cheap to factorise: fgm",
        "where it fails: cg + amg, ",
        "gathered on rank 0",
    ):
        assert part in text, text
    assert everywhere(world, text == world.comm.bcast(text))


@pytest.mark.mpi
def test_an_update_chooses_again(world):
    A = distribute(grid(12), world)
    solver = hs.LinearSolver(A)
    b = spread(A.layout, np.ones(144))
    solver.solve(b)
    assert "diagonal positive" in solver.reason
    shifted = A.with_values(A.values.clone())
    where = A.pattern.owned.diagonal
    shifted.values[where] -= 4.5
    solver.update(shifted)
    x, info = solver.solve(b)
    assert info.converged and "diagonal negative" in info.reason
    expected = spla.spsolve((grid(12) - 4.5 * sp.eye_array(144)).tocsc(), np.ones(144))
    np.testing.assert_allclose(full(A.layout, x), expected, rtol=1e-6, atol=1e-9)


def outcome(norms, target=1e-8):
    found = Outcome(target, norms[0])
    for norm in norms[1:]:
        found.iterated(norm, None, 10**6)
    return found


@pytest.mark.parametrize(
    ("rate", "patience", "given_up_at"),
    [
        (0.5, 100, None),
        (0.9, 100, None),  # 175 iterations
        (0.95, 100, 100),  # 359
        (0.999, 100, 35),
        (1.0, 30, 15),
    ],
)
def test_hopeless(rate, patience, given_up_at):
    """By a steady rate."""
    norms = [rate**k for k in range(ROOM * patience + 1)]
    left = None
    for k in range(1, len(norms)):
        if norms[k] <= 1e-8:
            break
        if k % 5 == 0 and hopeless(patience, k, [outcome(norms[: k + 1])]):
            left = k
            break
    assert left == given_up_at


def test_columns_that_ended_before_at_other_times():
    """A rung that one right-hand side left early, and another late."""
    early, late = (outcome([0.5**k for k in range(n)], 1e-20) for n in (4, 31))
    for one in (early, late):
        for k in range(40):
            one.iterated(1e-3 * 0.6**k, None, 10**6)
    assert not hopeless(60, 40, [early, late])
    for one in (early, late):
        for _ in range(40):
            one.iterated(1e-3, None, 10**6)
    assert hopeless(60, 80, [early, late])


def test_a_residual_that_rises_first():
    """As that of conjugate gradients does: what counts is how it falls then."""
    norms = [*(10.0 ** (k / 10) for k in range(20)), *(100 * 0.75**k for k in range(1, 120))]
    history = outcome(norms[:36])
    assert history.history[-1] > 1.0 > 1e-8 and not hopeless(100, 35, [history])


def test_hopeless_at_the_latest():
    """However well it looks."""
    norms = [0.99**k for k in range(20)] + [0.5] * 41
    norms = [n * 0.9999**k for k, n in enumerate(norms)]
    assert hopeless(30, 60, [outcome(norms, 1e-300)])


@pytest.mark.mpi
def test_nearly_consistent(world):
    """No x of 10^13, whose residual rounding makes: the next choice has its turn."""
    matrix = neumann(16)
    b = matrix @ np.random.default_rng(1).standard_normal(256)
    b = b / np.linalg.norm(b) + 1e-4 / 16
    A = distribute(matrix, world)
    x, info = hs.solve(A, spread(A.layout, b))
    assert not info.converged
    assert np.linalg.norm(b - matrix @ full(A.layout, x)) <= 1e-3 * np.linalg.norm(b)


@pytest.mark.mpi
def test_columns_that_leave_a_rung_at_different_steps(world, monkeypatch):
    from hpc_sla.linear import set_up
    from hpc_sla.linear.ladder import Rung

    rungs = [
        Rung("cg", "none", "", 200),
        Rung("minres", "none", "", 60),
        Rung("fgmres", "direct", ""),
    ]
    monkeypatch.setattr(set_up, "rungs_for", lambda *_: list(rungs))
    noise = sp.random_array((80, 80), density=0.1, rng=np.random.default_rng(7))
    matrix = sp.csr_matrix(noise + noise.T + 0.5 * sp.eye_array(80))
    A = distribute(matrix, world)
    b = np.random.default_rng(4).standard_normal((80, 3)) * [1.0, 1e3, 1e-3]
    b[:, 1] = matrix @ np.eye(80)[3]
    x, info = hs.solve(A, spread(A.layout, b))
    assert info.converged
    np.testing.assert_allclose(
        full(A.layout, x), spla.spsolve(matrix.tocsc(), b), rtol=1e-3, atol=1e-6
    )


@pytest.mark.mpi
@pytest.mark.parametrize("precond", ["amg", "auto"])
def test_an_update_that_keeps_multigrid_chooses_its_method_again(world, precond):
    A = distribute(grid(60), world)
    solver = hs.LinearSolver(A, precond=precond)
    b = spread(A.layout, np.ones(3600))
    solver.solve(b)
    if precond == "auto":
        solver.precond = hs.AMG().on(A)
    other = A.values.clone()
    row, column = A.entries()
    other[torch.from_numpy(column < row)] *= 0.8
    solver.update(A.with_values(other), keep="prolongators")
    _, info = solver.solve(b)
    assert info.converged and info.method == "bicgstab" and "not symmetric: bicg" in info.reason

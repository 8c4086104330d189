"""LinearSolver: what changes between its solves, and what must not reach them."""

import weakref

import numpy as np
import pytest
import scipy.sparse as sp
import torch

import hpc_sla as hs
from tests.collective import everywhere, full, spd_matrix, spread
from tests.linear.test_linear_solver import distributed, full_matrix, nonsymmetric


@pytest.mark.mpi
@pytest.mark.parametrize("wrong", ["diagonal", "inverse"])
def test_numbers_of_another_dtype_do_not_reach_the_loops(world, wrong):
    """Compiled loops take the dtype of b for that of all: they would read beyond the end."""
    A = distributed(world, spd_matrix(200, seed=5))
    single = A.diagonal().float()

    class Operator:
        layout = A.layout

        def matvec(self, x):
            return A @ x

        def diagonal(self):
            return single

    class Mine(hs.Preconditioner):
        symmetric = transposable = True

        def set_up(self, A):
            self.inverse = 1 / single

        def apply(self, r, out):
            return r * self.inverse

        apply_transpose = apply

    b = spread(A.layout, np.ones(200))
    given = (Operator(), "jacobi") if wrong == "diagonal" else (A, Mine())
    for method in ("cg", "minres", "gmres"):
        with pytest.raises(hs.InputError, match="float32"):
            hs.solve(given[0], b, method=method, precond=given[1])


@pytest.mark.mpi
def test_a_solver_without_a_dtype_follows_b(world):
    A = distributed(world, sp.diags_array(np.linspace(1, 5, 50)).tocsr())
    B = A.with_values(A.values.float())

    class Operator:
        layout = A.layout

        def matvec(self, x):
            return (A if x.dtype == torch.float64 else B) @ x

    solver = hs.LinearSolver(Operator(), "cg", "none")
    b = spread(A.layout, np.ones(50))
    for dtype, rtol in ((torch.float64, 1e-8), (torch.float32, 1e-5), (torch.float64, 1e-8)):
        x, info = solver.solve(b.to(dtype))
        assert x.dtype == dtype and info.converged and info.rtol == rtol


@pytest.mark.mpi
def test_rows_decoupled_in_place(world):
    """Dirichlet rows that come with the values: their columns stay, so cg needs their x first."""
    n = 60
    line = sp.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(n, n)).tocsr()
    A = distributed(world, 1e3 * line)
    solver = hs.LinearSolver(A, "cg", "jacobi")
    b = spread(A.layout, np.ones(n))
    assert solver.solve(b)[1].converged
    row, column = A.entries()
    ends = torch.from_numpy((row == 0) | (row == n - 1))
    A.values[ends] = 0.0
    A.values[ends & torch.from_numpy(row == column)] = 1.0
    x, info = solver.solve(b)
    assert info.converged
    expected = np.linalg.solve(full_matrix(world, A), np.ones(n))
    np.testing.assert_allclose(full(A.layout, x), expected, rtol=1e-6)


@pytest.mark.mpi
def test_changes_of_inference_tensors_are_seen(world):
    A = distributed(world, nonsymmetric(30))
    with torch.inference_mode():
        A = A.with_values(A.values.clone())
        solver = hs.LinearSolver(A, "gmres", "jacobi", rtol=1e-10)
        b = spread(A.layout, np.ones(30))
        first, _ = solver.solve(b)
        A.values.mul_(2)
        second, _ = solver.solve(b)
        back, _ = solver.solve_transpose(b)
    torch.testing.assert_close(2 * second, first)
    torch.testing.assert_close(A.T @ back, b)


@pytest.mark.mpi
def test_a_preconditioner_that_differs_by_rank(world):
    """What decides the method must be the same everywhere: an error, and no rank waits."""
    A = distributed(world, spd_matrix(30, seed=5))

    class Odd(hs.Preconditioner):
        transposable = True

        def set_up(self, A):
            self.symmetric = world.rank == 0

        def apply(self, r, out):
            return r

        apply_transpose = apply

    if world.size > 1:
        with pytest.raises(hs.InputError, match="symmetric"):
            hs.solve(A, spread(A.layout, np.ones(30)), method="auto", precond=Odd())


@pytest.mark.mpi
def test_a_bad_right_hand_side_changes_nothing(world):
    A = distributed(world, spd_matrix(30, seed=5))
    solver = hs.LinearSolver(A, "auto", "jacobi")
    b = spread(A.layout, np.ones(30))
    solver.solve(b * np.nan)
    _, info = solver.solve(b)
    assert info.converged and solver.method.name == "cg" and info.reason.endswith(": cg")


@pytest.mark.mpi
def test_a_checkpoint_holds_nothing(world, folder):
    """A solver goes with its last name, though a graph made by it is still there."""
    A = distributed(world, spd_matrix(30, seed=5))
    v = A.values.clone().requires_grad_()
    solver = hs.LinearSolver(A.with_values(v), "cg", "jacobi")
    b = spread(A.layout, np.ones(30))
    x, _ = solver.solve(b, checkpoint=hs.Checkpoint(str(folder / "c.h5"), every="1000s"))
    solver.update(A.with_values(v * x.sum().detach() + 0 * x.sum() * v))
    solver.solve(b)
    gone = weakref.ref(solver)
    del solver, x
    assert everywhere(world, gone() is None)


@pytest.mark.mpi
def test_update_leaves_what_was_passed_as_it_is(world):
    A = distributed(world, spd_matrix(60, seed=5))
    M = hs.AMG().on(A)
    solver = hs.LinearSolver(A, "cg", M).set_up()
    before = (
        M.levels,
        M.apply(A.values.new_ones(A.layout.n_owned), A.values.new_empty(A.layout.n_owned)),
    )
    solver.update(A.with_values(A.values * 4), keep="prolongators")
    after = M.apply(A.values.new_ones(A.layout.n_owned), A.values.new_empty(A.layout.n_owned))
    assert solver.precond is not M and torch.equal(before[1], after)
    with pytest.raises(hs.InputError, match="bogus"):
        hs.LinearSolver(A, "cg", "amg").update(A, keep="bogus")


@pytest.mark.mpi
@pytest.mark.parametrize("method", ["gmres", "lsqr"])
def test_changes_that_nobody_counts_reach_products_with_the_transpose(world, method):
    matrix = nonsymmetric(40)
    A = distributed(world, matrix)
    solver = hs.LinearSolver(A, method, "none", rtol=1e-12)
    b = spread(A.layout, np.linspace(1, 2, 40))
    solver.solve_transpose(b)
    values = A.values
    values.data[:] = values * torch.linspace(1, 2, len(values), dtype=values.dtype)
    changed = full_matrix(world, A)
    x, info = solver.solve_transpose(b)
    assert info.converged
    found = full(A.layout, x)
    np.testing.assert_allclose(changed.T @ found, np.linspace(1, 2, 40), rtol=1e-9)
    x, info = solver.solve(b)
    assert info.converged
    np.testing.assert_allclose(changed @ full(A.layout, x), np.linspace(1, 2, 40), rtol=1e-9)

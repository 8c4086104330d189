"""eigsh: pairs beside LAPACK's, statuses that tell the truth, two reductions an iteration."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch

import hpc_sla as hs
from hpc_sla.eigen import lobpcg
from hpc_sla.eigen.problem import Constraints
from hpc_sla.eigen.space import inner
from hpc_sla.errors import UnsuitableError
from tests.collective import dense, distribute, everywhere, full, on, spread
from tests.eigen.pencils import MATRICES, SMALL, exact, grid, mass, neumann, poisson

pytestmark = pytest.mark.mpi


def on_pattern(A: hs.DSparseMatrix, matrix: sp.csr_matrix) -> hs.DSparseMatrix:
    """Another matrix, of no more entries, on A's pattern."""
    rows, columns = A.entries()
    data = matrix.toarray()[rows, columns]
    return A.with_values(torch.from_numpy(data.astype(str(A.dtype).removeprefix("torch."))))


def check(A, w, V, info, k, which="smallest", B=None, rtol=1e-7):
    """Against dense matrices that every rank holds."""
    matrix = dense(A)
    mass_matrix = np.eye(len(matrix)) if B is None else dense(B)
    expected = exact(sp.csr_matrix(matrix), k, which, sp.csr_matrix(mass_matrix))
    np.testing.assert_allclose(w.numpy(), expected, rtol=rtol, atol=rtol * abs(expected).max())
    vectors = full(A.layout, V)
    eps = torch.finfo(A.dtype).eps
    assert abs(vectors.T @ mass_matrix @ vectors - np.eye(k)).max() < 1e3 * eps
    residual = np.linalg.norm(matrix @ vectors - mass_matrix @ vectors * w.numpy(), axis=0)
    told = [one.residual_norm for one in info.columns]
    np.testing.assert_allclose(told, residual, rtol=1e-3, atol=100 * eps * np.linalg.norm(matrix))
    assert len(info.columns) == k and all(one.converged for one in info.columns)


@pytest.mark.parametrize("which", ["smallest", "largest"])
@pytest.mark.parametrize("name", MATRICES)
def test_pairs_beside_lapack(world, name, which):
    A = distribute(MATRICES[name](), world)
    precond = "jacobi" if (name, which) == ("scaled", "smallest") else None
    w, V, info = hs.eigsh(A, k=6, which=which, precond=precond)
    assert info.method == "lobpcg" and info.converged and info.iterations > 3
    check(A, w, V, info, 6, which)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("partition", ["metis", "all on the last"])
def test_small_matrices_and_ranks_without_rows(world, name, partition):
    A = distribute(SMALL[name](), world, partition)
    k = min(3, A.shape[0])
    for which in ("smallest", "largest"):
        w, V, info = hs.eigsh(A, k=k, which=which)
        assert info.method == "dense"
        check(A, w, V, info, k, which)
    with pytest.raises(hs.InputError, match="at most"):
        hs.eigsh(A, k=A.shape[0] + 1)


@pytest.mark.parametrize("size", [(9, 8), (16, 13)], ids=["dense", "lobpcg"])
def test_where_other_ranks_lapacks_say_otherwise(world, monkeypatch, size):
    """Processors differ in rounding and in the signs of vectors: rank 0's counts."""
    A = distribute(grid(*size), world)
    deflate = hs.eigsh(A, k=2)[1]
    values, vectors, _ = hs.eigsh(A, k=4, deflate=deflate)
    sign = -1.0 if world.rank % 2 else 1.0
    for name in ("eigh", "svd", "qr"):
        lapack = getattr(torch.linalg, name)

        def other(*arguments, lapack=lapack, **options):
            return [sign * found for found in lapack(*arguments, **options)]

        monkeypatch.setattr(f"torch.linalg.{name}", other)
    w, V, info = hs.eigsh(A, k=4, deflate=deflate)
    assert info.converged and torch.equal(w, values) and everywhere(world, torch.equal(V, vectors))


def test_ranks_that_had_gone_on_go_back_alike(world, monkeypatch):
    """Rank 0 finds that W lies in [X | P], where others have taken their next pairs already."""
    A, seen = distribute(grid(16, 13), world), []
    if world.rank == 0:
        monkeypatch.setattr(lobpcg, "_MIXED", 2.0)
    measured = lobpcg.Lobpcg._drift

    def noted(self, *grams):
        seen.append(self.values.clone())
        return measured(self, *grams)

    monkeypatch.setattr(lobpcg.Lobpcg, "_drift", noted)
    w, V, info = hs.eigsh(A, k=4, precond="jacobi")
    check(A, w, V, info, 4)
    found = world.comm.allgather(torch.stack(seen))
    assert all(torch.equal(one, found[0]) for one in found)


@pytest.mark.parametrize("precond", ["jacobi", "additive_schwarz", "amg"])
def test_preconditioners(world, precond):
    A = distribute(grid(14, 16), world)
    w, V, info = hs.eigsh(A, k=4, precond=precond)
    check(A, w, V, info, 4)
    assert info.precond.startswith(precond)
    most = 50 if precond != "jacobi" else hs.eigsh(A, k=4)[2].iterations + 5
    assert info.iterations < most


def test_singular_with_multigrid(world):
    A = distribute(neumann(25, 20), world)
    w, V, info = hs.eigsh(A, k=5, precond="amg")
    check(A, w, V, info, 5)
    assert abs(w[0]) < 1e-13 and info.iterations < 30


@pytest.mark.parametrize("error", [UnsuitableError, hs.InputError])
def test_only_a_matrix_unfit_for_multigrid_goes_without(world, monkeypatch, error):
    def refuse(self, A):
        raise error("refused")

    A = distribute(grid(25, 24), world)
    monkeypatch.setattr(hs.AMG, "set_up", refuse)
    if error is UnsuitableError:
        assert hs.eigsh(A, k=2)[2].precond == "none"
        return
    with pytest.raises(hs.InputError, match="refused"):
        hs.eigsh(A, k=2)


@pytest.mark.parametrize(("which", "precond"), [("smallest", "amg"), ("largest", None)])
def test_generalised(world, which, precond):
    matrix = grid(13, 11)
    A = distribute(matrix, world)
    B = on_pattern(A, mass(matrix))
    w, V, info = hs.eigsh(A, k=5, which=which, B=B, precond=precond)
    assert info.method == "lobpcg"
    check(A, w, V, info, 5, which, B)
    small = distribute(grid(4, 4), world)
    B = on_pattern(small, mass(grid(4, 4)))
    check(small, *hs.eigsh(small, k=5, which=which, B=B), 5, which, B)


@pytest.mark.parametrize("size", [(4, 6), (10, 12)], ids=["dense", "lobpcg"])
@pytest.mark.parametrize("partition", ["metis", "cyclic", "all on the last"])
def test_patterns_of_their_own(world, size, partition):
    """A lumped mass, and one with more entries than A: each in a layout of its own."""
    matrix = grid(*size)
    n = matrix.shape[0]
    lumped = sp.csr_matrix(sp.diags_array(np.linspace(1.0, 2.0, n)))
    full_mass = mass(sp.csr_matrix(matrix @ matrix))
    owner = np.random.default_rng(4).integers(0, world.size, n)
    if partition != "metis":
        owner = np.arange(n) % world.size if partition == "cyclic" else np.full(n, world.size - 1)
    A = hs.DSparseMatrix.from_scipy(matrix if world.rank == 0 else None, world, owner)
    for other in (lumped, full_mass):
        B = hs.DSparseMatrix.from_scipy(other if world.rank == 0 else None, world, owner)
        values = B.values.clone().requires_grad_()
        w, V, _ = hs.eigsh(A, k=3, B=B.with_values(values))
        np.testing.assert_allclose(w.detach().numpy(), exact(matrix, 3, B=other), rtol=1e-8)
        vectors = full(A.layout, V.detach())
        np.testing.assert_allclose(vectors.T @ other @ vectors, np.eye(3), atol=1e-10)
        w.sum().backward()
        along = world.all_sum((values.grad * values.detach()).sum())  # of degree -1 in B
        np.testing.assert_allclose(along.item(), -w.sum().item(), rtol=1e-7)


def test_rows_on_other_ranks(world):
    matrix = grid(10, 12)
    there = np.zeros(120, dtype=int), np.full(120, world.size - 1)
    A, B = (
        hs.DSparseMatrix.from_scipy(matrix if world.rank == 0 else None, world, owner)
        for owner in there
    )
    if world.size > 1:
        with pytest.raises(hs.InputError, match="partition="):
            hs.eigsh(A, k=2, B=B.with_values(B.values.clone().requires_grad_()))
    w, _, _ = hs.eigsh(A, k=2, B=B)
    np.testing.assert_allclose(w.numpy(), 1.0, rtol=1e-10)
    # Each by its own graph, as from_scipy leaves two matrices; only A requires grad.
    lumped = sp.csr_matrix(sp.diags_array(np.linspace(1.0, 2.0, 120)))
    B = hs.DSparseMatrix.from_scipy(lumped if world.rank == 0 else None, world)
    values = A.values.clone().requires_grad_()
    w, V, _ = hs.eigsh(A.with_values(values), k=3, B=B)
    np.testing.assert_allclose(w.detach().numpy(), exact(matrix, 3, B=lumped), rtol=1e-8)
    vectors = full(A.layout, V.detach())
    np.testing.assert_allclose(vectors.T @ lumped @ vectors, np.eye(3), atol=1e-10)
    w.sum().backward()
    along = world.all_sum((values.grad * values.detach()).sum())  # of degree 1 in A
    np.testing.assert_allclose(along.item(), w.sum().item(), rtol=1e-7)
    small = distribute(grid(4, 4), world)
    with pytest.raises(hs.InputError, match="16 x 16"):
        hs.eigsh(A, k=2, B=small)


def test_many_pairs_and_no_guard(world):
    A = distribute(poisson(24), world)
    w, V, info = hs.eigsh(A, k=50, precond="amg")
    assert info.method == "lobpcg"
    check(A, w, V, info, 50)
    w, V, info = hs.eigsh(A, k=3, precond="amg", guard=0)
    check(A, w, V, info, 3)


@pytest.mark.parametrize("n", [14, 20])
def test_single_precision_of_a_singular_matrix(world, n):
    """What rounding leaves of the coarsest eigenvalue 0 is none to divide by."""
    random = np.random.default_rng(0)
    graph = sp.triu(grid(n, n), 1).tocsr()
    graph.data = random.uniform(0.5, 1.5, graph.nnz)
    graph = graph + graph.T
    matrix = sp.csr_matrix(sp.diags_array(np.ravel(graph.sum(axis=1))) - graph)
    w, _, info = hs.eigsh(distribute(matrix.astype(np.float32), world), k=4, precond="amg")
    assert info.converged and info.iterations < 40
    np.testing.assert_allclose(w.numpy(), exact(matrix, 4), atol=1e-5)


def test_single_precision(world):
    A = distribute(grid(14, 16).astype(np.float32), world)
    for precond in (None, "amg"):
        w, V, info = hs.eigsh(A, k=4, precond=precond)
        assert w.dtype == V.dtype == torch.float32
        check(A, w, V, info, 4, rtol=1e-5)


def test_given_vectors_are_deflated(world):
    """The next pairs, one call after the other; an awkward basis of the first ones."""
    matrix = grid(12, 13)
    A = distribute(matrix, world)
    B = on_pattern(A, mass(matrix))
    expected = exact(matrix, 8, B=mass(matrix))
    w, V, _ = hs.eigsh(A, k=4, B=B, tol=1e-10)
    mixed = V @ torch.tensor(np.random.default_rng(3).standard_normal((4, 5)))
    w, U, info = hs.eigsh(A, k=4, B=B, deflate=mixed)
    assert info.converged
    np.testing.assert_allclose(w.numpy(), expected[4:], rtol=1e-7)
    assert abs(full(A.layout, V).T @ mass(matrix) @ full(A.layout, U)).max() < 1e-10
    small = distribute(grid(4, 4), world)
    _, V, _ = hs.eigsh(small, k=2)
    w, _, _ = hs.eigsh(small, k=3, deflate=V)
    np.testing.assert_allclose(w.numpy(), exact(grid(4, 4), 5)[2:], rtol=1e-12)


def test_a_good_guess_saves_iterations(world):
    A = distribute(grid(10, 11), world)
    w, V, cold = hs.eigsh(A, k=3)
    kept = V.clone()
    again, _, warm = hs.eigsh(A, k=3, x0=V)
    assert everywhere(world, torch.equal(V, kept))
    assert warm.iterations < 0.6 * cold.iterations
    np.testing.assert_allclose(again.numpy(), w.numpy(), rtol=1e-12)
    hs.eigsh(A, k=3, x0=torch.cat([V[:, :1], V[:, :1]], dim=1))  # dependent
    hs.eigsh(A, k=2, x0=V[:, 0])


@pytest.mark.parametrize("precond", [None, "jacobi"])
@pytest.mark.parametrize("generalised", [False, True])
def test_two_reductions_an_iteration(world, precond, generalised, monkeypatch):
    A = distribute(grid(18, 17), world)
    B = on_pattern(A, mass(grid(18, 17))) if generalised else None
    count = [0]
    reduce = world.transport.all_reduce_sum

    def counted(tensor):
        count[0] += 1
        reduce(tensor)

    monkeypatch.setattr(world.transport, "all_reduce_sum", counted)

    def after(iterations):
        count[0] = 0
        info = hs.eigsh(A, k=4, B=B, precond=precond, tol=1e-14, max_iterations=iterations)[2]
        assert info.iterations == iterations and info.status == "max_iterations"
        return count[0]

    assert after(14) - after(4) == 20


def test_one_exchange_for_all_columns(world, monkeypatch):
    A = distribute(grid(18, 17), world)
    widths = []
    start = A.pattern.plan.start_exchange
    monkeypatch.setattr(
        A.pattern.plan,
        "start_exchange",
        lambda x, *rest: widths.append(tuple(x.shape[1:])) or start(x, *rest),
    )

    def after(iterations):
        widths.clear()
        hs.eigsh(A, k=4, tol=1e-14, max_iterations=iterations)
        return len(widths)

    assert after(14) - after(4) == 10 and (6,) in widths


def test_statuses_tell_the_truth(world):
    A = distribute(grid(10, 12), world)
    w, V, info = hs.eigsh(A, k=5, max_iterations=12, tol=1e-3)
    statuses = [one.status for one in info.columns]
    assert info.status == "max_iterations" and info.iterations == 12
    matrix, vectors = grid(10, 12), full(A.layout, V)
    residual = np.linalg.norm(matrix @ vectors - vectors * w.numpy(), axis=0)
    np.testing.assert_allclose([one.residual_norm for one in info.columns], residual, rtol=1e-6)
    met = residual <= 1e-3 * abs(w.numpy())
    assert [status == "converged" for status in statuses] == list(met)
    assert not met.all()
    heard = []
    *_, info = hs.eigsh(A, k=2, callback=lambda i, r: heard.append(r))
    assert len(heard) >= info.iterations and len(info.residual_history) >= info.iterations
    # Beyond what rounding allows nothing is asked for.
    *_, info = hs.eigsh(A, k=2, tol=1e-16)
    assert info.converged and max(one.residual_norm for one in info.columns) < 1e-13


def test_matrix_free(any_world):
    A = distribute(grid(10, 11), any_world)

    class Shifted:
        layout, dtype = A.layout, torch.float64

        def matvec(self, x):
            return A @ x + x

        def diagonal(self):
            return A.diagonal() + 1

    w, _, info = hs.eigsh(Shifted(), k=3, precond="jacobi")
    assert info.converged
    np.testing.assert_allclose(w.numpy(), exact(grid(10, 11), 3) + 1, rtol=1e-9)


@pytest.mark.parametrize(
    "precond", ["nonsense", "amg:nonsense=1", "schur:inner=nonsense", 3, hs.Jacobi]
)
def test_a_preconditioner_that_is_none_is_refused_where_none_is_needed(world, precond):
    """Few rows are solved densely."""
    A = distribute(sp.diags_array(np.arange(1.0, 31.0)).tocsr(), world)
    with pytest.raises(hs.InputError, match=r"precond|nonsense"):
        hs.eigsh(A, k=2, precond=precond)
    assert hs.eigsh(A, k=2, precond="jacobi")[2].method == "dense"


def test_bad_input(world):
    A = distribute(grid(12, 10), world)
    skew = distribute(sp.csr_matrix(sp.triu(grid(12, 10))), world)
    negative = on_pattern(A, -1.0 * sp.eye_array(120).tocsr())
    swaps = sp.csr_matrix(sp.kron(sp.eye_array(60), np.array([[1.0, 2.0], [2.0, 1.0]])))
    saddle = on_pattern(A, swaps)
    mixed = on_pattern(A, sp.csr_matrix(sp.diags_array(np.linspace(-1, 1, 120))))
    short = torch.ones((A.layout.n_owned + 1, 2), dtype=torch.float64)
    for options, told in [
        ({"k": 0}, "k: is 0"),
        ({"guard": -1}, "guard"),
        ({"which": "middle"}, "which"),
        ({"max_iterations": 2.5}, "max_iterations: 2.5 is not a whole number"),
        ({"max_iterations": float("nan")}, "max_iterations"),
        ({"throw": "no"}, "throw: 'no' is neither True nor False"),
        ({"tol": 0.0}, "tol"),
        ({"B": negative}, "negative entries on the diagonal"),
        ({"B": saddle}, "B: is not positive definite"),
        ({"B": mixed, "k": 3}, "positive definite"),
        ({"B": skew}, "B:"),
        ({"x0": short}, "x0"),
        ({"x0": short[1:] * np.nan}, "x0: has entries that are not finite"),
        ({"deflate": short[1:] * np.inf}, "deflate: has entries that are not finite"),
        ({"precond": lambda r: r * np.nan}, "precond: .* not finite"),
        ({"deflate": short}, "deflate"),
        ({"precond": "amgx"}, "amgx"),
    ]:
        with pytest.raises(hs.InputError, match=told):
            hs.eigsh(A, **{"k": 4, **options})
    with pytest.raises(hs.InputError, match="not symmetric"):
        hs.eigsh(skew)
    if world.size > 1:
        with pytest.raises(hs.InputError, match="ranks differ"):
            hs.eigsh(A, k=2 + (world.rank == 1))


def test_constraints_are_orthonormal(world):
    """However long and dependent the vectors given."""
    from hpc_sla.eigen.problem import EigenProblem
    from hpc_sla.precond import Identity
    from hpc_sla.sparse.operators import as_operator

    A = distribute(grid(10, 10), world)
    problem = EigenProblem(as_operator(A), None, Identity(), 1, 2, 1.0, 1e-8, 10, torch.float64)
    rng = np.random.default_rng(8)
    given = rng.standard_normal((100, 3)) * [1e-8, 1.0, 1e9]
    given = np.concatenate([given, given[:, :1] * 7, np.zeros((100, 1))], axis=1)
    found = Constraints(problem, spread(A.layout, given))
    Y = full(A.layout, found.Y)
    assert found.count == 3
    np.testing.assert_allclose(Y.T @ Y, np.eye(3), atol=1e-14)


def test_inner_products_of_single_precision_are_summed_in_double(world):
    rng = np.random.default_rng(9)
    x, y = (rng.standard_normal((400, 2)).astype(np.float32) for _ in range(2))
    found = inner(on(world, x), on(world, y)).cpu().numpy()
    np.testing.assert_allclose(found, x.astype(float).T @ y.astype(float), rtol=1e-12)

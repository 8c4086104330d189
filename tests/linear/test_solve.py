"""solve: answers beside a direct solve, properties of all methods, what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.sparse as sp
import scipy.sparse.linalg as spla
import torch

import hpc_sla as hs
from hpc_sla.precond import Jacobi
from tests.collective import PARTITIONS, distribute_once, everywhere, full, spd_matrix, spread
from tests.methods import ENTRIES

pytestmark = pytest.mark.mpi

# lsqr and lsmr square the condition number: they have tests of its own in test_least_squares.
METHODS = [name for name in ENTRIES if name not in ("lsqr", "lsmr")]

SPD = {
    "scaled": lambda: spd_matrix(53, 20),
    "poisson": lambda: _poisson(9),
    "disconnected": lambda: sp.block_diag([spd_matrix(11, 21), spd_matrix(6, 22)], "csr"),
    "fewer rows than ranks": lambda: spd_matrix(2, 23, density=1.0),
    "one row": lambda: sp.csr_matrix(np.array([[4.0]])),
}


def _poisson(n):
    second = sp.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(n, n))
    return sp.csr_matrix(sp.kronsum(second, second))


@pytest.mark.parametrize("precond", ["none", "jacobi"])
@pytest.mark.parametrize("partition", PARTITIONS)
@pytest.mark.parametrize("name", SPD)
def test_equals_a_direct_solve(world, name, partition, precond):
    """Of every method with every preconditioner: see test_properties."""
    _equals_a_direct_solve(world, name, partition, precond)


@pytest.mark.parametrize(
    ("name", "partition", "precond"),
    [
        # Every matrix and every partition once: what they make of a matrix does not depend on the
        # transport, and of the transport only how it moves messages is to be seen here.
        ("scaled", "metis", "jacobi"),
        ("poisson", "cyclic", "none"),
        ("disconnected", "contiguous", "jacobi"),
        ("fewer rows than ranks", "metis", "none"),
        ("one row", "all on the last", "jacobi"),
        ("poisson", "all on the last", "jacobi"),
    ],
)
def test_equals_a_direct_solve_over_torch_distributed(torch_world, name, partition, precond):
    _equals_a_direct_solve(torch_world, name, partition, precond)


def _equals_a_direct_solve(any_world, name, partition, precond):
    matrix = SPD[name]()
    A = distribute_once(matrix, any_world, partition)
    b = np.random.default_rng(25).standard_normal(matrix.shape[0])
    x, info = hs.solve(A, spread(A.layout, b), precond=precond, rtol=1e-10)
    assert info.converged and info.status == "converged"
    ours = full(A.layout, x)
    residual = np.linalg.norm(b - matrix @ ours)
    np.testing.assert_allclose(info.residual_norm, residual, rtol=1e-3, atol=1e-11)
    np.testing.assert_allclose(info.relative_residual * np.linalg.norm(b), info.residual_norm)
    assert info.relative_residual <= 1e-10
    exact = spla.spsolve(matrix.tocsc(), b)
    assert np.linalg.norm(ours - exact) <= 1e-5 * np.linalg.norm(exact)


@pytest.mark.parametrize("method", METHODS)
def test_history_has_every_iteration_and_the_callback_hears_it(system, method):
    _, A, b, mine = system
    heard = []
    _, info = hs.solve(A, mine, method, "jacobi", callback=lambda i, r: heard.append((i, r)))
    assert heard == list(enumerate(info.residual_history))
    assert len(info.residual_history) == info.iterations + 1
    np.testing.assert_allclose(info.residual_history[0], np.linalg.norm(b))
    assert info.seconds > 0 and info.method == method and info.precond == "jacobi"


@pytest.mark.parametrize("precond", ["none", "jacobi"])
@pytest.mark.parametrize("method", METHODS)
def test_history_is_of_the_true_residuals(world, method, precond):
    """What a method carries along instead must say the same, long before rounding parts them."""
    matrix = SPD["poisson"]() / 8  # so that Richardson converges without a preconditioner
    A = distribute_once(matrix, world)
    b = np.random.default_rng(25).standard_normal(matrix.shape[0])
    mine = spread(A.layout, b)
    options = {"method": method, "precond": precond, "rtol": 1e-8}
    history = hs.solve(A, mine, **options)[1].residual_history
    for k in (1, 4, 9):
        x, info = hs.solve(A, mine, max_iterations=k, **options)
        assert info.iterations == k and not info.converged
        left = np.linalg.norm(b - matrix @ full(A.layout, x))
        np.testing.assert_allclose([info.residual_norm, history[k]], left, rtol=1e-8)


@pytest.mark.parametrize("method", METHODS)
def test_a_column_that_is_done_stays_as_it_is(world, method):
    """However long the one beside it takes."""
    A = distribute_once(SPD["poisson"](), world)
    wave = np.sin(np.pi * np.arange(1, 10) / 10)
    hard = np.random.default_rng(26).standard_normal(81)
    easy = np.outer(wave, wave).ravel() + 1e-4 * hard
    columns = [easy, hard]

    def solved(columns):
        x, info = hs.solve(A, spread(A.layout, np.stack(columns, axis=1)), method, rtol=1e-3)
        return full(A.layout, x), [one.iterations for one in info.columns]

    both, iterations = solved(columns)
    assert iterations[0] != iterations[1]
    first = int(np.argmin(iterations))
    alone, _ = solved([columns[first]] * 2)
    np.testing.assert_allclose(both[:, first], alone[:, first], rtol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_starts_from_x0_and_leaves_it_alone(system, method):
    matrix, A, b, mine = system
    exact = spread(A.layout, spla.spsolve(matrix.tocsc(), b))
    guess = exact.clone()
    x, info = hs.solve(A, mine, method=method, x0=guess, rtol=1e-6)
    assert info.iterations == 0 and info.converged
    assert everywhere(A.world, torch.equal(guess, exact) and torch.equal(x, exact))
    noisy = exact + 1e-3 * torch.ones_like(exact)
    x, info = hs.solve(A, mine, method=method, x0=noisy, rtol=1e-10)
    assert info.converged and info.iterations > 0
    np.testing.assert_allclose(full(A.layout, x), full(A.layout, exact), rtol=1e-6)


@pytest.mark.parametrize(
    ("dtype", "size"),
    [
        (np.float64, 2.0**-565),
        (np.float64, 2.0**600),
        (np.float32, 2.0**-76),
        (np.float32, 2.0**73),
    ],
)
def test_the_size_of_the_right_hand_side_does_not_matter(world, dtype, size):
    A = distribute_once(SPD["poisson"]().astype(dtype), world)
    b = spread(A.layout, np.ones(A.shape[0], dtype=dtype))
    x, one = hs.solve(A, b, "cg", "jacobi", rtol=1e-4)
    y, two = hs.solve(A, size * b, "cg", "jacobi", rtol=1e-4, x0=torch.zeros_like(b))
    assert one.converged and two.converged and one.iterations == two.iterations
    # By a power of two, so every iterate is the same to the last bit.
    assert everywhere(world, torch.equal(y / size, x))
    assert 0 < two.relative_residual <= 1e-4
    np.testing.assert_allclose(two.residual_norm, size * one.residual_norm, rtol=1e-12)


@pytest.mark.parametrize(("dtype", "size"), [(np.float64, 1.2e308), (np.float32, 2e38)])
def test_the_largest_numbers_are_numbers(world, dtype, size):
    A = distribute_once((SPD["poisson"]() * 1e6).astype(dtype), world)
    b = spread(A.layout, np.full(A.shape[0], size, dtype=dtype))
    x, info = hs.solve(A, b, "cg", "jacobi", rtol=1e-4)
    assert info.converged and info.iterations > 1 and everywhere(world, bool(x.isfinite().all()))


def test_norms_are_those_of_double_precision(system):
    matrix, A, b, mine = system
    x, info = hs.solve(A, mine, "cg", "jacobi", rtol=1e-3)
    residual = np.linalg.norm(b - matrix @ full(A.layout, x)) / np.linalg.norm(b)
    np.testing.assert_allclose(info.relative_residual, residual, rtol=2e-10)


@pytest.mark.parametrize("wrong", ["length", "dtype"])
def test_a_jacobi_of_another_matrix_is_refused(system, wrong):
    _, A, _, mine = system
    diagonal = A.diagonal()
    other = Jacobi.of(diagonal[:0] if wrong == "length" else diagonal.float())
    if A.layout.n_owned == 0:
        other = Jacobi.of(torch.ones(1, dtype=torch.float64))
    with pytest.raises(hs.InputError, match="does not go with"):
        hs.solve(A, mine, precond=other)


def test_ranks_that_differ_are_told_so(system):
    """Their reductions would not match: without this the job hangs or adds up nonsense."""
    _, A, _, mine = system
    if A.world.size == 1:
        return
    first = A.world.rank == 0
    with pytest.raises(hs.InputError, match="ranks differ"):
        hs.solve(A, mine.unsqueeze(1) if first else mine)
    with pytest.raises(hs.InputError, match="ranks differ"):
        hs.solve(A, mine, x0=mine if first else None)


@pytest.mark.parametrize("method", METHODS)
def test_a_callable_may_return_any_layout_of_memory(system, method):
    _, A, _, mine = system
    b = torch.stack([mine, 2 * mine, mine + 1], dim=1)
    inverse = 1.0 / A.diagonal()
    _, info = hs.solve(A, b, method, lambda r: (r.t() * inverse).contiguous().t(), rtol=1e-7)
    assert info.converged


@pytest.mark.parametrize("method", METHODS)
def test_a_callable_that_changes_the_dtype_is_a_bug(system, method):
    _, A, _, mine = system
    with pytest.raises(ValueError, match="float32"):
        hs.solve(A, mine, method, lambda r: r.float())


def test_a_torch_module_is_a_preconditioner(system):
    _, A, _, mine = system
    _, info = hs.solve(A, mine, precond=torch.nn.Identity())
    assert info.converged


def test_float32_reaches_its_own_precision(world):
    matrix = SPD["poisson"]().astype(np.float32)
    A = distribute_once(matrix, world)
    b = torch.ones(A.layout.n_owned, dtype=torch.float32)
    x, info = hs.solve(A, b, rtol=1e-5)
    assert info.converged and everywhere(world, x.dtype == torch.float32)


def test_the_same_run_is_bitwise_repeatable(system):
    _, A, _, mine = system
    (x, one), (y, two) = hs.solve(A, mine), hs.solve(A, mine)
    assert everywhere(A.world, torch.equal(x, y))
    assert one.residual_history == two.residual_history


class _Scale:
    def apply(self, r):
        return 0.5 * r


def test_a_preconditioner_can_be_set_up_once_and_reused(system):
    _, A, _, mine = system
    x, one = hs.solve(A, mine, precond=Jacobi.of(A.diagonal()))
    y, two = hs.solve(A, mine, precond="jacobi")
    assert everywhere(A.world, torch.equal(x, y))
    assert one.precond == two.precond == "jacobi"


@pytest.mark.parametrize("precond", [lambda r: 2.0 * r, _Scale(), None])
def test_a_users_own_preconditioner_works(system, precond):
    matrix, A, b, mine = system
    x, info = hs.solve(A, mine, precond=precond)
    assert info.converged
    assert np.linalg.norm(b - matrix @ full(A.layout, x)) <= 1.01e-8 * np.linalg.norm(b)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "magic"}, "unknown method"),
        ({"method": "gmres:restart=0"}, "not positive"),
        ({"method": "gmres:start=3"}, "not an option"),
        ({"precond": "magic"}, "unknown preconditioner"),
        ({"precond": "schur:inner=magic"}, "unknown preconditioner"),
        ({"throw": "none"}, "throw: 'none' is neither True nor False"),
        ({"max_iterations": float("nan")}, "not a whole number"),
        ({"rtol": -1.0}, "rtol"),
        ({"rtol": math.nan}, "rtol"),
        ({"rtol": 0.0}, "both tolerances are zero"),
        ({"atol": -1.0}, "atol"),
        ({"max_iterations": -1}, "negative"),
        ({"x0": torch.ones(1000, dtype=torch.float64)}, "x0"),
        ({"x0": "float32"}, "does not go with"),
        ({"method": None}, "unknown method None"),
        ({"method": hs.CG}, "unknown method"),
        ({"precond": 3}, "unknown preconditioner 3"),
        ({"precond": hs.Jacobi}, "unknown preconditioner"),
        ({"atol": None}, "atol: None is not a number"),
        ({"callback": 3}, "callback: a int cannot be called"),
        ({"checkpoint": "file.h5"}, "checkpoint: a str is not a Checkpoint"),
    ],
)
def test_bad_options_are_refused_everywhere(system, options, message):
    _, A, _, mine = system
    if isinstance(options.get("x0"), str):
        options = {"x0": mine.float()}
    with pytest.raises(hs.InputError, match=message):
        hs.solve(A, mine, **options)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda b: None, "a NoneType is not a tensor"),
        (lambda b: "ones", "a str is not a tensor"),
        (lambda b: b.to(torch.complex128), "does not go with|differ"),
        (lambda b: b[:-1], "is not this rank's"),
        (lambda b: b.to_sparse(), "is not a vector"),
        (lambda b: 3.0, "is not this rank's"),
    ],
)
def test_what_is_no_right_hand_side_is_refused_everywhere(system, wrong, message):
    """Where it is one rank's alone, too."""
    _, A, _, mine = system
    given = wrong(mine) if A.world.rank == A.world.size - 1 else mine
    with pytest.raises(hs.InputError, match=message):
        hs.solve(A, given)


def test_a_whole_b_is_told_how_to_be_spread(world, system):
    _, A, _, _ = system
    if world.size == 1:
        return
    whole = torch.ones(A.layout.n_global, dtype=A.dtype)
    with pytest.raises(hs.InputError, match=r"is not this rank's .*layout\.scatter\(b\)"):
        hs.solve(A, whole)

"""Model problems against dense constructions, and any slab against the whole."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from hpc_sla import problems
from hpc_sla.errors import InputError

SPECS = [
    "poisson2d:n=9",
    "poisson3d:n=5",
    "anisotropic2d:n=9,epsilon=0.01",
    "anisotropic2d:n=8,epsilon=0.001,angle=30",
    "anisotropic2d:n=7,epsilon=0.1,angle=-120",
    "convection2d:n=9,peclet=40",
    "convection2d:n=8,peclet=1000,angle=200",
    "poisson2d:n=1",
    "poisson3d:n=2",
    "anisotropic2d:n=1,angle=45",
    "neumann2d:n=7",
    "neumann2d:n=1",
]

# Those have oracles of their own in other files here.
ALL_SPECS = [
    *SPECS,
    "jumps2d:n=12,inclusions=3,seed=2",
    "jumps2d:n=1,inclusions=0",
    "unstructured3d:n=4,jitter=0.8,seed=5",
    "unstructured3d:n=2",
    "unstructured3d:n=1",
    "elasticity3d:n=3",
    "elasticity3d:n=1,E=210,nu=-0.2",
    "elasticity3d:n=2,clamped=false",
    "graph_laplacian:n=150",
    "graph_laplacian:n=130,degree=2,shift=0,seed=3",
    "graph_laplacian:n=1",
]


def second_difference(n):
    return sp.diags_array([-np.ones(n - 1), 2 * np.ones(n), -np.ones(n - 1)], offsets=[-1, 0, 1])


def central(n):
    """Twice the centred first difference."""
    return sp.diags_array([-np.ones(n - 1), np.ones(n - 1)], offsets=[-1, 1], shape=(n, n))


def upwind(n, speed):
    """First difference against the wind."""
    if speed > 0:
        return sp.diags_array([-np.ones(n - 1), np.ones(n)], offsets=[-1, 0])
    return sp.diags_array([np.ones(n), -np.ones(n - 1)], offsets=[0, 1])


def by_kronecker(problem):
    """The same operator put together from one-dimensional ones."""
    p = problem.parameters
    n = p["n"]
    one = sp.eye_array(n)
    second = second_difference(n)
    if problem.name == "poisson2d":
        return sp.kron(second, one) + sp.kron(one, second)
    if problem.name == "neumann2d":
        flux = second.toarray()
        flux[0, 0] -= 1
        flux[-1, -1] -= 1
        return sp.kron(sp.csr_array(flux), one) + sp.kron(one, sp.csr_array(flux))
    if problem.name == "poisson3d":
        return (
            sp.kron(sp.kron(second, one), one)
            + sp.kron(sp.kron(one, second), one)
            + sp.kron(sp.kron(one, one), second)
        )
    angle = np.deg2rad(p["angle"])
    c, s = np.cos(angle), np.sin(angle)
    if problem.name == "anisotropic2d":
        turn = np.array([[c, -s], [s, c]])
        k = turn @ np.diag([1, p["epsilon"]]) @ turn.T
        mixed = sp.kron(central(n), central(n)) / 4
        return k[0, 0] * sp.kron(second, one) + k[1, 1] * sp.kron(one, second) - 2 * k[0, 1] * mixed
    flow = p["peclet"] / (n + 1)
    laplacian = sp.kron(second, one) + sp.kron(one, second)
    along = abs(c) * sp.kron(upwind(n, c), one) + abs(s) * sp.kron(one, upwind(n, s))
    return laplacian + flow * along


@pytest.mark.parametrize("spec", SPECS)
def test_against_kronecker_products(spec):
    problem = problems.make(spec)
    np.testing.assert_allclose(
        problem.matrix().toarray(), by_kronecker(problem).toarray(), rtol=1e-13, atol=1e-13
    )


@pytest.mark.parametrize("spec", ALL_SPECS)
def test_any_slab_is_those_rows_of_the_whole(spec):
    problem = problems.make(spec)
    n = problem.n_rows
    whole = problem.matrix()
    points, solution = problem.coordinates(0, n), problem.solution(0, n)
    assert whole.shape == (n, n)
    assert whole.has_canonical_format
    for kind in problems.RHS_KINDS:
        b = problem.rhs(kind, 0, n)
        for r0, r1 in ((0, n), (0, 0), (n // 2, n // 2 + 1), (n // 3, n - n // 4), (n - 1, n)):
            slab = problem.rows(r0, r1)
            assert slab.shape == (r1 - r0, n)
            assert slab.has_canonical_format
            assert (slab != whole[r0:r1]).nnz == 0
            np.testing.assert_array_equal(problem.coordinates(r0, r1), points[r0:r1])
            np.testing.assert_array_equal(problem.solution(r0, r1), solution[r0:r1])
            modes = problem.near_nullspace(0, n)[r0:r1]
            np.testing.assert_array_equal(problem.near_nullspace(r0, r1), modes)
            np.testing.assert_array_equal(problem.rhs(kind, r0, r1), b[r0:r1])


@pytest.mark.parametrize("spec", ALL_SPECS)
def test_the_manufactured_solution_solves(spec):
    problem = problems.make(spec)
    n = problem.n_rows
    # Of the solutions of a singular system the one without a part in the kernel.
    x = np.linalg.lstsq(problem.matrix().toarray(), problem.rhs("manufactured", 0, n))[0]
    np.testing.assert_allclose(x, problem.solution(0, n), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(
    "spec", ["poisson2d:n=20", "poisson3d:n=8", "neumann2d:n=20", "graph_laplacian:n=300,shift=0"]
)
def test_the_manufactured_solution_is_neither_an_eigenvector_nor_symmetric(spec):
    """An eigenvector would make conjugate gradients end after one step, and hide mistakes."""
    problem = problems.make(spec)
    n = problem.n_rows
    x, b = problem.solution(0, n), problem.rhs("manufactured", 0, n)
    assert abs(x @ b) < 0.999 * np.linalg.norm(x) * np.linalg.norm(b)
    assert not np.allclose(x, x[::-1])


@pytest.mark.parametrize("spec", ALL_SPECS)
def test_symmetric_ones_are_positive_definite_and_the_others_m_matrices(spec):
    problem = problems.make(spec)
    dense = problem.matrix().toarray()
    if problem.symmetric:
        np.testing.assert_array_equal(dense, dense.T)
        eigenvalues = np.linalg.eigvalsh(dense)
        null = problem.near_nullspace(0, problem.n_rows).shape[1] if problem.singular else 0
        assert (eigenvalues[null:] > 1e-8 * eigenvalues[-1]).all()
        assert (abs(eigenvalues[:null]) < 1e-14 * max(eigenvalues[-1], 1)).all()
    else:
        assert not np.allclose(dense, dense.T)
        off = dense - np.diag(np.diag(dense))
        assert off.max() <= 0
        assert np.linalg.inv(dense).min() >= 0


def test_coordinates_lie_on_the_grid_in_row_order():
    problem = problems.make("poisson3d:n=3")
    points = problem.coordinates(0, 27)
    assert points[0].tolist() == [0.25, 0.25, 0.25]
    assert points[1].tolist() == [0.25, 0.25, 0.5]
    assert points[9].tolist() == [0.5, 0.25, 0.25]
    neighbours = problem.matrix().tocoo()
    apart = np.abs(points[neighbours.row] - points[neighbours.col]).sum(axis=1)
    np.testing.assert_allclose(apart[neighbours.row != neighbours.col], 0.25)


@pytest.mark.parametrize("spec", [spec for spec in ALL_SPECS if problems.make(spec).singular])
def test_singular_ones_have_the_kernel_they_say(spec):
    problem = problems.make(spec)
    n = problem.n_rows
    kernel = problem.near_nullspace(0, n)
    matrix = problem.matrix()
    assert abs(matrix @ kernel).max() < 1e-14 * max(1, abs(matrix).sum(axis=1).max())
    assert abs(kernel.T @ problem.solution(0, n)).max() < 1e-13 * n
    assert problem.default_rhs == "manufactured"


def test_no_wind_is_poisson():
    calm, poisson = problems.make("convection2d:n=6,peclet=0"), problems.make("poisson2d:n=6")
    assert (calm.matrix() != poisson.matrix()).nnz == 0
    assert calm.symmetric


def test_along_an_axis_there_are_no_corner_entries():
    for angle in (0, 90, 180):
        problem = problems.make(f"anisotropic2d:n=5,angle={angle}")
        assert problem.matrix().nnz == problems.make("poisson2d:n=5").matrix().nnz


@pytest.mark.parametrize("spec", ALL_SPECS)
def test_the_spec_makes_the_same_problem_again(spec):
    problem = problems.make(spec)
    again = problems.make(problem.spec)
    assert again.parameters == problem.parameters
    assert (again.matrix() != problem.matrix()).nnz == 0


def test_help_names_and_defaults():
    assert {spec.partition(":")[0] for spec in ALL_SPECS} == set(problems.names())
    assert "poisson2d:n=256" in problems.signatures()
    assert "elasticity3d:n=16,E=1.0,nu=0.3,clamped=true" in problems.signatures()
    assert tuple(problems.summaries()) == problems.signatures()
    assert all(line.endswith(".") for line in problems.summaries().values())
    for signature in problems.signatures():
        name = signature.partition(":")[0]
        assert problems.make(name).spec == signature
    assert problems.is_spec("poisson2d")
    assert problems.is_spec("poisson2d:n=3")
    assert not problems.is_spec("poisson2d.mtx")


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("poison2d:n=3", ["'poison2d'", "Did you mean poisson2d?"]),
        ("xyz", ["'xyz'", "Known: poisson2d"]),
        ("", ["no generator ''"]),
        ("convection2d:peclt=3", ["'peclt'", "Did you mean peclet?"]),
        ("poisson2d:m=3", ["'m'", "Known: n"]),
        ("poisson2d:n", ["'n' is not of the form"]),
        ("poisson2d:n=3.5", ["n=3.5 is not a whole number"]),
        ("poisson2d:n=", ["n= is not a whole number"]),
        ("poisson2d:n=0", ["n=0"]),
        ("poisson2d:n=-4", ["n=-4"]),
        ("anisotropic2d:epsilon=0", ["epsilon=0.0", "positive"]),
        ("anisotropic2d:epsilon=nan", ["epsilon=nan"]),
        ("anisotropic2d:angle=inf", ["angle=inf"]),
        ("convection2d:peclet=-1", ["peclet=-1"]),
        ("neumann2d:n=0", ["n=0"]),
        ("jumps2d:n=0", ["n=0"]),
        ("jumps2d:contrast=0", ["contrast=0.0", "positive"]),
        ("jumps2d:contrast=inf", ["contrast=inf"]),
        ("jumps2d:inclusions=-1", ["inclusions=-1"]),
        (f"jumps2d:inclusions={2**63}", [f"inclusions={2**63}", "0 to 1000000"]),
        ("unstructured3d:n=0", ["n=0"]),
        ("unstructured3d:jitter=0", ["jitter=0.0", "0.8"]),
        ("unstructured3d:jitter=0.9", ["jitter=0.9"]),
        ("unstructured3d:jitter=nan", ["jitter=nan"]),
        ("elasticity3d:n=0", ["n=0"]),
        ("elasticity3d:E=-1", ["E=-1.0"]),
        ("elasticity3d:nu=0.5", ["nu=0.5", "between -1 and 0.5"]),
        ("elasticity3d:clamped=maybe", ["clamped=maybe is not true or false"]),
        ("graph_laplacian:n=0", ["n=0"]),
        ("graph_laplacian:degree=-1", ["degree=-1.0"]),
        ("graph_laplacian:shift=nan", ["shift=nan"]),
        ("convection2d:peclet=much", ["peclet=much is not a number"]),
    ],
)
def test_bad_specs(spec, words):
    with pytest.raises(InputError) as caught:
        problems.make(spec)
    assert caught.value.remedy
    for word in words:
        assert word in str(caught.value)


def test_bad_right_hand_side():
    with pytest.raises(InputError) as caught:
        problems.make("poisson2d:n=3").rhs("twos", 0, 9)
    assert "'twos'" in str(caught.value)
    assert "ones, manufactured" in str(caught.value)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_right_hand_sides_for_any_matrix(dtype):
    rng = np.random.default_rng(0)
    matrix = sp.csr_array(sp.random_array((30, 30), density=0.2, rng=rng, dtype=dtype))
    ones = problems.rhs_ones(matrix)
    b, x = problems.rhs_manufactured(matrix)
    assert ones.dtype == b.dtype == x.dtype == dtype
    assert ones.tolist() == [1] * 30
    np.testing.assert_allclose(b, matrix.toarray() @ x, rtol=1e-5)
    assert len(set(x.tolist())) == 30


def test_the_known_solution_has_the_same_bits_everywhere():
    """Golden ratio multiples in 32-bit integers: worked out here with Python's own."""
    _, x = problems.rhs_manufactured(sp.csr_array((5, 1000)))
    expected = [0.5 + ((i + 1) * 2654435769 % 2**32) / 2**32 for i in range(1000)]
    assert x.tolist() == expected
    spectrum = np.abs(np.fft.rfft(x - x.mean()))
    assert 0.5 < x.min() < x.max() < 1.5
    assert (spectrum[1:] > 0).all()

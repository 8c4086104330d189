"""Preconditioners as objects: those there are, and some of the user's own."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch

import hpc_sla as hs
from hpc_sla.precond import CHOICES, make_preconditioner
from tests.collective import distribute, full, random_matrix, spd_matrix, spread
from tests.methods import GENERAL
from tests.precond.amg.systems import poisson

OPTIONS = {
    "none": {},
    "jacobi": {},
    "l1_jacobi": {},
    "chebyshev": {"degree": 3, "eigenvalue_ratio": 12.5},
    "polynomial": {"degree": 2},
    "block_jacobi": {"factor": "lu", "backend": "scipy"},
    "additive_schwarz": {"overlap": 2, "type": "basic", "factor": "ic0"},
    "amg": {"cycle": "W", "coarse_size": 10, "dtype": "float64"},
    "schur": {"approximation": "lumped", "form": "diagonal", "inner": "amg:cycle=W"},
    "direct": {"shift": 0.25, "most": 3.0},
}


class Damped(hs.Preconditioner):
    """A step of Jacobi, made of any matrix with a diagonal: an option, as any other."""

    takes = "diagonal"

    def __init__(self, damping=1.0):
        self.damping = damping

    def set_up(self, A):
        self.scale = self.damping / A.diagonal()

    def apply(self, r, out):
        return r * (self.scale if r.dim() == 1 else self.scale[:, None])

    apply_transpose = apply


class Lower(hs.Preconditioner):
    """Not symmetric: the own rows' lower triangle, of a small matrix, as a dense inverse."""

    symmetric = False

    def set_up(self, A):
        n = A.layout.n_owned
        block = torch.zeros(n, n, dtype=A.dtype)
        owned = A.pattern.owned
        rows = torch.repeat_interleave(torch.arange(n), owned.indptr.diff().long())
        block[rows, owned.indices.long()] = A.pattern.owned_values(A.values.detach())
        self.inverse_block = torch.linalg.inv(block.tril())

    def apply(self, r, out):
        return self.inverse_block @ r

    def apply_transpose(self, r, out):
        return self.inverse_block.T @ r


@pytest.fixture
def system(world):
    A = distribute(spd_matrix(41, seed=3), world)
    return A, spread(A.layout, np.random.default_rng(5).standard_normal((41, 2)))


@pytest.mark.parametrize("name", CHOICES.classes)
def test_text_and_python_say_the_same(name):
    assert set(OPTIONS) == set(CHOICES.classes)
    made = CHOICES.load(name)(**OPTIONS[name])
    assert getattr(hs, CHOICES.classes[name]) is type(made)
    again = CHOICES.make(str(made))
    assert again.options == made.options and str(again) == str(made)
    assert str(made).partition(":")[0] == made.name == name
    assert eval(repr(made), {type(made).__name__: type(made)}).options == made.options
    for option in OPTIONS[name]:
        assert f"{option}=" in str(made) and f"{option}=" in repr(made)


@pytest.mark.mpi
@pytest.mark.parametrize("name", GENERAL)
def test_an_object_is_its_text(world, system, name):
    A, b = system
    precond = CHOICES.load(name)(**OPTIONS[name])
    before = dict(vars(precond))
    results = [
        hs.solve(A, b, precond=M, max_iterations=8)
        for M in (str(precond), precond, precond.on(A), precond)
    ]
    x, told = results[0]
    for y, info in results[1:]:
        assert torch.equal(x, y) and info.precond == told.precond == str(precond)
    assert vars(precond) == before  # a solve leaves it as it was, for the next


@pytest.mark.mpi
@pytest.mark.parametrize("name", [name for name in GENERAL if name != "none"])
def test_one_object_for_several_matrices(world, system, name):
    A, b = system
    precond = CHOICES.load(name)(**OPTIONS[name])
    other = distribute(spd_matrix(30, seed=4), world)
    M, N = precond.on(A), precond.on(other)
    assert precond.needs_matrix and not M.needs_matrix and M is not N
    assert make_preconditioner(M, A) is M
    for matrix, made in ((A, M), (other, N), (A, N.on(A))):
        r = spread(matrix.layout, np.arange(matrix.shape[0]) + 0.5)
        fresh = make_preconditioner(str(precond), matrix)
        assert torch.equal(made.apply(r, torch.empty_like(r)), fresh.apply(r, torch.empty_like(r)))
    with pytest.raises(hs.InputError, match="does not go with"):
        hs.solve(A, b, precond=N)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: hs.Chebyshev(degree=0), "chebyshev:degree=0"),
        (lambda: hs.Chebyshev(eigenvalue_ratio=1.0), "chebyshev:eigenvalue_ratio=1"),
        (lambda: hs.Polynomial(degree=-1), "polynomial:degree=-1"),
        (lambda: hs.Polynomial(degree=1001), "polynomial:degree=1001"),
        (lambda: hs.BlockJacobi(factor="qr"), "block_jacobi:factor=qr"),
        (lambda: hs.BlockJacobi(backend="scipy"), "block_jacobi:backend=scipy"),
        (lambda: hs.AdditiveSchwarz(type="none"), "additive_schwarz:type=none"),
        (lambda: hs.AdditiveSchwarz(overlap=1 << 40), f"additive_schwarz:overlap={1 << 40}"),
        (lambda: hs.AMG(cycle="X"), "amg:cycle=X"),
        (lambda: hs.AMG(block_size=-1), "amg:block_size=-1"),
    ],
)
def test_what_does_not_fit_is_refused_in_the_same_words(make, text):
    with pytest.raises(hs.InputError) as by_text:
        CHOICES.make(text)
    with pytest.raises(hs.InputError) as by_keyword:
        make()
    assert str(by_keyword.value).replace("1.0", "1") == str(by_text.value).replace("1.0", "1")


@pytest.mark.parametrize("value", [2.5, "2", True, None])
def test_options_of_another_kind(value):
    with pytest.raises(hs.InputError, match=f"degree: {value!r} is not a whole number"):
        hs.AMG(degree=value)


@pytest.mark.mpi
def test_ranks_must_pass_the_same(world, system):
    A, b = system
    last = int(world.rank == world.size - 1)
    near = np.ones(A.layout.n_owned) if last else None
    for precond, words in (
        (hs.Chebyshev(degree=3 + last), "chebyshev:degree=4,eigenvalue_ratio=30 on rank"),
        (hs.AMG(near_nullspace=near), "amg with a near-nullspace on rank"),
        (Damped(1.0 + last), "Damped:damping=2 on rank"),
    ):
        if world.size == 1:
            hs.solve(A, b, precond=precond)
            continue
        for call in (
            lambda M=precond: hs.solve(A, b, precond=M),
            lambda M=precond: make_preconditioner(M, A),
        ):
            with pytest.raises(hs.InputError, match=f"precond.*{words}"):
                call()
        with pytest.raises(hs.InputError, match=type(precond).__name__):
            precond.on(A)


@pytest.mark.mpi
@pytest.mark.parametrize("precond", [hs.Chebyshev(3), hs.AMG(coarse_size=10), hs.BlockJacobi()])
def test_in_eigsh_and_nonlinear_solve(world, precond):
    A = distribute(poisson(20), world)
    pairs = [hs.eigsh(A, 2, precond=M) for M in (str(precond), precond)]
    assert torch.equal(pairs[0][0], pairs[1][0]) and torch.equal(pairs[0][1], pairs[1][1])
    assert pairs[0][2].precond == pairs[1][2].precond == str(precond)
    f = spread(A.layout, np.random.default_rng(5).standard_normal(400))
    roots = [
        hs.nonlinear_solve(lambda u: A @ u + u**3 - f, 0 * f, pattern=A, layout=A.layout, precond=M)
        for M in (str(precond), precond)
    ]
    assert torch.equal(roots[0][0], roots[1][0]) and roots[1][1].converged
    assert roots[0][1].precond == roots[1][1].precond == str(precond)


@pytest.mark.mpi
def test_jacobi_of_a_rectangular_matrix(world):
    matrix = np.random.default_rng(2).standard_normal((30, 7)) * np.logspace(0, 6, 7)
    matrix = sp.csr_matrix(matrix)
    A = hs.DSparseMatrix.from_scipy(matrix if world.rank == 0 else None, world)
    b = spread(A.layout, np.ones(30))
    x, info = hs.solve(A, b, method="lsqr", precond="jacobi")
    y, told = hs.solve(A, b, method="lsqr", precond=hs.Jacobi())
    assert info.converged and torch.equal(x, y) and info.precond == told.precond == "jacobi"
    with pytest.raises(hs.InputError, match="chebyshev needs a square matrix"):
        hs.solve(A, b, method="lsqr", precond=hs.Chebyshev())


class _Free:
    """A matrix of which a solve knows products and the diagonal only."""

    def __init__(self, A):
        self.A, self.layout, self.dtype = A, A.layout, A.dtype

    def matvec(self, x):
        return self.A @ x

    def diagonal(self):
        return self.A.diagonal()


@pytest.mark.mpi
def test_what_it_takes_of_a_matrix(world, system):
    A, b = system
    for precond in (hs.Jacobi(), Damped(), hs.Identity()):
        assert hs.solve(_Free(A), b, precond=precond)[1].converged
    for precond in (hs.AMG(), Lower()):
        with pytest.raises(hs.InputError, match=f"{precond.name} needs the entries of a matrix"):
            hs.solve(_Free(A), b, method="gmres", precond=precond)
        with pytest.raises(hs.InputError, match=f"{precond.name} needs the entries of a matrix"):
            precond.on(_Free(A))


@pytest.mark.mpi
def test_one_of_the_user_s_own(world, system):
    A, b = system
    mine = Damped(damping=0.5)
    x, info = hs.solve(A, b, "cg", mine, rtol=1e-12)
    assert info.converged and info.precond == str(mine) == "Damped:damping=0.5"
    assert vars(mine) == {"damping": 0.5}
    # A scaled preconditioner makes the same iterates, but for rounding.
    y, told = hs.solve(A, b, "cg", "jacobi", rtol=1e-12)
    assert abs(info.iterations - told.iterations) <= 1
    np.testing.assert_allclose(full(A.layout, x), full(A.layout, y), rtol=1e-9, atol=1e-12)
    made = mine.on(A)
    z, _ = hs.solve(A, b, "cg", made, rtol=1e-12)
    assert torch.equal(x, z) and made.name == str(mine)
    with pytest.raises(hs.InputError, match="does not go with"):
        make_preconditioner(made, distribute(spd_matrix(30, seed=4), world))
    _, info = hs.solve(A, b, "cg", mine, max_iterations=2)
    assert info.status == "max_iterations" and info.iterations == 2


@pytest.mark.mpi
@pytest.mark.parametrize("method", ["gmres", "bicgstab", "lsqr"])
def test_gradients_through_one_of_the_user_s_own(world, method):
    """Against differences, with its transpose in the adjoint solve."""
    A = distribute(sp.eye_array(23, format="csr") * 4 + random_matrix(23, 0.2, 7), world)
    b = spread(A.layout, np.random.default_rng(1).standard_normal(23))
    weights = spread(A.layout, np.random.default_rng(2).standard_normal(23))

    def loss(values, b):
        x, info = hs.solve(A.with_values(values), b, method=method, precond=Lower(), rtol=1e-11)
        assert info.converged and info.precond == "Lower"
        return A.layout.dot(weights, x**2)

    values = A.values.clone().requires_grad_()
    b.requires_grad_()
    loss(values, b).backward()
    generator = torch.Generator().manual_seed(world.rank)
    with torch.no_grad():
        for tensor, at in ((values, 0), (b, 1)):
            along = torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
            step = 1e-4
            ends = []
            for h in (step, -step):
                moved = [values.detach(), b.detach()]
                moved[at] = moved[at] + h * along
                ends.append(float(loss(*moved)))
            slope = world.sum(float((tensor.grad * along).sum()))
            assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(slope, rel=1e-5, abs=1e-7)


@pytest.mark.mpi
def test_its_checks_are_those_of_any(world, system):
    A, b = system
    for method in ("cg", "minres", "pipelined_cg"):
        with pytest.raises(hs.InputError, match="needs a symmetric preconditioner, and Lower"):
            hs.solve(A, b, method=method, precond=Lower())

    class Short(hs.Preconditioner):
        def apply(self, r, out):
            return r[:-1] if len(r) else torch.ones(3)

    with pytest.raises(ValueError, match=r"Short gave \("):
        make_preconditioner(Short(), A).apply(b, torch.empty_like(b))
    assert not Short.transposable and Damped.transposable
    with pytest.raises(hs.InputError, match="Short has none"):
        hs.solve(A, b, method="lsqr", precond=Short())
    for wrong in (hs.Jacobi, Damped, 3):
        with pytest.raises(hs.InputError, match=r"unknown preconditioner .*none, jacobi"):
            hs.solve(A, b, precond=wrong)


def test_what_is_said_of_each_is_said_in_its_file():
    for name in CHOICES.classes:
        kind, when = CHOICES.load(name), CHOICES[name]
        assert when and not when.endswith(".")
        assert kind.__module__.startswith(f"hpc_sla.precond.{name}") and kind.name == name
        assert "apply" in dir(kind) and kind.takes in ("entries", "diagonal", "anything")
    assert {kind.petsc for kind in map(CHOICES.load, CHOICES.classes)} == {
        "",
        "none",
        "jacobi",
        "bjacobi",
        "asm",
        "gamg",
        "redundant",
    }

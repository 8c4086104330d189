"""Methods as objects: those there are, and one of the user's own."""

import math

import numpy as np
import pytest
import torch

import hpc_sla as hs
from hpc_sla.kernels.vectors import axpy_
from hpc_sla.linear.choices import METHODS
from tests.collective import dense, full, spd_matrix, spread
from tests.methods import ENTRIES


class SteepestDescent(hs.Method):
    """Preconditioned, with a fixed fraction of the best step: an option, as any other."""

    solves = "spd"
    side = "split"
    carried = ("rr", "live")

    def __init__(self, fraction=1.0):
        self.fraction = fraction

    def allocate(self):
        self.z, self.q = torch.empty_like(self.r), torch.empty_like(self.r)

    def start(self, active):
        (self.rr,) = self.scalars.dots((self.r, self.r))
        self.scalars.record(self.rr)
        self.live = active & (self.rr > self.target * self.target)

    def step(self):
        z = self.precond.apply(self.r, self.z)
        self.operator(z, self.q)
        slope, curvature = self.scalars.dots((z, self.r), (z, self.q))
        alpha = self.scalars.ratio(self.fraction * slope, curvature, self.live)
        axpy_(self.x, alpha, z)
        axpy_(self.r, -alpha, self.q)
        (self.rr,) = self.scalars.dots((self.r, self.r))
        self.scalars.record(self.rr)
        self.live = self.live & (self.rr > self.target * self.target)

    def norm(self, row):
        return math.sqrt(row[0])

    def classify(self, row, target):
        if not math.isfinite(row[0]):
            return "not_finite"
        return "converged" if row[0] <= target * target else None


@pytest.fixture
def system(world):
    matrix = spd_matrix(41, seed=3)
    A = hs.DSparseMatrix.from_scipy(matrix if world.rank == 0 else None, world)
    return A, spread(A.layout, np.random.default_rng(5).standard_normal((41, 2)))


@pytest.mark.mpi
@pytest.mark.parametrize("name", METHODS.classes)
def test_an_object_is_its_name(world, system, name):
    A, b = system
    kind = METHODS.load(name)
    assert getattr(hs, METHODS.classes[name]) is kind
    by_name, told = hs.solve(A, b, method=name, max_iterations=20)
    by_object, info = hs.solve(A, b, method=kind(), max_iterations=20)
    assert torch.equal(by_name, by_object)
    assert info.method == told.method == name == str(kind())


@pytest.mark.mpi
def test_options_are_those_of_the_string(world, system):
    A, b = system
    method = hs.GMRES(restart=4)
    x, info = hs.solve(A, b, method=method)
    y, told = hs.solve(A, b, method="gmres:restart=4")
    assert torch.equal(x, y) and info.iterations == told.iterations
    assert info.method == told.method == str(method) == "gmres:restart=4"
    # A solve leaves the object as it was, for the next.
    z, _ = hs.solve(A, b, method=method)
    assert torch.equal(x, z) and vars(method) == {"restart": 4}


@pytest.mark.parametrize(
    ("restart", "wrong"), [(0, "positive"), (2.5, "a whole number"), (True, "a whole number")]
)
def test_options_that_do_not_fit(restart, wrong):
    with pytest.raises(hs.InputError, match=f"restart={restart} is not {wrong}"):
        hs.GMRES(restart=restart)


@pytest.mark.mpi
def test_ranks_must_pass_the_same(world, system):
    A, b = system
    restart = 5 + (world.rank == world.size - 1)
    if world.size == 1:
        hs.solve(A, b, method=hs.GMRES(restart=restart))
        return
    with pytest.raises(hs.InputError, match="gmres:restart=6 on rank"):
        hs.solve(A, b, method=hs.GMRES(restart=restart))


@pytest.mark.mpi
def test_one_of_the_user_s_own(world, system):
    A, b = system
    a = dense(A)
    exact = np.linalg.solve(a, full(A.layout, b))
    options = {"method": SteepestDescent(), "rtol": 1e-10}
    b.requires_grad_()
    values = A.values.clone().requires_grad_()
    x, info = hs.solve(A.with_values(values), b, **options)
    assert info.converged and info.method == "SteepestDescent"
    np.testing.assert_allclose(full(A.layout, x.detach()), exact, rtol=1e-6, atol=1e-9)
    # The same gradient as through cg.
    A.layout.dot(x[:, 0].contiguous(), x[:, 0].contiguous()).backward()
    grads = values.grad.clone(), b.grad.clone()
    values.grad = b.grad = None
    x, _ = hs.solve(A.with_values(values), b, rtol=1e-10)
    A.layout.dot(x[:, 0].contiguous(), x[:, 0].contiguous()).backward()
    for ours, theirs in zip(grads, (values.grad, b.grad), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-8)


@pytest.mark.mpi
def test_its_statuses_and_checks_are_those_of_any(world, system):
    A, b = system
    assert str(SteepestDescent(fraction=0.5)) == "SteepestDescent:fraction=0.5"
    _, info = hs.solve(A, b, method=SteepestDescent(), max_iterations=3)
    assert info.status == "max_iterations" and info.iterations == 3
    _, info = hs.solve(A, b, method=SteepestDescent(fraction=2.5))
    assert info.status == "diverged"
    with pytest.raises(hs.InputError, match="needs a symmetric preconditioner"):
        hs.solve(A, b, method=SteepestDescent(), precond="amg:cycle=K")
    with pytest.raises(hs.InputError, match="unknown method <class"):
        hs.solve(A, b, method=SteepestDescent)


def test_what_is_said_of_each_is_said_in_its_file():
    for when in METHODS.values():
        assert when and not when.endswith(".")
    for name, method in ENTRIES.items():
        assert type(method).__module__ == f"hpc_sla.linear.{name}" and method.name == name
        # PETSc has no lsmr.
        assert (method.petsc or name == "lsmr") and method.side and method.solves


@pytest.mark.mpi
def test_a_method_that_does_not_say_its_state_is_not_saved(world, system, folder):
    class Silent(SteepestDescent):
        carried = ()

    A, b = system
    checkpoint = hs.Checkpoint(str(folder / "c.h5"), every="2iterations")
    with pytest.raises(hs.InputError, match="carried"):
        hs.solve(A, b[:, 0].contiguous(), method=Silent(), checkpoint=checkpoint, rtol=1e-12)

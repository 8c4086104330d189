"""Nonlinear methods as objects: those there are, and one of the user's own."""

import numpy as np
import pytest
import torch

import hpc_sla as hs
from hpc_sla.nonlinear.choices import METHODS
from tests.collective import distribute, spd_matrix, spread

OPTIONS = {
    "newton": {},
    "picard": {"relaxation": 0.5},
    "anderson": {"memory": 3, "relaxation": 0.8},
}


class FullSteps(hs.NonlinearMethod):
    """Newton's method without a line search, each linear solve to the same tolerance."""

    def __init__(self, forcing=1e-8):
        self.forcing = forcing

    def run(self, u, linear, increments, choices, attach):
        equations, history = linear.equations, linear.equations.info.residual_history
        while True:
            r = equations(u)
            history.append(equations.norm(r))
            if history[-1] <= choices.stop.target(history[0]):
                return u, history[-1], "converged"
            if len(history) > choices.stop.max_iterations:
                return u, history[-1], "max_iterations"
            equations.info.iterations = len(history)
            J, matrix = linear.at(u, r)
            linear.refresh(u, J, matrix)
            u = u - linear.solve(J, r, self.forcing)[0]


@pytest.fixture
def system(world):
    A = distribute(spd_matrix(30, seed=3), world)
    A = A.with_values(A.values / float(A.layout.norm(A.diagonal())))
    return A, spread(A.layout, np.random.default_rng(5).standard_normal(30))


def solve(system, method, **more):
    A, f = system
    return hs.nonlinear_solve(
        lambda u, f: A @ u + u**3 - f,
        torch.zeros_like(f),
        f,
        layout=A.layout,
        method=method,
        **more,
    )


@pytest.mark.parametrize("name", METHODS)
def test_text_and_python_say_the_same(name):
    made = METHODS.load(name)(**OPTIONS[name])
    assert getattr(hs, METHODS.classes[name]) is type(made)
    assert METHODS.make(str(made)).options == made.options == OPTIONS[name]
    assert eval(repr(made), {type(made).__name__: type(made)}).options == made.options
    assert METHODS[name] and type(made).__module__ == f"hpc_sla.nonlinear.{name}"


@pytest.mark.mpi
@pytest.mark.parametrize("name", METHODS)
def test_an_object_is_its_text(world, system, name):
    method = METHODS.load(name)(**OPTIONS[name])
    u, info = solve(system, method, max_iterations=6)
    v, told = solve(system, str(method), max_iterations=6)
    assert torch.equal(u, v) and info.residual_history == told.residual_history
    assert info.method == told.method == str(method) and vars(method) == OPTIONS[name]


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: hs.Picard(relaxation=-1.0), "picard:relaxation=-1.0"),
        (lambda: hs.Anderson(memory=0), "anderson:memory=0"),
    ],
)
def test_what_does_not_fit_is_refused_in_the_same_words(make, text):
    with pytest.raises(hs.InputError) as by_text:
        METHODS.make(text)
    with pytest.raises(hs.InputError) as by_keyword:
        make()
    assert str(by_keyword.value) == str(by_text.value)
    with pytest.raises(hs.InputError, match=r"memory: 2.5 is not a whole number"):
        hs.Anderson(memory=2.5)


@pytest.mark.mpi
def test_ranks_must_pass_the_same(world, system):
    method = hs.Anderson(memory=3 + (world.rank == world.size - 1))
    if world.size > 1:
        with pytest.raises(hs.InputError, match=r"method.*anderson:memory=4 on rank"):
            solve(system, method)
    with pytest.raises(hs.InputError, match=r"unknown method <class.*newton, picard"):
        solve(system, hs.Newton)


@pytest.mark.mpi
def test_one_of_the_user_s_own(world, system):
    A, f = system
    u, info = solve(system, FullSteps(forcing=1e-10), rtol=1e-12)
    v, _ = solve(system, "newton", rtol=1e-12)
    assert info.converged and info.method == "FullSteps:forcing=1e-10"
    torch.testing.assert_close(u, v, rtol=1e-9, atol=1e-12)
    grads = []
    for method in (FullSteps(), "newton"):
        theta = f.clone().requires_grad_()
        u, _ = solve((A, theta), method, rtol=1e-12)
        A.layout.dot(u, u).backward()
        grads.append(theta.grad)
    torch.testing.assert_close(*grads, rtol=1e-6, atol=1e-9)
    _, info = solve(system, FullSteps(), max_iterations=1)
    assert info.status == "max_iterations"
    with pytest.raises(hs.InputError, match="FullSteps cannot save its state"):
        solve(system, FullSteps(), checkpoint=hs.Checkpoint("nowhere.h5"))

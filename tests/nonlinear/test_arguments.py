"""What theta, u0 and a residual may be, and what is said of the rest."""

from __future__ import annotations

import gc
import math
import warnings
import weakref
from collections import OrderedDict, namedtuple
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

import hpc_sla as hs
from tests.collective import distribute, distribute_once, everywhere, full, spread
from tests.nonlinear.systems import known, matrix, on_ranks, on_world, parameters, vector

pytestmark = pytest.mark.mpi

N = 7
Pair = namedtuple("Pair", "a b")


@dataclass(frozen=True)
class Frozen:
    a: torch.Tensor
    name: str = "x"
    b: torch.Tensor | None = None


@dataclass
class Late:
    a: torch.Tensor
    b: torch.Tensor = field(init=False)


class Twice(torch.nn.Module):
    """A parameter under two names, a child in two places, a buffer."""

    def __init__(self, a, b):
        super().__init__()
        self.a = a
        self.inner = torch.nn.ParameterDict({"b": b})
        self.again = self.inner
        self.same = a
        self.register_buffer("one", torch.ones_like(a))

    def forward(self):
        return 0.5 * (self.a + self.same) * self.one, self.again["b"]


def late(a, b):
    made = Late(a)
    made.b = b
    return made


CONTAINERS = {
    "tuple": (lambda a, b: (a, b), lambda t: t),
    "named tuple": (Pair, lambda t: (t.a, t.b)),
    "ordered dict": (lambda a, b: OrderedDict(a=a, b=b), lambda t: t.values()),
    "frozen dataclass": (lambda a, b: Frozen(a, b=b), lambda t: (t.a, t.b)),
    "dataclass": (late, lambda t: (t.a, t.b)),
    "dict of a list": (
        lambda a, b: {"x": [a, None, {"y": b}]},
        lambda t: (t["x"][0], t["x"][2]["y"]),
    ),
    "ParameterDict": (
        lambda a, b: torch.nn.ParameterDict({"a": a, "b": b}),
        lambda t: (t["a"], t["b"]),
    ),
    "ParameterList": (lambda a, b: torch.nn.ParameterList([a, b]), lambda t: (t[0], t[1])),
    "Module": (Twice, lambda t: t()),
    "dataclass of a Module": (lambda a, b: Frozen(Twice(a, b)), lambda t: t.a()),
}


@pytest.mark.parametrize("name", CONTAINERS)
def test_gradients_reach_what_theta_holds(world, name):
    """u^2 + b u = a."""
    make, take = CONTAINERS[name]
    layout = hs.RowLayout.even(N, world)
    a = torch.nn.Parameter(spread(layout, np.arange(N) + 2.0))
    b = torch.nn.Parameter(spread(layout, np.linspace(1, 2, N)))
    theta = make(a, b)

    def residual(u, theta):
        a, b = take(theta)
        return u**2 + b * u - a

    u, info = hs.nonlinear_solve(
        residual, torch.ones_like(a).detach(), theta, layout=layout, rtol=1e-12
    )
    assert info.converged
    layout.dot(u, torch.ones_like(u)).backward()
    slope = 1.0 / (2 * u + b).detach()
    assert everywhere(world, torch.allclose(a.grad, slope))
    assert everywhere(world, torch.allclose(b.grad, -slope * u.detach()))
    # The user's own is as it was.
    mine = take(theta)
    assert all(one is two or torch.equal(one, two) for one, two in zip(mine, (a, b), strict=True))


@pytest.mark.parametrize("kind", [torch.nn.LSTM, torch.nn.utils.parametrizations.weight_norm])
def test_modules_that_keep_their_weights_elsewhere(world, kind):
    torch.manual_seed(5)
    wide = {"dtype": torch.float64}
    lstm = kind is torch.nn.LSTM
    net = kind(1, 1, **wide) if lstm else kind(torch.nn.Linear(1, 1, **wide))
    layout = hs.RowLayout.even(N, world)

    def residual(u, net):
        y = net(u[:, None])
        return u**3 + 2 * u + (y[0] if lstm else y)[:, 0] - 1.0

    start = torch.zeros(layout.n_owned, dtype=torch.float64)
    weights = [p for p in net.parameters() if p.requires_grad]
    u, info = hs.nonlinear_solve(residual, start, net, layout=layout, rtol=1e-12)
    assert info.converged
    found = torch.autograd.grad((u**2).sum(), weights)
    v = u.detach().requires_grad_()
    r = residual(v, net)
    if lstm:  # of one step after the other: F is not pointwise
        J = torch.autograd.functional.jacobian(lambda u: residual(u, net), v)
        y = torch.linalg.solve(J.T, 2 * v) if len(v) else v
    else:
        (slope,) = torch.autograd.grad(r.sum(), v, retain_graph=True)
        y = 2 * v / slope
    expected = torch.autograd.grad(r, weights, -y)
    ok = all(torch.allclose(f, e, atol=1e-9) for f, e in zip(found, expected, strict=True))
    assert everywhere(world, ok)


BAD_STARTS = {
    "a string": (lambda n: "zeros", "a str is not a tensor"),
    "an array of integers": (lambda n: np.ones(n, dtype=int), "int64"),
    "integers": (lambda n: torch.ones(n, dtype=torch.int64), "int64"),
    "complex": (lambda n: torch.ones(n, dtype=torch.complex128), "complex128"),
    "half": (lambda n: torch.ones(n, dtype=torch.float16), "float16"),
    "a row": (lambda n: torch.ones(1, n + 1, dtype=torch.float64), "shape"),
    "none": (lambda n: None, "NoneType is not a tensor"),
}


@pytest.mark.parametrize("name", BAD_STARTS)
def test_starts_that_are_refused(world, name):
    make, words = BAD_STARTS[name]
    layout = hs.RowLayout.even(N, world)
    with pytest.raises(hs.InputError, match=words):
        hs.nonlinear_solve(lambda u: u, make(layout.n_owned), layout=layout)


@pytest.mark.parametrize("kind", [list, np.array])
def test_lists_and_arrays_are_starts(world, kind):
    layout = hs.RowLayout.even(N, world)
    u, info = hs.nonlinear_solve(lambda u: u - 3.0, kind([1.0] * layout.n_owned), layout=layout)
    assert info.converged and everywhere(world, torch.equal(u, torch.full_like(u, 3.0)))


BAD_RESIDUALS = {
    "None": (lambda u: None, "NoneType where a tensor"),
    "an array": (lambda u: u.detach().numpy(), "ndarray where a tensor"),
    "a tuple": (lambda u: (u, u), "tuple where a tensor"),
    "a column": (lambda u: u[:, None] - 1.0, "gave shape"),
    "broadcast": (lambda u: u[:, None] - u[None], "gave shape"),
    "a number": (lambda u: u.sum(), "gave shape"),
    "float32": (lambda u: u.float() - 1.0, "float32"),
    "integers": (lambda u: u.long(), "int64"),
}


@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize("name", BAD_RESIDUALS)
def test_residuals_that_are_refused_on_every_rank(world, name, gradient):
    function, words = BAD_RESIDUALS[name]
    layout = hs.RowLayout.even(N, world)
    u0 = torch.ones(layout.n_owned, dtype=torch.float64)
    only_last = world.size - 1
    with torch.set_grad_enabled(gradient), pytest.raises(hs.InputError, match=words):
        hs.nonlinear_solve(
            lambda u: function(u) if world.rank == only_last else u - 1.0, u0, layout=layout
        )


@pytest.mark.parametrize("gradient", [False, True])
def test_a_residual_that_fails_on_one_rank_does_not_wait_for_the_others(world, gradient):
    """They may be waiting for it within the residual: only its own way out ends the job."""
    layout = hs.RowLayout.even(N, world)
    u0 = torch.ones(layout.n_owned, dtype=torch.float64)

    def residual(u):
        return u * layout.dot(u, torch.ones(layout.n_owned + 1, dtype=u.dtype))

    with (
        torch.set_grad_enabled(gradient),
        pytest.raises(hs.InputError, match="first dimension") as caught,
    ):
        hs.nonlinear_solve(residual, u0, layout=layout)
    assert caught.value.__cause__ is None, "its own, and none that ranks had to agree on"


def test_not_finite_where_it_starts_and_later(world):
    layout = hs.RowLayout.even(N, world)
    u0 = torch.ones(layout.n_owned, dtype=torch.float64)
    u, info = hs.nonlinear_solve(lambda u: u * float("nan"), u0, layout=layout)
    assert info.status == "not_finite" and everywhere(world, torch.equal(u, u0))
    # Steps into what has no value are shortened.
    u, info = hs.nonlinear_solve(lambda u: torch.log(u) + 3.0, u0 * 2, layout=layout, rtol=1e-10)
    assert info.converged and everywhere(world, torch.allclose(u, torch.exp(-3 * u0)))


@pytest.mark.parametrize("method", ["newton", "picard", "anderson"])
def test_the_best_iterate_comes_back(world, method):
    layout = hs.RowLayout.even(N, world)
    u0 = torch.full((layout.n_owned,), 1.5, dtype=torch.float64)

    def residual(u):
        return torch.atan(u) * (1.0 + 30.0 * u**2)

    options = {"line_search": False, "forcing": 1e-8} if method == "newton" else {}
    u, info = hs.nonlinear_solve(
        residual, u0, layout=layout, method=method, max_iterations=8, **options
    )
    true = float(layout.norm(residual(u)))
    if not info.converged:
        assert abs(true - min(info.residual_history)) <= 1e-12 * true
    assert abs(true - info.residual_norm) <= 1e-12 * max(true, 1.0)


BAD_CHOICES = {
    "precond": "nonsense",
    "line_search": "none",  # any text is true
    "throw": "no",
    "forcing": "a little",
    "precond_lag": "often",
    "rtol": "small",
    "atol": None,
    "max_iterations": 2.5,
    "linear_max_iterations": math.nan,
}


@pytest.mark.parametrize("field", BAD_CHOICES)
def test_choices_that_are_none_are_refused_at_a_root_too(world, field):
    """Where nothing is left to do with them a slip would go unnoticed."""
    layout = hs.RowLayout.even(N, world)
    for start in (1.0, 2.0):
        u0 = torch.full((layout.n_owned,), start, dtype=torch.float64)
        with pytest.raises(hs.InputError) as refused:
            hs.nonlinear_solve(lambda u: u**2 - 1, u0, layout=layout, **{field: BAD_CHOICES[field]})
        assert refused.value.field == field


@pytest.mark.parametrize("shape", ["no columns", "no rows"])
def test_nothing_to_solve_for(world, shape):
    layout = hs.RowLayout.even(N if shape == "no columns" else 0, world)
    trailing = (0,) if shape == "no columns" else ()
    a = torch.ones((layout.n_owned, *trailing), dtype=torch.float64, requires_grad=True)
    for options in ({}, {"jacobian": "matrix_free"}):
        u, info = hs.nonlinear_solve(
            lambda u, a: u**2 - a, torch.ones_like(a).detach(), a, layout=layout, **options
        )
        assert info.converged and u.shape == a.shape and u.requires_grad
        (world.all_sum(u.sum())).backward()
        assert a.grad is not None and a.grad.shape == a.shape


def test_all_rows_on_one_rank_with_everything_left_open(world):
    dense = known()
    A = distribute(matrix(), world, "all on the last")
    values, d, s, f = parameters(A, vector(201), 0.7, 3 * vector(202))
    u, info = hs.nonlinear_solve(
        on_ranks(world, A), torch.zeros_like(f), A.with_values(values), d, s, f, rtol=1e-12
    )
    assert info.converged and np.allclose(full(A.layout, u), dense.u, atol=1e-10)
    (A.layout.dot(spread(A.layout, vector(203)), u) + A.layout.dot(u, u)).backward()
    assert np.allclose(full(A.layout, f.grad), dense.gradients()[3], atol=1e-8)


def test_a_step_of_training_leaves_no_cycle(world):
    """What a step made is gone with its last name, not when the collector comes."""
    A = on_world(world)

    def step():
        values, d, s, f = parameters(A, vector(201), 0.7, 3 * vector(202))
        u, _ = hs.nonlinear_solve(
            on_ranks(world, A), torch.zeros_like(f), A.with_values(values), d, s, f
        )
        A.layout.dot(u, u).backward()
        return [weakref.ref(t) for t in (u, values, f)]

    step()
    gc.collect()
    gc.disable()
    try:
        left = sum(r() is not None for r in step())
        found = gc.collect()
    finally:
        gc.enable()
    assert everywhere(world, left == 0)
    assert everywhere(world, found < 20), found


def test_a_compiled_residual(world):
    A = distribute_once(matrix(), world)
    f = spread(A.layout, vector(202)).requires_grad_()

    def residual(u, f):
        return A @ u + u**3 - f

    compiled = torch.compile(residual, backend="aot_eager")
    start = torch.zeros_like(f).detach()
    grads = []
    for function in (residual, compiled):
        f.grad = None
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)
            u, info = hs.nonlinear_solve(function, start, f, layout=A.layout, rtol=1e-12)
            assert info.converged
            A.layout.dot(u, u).backward()
        grads.append(f.grad)
    assert everywhere(world, torch.allclose(*grads, atol=1e-9))

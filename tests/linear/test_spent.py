"""Vectors that a method is done with serve to look at what it has found."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import hpc_sla as hs
from hpc_sla.kernels import accuracy
from hpc_sla.linear.accuracy import room
from hpc_sla.linear.method import System
from tests.checkpoints import poisson
from tests.collective import distribute_once, full, spd_matrix, spread
from tests.methods import ENTRIES

pytestmark = pytest.mark.mpi
SPENT = ("cg", "minres", "bicgstab", "pipelined_cg")


class _Largest(TorchDispatchMode):
    """The largest storage that operators make, in numbers."""

    def __init__(self):
        super().__init__()
        self.found = 0

    def __torch_dispatch__(self, function, types, arguments=(), named=None):
        made = function(*arguments, **(named or {}))
        if isinstance(made, torch.Tensor) and not function.is_view:
            known = [a.untyped_storage().data_ptr() for a in arguments if torch.is_tensor(a)]
            if made.untyped_storage().data_ptr() not in known:
                self.found = max(self.found, made.numel())
        return made


@pytest.mark.parametrize("columns", [(), (3,)], ids=["one", "three"])
@pytest.mark.parametrize("method", ENTRIES)
def test_a_method_begins_anew_whatever_those_hold(world, monkeypatch, method, columns):
    matrix = spd_matrix(41, seed=3)
    A = distribute_once(matrix, world)
    b = np.random.default_rng(4).standard_normal((41, *columns))
    examine, lent = System.examine, []

    def refuse_once(self):
        norms = examine(self)
        for vector in self.spare:
            vector.fill_(torch.nan)
        lent.append(len(self.spare))
        return [1e6 * norm for norm in norms] if len(lent) == 1 else norms

    monkeypatch.setattr(System, "examine", refuse_once)
    x, info = hs.solve(A, spread(A.layout, b), method, "jacobi", rtol=1e-9, max_iterations=2000)
    assert info.converged and len(lent) > 1
    assert set(lent) == {len(ENTRIES[method].spent)}
    np.testing.assert_allclose(full(A.layout, x), np.linalg.solve(matrix.toarray(), b), atol=1e-6)


@pytest.mark.parametrize("method", SPENT)
def test_the_look_makes_no_vectors(world, monkeypatch, method):
    """Not even where the errors of rows are looked at twice, as with an x that decays."""
    matrix = poisson(48)
    A = distribute_once(matrix, world)
    b = spread(A.layout, np.eye(1, matrix.shape[0])[0])
    examine, guard, largest, guarded = System.examine, accuracy.guard, _Largest(), []

    def watched(self):
        with largest:
            return examine(self)

    monkeypatch.setattr(System, "examine", watched)
    monkeypatch.setattr(accuracy, "guard", lambda *a: guarded.append(1) or guard(*a))
    _, info = hs.solve(A, b, method, "jacobi")
    assert info.converged and guarded
    assert largest.found <= max(64, A.layout.n_owned // 2)


class Own(hs.CG):
    """Steepest descent, with a vector of its own name: it has none of those of its base class."""

    carried = ("rr", "live")
    kept = ("r",)

    def allocate(self):
        self.image = torch.empty_like(self.r)

    def start(self, active):
        (self.rr,) = self.scalars.dots((self.r, self.r))
        self.scalars.record(self.rr, self.rr, self.rr)
        self.live = active & (self.rr > 0)

    def step(self):
        self.operator(self.r, self.image)
        (curvature,) = self.scalars.dots((self.r, self.image))
        alpha = self.scalars.ratio(self.rr, curvature, self.live)
        self.x += alpha * self.r
        self.r -= alpha * self.image
        (self.rr,) = self.scalars.dots((self.r, self.r))
        self.scalars.record(curvature, self.rr, self.rr)


def test_a_class_of_ones_own_says_its_own(world):
    matrix = sp.diags_array([-1.0, 4.0, -1.0], offsets=[-1, 0, 1], shape=(41, 41)).tocsr()
    A = distribute_once(matrix, world)
    b = np.random.default_rng(4).standard_normal(41)
    x, info = hs.solve(A, spread(A.layout, b), Own(), "none")
    assert info.converged
    np.testing.assert_allclose(full(A.layout, x), np.linalg.solve(matrix.toarray(), b), atol=1e-6)


@pytest.mark.parametrize(
    "spare",
    [
        torch.empty(7, dtype=torch.float32),
        torch.empty(6, dtype=torch.float64),
        torch.empty(7, 2, dtype=torch.float64)[:, 0],
    ],
    ids=["of another dtype", "too short", "not contiguous"],
)
def test_what_does_not_serve_is_left_alone(spare):
    like = torch.zeros(7, dtype=torch.float64)
    made = room([spare], 0, like)
    assert made.data_ptr() != spare.data_ptr()
    assert (made.shape, made.dtype, made.is_contiguous()) == (like.shape, like.dtype, True)

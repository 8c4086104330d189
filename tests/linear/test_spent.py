"""Vectors that a method is done with serve to look at what it has found."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import hpc_sla as hs
from hpc_sla.kernels import accuracy
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

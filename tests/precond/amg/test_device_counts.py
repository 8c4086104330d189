"""What a set-up on a device launches, waits for and brings to the host, counted on the CPU.

Without the compiled loops the CPU does what a GPU does, operation by operation.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import hpc_sla as hs
from hpc_sla import hashing, problems
from hpc_sla.kernels import native
from hpc_sla.precond.amg.device import arrays
from hpc_sla.precond.amg.device.hierarchy import DeviceHierarchy, hierarchy_for
from hpc_sla.precond.amg.device.numbers import mixed, noise
from hpc_sla.precond.amg.hierarchy import Hierarchy
from hpc_sla.precond.amg.options import AmgOptions

WAITS = {"_local_scalar_dense", "nonzero", "_unique2", "unique_consecutive", "masked_select"}
VIEWS = {"view", "slice", "select", "expand", "unsqueeze", "squeeze", "transpose", "t", "detach"}

LAUNCHES, WAITED = 1600, 45
"""At most for a level: its smoother and estimate, and its transfer and product."""


class Counting(TorchDispatchMode):
    """Operations by name, and the largest array that was read on the host."""

    def __init__(self, monkeypatch):
        super().__init__()
        self.operations, self.read = Counter(), [0]
        for name in ("tolist", "numpy", "cpu", "__array__"):
            monkeypatch.setattr(torch.Tensor, name, self._noting(getattr(torch.Tensor, name), name))

    def _noting(self, function, name):
        def noted(tensor, *arguments, **named):
            self.read.append(tensor.numel())
            self.operations[name] += 1
            return function(tensor, *arguments, **named)

        return noted

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.operations[function.overloadpacket.__name__] += 1
        return function(*args, **(kwargs or {}))

    @property
    def launches(self):
        return sum(n for name, n in self.operations.items() if name not in VIEWS)

    @property
    def waits(self):
        return sum(n for name, n in self.operations.items() if name in WAITS | {"tolist", "cpu"})


def _system(n, spec="poisson2d"):
    problem = problems.make(f"{spec}:n={n}")
    world = hs.World.serial("cpu")
    A = problems.distribute(problem, world)
    near = np.ones((A.layout.n_owned, 1))
    if problem.block_size > 1:
        near = np.asarray(problem.near_nullspace(0, A.layout.n_owned))
    A.pattern.owned.diagonal  # noqa: B018 - made once for a pattern
    # Values as a tensor, as a GPU has them.
    return A.with_values(A.values.clone()), near, problem.block_size


def _options(levels, size):
    return AmgOptions(max_levels=levels, coarse_size=1, block_size=size)


def _counted(monkeypatch, n, spec, levels):
    A, near, size = _system(n, spec)
    with monkeypatch.context() as patch:
        patch.setattr(native, "LIBRARY", None)
        patch.setattr(arrays, "ROOM", 1 << 40)  # each piece of a product costs some more
        counted = Counting(patch)
        with counted:
            made = DeviceHierarchy(A, near, _options(levels, size))
    assert len(made.levels) == levels
    return counted


@pytest.mark.parametrize(
    ("spec", "small", "large"), [("poisson2d", 40, 160), ("elasticity3d", 6, 10)]
)
def test_a_level_costs_as_much_whatever_its_rows(monkeypatch, spec, small, large):
    first, second = (_counted(monkeypatch, n, spec, 2) for n in (small, large))
    # But for rounds of the two searches for roots, which are made by fours: two more of each.
    assert abs(second.launches - first.launches) <= 2 * 2 * 4 * 30
    for counted in (first, second):
        print(counted.launches, counted.waits, counted.operations.most_common(12))
        assert counted.launches < LAUNCHES
        assert counted.waits < WAITED
        assert max(counted.read) < 100


def test_an_update_brings_no_level_to_the_host(monkeypatch):
    A, near, size = _system(60)
    monkeypatch.setattr(native, "LIBRARY", None)
    made = DeviceHierarchy(A, near, _options(3, size))
    other = A.with_values(2 * A.values)
    for keep, most in (("prolongators", 120), ("aggregates", 180)):
        with monkeypatch.context() as patch:
            counted = Counting(patch)
            with counted:
                made.updated(other, keep)
        print(keep, counted.launches, counted.waits)
        assert max(counted.read) < 100
        assert counted.waits < most


def test_tensors_are_made_on_the_device(monkeypatch):
    """What says no device would be made on this one, where nothing else is."""
    monkeypatch.setattr(native, "LIBRARY", None)
    A, near, size = _system(6, "elasticity3d")
    with torch.device("meta"):
        made = DeviceHierarchy(A, near, _options(3, size))
        made.updated(A, "prolongators")
    assert {level.operator.values.device.type for level in made.levels} == {"cpu"}


def test_numbers_are_those_of_hashing():
    index = np.concatenate([np.arange(1000), 2**40 + np.arange(1000)])
    there = torch.from_numpy(index)
    assert np.array_equal(noise(there).numpy(), hashing.noise(index, 0))
    expected = hashing.mix(index.astype(np.uint64) * hashing.GOLDEN).view(np.int64)
    assert np.array_equal(mixed(there).numpy(), expected)


def test_only_other_devices_go_this_way():
    assert hierarchy_for(torch.device("cpu")) is Hierarchy
    assert hierarchy_for(torch.device("cuda", 0)) is DeviceHierarchy

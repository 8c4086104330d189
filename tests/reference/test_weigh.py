"""What is held by whom, beside what is known to be there."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import hpc_sla as hs
from hpc_sla.observe.held import held_bytes
from hpc_sla.problems import distribute, make
from hpc_sla.reference.weigh import weigh


class _Owner:
    __module__ = "hpc_sla.of_a_test"

    def __init__(self, *parts: object) -> None:
        self.parts = parts


def test_shared_memory_counts_once_and_for_the_first() -> None:
    tensor = torch.zeros(100)
    array, other = tensor.numpy(), np.zeros(10)
    owners = {
        "first": _Owner([tensor[10:20], {"a": other[::2]}]),
        "second": _Owner((array, tensor), other, _Owner(np.zeros(3))),
        "third": tensor.view(10, 10),
    }
    assert held_bytes(owners) == {"first": 400 + 80, "second": 24, "third": 0}


def test_what_stands_besides_is_not_entered() -> None:
    world = _Owner(np.zeros(7))
    assert held_bytes({"one": _Owner(world, np.zeros(2))}, [world]) == {"one": 16}
    circle = _Owner()
    circle.parts = (circle, np.zeros(1))
    assert held_bytes({"circle": circle}) == {"circle": 8}


@pytest.mark.mpi
@pytest.mark.parametrize("precond", ["jacobi", "amg:coarse_size=50"])
def test_a_solve(world: hs.World, precond: str) -> None:
    problem = make("anisotropic2d:n=40,epsilon=0.1,angle=0.5")

    def build() -> tuple[hs.DSparseMatrix, torch.Tensor]:
        A = distribute(problem, world)
        return A, torch.ones(A.layout.n_owned, dtype=torch.float64, device=world.device)

    found = weigh(world, build, "cg", precond, 1e-6, None)
    A, _ = build()
    vector = 8 * A.shape[0]
    assert found.converged and found.rows == 1600
    assert found.held["right-hand side"] == found.held["solution"] == vector
    assert 3 * vector <= found.held["method's vectors"] <= 4 * vector
    values, indices = 8 * A.nnz_global, 4 * A.nnz_global
    assert values / 8 < found.held["matrix"] < 1.2 * (values + indices) + 10_000 * world.size
    levels = [name for name in found.held if "level" in name]
    assert len(levels) == (0 if precond == "jacobi" else 3 * len({n[:19] for n in levels}))
    assert found.moved is not None and found.moved > 12 * vector
    assert found.triad > 0 and found.achieved is not None and found.achieved > 0
    assert list(found.stages) == ["build", "set-up", "solve"]

"""Blocks without columns: [n, 0] in, [n, 0] out, and gradients that are zero."""

from __future__ import annotations

import pytest
import torch

from tests.collective import MATRICES, distribute, everywhere

pytestmark = pytest.mark.mpi


def nothing(layout, dtype=torch.float64) -> torch.Tensor:
    return torch.zeros((layout.n_owned, 0), dtype=dtype, requires_grad=True)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("partition", ["metis", "all on the last"])
@pytest.mark.parametrize("name", list(MATRICES)[:3])
def test_products(world, name, partition, dtype):
    A = distribute(MATRICES[name]().astype(str(dtype).removeprefix("torch.")), world, partition)
    A = A.with_values(A.values.requires_grad_())
    for product in (A.__matmul__, A.T.__matmul__):
        x = nothing(A.layout, dtype)
        y = product(x)
        assert y.shape == (A.layout.n_owned, 0) and y.requires_grad
        A.values.grad = None
        y.sum().backward()
        assert x.grad is not None and x.grad.shape == x.shape
        assert everywhere(world, not A.values.grad.any())


def test_halos_and_whole_vectors(world):
    A = distribute(next(iter(MATRICES.values()))(), world)
    x = nothing(A.layout)
    assert A.halo(x).shape == (A.n_halo, 0)
    extended = A.with_halo(x)
    assert extended.shape == (A.layout.n_owned + A.n_halo, 0)
    extended.sum().backward()
    assert x.grad.shape == x.shape
    assert A.layout.norm(x).shape == A.layout.dot(x, x).shape == (0,)
    whole = A.layout.allgather(x)
    assert whole.shape == (A.layout.n_global, 0)
    assert A.layout.scatter(whole).shape == x.shape

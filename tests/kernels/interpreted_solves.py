"""Whole solves on the CPU by the GPU's products: with TRITON_INTERPRET=1, in a process of its own.

TRITON_INTERPRET=1 python -m tests.kernels.interpreted_solves
"""

from __future__ import annotations

import sys

import scipy.sparse as sp
import torch

import hpc_sla as hs
from hpc_sla.kernels import (
    device_matrix,
    device_products,
    native,
    triton_products,  # noqa: F401 - registers the operators
)
from hpc_sla.sparse import compressed
from hpc_sla.sparse.operators import as_operator

CALLS: list[str] = []
_launch = device_products.DeviceRows.__call__


def _counted(self, *arguments, **named):
    CALLS.append(self.operator)
    _launch(self, *arguments, **named)


def _serves(x: torch.Tensor) -> bool:
    return x.dim() == 1 and x.is_contiguous() and x.dtype in native.DTYPES


def matrix(n: int) -> sp.csr_matrix:
    line = sp.diags([-1.0, 2.0, -1.0], [-1, 0, 1], shape=(n, n))
    return (sp.kron(line, sp.eye(n)) + sp.kron(sp.eye(n), line) + 0.1 * sp.eye(n * n)).tocsr()


def on_device(served: bool) -> None:
    device_products.serves = _serves if served else lambda x: False


def main(precond: str) -> None:
    native.LIBRARY = None
    device_products.DeviceRows.__call__ = _counted
    device_matrix.FEWEST_ROWS = 50  # slices of levels, too
    compressed._FEWEST_ROWS = compressed._FEWEST_TO_REPEAT = 50
    world = hs.World(device="cpu")
    on_device(False)
    A = hs.DSparseMatrix.from_scipy(matrix(16) if world.rank == 0 else None, world, "contiguous")
    b = torch.linspace(-1, 1, A.layout.n_owned, dtype=torch.float64)
    found = []
    for served in (False, True):
        on_device(served)
        x, info = hs.solve(A, b, method="cg", precond=precond, rtol=1e-9)
        assert info.converged
        found.append((x, info.iterations))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-6, atol=1e-8)
    assert abs(found[0][1] - found[1][1]) <= 1
    kinds = {"csr_rows", "sliced_rows"} if world.size > 1 else {"sliced_rows"}
    assert kinds <= set(CALLS), set(CALLS)
    if precond == "jacobi":
        values(A, b)
    world.comm.Barrier()
    if world.rank == 0:
        print("same")


def values(A: hs.DSparseMatrix, b: torch.Tensor) -> None:
    """Slices are a copy: they follow the values, whoever changes them."""
    weights = torch.linspace(1, 2, A.values.numel(), dtype=torch.float64)
    for change in (
        lambda values: values.mul_(weights),
        lambda values: values.numpy().__imul__(0.5),  # behind torch's back
    ):
        operator = as_operator(A)
        for transpose in (False, True):
            out, expected = torch.empty_like(b), torch.empty_like(b)
            for _ in range(2):
                on_device(True)
                (operator.adjoint if transpose else operator)(b, out)
                on_device(False)
                values = A.values.detach().clone()
                (A.pattern.rmatmul if transpose else A.pattern.matmul)(values, b, expected)
                torch.testing.assert_close(out, expected)
                change(A.values)
                operator = as_operator(A)


if __name__ == "__main__":
    main(sys.argv[1])

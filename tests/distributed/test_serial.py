"""A World of one process: everything that takes a World, and no MPI."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch

import hpc_sla as hs
from tests.collective import MATRICES, PARTITIONS, dense, distribute, full, spd_matrix
from tests.launch import launch_python

WITHOUT_MPI = """
import sys
if {hidden}:
    sys.modules["mpi4py"] = None
import torch, hpc_sla as hs
values = torch.tensor([4.0, -1.0, -1.0, 4.0], dtype=torch.float64)
S = hs.SparseTensor(values, [0, 0, 1, 1], [0, 1, 0, 1], (2, 2))
b = torch.tensor([3.0, 3.0], dtype=torch.float64)
for backend in ("auto", "torch", "scipy"):
    assert torch.allclose(S.solve(b, backend=backend), torch.ones(2, dtype=torch.float64))
S.save("s.h5")
assert torch.equal(hs.SparseTensor.load("s.h5").to_dense(), S.to_dense())
S.T @ b
with hs.World.serial("cpu") as world:
    A = hs.DSparseMatrix.from_scipy(S.to_scipy(), world)
    A.layout.gather(hs.solve(A, A.layout.scatter(b))[0])
    with __import__("pytest").raises(hs.InputError), world.agree():
        raise hs.InputError("no")
loaded = [name for name in sys.modules if name.startswith("mpi4py.")]
assert not loaded, loaded
print("done")
"""


@pytest.mark.slow
@pytest.mark.parametrize("hidden", [True, False])
def test_a_sparse_tensor_neither_starts_nor_needs_mpi(hidden, tmp_path):
    ran = launch_python(0, "-c", WITHOUT_MPI.format(hidden=hidden), cwd=tmp_path)
    assert (ran.returncode, ran.stdout) == (0, "done\n"), ran.stderr


@pytest.fixture
def alone():
    with hs.World.serial("cpu") as world:
        yield world


@pytest.mark.parametrize("name", MATRICES)
@pytest.mark.parametrize("partition", PARTITIONS)
def test_matrices(alone, name, partition):
    matrix = MATRICES[name]()
    A = distribute(matrix, alone, partition)
    np.testing.assert_allclose(dense(A), matrix.toarray())
    x = torch.randn(matrix.shape[0], 2, dtype=torch.float64)
    owned = A.layout.scatter(x)
    np.testing.assert_allclose(full(A.layout, A @ owned), matrix @ x.numpy(), atol=1e-12)
    np.testing.assert_allclose(full(A.layout, A.T @ owned), matrix.T @ x.numpy(), atol=1e-12)


def test_solve_from_triplets_in_any_order(alone):
    matrix = sp.coo_matrix(spd_matrix(25, 3))
    order = np.random.default_rng(0).permutation(matrix.nnz)
    rows, cols, data = matrix.row[order], matrix.col[order], matrix.data[order]
    A = hs.DSparseMatrix.from_coo(rows, cols, data, matrix.shape, alone)
    b = torch.ones(25, dtype=torch.float64)
    x, info = hs.solve(A, b)
    assert info.converged
    np.testing.assert_allclose(matrix @ x.numpy(), 1, atol=1e-6)


def test_reductions(alone):
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    alone.all_sum(alone.replicate(x) * 3).sum().backward()
    assert x.grad is not None and x.grad.tolist() == [3.0, 3.0]
    assert (alone.max(4.0), alone.sum(5), alone.on_root(lambda: 6)) == (4.0, 5, 6)
    assert alone.gather_objects("a") == ["a"]
    alone.barrier()
    assert (alone.rank, alone.size, alone.transport.name) == (0, 1, "serial")
    assert "serial" in repr(alone)


def test_errors_are_raised_once(alone):
    with pytest.raises(hs.InputError, match=r"^bad thing$"), alone.agree():
        raise hs.InputError("bad thing")


def test_what_cannot_be_is_refused():
    with pytest.raises(hs.InputError, match="unknown device"):
        hs.World.serial("tpu9")
    from hpc_sla.distributed.transport.serial import SerialComm

    with pytest.raises(hs.InputError, match="needs a communicator"):
        hs.World(SerialComm(), "cpu", transport="mpi")

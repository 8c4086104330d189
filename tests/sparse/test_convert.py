"""From and to torch, SciPy, PETSc, and other Worlds: the same matrix, on the ranks asked for."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.io
import scipy.sparse as sp
import torch

import hpc_sla as hs
from hpc_sla.distributed import petsc as petsc_side
from tests.collective import MATRICES, dense, everywhere, random_matrix, spd_matrix, spread

pytestmark = pytest.mark.mpi

needs_petsc = pytest.mark.skipif(not petsc_side.available(), reason="petsc4py is not installed")


@pytest.fixture(scope="module")
def world():
    return hs.World(device="cpu")


def _spread(matrix, world, **given):
    return hs.DSparseMatrix.from_scipy(matrix if world.rank == 0 else None, world, **given)


def _torch(matrix, layout, dtype=torch.float64):
    coo = sp.coo_array(matrix)
    t = torch.sparse_coo_tensor(
        np.stack([coo.row, coo.col]), coo.data, coo.shape, dtype=dtype, check_invariants=True
    )
    return {"coo": t, "csr": t.to_sparse_csr(), "csc": t.to_sparse_csc()}[layout]


@pytest.mark.parametrize("layout", ["coo", "csr", "csc"])
@pytest.mark.parametrize("kind", list(MATRICES))
def test_from_torch_on_rank_0(world, kind, layout):
    matrix = MATRICES[kind]()
    given = _torch(matrix, layout) if world.rank == 0 else None
    A = hs.DSparseMatrix.from_torch(given, world)
    assert np.array_equal(dense(A), matrix.toarray())
    assert A.layout.same(_spread(matrix, world).layout)


@pytest.mark.parametrize("layout", ["coo", "csr", "csc"])
def test_from_torch_is_differentiable(world, layout):
    """The gradient arrives at the tensor that rank 0 holds."""
    matrix = random_matrix(17, 0.2, 5)
    coo, given, values = sp.coo_array(matrix), None, None
    if world.rank == 0:
        # By its values: torch keeps no gradient of a CSC tensor.
        values = torch.from_numpy(coo.data).requires_grad_()
        pair = np.stack([coo.row, coo.col])
        given = torch.sparse_coo_tensor(pair, values, coo.shape, check_invariants=True)
        given = (
            given if layout == "coo" else given.to_sparse(layout=getattr(torch, f"sparse_{layout}"))
        )
    A = hs.DSparseMatrix.from_torch(given, world)
    x = np.random.default_rng(0).standard_normal((2, 17))
    u, v = (spread(A.layout, row) for row in x)
    A.layout.dot(u, A @ v).backward()
    found = world.comm.bcast(None if values is None else values.grad)
    assert np.allclose(found, x[0][coo.row] * x[1][coo.col])


def test_from_torch_by_ranks(world):
    matrix = sp.csr_matrix(random_matrix(14, 0.4, 2))
    mine = matrix.copy()
    mine.data[np.repeat(np.arange(14), np.diff(mine.indptr)) % world.size != world.rank] = 0
    mine.eliminate_zeros()
    given = _torch(mine, "coo").requires_grad_()
    A = hs.DSparseMatrix.from_torch(given, world, per_rank=True)
    assert np.array_equal(dense(A), matrix.toarray())
    A.sum().backward()
    assert everywhere(world, torch.equal(given.grad.to_dense() != 0, given.to_dense() != 0))
    assert (
        hs.DSparseMatrix.from_torch(
            _torch(matrix, "csr", torch.float32) if world.rank == 0 else None, world, block_size=2
        ).block_size
        == 2
    )


def test_repeated_entries_of_torch_are_summed(world):
    t = torch.sparse_coo_tensor([[0, 0, 2], [1, 1, 2]], [1.0, 2.0, 4.0], (3, 3))
    A = hs.DSparseMatrix.from_torch(t.double() if world.rank == 0 else None, world)
    assert np.array_equal(dense(A), t.to_dense().numpy())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (torch.eye(3), "torch.strided is not a sparse tensor"),
        ("a matrix", "a str is not a sparse tensor"),
        (torch.eye(3).to_sparse().to(torch.int64), "torch.int64 is not supported"),
        (torch.ones(3).to_sparse(), r"shape \(3,\)"),
        ((torch.eye(3) * torch.nan).to_sparse().double(), "NaN"),
        (None, "a NoneType is not a sparse tensor"),
    ],
)
def test_what_is_no_sparse_tensor(world, given, message):
    with pytest.raises(hs.InputError, match=message):
        hs.DSparseMatrix.from_torch(given if world.rank == 0 else None, world)


@pytest.mark.parametrize("kind", list(MATRICES))
def test_to_scipy(world, kind):
    matrix = MATRICES[kind]()
    found = _spread(matrix, world).to_scipy()
    right = (found is None) if world.rank else (found != sp.csr_array(matrix)).nnz == 0
    assert everywhere(world, right)
    single = _spread(sp.csr_matrix(matrix, dtype=np.float32), world).to_scipy()
    assert everywhere(world, world.rank != 0 or single.dtype == np.float32)


def test_to_another_dtype(world):
    A = _spread(spd_matrix(20, 0), world)
    values = A.values.clone().requires_grad_()
    B = A.with_values(values).to(torch.float32)
    assert B.dtype == torch.float32 and B.pattern is A.pattern
    B.sum().backward()
    assert everywhere(world, torch.equal(values.grad, torch.ones_like(values)))
    assert A.to(torch.float64) is A and A.to("cpu") is A and A.to(world) is A
    with pytest.raises(hs.InputError, match=r"torch\.int32 is not supported"):
        A.to(torch.int32)
    with pytest.raises(hs.InputError, match="unknown device"):
        A.to("moon")


def test_to_another_world(world):
    """As to a GPU: all of it is made there, the coordinates too, and gradients come back."""
    matrix = spd_matrix(21, 3)
    A = _spread(matrix, world, coordinates=np.arange(21.0)[:, None] if world.rank == 0 else None)
    there = hs.World(device="cpu", transport="gloo" if world.size > 1 else "auto")
    values = A.values.clone().requires_grad_()
    B = A.with_values(values).to(there)
    assert B.world is there and B.layout.world is there and B.columns is B.layout
    assert np.array_equal(dense(B), matrix.toarray())
    assert everywhere(world, torch.equal(B.coordinates, A.coordinates))
    x, info = hs.solve(B, torch.ones(B.layout.n_owned, dtype=torch.float64), rtol=1e-10)
    assert info.converged
    found = B.layout.allgather(x.detach()).numpy()
    assert np.allclose(matrix @ found, np.ones(21), atol=1e-7)
    B.sum().backward()
    assert everywhere(world, torch.equal(values.grad, torch.ones_like(values)))
    if world.size > 1:
        with pytest.raises(hs.InputError, match="is of other ranks"):
            A.to(hs.World.serial("cpu"))
    there.close()


@needs_petsc
@pytest.mark.parametrize("kind", list(MATRICES))
def test_to_and_from_petsc(world, kind):
    matrix = MATRICES[kind]()
    A = _spread(matrix, world)
    mat = A.to_petsc()
    try:
        assert mat.getLocalSize() == (A.layout.n_owned,) * 2
        x = spread(A.layout, np.random.default_rng(0).standard_normal(matrix.shape[1]))
        vec, product = A.layout.to_petsc(x), mat.createVecLeft()
        mat.mult(vec, product)
        assert everywhere(world, torch.allclose(A.layout.from_petsc(product), A @ x))
        B = hs.DSparseMatrix.from_petsc(mat, world)
        # PETSc's rows are the stored ones.
        order = np.concatenate(world.comm.allgather(A.layout.rows))
        assert np.array_equal(dense(B), matrix.toarray()[np.ix_(order, order)])
        assert np.array_equal(B.layout.offsets, A.layout.offsets)
    finally:
        mat.destroy()


@needs_petsc
def test_what_petsc_knows_of_unknowns_comes_along(world):
    matrix = sp.csr_matrix(sp.kron(spd_matrix(9, 0), np.ones((2, 2)) + np.eye(2)))
    near = np.random.default_rng(0).standard_normal((18, 2))
    A = _spread(matrix, world, block_size=2, near_nullspace=near if world.rank == 0 else None)
    mat = A.to_petsc()
    B = hs.DSparseMatrix.from_petsc(mat, world)
    assert B.block_size == 2
    # The same space, by another basis.
    Q = A.layout.allgather(B.near_nullspace).numpy()
    assert np.allclose(Q.T @ Q, np.eye(2), atol=1e-12)
    assert np.allclose(Q @ (Q.T @ near), near, atol=1e-10)
    for kind in ("baij", "dense"):
        other = mat.convert(kind, petsc_side.load().Mat())
        assert np.allclose(dense(hs.DSparseMatrix.from_petsc(other, world)), dense(B))
        other.destroy()
    mat.destroy()


@needs_petsc
def test_a_rectangular_matrix_of_petsc(world):
    matrix = sp.csr_matrix(sp.random_array((11, 6), density=0.4, rng=np.random.default_rng(0)))
    A = _spread(matrix, world, partition="contiguous", column_partition="contiguous")
    mat = A.to_petsc()
    B = hs.DSparseMatrix.from_petsc(mat, world)
    assert np.array_equal(dense(B), matrix.toarray())
    assert np.array_equal(B.columns.offsets, A.columns.offsets)
    mat.destroy()


@needs_petsc
def test_what_petsc_has_that_is_no_matrix_of_ours(world):
    petsc = petsc_side.load()
    A = _spread(spd_matrix(10, 0), world)
    with pytest.raises(hs.InputError, match="is not a PETSc Mat"):
        hs.DSparseMatrix.from_petsc(A, world)
    with pytest.raises(hs.InputError, match="is not a PETSc Vec"):
        A.layout.from_petsc(A)
    with pytest.raises(hs.InputError, match=r"not \[n_owned\]"):
        A.layout.to_petsc(torch.ones(A.layout.n_owned, 2, dtype=torch.float64))
    sizes = ((A.layout.n_owned, 10),) * 2
    shell = petsc.Mat().createPython(sizes, context=object(), comm=world.comm)
    shell.setUp()
    with pytest.raises(hs.InputError, match=r"entries to read|not assembled"):
        hs.DSparseMatrix.from_petsc(shell, world)
    if world.size > 1:
        alone = petsc.Mat().createAIJ((3, 3), nnz=1, comm=petsc.COMM_SELF)
        alone.assemble()
        with pytest.raises(hs.InputError, match="lives on 1 ranks"):
            hs.DSparseMatrix.from_petsc(alone, world)


def test_without_petsc(world, monkeypatch):
    monkeypatch.setattr(petsc_side, "find_spec", lambda name: None)
    A = _spread(spd_matrix(10, 0), world)
    with pytest.raises(hs.InputError, match=r"petsc4py.*is not installed"):
        A.to_petsc()
    with pytest.raises(hs.InputError, match=r"petsc4py.*is not installed"):
        hs.DSparseMatrix.from_petsc(None, world)


def test_a_file_of_elsewhere(world, tmp_path_factory):
    path = world.comm.bcast(str(tmp_path_factory.mktemp("files") / "a.mtx"))
    matrix = random_matrix(9, 0.4, 3)
    if world.rank == 0:
        scipy.io.mmwrite(path, matrix)
    A = hs.DSparseMatrix.from_file(path, world, partition="contiguous")
    assert np.allclose(dense(A), matrix.toarray())
    with pytest.raises(hs.InputError, match=r"no.mtx"):
        hs.DSparseMatrix.from_file(path.replace("a.mtx", "no.mtx"), world)

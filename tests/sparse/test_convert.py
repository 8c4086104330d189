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


def _repeated(kind):
    """Rows (or columns) that have some entries twice, out of order; and the same of SciPy's."""
    ends, inner = np.array([0, 3, 3, 5, 9]), np.array([2, 0, 2, 1, 1, 3, 0, 3, 3])
    values = torch.arange(1.0, 10.0, dtype=torch.float64)
    make = {"csr": torch.sparse_csr_tensor, "csc": torch.sparse_csc_tensor}[kind]
    theirs = {"csr": sp.csr_array, "csc": sp.csc_array}[kind]
    pair = torch.from_numpy(ends), torch.from_numpy(inner)
    return (
        lambda values: make(*pair, values, (4, 4), check_invariants=False),
        lambda values: theirs((values, inner, ends), shape=(4, 4)),
        values,
    )


@pytest.mark.parametrize("kind", ["csr", "csc"])
def test_repeated_entries_of_compressed_rows_are_summed(world, kind):
    ours, theirs, values = _repeated(kind)
    expected = theirs(values.numpy()).toarray()
    given = ours(values)
    for A in (
        hs.DSparseMatrix.from_torch(given if world.rank == 0 else None, world),
        _spread(theirs(values.numpy()), world),
        _spread(theirs(values.numpy().astype(np.float32)), world),
    ):
        assert np.array_equal(dense(A), expected)
    found = hs.SparseTensor.from_torch(given).to_dense().numpy()
    assert everywhere(world, np.array_equal(found, expected))
    values.requires_grad_()
    with pytest.raises(hs.InputError, match="given twice, and torch finds no gradient"):
        hs.DSparseMatrix.from_torch(ours(values) if world.rank == 0 else None, world)


def test_the_gradient_of_repeated_entries(world):
    """Of a tensor of compressed rows itself torch knows it."""
    ours, _, values = _repeated("csr")
    given = ours(values).requires_grad_()
    A = hs.DSparseMatrix.from_torch(given if world.rank == 0 else None, world)
    x = np.linspace(1, 2, 4)
    A.layout.dot(spread(A.layout, x**2), A @ spread(A.layout, x)).backward()
    rows, columns = np.repeat(np.arange(4), [3, 0, 2, 4]), given.col_indices().numpy()
    right = world.rank != 0 or np.allclose(given.grad.values(), x[rows] ** 2 * x[columns])
    assert everywhere(world, right)


def _wrong(kind):
    one, options = torch.ones(2, dtype=torch.float64), {"check_invariants": False}
    if kind.startswith("coo"):
        pair = {"coo column": [[0, 1], [0, 3]], "coo row": [[0, -1], [0, 1]]}[kind]
        return torch.sparse_coo_tensor(torch.tensor(pair), one, (3, 3), **options)
    make = torch.sparse_csc_tensor if kind.startswith("csc") else torch.sparse_csr_tensor
    ends, inner = {
        "csr column": ([0, 1, 2, 2], [0, 3]),
        "csc row": ([0, 1, 2, 2], [0, -1]),
        "csr ends": ([0, 3, 1, 2], [0, 1]),
        "csr short": ([0, 1, 1, 1], [0, 1]),
    }[kind]
    return make(torch.tensor(ends), torch.tensor(inner), one, (3, 3), **options)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("coo column", "column 3 is outside 0 to 2"),
        ("coo row", "row -1 is outside 0 to 2"),
        ("csr column", "column 3 is outside 0 to 2"),
        ("csc row", "row -1 is outside 0 to 2"),
        ("csr ends", "rows do not end one after another"),
        ("csr short", "rows do not end one after another"),
    ],
)
def test_indices_of_torch_that_make_no_matrix(world, kind, message):
    """Which torch looks at only where it was told to."""
    with pytest.raises(hs.InputError, match=message):
        hs.DSparseMatrix.from_torch(_wrong(kind) if world.rank == 0 else None, world)
    with pytest.raises(hs.InputError, match=message):
        hs.DSparseMatrix.from_torch(_wrong(kind), world, per_rank=True)


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

"""Model problems on ranks: the same matrix on any number of them, and their kernels."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch

import hpc_sla as hs
from hpc_sla import problems
from hpc_sla.cli.prepare import load_source, write_partitioned
from hpc_sla.errors import InputError
from hpc_sla.problems.system import NamedSystem
from hpc_sla.storage.matrix_file import MatrixFile
from tests.collective import dense, everywhere, full, on

SPECS = [
    "jumps2d:n=8",
    "neumann2d:n=6",
    "unstructured3d:n=4",
    "elasticity3d:n=2",
    "elasticity3d:n=1",
    "graph_laplacian:n=60",
    "poisson2d:n=1",
]


@pytest.mark.mpi
@pytest.mark.parametrize("spec", SPECS)
def test_every_rank_builds_its_own_rows(world, spec):
    problem = problems.make(spec)
    A = problems.distribute(problem, world)
    np.testing.assert_array_equal(dense(A), problem.matrix().toarray())
    start, stop = A.layout.start, A.layout.start + A.layout.n_owned
    assert everywhere(world, start % problem.block_size == 0 and stop % problem.block_size == 0)
    b = on(world, problem.rhs("manufactured", start, stop))
    x = on(world, problem.solution(start, stop))
    np.testing.assert_allclose(full(A.layout, A @ x), full(A.layout, b), atol=1e-12, rtol=1e-9)
    single = problems.distribute(problem, world, torch.float32)
    assert everywhere(world, single.dtype == torch.float32)


@pytest.mark.mpi
@pytest.mark.parametrize("parts", [1, 2, 3, 7])
def test_rigid_body_modes_from_a_file_s_coordinates(world, tmp_path, parts):
    """Nodes are whole on every rank, so that rows modulo 3 are components."""
    path = world.comm.bcast(str(tmp_path / "a.h5"))
    spec = "elasticity3d:n=4,clamped=false"
    world.on_root(lambda: write_partitioned(load_source(spec), path, parts, "metis"))
    A = hs.DSparseMatrix.from_hdf5(path, world)
    start = A.layout.start
    with world.agree(), MatrixFile(path) as file:
        points = on(world, file.read_coordinates(start, start + A.layout.n_owned))
    modes = problems.rigid_body_modes(points)
    assert everywhere(world, modes.shape == (A.layout.n_owned, 6))
    assert everywhere(world, (A.layout.rows % 3 == np.arange(A.layout.n_owned) % 3).all())
    problem = problems.make(spec)
    np.testing.assert_array_equal(full(A.layout, modes), problem.near_nullspace(0, problem.n_rows))
    assert float(A.layout.norm(A @ modes).max()) < 1e-14 * problem.n_rows


@pytest.mark.mpi
def test_from_scipy_keeps_nodes_whole(world):
    matrix = problems.make("elasticity3d:n=3").matrix() if world.rank == 0 else None
    for method in ("metis", "contiguous", None):
        A = hs.DSparseMatrix.from_scipy(matrix, world, partition=method, block_size=3)
        assert everywhere(world, (A.layout.rows % 3 == np.arange(A.layout.n_owned) % 3).all())
        np.testing.assert_array_equal(
            dense(A), problems.make("elasticity3d:n=3").matrix().todense()
        )
    part = np.arange(144) // 3 % world.size
    A = hs.DSparseMatrix.from_scipy(matrix, world, partition=part, block_size=3)
    assert everywhere(world, (A.layout.rows // 3 % world.size == world.rank).all())
    with pytest.raises(InputError, match="does not divide 144 rows"):
        hs.DSparseMatrix.from_scipy(matrix, world, block_size=5)
    if world.size > 1:
        with pytest.raises(InputError, match="divides nodes of 3 rows"):
            hs.DSparseMatrix.from_scipy(
                matrix, world, partition=np.arange(144) % world.size, block_size=3
            )


@pytest.mark.mpi
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_project_out(world, dtype):
    rng = np.random.default_rng(3)
    n = 30
    kernel = rng.standard_normal((n, 3)) * [1, 1e3, 1e-3]
    kernel = np.column_stack([kernel, kernel[:, 0] * 2])  # not independent
    b = rng.standard_normal((n, 2)) + 10 * kernel[:, :2]
    layout = hs.RowLayout.even(n, world)
    mine = slice(layout.start, layout.start + layout.n_owned)
    basis = on(world, kernel[mine]).to(dtype)
    left = problems.project_out(on(world, b[mine]).to(dtype), basis, world)
    assert everywhere(world, left.dtype == dtype)
    independent = kernel[:, :3]
    expected = b - independent @ np.linalg.lstsq(independent, b)[0]
    tolerance = 1e-10 if dtype == torch.float64 else 2e-2
    np.testing.assert_allclose(full(layout, left), expected, rtol=tolerance, atol=tolerance)
    one = problems.project_out(on(world, b[mine, 0]).to(dtype), basis, world)
    np.testing.assert_allclose(full(layout, one), expected[:, 0], rtol=tolerance, atol=tolerance)


@pytest.mark.mpi
@pytest.mark.parametrize("spec", ["neumann2d:n=12", "elasticity3d:n=3,clamped=false"])
def test_a_consistent_right_hand_side_is_solved_for(world, spec):
    problem = problems.make(spec)
    A = problems.distribute(problem, world)
    start, stop = A.layout.start, A.layout.start + A.layout.n_owned
    kernel = on(world, problem.near_nullspace(start, stop))
    rough = on(world, np.sin(np.arange(start, stop) ** 2.0) + 1)
    b = problems.project_out(rough, kernel, world)
    x, info = hs.solve(A, b, method="cg", precond="none", rtol=1e-10)
    assert info.converged
    reference = np.linalg.lstsq(dense(A), full(A.layout, b))[0]
    np.testing.assert_allclose(full(A.layout, x), reference, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("kind", ["numpy", "torch"])
@pytest.mark.parametrize(("d", "count"), [(2, 3), (3, 6)])
def test_rigid_body_modes_strain_nothing(kind, d, count):
    """Displacements that are a translation or a small turn: their gradient is antisymmetric."""
    rng = np.random.default_rng(0)
    points = np.repeat(rng.standard_normal((10, d)), d, axis=0)
    given = points if kind == "numpy" else torch.from_numpy(points.astype(np.float32))
    found = problems.rigid_body_modes(given)
    assert type(found) is type(given)
    assert found.dtype == given.dtype
    found = np.asarray(found, dtype=np.float64)
    assert found.shape == (10 * d, count)
    assert np.linalg.matrix_rank(found) == count
    at = np.column_stack([np.ones(10), points[::d]])
    for mode in found.T:
        affine = np.linalg.lstsq(at, mode.reshape(10, d))[0]
        np.testing.assert_allclose(at @ affine, mode.reshape(10, d), atol=1e-5)
        np.testing.assert_allclose(affine[1:], -affine[1:].T, atol=1e-5)


def test_rows_of_any_order_have_their_components_named():
    problem = problems.make("elasticity3d:n=2")
    rows = np.array([7, 3, 11, 2])
    points = problem.coordinates(0, problem.n_rows)[rows]
    found = problems.rigid_body_modes(points, component=rows % 3)
    np.testing.assert_array_equal(found, problem.near_nullspace(0, problem.n_rows)[rows])


@pytest.mark.parametrize(
    ("shape", "component", "words"),
    [
        ((4,), None, "coordinates"),
        ((4, 1), None, r"\(4, 1\)"),
        ((4, 3), [0, 1, 2], "component"),
        ((4, 3), [0, 1, 2, 3], "names an axis there is not"),
    ],
)
def test_rigid_body_modes_of_what_has_none(shape, component, words):
    with pytest.raises(InputError, match=words):
        problems.rigid_body_modes(np.zeros(shape), component)


@pytest.mark.mpi
@pytest.mark.parametrize("spec", ["elasticity3d:n=2", "convection2d:n=7"])
def test_arrays_are_the_rows_of_the_matrix(world, spec):
    """Of a generator, as another library takes them: the same rows on each rank, nodes whole."""
    system = NamedSystem(spec, "manufactured", generated=True)
    A = system.matrix(world)
    n, (indptr, indices, values), b = system.arrays(world)
    mine = slice(A.layout.start, A.layout.start + A.layout.n_owned)
    matrix = problems.make(spec).matrix().tocsr()
    assert n == matrix.shape[0] and len(indptr) - 1 == len(b) == A.layout.n_owned
    rows = sp.csr_array((values, indices, indptr), shape=(len(b), n))
    assert (rows != matrix[mine]).nnz == 0
    np.testing.assert_allclose(b, system.right_hand_side(A.layout), rtol=1e-14)
    x = system.solution("manufactured", A.layout)
    np.testing.assert_allclose((A @ torch.from_numpy(x)).numpy(), b, atol=1e-12 * abs(b).max())

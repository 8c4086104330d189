"""Helpers for tests that run on every rank.

A check that fails on one rank only would leave the others waiting in their next collective
call, so values are brought together first and every rank checks the same thing.
"""

from __future__ import annotations

import hashlib

import numpy as np
import scipy.sparse as sp
import torch

import hpc_sla as hs


def everywhere(world: hs.World, ok: bool) -> bool:
    """True where every rank says so."""
    return all(world.comm.allgather(bool(ok)))


def full(layout: hs.RowLayout, x: torch.Tensor) -> np.ndarray:
    """A distributed vector in the user's order, on every rank."""
    return layout.allgather(x).numpy()


def on(world: hs.World, values: np.ndarray) -> torch.Tensor:
    """An array as a tensor on this rank's device."""
    return torch.from_numpy(np.ascontiguousarray(values)).to(world.device)


def spread(layout: hs.RowLayout, values: np.ndarray) -> torch.Tensor:
    """This rank's entries of a vector that every rank holds."""
    return on(layout.world, values[layout.rows])


def dense(A: hs.DSparseMatrix, values: torch.Tensor | None = None) -> np.ndarray:
    """The matrix (or other values on its pattern) in the user's order, on every rank."""
    rows, columns = A.entries()
    data = (A.values if values is None else values).detach().cpu().numpy()
    mine = sp.coo_matrix((data, (rows, columns)), shape=A.shape).toarray()
    return A.world.comm.allreduce(mine)


def random_matrix(n: int, density: float, seed: int, symmetric: bool = False) -> sp.csr_matrix:
    """Random pattern and values, the same on every rank; not symmetric in its pattern."""
    rng = np.random.default_rng(seed)
    matrix = sp.random_array((n, n), density=density, rng=rng, format="csr")
    matrix.data = rng.standard_normal(matrix.nnz)
    if symmetric:
        matrix = matrix + matrix.T
    return sp.csr_matrix(matrix)


def spd_matrix(n: int, seed: int, density: float = 0.15) -> sp.csr_matrix:
    """Symmetric, positive definite by diagonal dominance, badly scaled rows included."""
    matrix = random_matrix(n, density, seed, symmetric=True)
    matrix.setdiag(0)
    matrix.eliminate_zeros()
    dominant = np.asarray(abs(matrix).sum(axis=1)).ravel() + 0.1
    scale = sp.diags_array(10.0 ** np.random.default_rng(seed).uniform(-2, 2, n))
    return sp.csr_matrix(scale @ (matrix + sp.diags_array(dominant)) @ scale)


def disconnected(n: int, seed: int) -> sp.csr_matrix:
    """Two components and rows with no entries at all."""
    half = n // 2
    blocks = [random_matrix(half, 0.3, seed), random_matrix(n - half, 0.3, seed + 1)]
    matrix = sp.lil_matrix(sp.block_diag(blocks))
    matrix[::7] = 0
    return sp.csr_matrix(matrix)


MATRICES = {
    "random": lambda: random_matrix(37, 0.15, 0),
    "dense": lambda: random_matrix(9, 1.0, 1),
    "disconnected": lambda: disconnected(23, 2),
    "fewer rows than ranks": lambda: random_matrix(2, 1.0, 3),
    "one row": lambda: sp.csr_matrix(np.array([[3.0]])),
    "no entries": lambda: sp.csr_matrix((6, 6)),
    "spd": lambda: spd_matrix(31, 4),
}
"""Patterns every collective property must hold for."""


def random_rectangular(m: int, n: int, density: float, seed: int) -> sp.csr_matrix:
    """Random pattern and values, the same on every rank."""
    rng = np.random.default_rng(seed)
    matrix = sp.random_array((m, n), density=density, rng=rng, format="csr")
    matrix.data = rng.standard_normal(matrix.nnz)
    return sp.csr_matrix(matrix)


def empty_rows_and_columns(m: int, n: int, seed: int) -> sp.csr_matrix:
    matrix = sp.lil_matrix(random_rectangular(m, n, 0.4, seed))
    matrix[::3] = 0
    matrix[:, ::4] = 0
    return sp.csr_matrix(matrix)


RECTANGULAR = {
    "tall": lambda: random_rectangular(41, 13, 0.2, 20),
    "wide": lambda: random_rectangular(11, 35, 0.2, 21),
    "one column": lambda: random_rectangular(9, 1, 1.0, 22),
    "one wide row": lambda: random_rectangular(1, 7, 1.0, 23),
    "empty rows and columns": lambda: empty_rows_and_columns(17, 12, 24),
    "rectangular, no entries": lambda: sp.csr_matrix((3, 5)),
    "no columns": lambda: sp.csr_matrix((4, 0)),
}
"""Shapes other than n x n, for the same."""

ALL_SHAPES = {**MATRICES, **RECTANGULAR}

PARTITIONS = ["metis", "contiguous", "cyclic", "all on the last"]


def distribute(matrix: sp.csr_matrix, world: hs.World, partition: str = "metis"):
    """The matrix on all ranks, by a named or an awkward partition."""
    m, n = matrix.shape
    how: dict[str, tuple] = {
        "cyclic": (np.arange(m) % world.size, (np.arange(n) + 1) % world.size),
        "all on the last": (np.full(m, world.size - 1), np.zeros(n, dtype=int)),
    }
    rows, columns = how.get(partition, (partition, None))
    return hs.DSparseMatrix.from_scipy(
        matrix if world.rank == 0 else None,
        world,
        rows,
        column_partition=None if m == n else columns,
    )


_DISTRIBUTED: dict[tuple, tuple[hs.World, hs.DSparseMatrix]] = {}


def distribute_once(matrix: sp.csr_matrix, world: hs.World, partition: str = "metis"):
    """The same, kept for the next test that asks for it: for tests of what is done with a matrix.

    On more ranks than cores its set-up takes longer than many a solve.
    """
    content = hashlib.sha256()
    for part in (matrix.indptr, matrix.indices, matrix.data):
        content.update(part.tobytes())
    key = (id(world), partition, matrix.shape, matrix.dtype.str, content.digest())
    if key not in _DISTRIBUTED:
        # With the world, so that its id is not given to another.
        _DISTRIBUTED[key] = world, distribute(matrix, world, partition)
    return _DISTRIBUTED[key][1]

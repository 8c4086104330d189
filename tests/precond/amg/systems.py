"""Matrices of many levels on few rows, and what a multigrid does, as dense arrays."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import torch

import hpc_sla as hs
from hpc_sla.precond.amg.cycle import MultigridLevel
from hpc_sla.precond.amg.device.prolongator import DeviceProlongator, VectorRows
from hpc_sla.precond.amg.prolongator import Prolongator
from tests.collective import on, spd_matrix


def multigrid(**more) -> hs.AMG:
    """Levels down to 20 rows, and on fewer ranks from 100 rows a rank."""
    return hs.AMG(**({"coarse_size": 20, "rows_per_rank": 100, "dtype": "float64"} | more))


def poisson(n: int) -> sp.csr_matrix:
    second = sp.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(n, n))
    return sp.csr_matrix(sp.kronsum(second, second))


def convection(n: int) -> sp.csr_matrix:
    """Upwind in both directions: an M-matrix that is not symmetric."""
    up = sp.diags_array([-0.5, 0.5], offsets=[-1, 0], shape=(n, n))
    return sp.csr_matrix(poisson(n) + sp.kronsum(up, up))


def _lone_rows() -> sp.csr_matrix:
    matrix = poisson(9).tolil()
    for i in range(0, 81, 10):
        matrix[i, :], matrix[:, i] = 0, 0
        matrix[i, i] = 3
    return sp.csr_matrix(matrix)


SPD = {
    "poisson": lambda: poisson(13),
    "scaled": lambda: spd_matrix(60, 1, 0.06),
    "two components": lambda: sp.block_diag([poisson(7), poisson(5)], "csr"),
    "lone rows": _lone_rows,
    "diagonal": lambda: sp.csr_matrix(sp.diags_array(np.arange(1.0, 50.0))),
    "fewer rows than ranks": lambda: spd_matrix(2, 4, density=1.0),
    "one row": lambda: sp.csr_matrix(np.array([[4.0]])),
}
PARTITIONS = ["metis", "cyclic", "all on the last"]


def constants(A: hs.DSparseMatrix) -> np.ndarray:
    return np.ones((A.layout.n_owned, 1))


def stacked(A: hs.DSparseMatrix, rows: np.ndarray) -> np.ndarray:
    """Per rank rows, one after the other, on every rank."""
    return np.concatenate(A.world.comm.allgather(rows))


def as_dense(A: hs.DSparseMatrix, apply) -> np.ndarray:
    """What it makes of each unit vector, in stored row order, on every rank."""
    n, start = A.layout.n_global, A.layout.start
    r = on(A.world, np.eye(n)[start : start + A.layout.n_owned]).to(A.dtype)
    return stacked(A, apply(r, torch.full_like(r, float("nan"))).cpu().numpy())


def dense_of(pattern, values: np.ndarray) -> np.ndarray:
    """A distributed matrix in stored order, on every rank; from its two blocks."""
    n, m = pattern.layout.n_global, pattern.columns.n_global
    first, own = pattern.layout.start, pattern.columns.start
    result = np.zeros((n, m))
    blocks = (
        (
            pattern.owned,
            np.arange(pattern.layout.n_owned),
            own + np.arange(pattern.columns.n_owned),
        ),
        (pattern.halo, pattern.boundary.cpu().numpy(), pattern.plan.halo),
    )
    begin = 0
    for block, rows, columns in blocks:
        indptr, indices = block.indptr.cpu().numpy(), block.indices.cpu().numpy()
        row = np.repeat(first + rows, np.diff(indptr))
        np.add.at(result, (row, columns[indices]), values[begin : begin + block.nnz])
        begin += block.nnz
    return pattern.layout.world.comm.allreduce(result)


def dense_prolongator(
    A: hs.DSparseMatrix | MultigridLevel, P: Prolongator | DeviceProlongator
) -> np.ndarray:
    """P in stored order, on every rank; P^T is its transpose."""
    if isinstance(P, DeviceProlongator):
        plan, m, width = P.nodes, P.vectors, P.nodes.layout.n_owned + P.nodes.n_halo
        rows = _of_vectors(P.rows, width).reshape(A.layout.n_owned, width * m)
        turned = _of_vectors(P.transposed, A.layout.n_owned)
        turned = turned.transpose(0, 2, 1).reshape(width * m, A.layout.n_owned)
    else:
        plan, m = P.plan, 1
        rows, turned = (part.csr().toarray() for part in (P.rows, P.transposed))
    coarse = plan.layout
    assert np.array_equal(turned, rows.T)
    assert (np.diff(plan.halo) > 0).all()
    result = np.zeros((A.layout.n_global, coarse.n_global * m))
    nodes = np.concatenate([coarse.start + np.arange(coarse.n_owned), plan.halo])
    mine = slice(A.layout.start, A.layout.start + A.layout.n_owned)
    result[mine, (nodes.astype(int)[:, None] * m + np.arange(m)).ravel()] = rows
    return A.layout.world.comm.allreduce(result)


def _of_vectors(matrix: VectorRows, columns: int) -> np.ndarray:
    """[rows, columns, m]"""
    indptr, indices, values = (
        part.cpu().numpy() for part in (matrix.indptr, matrix.columns, matrix.values)
    )
    result = np.zeros((len(indptr) - 1, columns, values.shape[1]))
    for i in range(len(indptr) - 1):
        mine = slice(indptr[i], indptr[i + 1])
        assert (np.diff(indices[mine]) > 0).all()
        result[i, indices[mine]] = values[mine]
    return result


def iterations(A, b, M, method="cg", **more) -> int:
    """Of a solve that must converge."""
    _, info = hs.solve(A, b, method=method, precond=M, max_iterations=300, **more)
    assert info.converged, info
    return info.iterations

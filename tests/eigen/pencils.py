"""Symmetric matrices with spectra worth asking for, and their dense answers."""

from __future__ import annotations

import numpy as np
import scipy.linalg
import scipy.sparse as sp

from tests.collective import spd_matrix


def poisson(n: int) -> sp.csr_matrix:
    """On an n x n grid: its eigenvalues come in pairs."""
    second = sp.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(n, n))
    return sp.csr_matrix(sp.kronsum(second, second))


def grid(rows: int, columns: int) -> sp.csr_matrix:
    """On a rectangle: no eigenvalue twice."""
    a, b = (
        sp.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(n, n)) for n in (rows, columns)
    )
    return sp.csr_matrix(sp.kronsum(a, b))


def neumann(rows: int, columns: int) -> sp.csr_matrix:
    """Pure Neumann: constants are in the kernel."""
    parts = []
    for n in (rows, columns):
        part = sp.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(n, n)).tolil()
        part[0, 0] = part[-1, -1] = 1.0
        parts.append(part)
    return sp.csr_matrix(sp.kronsum(*parts))


def indefinite(n: int) -> sp.csr_matrix:
    return sp.csr_matrix(grid(n, n + 3) - 3.0 * sp.eye_array(n * (n + 3)))


def clusters() -> sp.csr_matrix:
    """The same block three times: every eigenvalue three times, and three components."""
    return sp.csr_matrix(sp.block_diag([grid(5, 7)] * 3))


def mass(matrix: sp.csr_matrix, seed: int = 5) -> sp.csr_matrix:
    """Symmetric positive definite, on the same pattern."""
    rng = np.random.default_rng(seed)
    upper = sp.triu(matrix, 1).tocsr()
    upper.data = rng.uniform(0.0, 0.1, upper.nnz)
    off = upper + upper.T
    diagonal = np.asarray(off.sum(axis=1)).ravel() + rng.uniform(0.5, 1.5, matrix.shape[0])
    made = sp.csr_matrix(off + sp.diags_array(diagonal))
    made.sort_indices()
    return made


MATRICES = {
    "rectangle": lambda: grid(9, 13),
    "pairs": lambda: poisson(11),
    "clusters": clusters,
    "neumann": lambda: neumann(10, 11),
    "indefinite": lambda: indefinite(9),
    "scaled": lambda: spd_matrix(120, 31, density=0.03),
    "diagonal": lambda: sp.csr_matrix(sp.diags_array(np.arange(1.0, 121.0))),
}
"""Just large enough for LOBPCG (more than 100 rows), where an iteration costs what it waits."""

SMALL = {
    "one row": lambda: sp.csr_matrix(np.array([[3.0]])),
    "two rows": lambda: sp.csr_matrix(np.array([[2.0, -1.0], [-1.0, 2.0]])),
    "no entries": lambda: sp.csr_matrix((6, 6)),
    "grid": lambda: grid(4, 5),
}
"""Small enough for LAPACK."""


def exact(matrix, k: int, which: str = "smallest", B=None) -> np.ndarray:
    values = scipy.linalg.eigh(
        matrix.toarray(), None if B is None else B.toarray(), eigvals_only=True
    )
    return values[:k] if which == "smallest" else values[::-1][:k]

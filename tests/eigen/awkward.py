"""Symmetric matrices as people bring them: singular, in pieces, with penalties, of any magnitude.

And their eigenvalues, good to what each is worth.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from tests.eigen.pencils import clusters, grid, indefinite, neumann


def border(n: int) -> np.ndarray:
    i = np.arange(n * n)
    return (i % n == 0) | (i % n == n - 1) | (i // n == 0) | (i // n == n - 1)


def penalty(value: float, n: int = 11) -> sp.csr_matrix:
    """Dirichlet by penalty."""
    return sp.csr_matrix(grid(n, n) + sp.diags_array(border(n) * value))


def identity_rows(stiffness: float, n: int = 12) -> sp.csr_matrix:
    """Dirichlet rows and columns of the identity beside a stiffness in other units."""
    edge = border(n)
    inner = sp.diags_array(1.0 * ~edge)
    made = sp.csr_matrix(stiffness * (inner @ grid(n, n) @ inner) + sp.diags_array(1.0 * edge))
    made.eliminate_zeros()
    return made


def star(n: int = 130) -> sp.csr_matrix:
    """Laplacian of a star: 0, then 1 n - 2 times, then n."""
    made = sp.diags_array(np.r_[n - 1.0, np.ones(n - 1)]).tolil()
    made[0, 1:] = made[1:, 0] = -1.0
    return sp.csr_matrix(made)


def of_rank(rank: int, n: int = 120) -> sp.csr_matrix:
    V = np.random.default_rng(rank).standard_normal((n, rank))
    return sp.csr_matrix(V @ V.T)


def scaled(exponent: int) -> sp.csr_matrix:
    return sp.csr_matrix(grid(10, 11)) * 10.0**exponent


AWKWARD = {
    "neumann": lambda: neumann(10, 12),
    "two plates": lambda: sp.csr_matrix(sp.block_diag([neumann(8, 8)] * 2)),
    "components": lambda: sp.csr_matrix(sp.block_diag([neumann(7, 7), grid(5, 8), grid(1, 30)])),
    "penalty 1e6": lambda: penalty(1e6),
    "penalty 1e10": lambda: penalty(1e10),
    "penalty 1e14": lambda: penalty(1e14),
    "penalty 1e16": lambda: penalty(1e16),
    "identity rows": lambda: identity_rows(1.0),
    "identity rows, SI": lambda: identity_rows(2.1e11),
    "identity rows, soft": lambda: identity_rows(1e-6),
    "clusters": clusters,
    "semidefinite": lambda: sp.csr_matrix(sp.block_diag([grid(8, 9), sp.csr_matrix((40, 40))])),
    "rank one": lambda: of_rank(1),
    "rank five": lambda: of_rank(5),
    "star": star,
    "diagonal": lambda: sp.csr_matrix(sp.diags_array(np.arange(1.0, 121.0))),
    "diagonal, repeated": lambda: sp.csr_matrix(sp.diags_array(np.repeat(np.arange(1.0, 9), 15))),
    "zero": lambda: sp.csr_matrix((120, 120)),
    "identity": lambda: sp.csr_matrix(sp.eye_array(120)),
    "minus the identity": lambda: sp.csr_matrix(-sp.eye_array(120)),
    "negative": lambda: sp.csr_matrix(-neumann(10, 12)),
    "indefinite": lambda: indefinite(9),
    "swaps": lambda: sp.csr_matrix(sp.kron(sp.eye_array(60), np.ones((2, 2)))),
    "huge": lambda: scaled(300),
    "large": lambda: scaled(155),
    "small": lambda: scaled(-171),
    "minute": lambda: scaled(-306),
    "single, large": lambda: scaled(36).astype(np.float32),
    "single, small": lambda: scaled(-36).astype(np.float32),
}


def spectrum(matrix: sp.csr_matrix) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues, ascending, and how far each may be off.

    LAPACK's, and of a positive definite matrix with penalties the inverses of those of the
    inverse, which is well known after scaling by the diagonal (J. Demmel and K. Veselic, SIAM J.
    Matrix Anal. Appl. 13, 1992).
    """
    dense = matrix.toarray().astype(np.float64)
    values = np.linalg.eigvalsh(dense)
    errors = np.full(len(values), 1e-14 * abs(values).max())
    diagonal = np.diag(dense)
    if (diagonal > 0).all():
        scale = 1 / np.sqrt(diagonal)
        scaled = dense * scale * scale[:, None]
        if np.linalg.eigvalsh(scaled)[0] > 1e-8:
            inverse = np.linalg.inv(scaled) * scale * scale[:, None]
            inverses = np.linalg.eigvalsh((inverse + inverse.T) / 2)[::-1]
            finer = 1e-14 * values**2 * inverses[0]
            better = (finer < errors) & (inverses > 0)
            values = np.where(better, 1 / np.where(better, inverses, 1.0), values)
            errors = np.where(better, finer + 1e-13 * abs(values), errors)
    return values, errors

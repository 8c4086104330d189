"""Saddle points on squares, written down by finite differences and Kronecker products."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp


def _second(n: int, ends: float = 2.0) -> sp.csr_array:
    matrix = sp.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(n, n)).tolil()
    matrix[0, 0] = matrix[-1, -1] = ends
    return sp.csr_array(matrix)


def _eye(n: int) -> sp.dia_array:
    return sp.eye_array(n)


def _difference(n: int) -> sp.dia_array:
    """From n - 1 inner faces to n cells."""
    return sp.diags_array([1.0, -1.0], offsets=[0, -1], shape=(n, n - 1))


def _saddle(A, B, C=None) -> sp.csr_matrix:
    return sp.csr_matrix(sp.block_array([[A, B.T], [B, None if C is None else -C]]))


def stokes(n: int, wind: float = 0.0, penalty: float = 0.0, pinned: bool = False) -> sp.csr_matrix:
    """The marker-and-cell scheme on n x n cells within walls.

    2 n (n - 1) velocities, n^2 pressures. Scaled as finite elements are: the diffusion by 1, the
    divergence by h. `wind` adds upwind convection to the right, `penalty` -penalty h^2 to the
    pressures' diagonal. The pressures have a constant nullspace without it, unless the first of
    them is `pinned` by an identity row.
    """
    h = 1 / n
    upwind = sp.diags_array([1.0, -1.0], offsets=[0, -1], shape=(n, n))
    inner = sp.diags_array([1.0, -1.0], offsets=[0, -1], shape=(n - 1, n - 1))
    A = sp.block_diag(
        [
            sp.kron(_second(n - 1) + h * wind * inner, _eye(n))
            + sp.kron(_eye(n - 1), _second(n, 3.0)),
            sp.kron(_second(n, 3.0) + h * wind * upwind, _eye(n - 1))
            + sp.kron(_eye(n), _second(n - 1)),
        ]
    )
    B = -h * sp.hstack([sp.kron(_difference(n), _eye(n)), sp.kron(_eye(n), _difference(n))])
    matrix = _saddle(A, B, penalty * h**2 * _eye(n * n) if penalty else None)
    if pinned:
        keep = np.ones(matrix.shape[0])
        keep[A.shape[0]] = 0
        matrix = sp.diags_array(keep) @ matrix @ sp.diags_array(keep) + sp.diags_array(1 - keep)
    return sp.csr_matrix(matrix)


def mixed_poisson(n: int, jump: float = 1.0) -> sp.csr_matrix:
    """Lowest-order Raviart-Thomas on n x n squares: 2 n (n + 1) fluxes, n^2 pressures.

    The resistance is `jump` in the right half.
    """
    h, k = 1 / n, np.where(np.arange(n) < n // 2, 1.0, jump)
    cell = np.array([[2.0, 1.0], [1.0, 2.0]]) / 6
    along, even = (sp.lil_array((n + 1, n + 1)) for _ in range(2))
    for i in range(n):
        along[i : i + 2, i : i + 2] += k[i] * cell
        even[i : i + 2, i : i + 2] += cell
    mass = [sp.kron(along, _eye(n)), sp.kron(sp.diags_array(k), even)]
    faces = sp.diags_array([-1.0, 1.0], offsets=[0, 1], shape=(n, n + 1))
    B = h * sp.hstack([sp.kron(faces, _eye(n)), sp.kron(_eye(n), faces)])
    return _saddle(h**2 * sp.block_diag(mass), B)


def tied(n: int) -> sp.csr_matrix:
    """Two squares of (n + 1)^2 nodes, the left one held, the right one floating, tied by n + 1.

    The right one is ten times as stiff, and singular on its own.
    """
    free = _second(n + 1, 1.0)
    body = sp.kron(free, _eye(n + 1)) + sp.kron(_eye(n + 1), free)
    held = sp.diags_array(np.repeat([1.0, *[0.0] * n], n + 1))
    edge = sp.eye_array(n + 1, (n + 1) ** 2, k=0)
    last = sp.eye_array(n + 1, (n + 1) ** 2, k=n * (n + 1))
    return _saddle(sp.block_diag([body + held, 10 * body]), sp.hstack([last, -edge]))

"""Systems of pyamg's gallery and of its example data. Each function gives (A, b, known)."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from pyamg import gallery
from pyamg.gallery.mesh import regular_triangle_mesh

System = tuple[sp.csr_matrix, np.ndarray, dict]


def _with_ones(A: sp.spmatrix) -> System:
    A = sp.csr_matrix(A)
    return A, np.ones(A.shape[0]), {}


def poisson(*grid: int) -> System:
    return _with_ones(gallery.poisson(grid))


def stencil(n: int, which: str) -> System:
    """27 points in 3D; the plate's 13 points; one of a positive and a negative coupling."""
    if which == "27 points":
        weights = -np.ones((3, 3, 3))
        weights[1, 1, 1] = 26
        return _with_ones(gallery.stencil_grid(weights, (n,) * 3))
    if which == "13 points":
        weights = np.zeros((5, 5))
        weights[2] = weights[:, 2] = [1, -8, 20, -8, 1]
        weights[1, [1, 3]] = weights[3, [1, 3]] = 2
    else:
        weights = np.array([[0.2, -1.0, 0.2], [0.4, 1.0, 0.4], [0.2, -1.0, 0.2]])
        weights[1, 1] = 3.0
    return _with_ones(gallery.stencil_grid(weights, (n,) * 2))


def diffusion(n: int, epsilon: float, degrees: float, kind: str) -> System:
    stencil = gallery.diffusion_stencil_2d(epsilon, np.deg2rad(degrees), kind)
    return _with_ones(gallery.stencil_grid(stencil, (n, n)))


def elasticity(n: int, m: int, known: bool = False) -> System:
    """Q1 squares, held all around, drawn down."""
    A, modes = gallery.linear_elasticity((n, m))
    b = np.zeros(A.shape[0])
    b[1::2] = -1.0
    # Its third mode is a turn, (-y, x): the places of the nodes.
    places = np.stack([modes[1::2, 2], -modes[0::2, 2]], axis=1).repeat(2, axis=0)
    return sp.csr_matrix(A), b, {"block_size": 2, "coordinates": places} if known else {}


def elasticity_triangles(n: int) -> System:
    """P1 triangles on a sheet that lies on springs, pulled apart."""
    vertices, triangles = regular_triangle_mesh(n, n)
    A, _ = gallery.linear_elasticity_p1(vertices, triangles)
    b = np.zeros(A.shape[0])
    b[0::2] = np.sign(vertices[:, 0] - 0.5) / n
    return sp.csr_matrix(A + 10.0 * sp.eye(A.shape[0])), b, {}


def upwind(n: int, degrees: float) -> System:
    A, b = gallery.advection_2d((n, n), theta=np.deg2rad(degrees))
    return sp.csr_matrix(A), b, {}


def shifted(n: int, shift: float) -> System:
    """Poisson less a multiple of the identity: indefinite."""
    A = gallery.poisson((n, n))
    return _with_ones(A - shift * sp.eye(A.shape[0]))


def example(name: str) -> System:
    A = sp.csr_matrix(gallery.load_example(name)["A"])
    if abs(A @ np.ones(A.shape[0])).max() <= 1e-12 * abs(A).max():  # no boundary: singular
        b = np.sin(np.arange(A.shape[0]))
        return A, b - b.mean(), {}
    return _with_ones(A)

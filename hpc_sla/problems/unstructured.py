"""Poisson's equation by linear finite elements on an unstructured mesh of tetrahedra."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import scipy.sparse as sp

from hpc_sla.errors import InputError
from hpc_sla.problems.base import LinearProblem
from hpc_sla.problems.grid import bubble, check_size
from hpc_sla.problems.tetrahedra import ScatteredMesh

_MOST_JITTER = 0.8


def unstructured3d(n: int = 24, jitter: float = 0.4, seed: int = 0) -> UnstructuredProblem:
    """-Laplace(u) = f on the unit cube, zero around it; linear elements on tetrahedra, over h.

    A Delaunay mesh of randomly moved points, about 2 n^3 of them. Each process meshes the points
    around its own rows. Symmetric positive definite; some off-diagonal entries are positive.

    Parameters
    ----------
    n : int
        Cells along each axis of the lattice that the points start from; h = 1/n.
    jitter : float
        How far points move: each coordinate by at most jitter/2 cells; more than 0, at most 0.8.
    seed : int
        Another seed, another mesh.
    """
    return UnstructuredProblem(n, jitter, seed)


class UnstructuredProblem(LinearProblem):
    """Rows are the points inside the cube, in the order of `ScatteredMesh`."""

    def __init__(self, n: int, jitter: float, seed: int) -> None:
        name = "unstructured3d"
        check_size(name, n)
        if not (math.isfinite(jitter) and 0 < jitter <= _MOST_JITTER):
            raise InputError(
                f"jitter={jitter} is out of range",
                field=name,
                remedy=f"Give a jitter of more than 0 and at most {_MOST_JITTER}.",
            )
        parameters = {"n": n, "jitter": jitter, "seed": seed}
        super().__init__(name, parameters, n**3 + (n - 1) ** 3)
        self.mesh = ScatteredMesh(n, jitter, seed)

    def rows(self, r0: int, r1: int) -> Any:
        dtype = np.int32 if self.n_rows < 2**31 else np.int64
        if r0 == r1:
            return sp.csr_array((0, self.n_rows), dtype=np.float64)
        ends = self.mesh.place(self._points(np.array([r0, r1 - 1])))[:, 0]
        corners = self.mesh.tetrahedra(int(ends[0]), int(ends[1]))
        entries = stiffness(self.mesh.coordinates, corners) * self.mesh.n
        number = self._rows_of(corners)
        row = np.repeat(number, 4, axis=1).ravel()
        column = np.tile(number, (1, 4)).ravel()
        keep = np.flatnonzero((row >= r0) & (row < r1) & (column >= 0))
        row, column = row[keep], column[keep]
        # Tetrahedra come in the same order whatever the slab: so do the terms of every sum.
        order = np.lexsort((column, row))
        row, column, terms = row[order], column[order], entries.ravel()[keep][order]
        new = np.concatenate([[True], (row[1:] != row[:-1]) | (column[1:] != column[:-1])])
        data = np.bincount(np.cumsum(new) - 1, weights=terms)
        indptr = np.searchsorted(row[new], np.arange(r0, r1 + 1))
        columns = column[new].astype(dtype)
        return sp.csr_array((data, columns, indptr), shape=(r1 - r0, self.n_rows))

    def coordinates(self, r0: int, r1: int) -> np.ndarray:
        return self.mesh.coordinates(self._points(np.arange(r0, r1)))

    def field(self, r0: int, r1: int) -> np.ndarray:
        return bubble(self.coordinates(r0, r1))

    def _points(self, rows: np.ndarray) -> np.ndarray:
        """The mesh's points that rows stand for."""
        n = self.mesh.n
        # Layers 1, 2, ... inside the cube have n^2 centres and (n - 1)^2 corners in turn.
        pair, rest = np.divmod(rows, n * n + (n - 1) ** 2)
        corner = rest >= n * n
        j, k = np.divmod(rest - corner * n * n, np.where(corner, max(n - 1, 1), n))
        half = 2 * pair + 1 + corner
        return self.mesh.first(half) + (j + corner) * np.where(corner, n + 1, n) + k + corner

    def _rows_of(self, points: np.ndarray) -> np.ndarray:
        """The rows of points, -1 for those on the boundary."""
        n = self.mesh.n
        half, j, k = (self.mesh.place(points.ravel())).T
        corner = half % 2 == 0
        pair = (half - 1) // 2
        row = pair * (n * n + (n - 1) ** 2) + np.where(
            corner, n * n + (j // 2 - 1) * (n - 1) + k // 2 - 1, j // 2 * n + k // 2
        )
        place = np.stack([half, j, k])
        row[((place == 0) | (place == 2 * n)).any(axis=0)] = -1
        return row.reshape(points.shape)


def stiffness(coordinates: Any, corners: np.ndarray) -> np.ndarray:
    """Integrals of products of gradients of hat functions over tetrahedra.

    Parameters
    ----------
    coordinates : callable
        From numbers of points ``[k]`` to coordinates ``[k, 3]``.
    corners : int array [m, 4]

    Returns
    -------
    ndarray, float64 [m, 4, 4]
    """
    points = coordinates(corners.ravel()).reshape(*corners.shape, 3)
    a, b, c = (points[:, k] - points[:, 0] for k in (1, 2, 3))
    # Rows of the inverse of [a b c], times its determinant, are gradients of the hat functions.
    normals = np.stack([np.cross(b, c), np.cross(c, a), np.cross(a, b)], axis=1)
    normals = np.concatenate([-normals.sum(axis=1, keepdims=True), normals], axis=1)
    determinant = np.abs(np.sum(a * normals[:, 1], axis=1))
    products = np.zeros((len(corners), 4, 4))
    for axis in range(3):
        along = normals[:, :, axis]
        products += along[:, :, None] * along[:, None, :]
    return products / (6 * determinant)[:, None, None]

"""Linear elasticity of a cube by trilinear finite elements: three unknowns a node."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import numpy as np
import scipy.sparse as sp

from hpc_sla.errors import InputError
from hpc_sla.problems.base import LinearProblem
from hpc_sla.problems.grid import check_size
from hpc_sla.problems.nullspace import rigid_body_modes

_CORNERS = np.array(list(product((0, 1), repeat=3)))
_NEIGHBOURS = np.array(list(product((-1, 0, 1), repeat=3)))


def elasticity3d(
    n: int = 16, E: float = 1.0, nu: float = 0.3, clamped: bool = True
) -> ElasticityProblem:
    """-div(sigma(u)) = f in the unit cube, its face x = 0 clamped; trilinear hexahedra, over h.

    An isotropic material under small deformations. The three displacements of a node are
    consecutive rows (`block_size` 3), which partitions keep together. Symmetric positive
    definite; without the clamp singular, with the rigid-body modes as its kernel.

    Parameters
    ----------
    n : int
        Elements along each axis; h = 1/n.
    E : float
        Young's modulus.
    nu : float
        Poisson's ratio, in (-1, 1/2). Towards 1/2 these elements lock.
    clamped : bool
        Whether the face x = 0 is held; its nodes then have no rows.
    """
    return ElasticityProblem(n, E, nu, clamped)


class ElasticityProblem(LinearProblem):
    """Node ``(i, j, k)``, i counted from 1 if clamped, else from 0, lies at ``(i, j, k) h``.

    Nodes are numbered with k fastest; rows 3m, 3m + 1, 3m + 2 are node m's displacements along
    the three axes.
    """

    block_size = 3

    def __init__(self, n: int, E: float, nu: float, clamped: bool) -> None:
        name = "elasticity3d"
        check_size(name, n)
        if not (math.isfinite(E) and E > 0 and -1 < nu < 0.5):
            raise InputError(
                f"E={E}, nu={nu} are out of range",
                field=name,
                remedy="Give a positive E, and nu between -1 and 0.5.",
            )
        self._n = n
        self._shape = (n + (not clamped), n + 1, n + 1)
        parameters = {"n": n, "E": E, "nu": nu, "clamped": clamped}
        super().__init__(name, parameters, 3 * math.prod(self._shape))
        self.singular = not clamped
        self._stencils = _stencils(element_stiffness(E, nu))

    def rows(self, r0: int, r1: int) -> Any:
        first, last = r0 // 3, -(-r1 // 3)
        at = self._nodes(first, last)
        blocks = np.zeros((last - first, 27, 3, 3))
        # Elements around a node, by which of their corners it is.
        for corner, stencil in zip(_CORNERS, self._stencils, strict=True):
            low = at - corner
            blocks += (((low >= 0) & (low < self._n)).all(axis=1))[:, None, None, None] * stencil
        there = at[:, None] + _NEIGHBOURS
        kept = ((there >= [self._n + 1 - self._shape[0], 0, 0]) & (there <= self._n)).all(axis=2)
        width, depth = self._shape[1], self._shape[2]
        shifts = _NEIGHBOURS @ [width * depth, depth, 1]
        columns = 3 * (np.arange(first, last)[:, None] + shifts)[..., None] + np.arange(3)
        # Rows of a node one after another: [nodes, 3, 27, 3].
        kept = np.broadcast_to(kept[:, None, :, None], (last - first, 3, 27, 3))
        columns = np.broadcast_to(columns[:, None], kept.shape)
        dtype = np.int32 if self.n_rows < 2**31 else np.int64
        indptr = np.concatenate([[0], np.cumsum(kept.sum(axis=(2, 3)).ravel())])
        data = blocks.transpose(0, 2, 1, 3)[kept]
        whole = sp.csr_array(
            (data, columns[kept].astype(dtype), indptr), shape=(3 * (last - first), self.n_rows)
        )
        return whole[r0 - 3 * first : r1 - 3 * first]

    def coordinates(self, r0: int, r1: int) -> np.ndarray:
        nodes = self._nodes(r0 // 3, -(-r1 // 3)) / self._n
        return np.repeat(nodes, 3, axis=0)[r0 % 3 :][: r1 - r0]

    def near_nullspace(self, r0: int, r1: int) -> np.ndarray:
        """The rigid-body modes, float64 ``[r1 - r0, 6]``."""
        return rigid_body_modes(self.coordinates(r0, r1), np.arange(r0, r1) % 3)

    def field(self, r0: int, r1: int) -> np.ndarray:
        # Zero on the clamped face, no rigid motion, another function for every component.
        x, y, z = self.coordinates(r0, r1).T
        parts = np.stack([np.exp(y) * (1 - z * z), x * np.cos(3 * z) + y, (1 + y * z) * (2 - x)])
        return x * parts[np.arange(r0, r1) % 3, np.arange(r1 - r0)]

    def _nodes(self, first: int, last: int) -> np.ndarray:
        """Grid places of nodes, int64 ``[last - first, 3]``."""
        places = np.stack(np.unravel_index(np.arange(first, last), self._shape), axis=1)
        places[:, 0] += self._n + 1 - self._shape[0]
        return places


def element_stiffness(E: float, nu: float) -> np.ndarray:
    """Stiffness of the trilinear unit cube, float64 [24, 24]; unknowns corner by corner.

    The integral of B^T D B by 2 x 2 x 2 Gauss points, which is exact here (T. J. R. Hughes,
    "The Finite Element Method", Dover 2000, sections 2.7 and 3.9).
    """
    lame, shear = E * nu / ((1 + nu) * (1 - 2 * nu)), E / (2 * (1 + nu))
    # Strains xx, yy, zz, yz, zx, xy; the last three doubled.
    elastic = np.diag([2 * shear] * 3 + [shear] * 3)
    elastic[:3, :3] += lame
    stiffness = np.zeros((24, 24))
    for point in product((0.5 - 0.5 / math.sqrt(3), 0.5 + 0.5 / math.sqrt(3)), repeat=3):
        # Along each axis a corner's function is t or 1 - t.
        value = np.where(_CORNERS, point, 1 - np.array(point))
        slope = np.where(_CORNERS, 1.0, -1.0)
        gradient = np.stack(
            [slope[:, a] * value[:, (a + 1) % 3] * value[:, (a + 2) % 3] for a in range(3)]
        )  # [axis, corner]
        strain = np.zeros((6, 8, 3))
        for a in range(3):
            b, c = (a + 1) % 3, (a + 2) % 3
            strain[a, :, a] = gradient[a]
            strain[3 + a, :, b] = gradient[c]
            strain[3 + a, :, c] = gradient[b]
        by_unknown = strain.reshape(6, 24)
        stiffness += by_unknown.T @ elastic @ by_unknown / 8
    return (stiffness + stiffness.T) / 2


def _stencils(stiffness: np.ndarray) -> np.ndarray:
    """What an element adds to the node at each of its corners: [8, 27, 3, 3] by neighbour."""
    by_corner = stiffness.reshape(8, 3, 8, 3)
    stencils = np.zeros((8, 27, 3, 3))
    for a, b in product(range(8), repeat=2):
        neighbour = (_CORNERS[b] - _CORNERS[a] + 1) @ [9, 3, 1]
        stencils[a, neighbour] = by_corner[a, :, b, :]
    return stencils

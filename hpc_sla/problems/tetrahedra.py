"""A Delaunay mesh of the unit cube around scattered points, any slab of it built on its own."""

from __future__ import annotations

import numpy as np

from hpc_sla.hashing import uniform

# Layers of half a cell on either side of a slab whose points are meshed with it, to begin with:
# enough for all but the largest circumspheres, and for the slab's points to be well inside the
# hull of those meshed, so that nothing is missing around them.
_MARGIN = 6


class ScatteredMesh:
    """Points of a body-centred lattice in the unit cube, moved at random, and their tetrahedra.

    The lattice has n cells along each axis: their corners and their centres. In layers across
    the first axis, `half` = 0 to 2n, the even ones hold (n + 1)^2 corners and the odd ones n^2
    centres, and points are numbered layer by layer. Points on the boundary move along it, so
    that the cube stays a cube.

    The tetrahedra are those of the Delaunay triangulation of all the points, which is unique,
    as no five of them lie on a sphere but by chance. A tetrahedron is one of it if no point lies
    inside its circumsphere; so tetrahedra around a slab are found from the points nearby.

    Parameters
    ----------
    n : int
    jitter : float
        A coordinate moves by at most `jitter / 2` cells.
    seed : int
    """

    def __init__(self, n: int, jitter: float, seed: int) -> None:
        self.n, self.jitter, self.seed = n, jitter, seed

    def first(self, half: np.ndarray | int) -> np.ndarray:
        """Number of the first point of a layer."""
        half = np.asarray(half)
        return (half + 1) // 2 * (self.n + 1) ** 2 + half // 2 * self.n**2

    def place(self, points: np.ndarray) -> np.ndarray:
        """Twice the lattice cell coordinates of points, int64 ``[k, 3]``: 0 to 2n."""
        n = self.n
        corners = (n + 1) ** 2
        pair, rest = np.divmod(points, corners + n * n)
        odd = rest >= corners
        width = np.where(odd, n, n + 1)
        j, k = np.divmod(rest - odd * corners, width)
        return np.stack([2 * pair + odd, 2 * j + odd, 2 * k + odd], axis=1)

    def coordinates(self, points: np.ndarray) -> np.ndarray:
        """Where points lie, float64 ``[k, 3]``."""
        place = self.place(points)
        move = (uniform(points, 3, self.seed) - 0.5) * self.jitter
        move[(place == 0) | (place == 2 * self.n)] = 0.0
        return (place / 2 + move) / self.n

    def tetrahedra(self, low: int, high: int) -> np.ndarray:
        """All tetrahedra that touch the layers `low` to `high`, both included.

        Returns
        -------
        ndarray, int64 [m, 4]
            Points, ascending in each and lexicographic among them.
        """
        margin = _MARGIN
        while True:
            from_layer, to_layer = max(low - margin, 0), min(high + margin, 2 * self.n)
            found, settled = self._near(low, high, from_layer, to_layer)
            if settled:
                return found
            margin *= 2

    def _near(self, low: int, high: int, from_layer: int, to_layer: int) -> tuple[np.ndarray, bool]:
        """The tetrahedra by the points of some layers only, and whether those were enough."""
        from scipy.spatial import Delaunay  # slow to load

        start, stop = int(self.first(from_layer)), int(self.first(to_layer + 1))
        points = self.coordinates(np.arange(start, stop))
        corners = np.sort(Delaunay(points).simplices.astype(np.int64), axis=1)
        inside = (corners >= self.first(low) - start) & (corners < self.first(high + 1) - start)
        corners = corners[inside.any(axis=1)]
        # Four points of one face of the cube may come out as a flat one.
        edges = points[corners[:, 1:]] - points[corners[:, :1]]
        solid = np.linalg.det(edges) != 0
        corners, edges = corners[solid], edges[solid]
        order = np.lexsort(corners.T[::-1])
        found = corners[order] + start
        # The points left out lie beyond these planes.
        reach = self.jitter / 2
        left = ((from_layer - 1) / 2 + reach) / self.n if from_layer > 0 else -np.inf
        right = ((to_layer + 1) / 2 - reach) / self.n if to_layer < 2 * self.n else np.inf
        to_centre = np.linalg.solve(edges, np.sum(edges**2, axis=2, keepdims=True) / 2)[:, :, 0]
        radius = np.linalg.norm(to_centre, axis=1)
        centre = points[corners[:, 0], 0] + to_centre[:, 0]
        return found, bool((centre - radius > left).all() and (centre + radius < right).all())

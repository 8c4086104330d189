"""Poisson's equation with no flow through the boundary: a singular matrix."""

from __future__ import annotations

from typing import Any

import numpy as np

from hpc_sla.problems.grid import GridProblem
from hpc_sla.problems.poisson import laplacian


def neumann2d(n: int = 256) -> GridProblem:
    """-Laplace(u) = f on the unit square without flow through the boundary, times h^2; singular.

    Finite volumes on n by n cells: -1 for each of up to 4 neighbours and their number on the
    diagonal. The constants are its kernel, so a right-hand side must have zero sum, as
    "manufactured" has.

    Parameters
    ----------
    n : int
        Cells along each axis; the unknowns are at their centres.
    """
    return _NeumannProblem("neumann2d", {"n": n}, laplacian(2))


class _NeumannProblem(GridProblem):
    singular = True

    def rows(self, r0: int, r1: int) -> Any:
        rows = super().rows(r0, r1)
        # A neighbour that is missing leaves its share out of the diagonal.
        mine = np.repeat(np.arange(r0, r1), np.diff(rows.indptr))
        rows.data[rows.indices == mine] -= np.asarray(rows.sum(axis=1)).ravel()
        return rows

    def coordinates(self, r0: int, r1: int) -> np.ndarray:
        cell = np.unravel_index(np.arange(r0, r1), self._shape)
        return (np.stack(cell, axis=1) + 0.5) / self._shape[0]

    def field(self, r0: int, r1: int) -> np.ndarray:
        # Flat across the boundary, several frequencies, no mirror symmetry.
        x, y = np.pi * self.coordinates(r0, r1).T
        return np.cos(x) * (1 + np.cos(y) / 2) + np.cos(3 * y) / 3

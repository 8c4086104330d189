"""The Laplacian of a random geometric graph: sparse, irregular, and no mesh behind it."""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse as sp

from hpc_sla.errors import InputError
from hpc_sla.hashing import uniform
from hpc_sla.problems.base import LinearProblem
from hpc_sla.problems.grid import check_size


def graph_laplacian(
    n: int = 20000, degree: float = 8.0, shift: float = 1e-4, seed: int = 0
) -> GraphProblem:
    """The Laplacian of a connected random geometric graph, plus `shift` times the identity.

    Nodes lie at random in the unit square, in no order. Nodes closer than a radius are linked,
    and so is each node to the nearest of an earlier half: node i, where 2^k <= i < 2^(k + 1), to
    the nearest of nodes 0 to 2^k - 1. Those n - 1 links, most of them short, connect the graph
    and give early nodes more links than others. Each process places all nodes (16 bytes a
    node, some 60 while it looks for links) and builds its own rows only.

    Parameters
    ----------
    n : int
        Nodes.
    degree : float
        How many nodes lie within the radius on average, at least 0.
    shift : float
        At least 0. With 0 the matrix is singular and the constants are its kernel, else it is
        positive definite.
    seed : int
        Another seed, another graph.
    """
    return GraphProblem(n, degree, shift, seed)


class GraphProblem(LinearProblem):
    """Row i is node i: minus one for each link, the number of its links on the diagonal."""

    def __init__(self, n: int, degree: float, shift: float, seed: int) -> None:
        name = "graph_laplacian"
        check_size(name, n)
        if not (0 <= degree < math.inf and 0 <= shift < math.inf):
            raise InputError(
                f"degree={degree}, shift={shift} are out of range",
                field=name,
                remedy="Give a degree and a shift of at least 0.",
            )
        super().__init__(name, {"n": n, "degree": degree, "shift": shift, "seed": seed}, n)
        self.singular = shift == 0
        self._radius = math.sqrt(degree / (math.pi * n))

    @cached_property
    def _places(self) -> np.ndarray:
        return uniform(np.arange(self.n_rows), 2, self.parameters["seed"])

    @cached_property
    def _tree(self) -> Any:
        from scipy.spatial import cKDTree  # slow to load

        return cKDTree(self._places)

    @cached_property
    def _earlier(self) -> np.ndarray:
        """The earlier node that each node but node 0 is linked to; -1 for node 0."""
        from scipy.spatial import cKDTree  # slow to load

        earlier = np.full(self.n_rows, -1, dtype=np.int64)
        half = 1
        while half < self.n_rows:
            later = self._places[half : 2 * half]
            earlier[half : 2 * half] = cKDTree(self._places[:half]).query(later)[1]
            half *= 2
        return earlier

    def rows(self, r0: int, r1: int) -> Any:
        from scipy.spatial import cKDTree  # slow to load

        n, mine = self.n_rows, np.arange(r0, r1)
        near = np.zeros(0, dtype=[("i", np.int64), ("j", np.int64)])
        if r1 > r0:
            near = cKDTree(self._places[r0:r1]).sparse_distance_matrix(
                self._tree, self._radius, output_type="ndarray"
            )
        earlier = self._earlier
        later = np.flatnonzero((earlier >= r0) & (earlier < r1))
        rooted = mine[earlier[r0:r1] >= 0]
        row = np.concatenate([near["i"] + r0, rooted, earlier[later]])
        column = np.concatenate([near["j"], earlier[rooted], later])
        # One number per link, so that those found twice count once; then no node to itself.
        link = np.unique(row * n + column)
        row, column = np.divmod(link, n)
        row, column = row[row != column] - r0, column[row != column]
        links = np.bincount(row, minlength=r1 - r0)
        row = np.concatenate([row, mine - r0])
        column = np.concatenate([column, mine])
        data = np.concatenate([-np.ones(len(row) - len(mine)), links + self.parameters["shift"]])
        return sp.csr_array(
            sp.coo_array((data, (row, column)), shape=(r1 - r0, n)), dtype=np.float64
        )

    def coordinates(self, r0: int, r1: int) -> np.ndarray:
        return self._places[r0:r1]

    def field(self, r0: int, r1: int) -> np.ndarray:
        x, y = self._places[r0:r1].T
        return np.cos(3 * x) * np.exp(y) + np.sin(5 * y)

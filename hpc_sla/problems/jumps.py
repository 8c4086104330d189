"""Diffusion whose coefficient jumps by orders of magnitude at random inclusions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import scipy.sparse as sp

from hpc_sla.errors import InputError
from hpc_sla.hashing import uniform
from hpc_sla.problems.base import LinearProblem
from hpc_sla.problems.grid import bubble, check_size

# Of the square's area, before overlaps are taken off.
_COVERED = 0.35
_MOST = 10**6


def jumps2d(
    n: int = 256, contrast: float = 1e6, inclusions: int = 40, seed: int = 0
) -> JumpsProblem:
    """-div(k grad u) = f on the unit square, zero around it, times h^2; positive definite.

    k is `contrast` in random discs, which cover about a third of the square and may overlap, and
    1 outside. Finite differences on n by n interior points; between neighbours k is the harmonic
    mean of its values at the two, which keeps the flow through an interface right. With contrast
    1e6 and a right-hand side of ones, rounding of the solution alone leaves a relative residual
    of 4e-7 for n = 256: test solvers with "manufactured", the default here.

    Parameters
    ----------
    n : int
        Interior points along each axis.
    contrast : float
        k inside over k outside; less than 1 makes the discs insulate.
    inclusions : int
        How many discs, up to a million.
    seed : int
        Another seed, other discs.
    """
    return JumpsProblem(n, contrast, inclusions, seed)


class JumpsProblem(LinearProblem):
    """Grid point ``(i, j)`` is row ``i * n + j`` and lies at ``((i + 1) h, (j + 1) h)``."""

    default_rhs = "manufactured"

    def __init__(self, n: int, contrast: float, inclusions: int, seed: int) -> None:
        name = "jumps2d"
        check_size(name, n)
        if not (math.isfinite(contrast) and contrast > 0 and 0 <= inclusions <= _MOST):
            raise InputError(
                f"contrast={contrast}, inclusions={inclusions} are out of range",
                field=name,
                remedy=f"Give a positive contrast and 0 to {_MOST} inclusions.",
            )
        parameters = {"n": n, "contrast": contrast, "inclusions": inclusions, "seed": seed}
        super().__init__(name, parameters, n * n)
        self._n = n
        x, y, size = uniform(np.arange(inclusions), 3, seed).T
        # Radii from half to one and a half times their mean, whose mean square is 13/12.
        radius = (0.5 + size) * math.sqrt(_COVERED * 12 / 13 / (math.pi * max(inclusions, 1)))
        self._discs = np.stack([x, y, radius], axis=1)

    def coefficient(self, points: np.ndarray) -> np.ndarray:
        """The coefficient at points ``[n, 2]``: float64 ``[n]``."""
        inside = np.zeros(len(points), dtype=np.bool_)
        for x, y, radius in self._discs:
            inside |= (points[:, 0] - x) ** 2 + (points[:, 1] - y) ** 2 <= radius**2
        return np.where(inside, self.parameters["contrast"], 1.0)

    def rows(self, r0: int, r1: int) -> Any:
        n, rows = self._n, np.arange(r0, r1)
        i, j = np.divmod(rows, n)
        here = self.coefficient(self._points(i, j))
        entries = np.zeros((r1 - r0, 5))
        inside = np.ones((r1 - r0, 5), dtype=np.bool_)
        shifts = np.array([-n, -1, 0, 1, n])
        for k, (di, dj) in ((0, (-1, 0)), (1, (0, -1)), (3, (0, 1)), (4, (1, 0))):
            there = self.coefficient(self._points(i + di, j + dj))
            between = 2 * (here * there) / (here + there)
            entries[:, k] = -between
            entries[:, 2] += between
            inside[:, k] = (i + di >= 0) & (i + di < n) & (j + dj >= 0) & (j + dj < n)
        dtype = np.int32 if self.n_rows < 2**31 else np.int64
        columns = (rows[:, None] + shifts)[inside].astype(dtype)
        indptr = np.concatenate([[0], np.cumsum(inside.sum(axis=1))])
        return sp.csr_array((entries[inside], columns, indptr), shape=(r1 - r0, self.n_rows))

    def _points(self, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        return (np.stack([i, j], axis=1) + 1.0) / (self._n + 1)

    def coordinates(self, r0: int, r1: int) -> np.ndarray:
        return self._points(*np.divmod(np.arange(r0, r1), self._n))

    def field(self, r0: int, r1: int) -> np.ndarray:
        return bubble(self.coordinates(r0, r1))

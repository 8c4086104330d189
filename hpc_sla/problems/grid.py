"""Constant-coefficient stencils on a regular grid with zero values around it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import scipy.sparse as sp

from hpc_sla.errors import InputError
from hpc_sla.problems.base import LinearProblem

Stencil = Mapping[tuple[int, ...], float]


def bubble(points: np.ndarray) -> np.ndarray:
    """A smooth function of points ``[n, d]`` of the unit square or cube, zero on its boundary.

    It has no mirror symmetry, which would hide mistakes of ordering; an eigenvector such as a
    product of sines would hide more.
    """
    return np.prod(4 * points * (1 - points) * np.exp(points), axis=1)


def check_size(name: str, n: int) -> None:
    """At least one point or element along an axis."""
    if n < 1:
        raise InputError(f"n={n} is too small", field=name, remedy="Give n of at least 1.")


class GridProblem(LinearProblem):
    """A stencil applied at the interior points of the unit square or cube.

    Grid point ``(i, j, ...)``, counted from 0 along each of the `n` interior points of an axis,
    is row ``(i * n + j) * n + ...`` and lies at ``((i + 1) h, (j + 1) h, ...)``, ``h = 1/(n+1)``.
    The boundary values are zero and no rows stand for them.

    Parameters
    ----------
    name, parameters
        As in `LinearProblem`; `parameters` holds `n`, the interior points along each axis.
    stencil : mapping of offset to coefficient
        Offset ``(di, dj, ...)`` of a neighbour, ``(0, 0, ...)`` for the point itself.
    symmetric : bool
        Whether the matrix is symmetric positive definite.
    """

    def __init__(
        self, name: str, parameters: Mapping[str, Any], stencil: Stencil, symmetric: bool = True
    ) -> None:
        n = parameters["n"]
        check_size(name, n)
        # In lexicographic order of offsets the columns of every row come out ascending.
        self._stencil = {offset: stencil[offset] for offset in sorted(stencil)}
        self._shape = (n,) * len(next(iter(self._stencil)))
        super().__init__(name, parameters, n ** len(self._shape))
        self.symmetric = symmetric

    def rows(self, r0: int, r1: int) -> Any:
        rows = np.arange(r0, r1)
        point = np.unravel_index(rows, self._shape)
        inside = np.empty((r1 - r0, len(self._stencil)), dtype=np.bool_)
        shifts = np.empty(len(self._stencil), dtype=np.int64)
        for k, offset in enumerate(self._stencil):
            inside[:, k] = True
            shifts[k] = 0
            for along, step, length in zip(point, offset, self._shape, strict=True):
                shifts[k] = shifts[k] * length + step
                if step:
                    inside[:, k] &= (along + step >= 0) & (along + step < length)
        dtype = np.int32 if self.n_rows < 2**31 else np.int64
        columns = (rows[:, None] + shifts)[inside].astype(dtype)
        values = np.array(list(self._stencil.values()), dtype=np.float64)
        data = np.broadcast_to(values, inside.shape)[inside]
        indptr = np.concatenate([[0], np.cumsum(inside.sum(axis=1))])
        return sp.csr_array((data, columns, indptr), shape=(r1 - r0, self.n_rows))

    def coordinates(self, r0: int, r1: int) -> np.ndarray:
        point = np.unravel_index(np.arange(r0, r1), self._shape)
        return (np.stack(point, axis=1) + 1.0) / (self._shape[0] + 1)

    def field(self, r0: int, r1: int) -> np.ndarray:
        return bubble(self.coordinates(r0, r1))

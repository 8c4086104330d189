"""What a model problem offers: any slab of its rows, built without the rest."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np

from hpc_sla.errors import InputError

RHS_KINDS = ("ones", "manufactured")

_ROWS = 1 << 18
# 2^32 over the golden ratio: multiples of it, modulo 2^32, spread evenly and never repeat soon.
_GOLDEN = 2654435769


def parameter_text(values: Mapping[str, Any]) -> str:
    """``n=256,clamped=true``: as they are written in a generator's text."""
    return ",".join(
        f"{name}={str(value).lower() if isinstance(value, bool) else value}"
        for name, value in values.items()
    )


class LinearProblem(ABC):
    """A sparse linear system that each rank can build its own rows of.

    Attributes
    ----------
    name : str
        The generator's name.
    parameters : dict
        Its parameters, defaults filled in.
    n_rows : int
        The matrix is ``n_rows`` by ``n_rows``.
    symmetric : bool
        Whether the matrix is symmetric, and positive definite unless `singular`.
    singular : bool
        Whether it has a kernel, which is then the span of `near_nullspace`; a right-hand side
        must be orthogonal to it (see `hpc_sla.problems.project_out`). "manufactured" is.
    block_size : int
        Unknowns of a node, numbered one after another: rows ``b*i`` to ``b*i + b - 1`` belong to
        node i, and a partition keeps them together.
    default_rhs : str
        The right-hand side to use where none is asked for, one of `RHS_KINDS`: "ones" where it
        has a solution that rounding lets a solver reach.
    """

    symmetric = True
    singular = False
    block_size = 1

    @property
    def default_rhs(self) -> str:
        return "manufactured" if self.singular else "ones"

    def __init__(self, name: str, parameters: Mapping[str, Any], n_rows: int) -> None:
        self.name = name
        self.parameters = dict(parameters)
        self.n_rows = n_rows

    @property
    def spec(self) -> str:
        """The text that `hpc_sla.problems.make` builds this problem from."""
        return f"{self.name}:{parameter_text(self.parameters)}"

    @abstractmethod
    def rows(self, r0: int, r1: int) -> Any:
        """Rows ``r0:r1`` as a canonical SciPy CSR array, float64 ``[r1 - r0, n_rows]``."""

    @abstractmethod
    def coordinates(self, r0: int, r1: int) -> np.ndarray:
        """Points of the rows ``r0:r1``, float64 ``[r1 - r0, dimensions]``."""

    @abstractmethod
    def field(self, r0: int, r1: int) -> np.ndarray:
        """Rows ``r0:r1`` of some smooth vector, float64 ``[r1 - r0]``, for `solution`."""

    def near_nullspace(self, r0: int, r1: int) -> np.ndarray:
        """Rows ``r0:r1`` of vectors that the matrix takes (almost) to zero, ``[r1 - r0, k]``.

        Of a scalar equation the constants, of elasticity the rigid-body modes: what an algebraic
        multigrid must represent on its coarser levels.
        """
        return np.ones((r1 - r0, 1))

    def solution(self, r0: int, r1: int) -> np.ndarray:
        """Rows ``r0:r1`` of the manufactured solution, float64 ``[r1 - r0]``.

        Of a singular matrix the one without a part in the kernel, which is what Krylov methods
        that start from zero find.
        """
        if not self.singular:
            return self.field(r0, r1)
        # Not a matrix product, whose sums may depend on how many rows it is asked for.
        part = self.near_nullspace(r0, r1) * self._kernel_part
        return self.field(r0, r1) - part.sum(axis=1)

    @cached_property
    def _kernel_part(self) -> np.ndarray:
        """Coefficients of `field` along the kernel, float64 [k], from one pass over all rows."""
        gram: Any = 0.0
        along: Any = 0.0
        for start in range(0, self.n_rows, _ROWS):
            stop = min(start + _ROWS, self.n_rows)
            kernel = self.near_nullspace(start, stop)
            gram = gram + kernel.T @ kernel
            along = along + kernel.T @ self.field(start, stop)
        return np.linalg.lstsq(gram, along)[0]

    def matrix(self) -> Any:
        """All rows at once, for one process."""
        return self.rows(0, self.n_rows)

    def rhs(self, kind: str, r0: int, r1: int) -> np.ndarray:
        """Rows ``r0:r1`` of a right-hand side, float64 ``[r1 - r0]``.

        Parameters
        ----------
        kind : {"ones", "manufactured"}
            "manufactured" is the matrix times `solution`, so that `solution` is the exact
            answer of the linear system, discretisation and all.
        """
        if kind == "ones":
            return np.ones(r1 - r0)
        if kind != "manufactured":
            raise InputError(
                f"there is no right-hand side {kind!r}",
                field="--rhs",
                remedy=f"Choose one of {', '.join(RHS_KINDS)}, or give a file.",
            )
        rows = self.rows(r0, r1)
        if not rows.nnz:
            return np.zeros(r1 - r0)
        # Only the span of columns this slab refers to, never the whole solution.
        first, last = int(rows.indices.min()), int(rows.indices.max()) + 1
        return rows[:, first:last] @ self.solution(first, last)


def rhs_ones(matrix: Any) -> np.ndarray:
    """A right-hand side of ones, ``[n_rows]``, in the matrix's dtype."""
    return np.ones(matrix.shape[0], dtype=matrix.dtype)


def rhs_manufactured(matrix: Any) -> tuple[np.ndarray, np.ndarray]:
    """A right-hand side for a matrix of which nothing else is known, and its exact solution.

    Entry i of the solution is 1/2 plus the fraction of ``(i + 1)`` times the golden ratio, cut
    to 32 bits: it has components of every frequency, no chance in it, and the same bits on
    every machine.

    Returns
    -------
    b : ndarray [n_rows]
        ``matrix @ x_exact``.
    x_exact : ndarray [n_cols]
        Between 1/2 and 3/2.
    """
    x_exact = exact_entries(0, matrix.shape[1], matrix.dtype)
    return matrix @ x_exact, x_exact


def exact_entries(c0: int, c1: int, dtype: Any) -> np.ndarray:
    """Entries ``c0:c1`` of the solution of `rhs_manufactured`."""
    index = np.arange(c0 + 1, c1 + 1, dtype=np.uint64)
    fraction = (index * np.uint64(_GOLDEN)) & np.uint64(0xFFFFFFFF)
    found: np.ndarray = (0.5 + fraction / 2.0**32).astype(dtype)
    return found

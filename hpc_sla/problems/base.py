"""What a model problem offers: any slab of its rows, built without the rest."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np

from hpc_sla.errors import InputError

RHS_KINDS = ("ones", "manufactured")


class Problem(ABC):
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
        Whether the matrix is symmetric positive definite.
    """

    symmetric = True

    def __init__(self, name: str, parameters: Mapping[str, Any], n_rows: int) -> None:
        self.name = name
        self.parameters = dict(parameters)
        self.n_rows = n_rows

    @property
    def spec(self) -> str:
        """The text that `hpc_sla.problems.make` builds this problem from."""
        given = ",".join(f"{name}={value}" for name, value in self.parameters.items())
        return f"{self.name}:{given}"

    @abstractmethod
    def rows(self, r0: int, r1: int) -> Any:
        """Rows ``r0:r1`` as a canonical SciPy CSR array, float64 ``[r1 - r0, n_rows]``."""

    @abstractmethod
    def coordinates(self, r0: int, r1: int) -> np.ndarray:
        """Points of the rows ``r0:r1``, float64 ``[r1 - r0, dimensions]``."""

    @abstractmethod
    def solution(self, r0: int, r1: int) -> np.ndarray:
        """Rows ``r0:r1`` of the manufactured solution, float64 ``[r1 - r0]``."""

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

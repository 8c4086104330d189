"""What a reference implementation offers to be compared with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np


@dataclass(frozen=True)
class ReferenceSolution:
    """A reference's answer to A x = b.

    Attributes
    ----------
    x : float64 array [n_owned]
        Per rank.
    converged : bool
    reason : str
        How it ended, in the reference's own words.
    iterations : int or None
        None for a direct solve.
    inverse_norm : float
        An estimate of ||A^-1||_2: how far a residual may move the solution.
    """

    x: np.ndarray
    converged: bool
    reason: str
    iterations: int | None
    inverse_norm: float


class Reference(Protocol):
    """Another implementation of the same distributed matrix, on the same ranks and rows.

    Vectors are float64 arrays of this rank's owned entries.
    """

    name: str

    def multiply(self, x: np.ndarray) -> np.ndarray:
        """A x. **Collective.**"""

    def multiply_transpose(self, x: np.ndarray) -> np.ndarray:
        """A^T x. **Collective.**"""

    def map_entries(self, function: Callable[[np.ndarray], np.ndarray]) -> Reference:
        """The same with `function` applied to the stored entries. **Collective.**"""

    def solve(
        self,
        b: np.ndarray,
        method: str,
        precond: str,
        rtol: float,
        atol: float,
        max_iterations: int,
    ) -> ReferenceSolution:
        """A^-1 b. **Collective.**"""

    def close(self) -> None:
        """Release what it holds. **Collective.**"""

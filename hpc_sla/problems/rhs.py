"""Right-hand sides for a matrix of which nothing else is known."""

from __future__ import annotations

from typing import Any

import numpy as np

# 2^32 over the golden ratio: multiples of it, modulo 2^32, spread evenly and never repeat soon.
_GOLDEN = 2654435769


def rhs_ones(matrix: Any) -> np.ndarray:
    """All ones, ``[n_rows]``, in the matrix's dtype."""
    return np.ones(matrix.shape[0], dtype=matrix.dtype)


def rhs_manufactured(matrix: Any) -> tuple[np.ndarray, np.ndarray]:
    """A right-hand side whose exact solution is known.

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
    index = np.arange(1, matrix.shape[1] + 1, dtype=np.uint64)
    fraction = (index * np.uint64(_GOLDEN)) & np.uint64(0xFFFFFFFF)
    x_exact = (0.5 + fraction / 2.0**32).astype(matrix.dtype)
    return matrix @ x_exact, x_exact

"""The reference that SciPy is: the whole matrix on rank 0, in the user's order, solved directly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch

from hpc_sla.distributed.layout import RowLayout
from hpc_sla.errors import HpcSlaError, InputError
from hpc_sla.reference.base import ReferenceSolution
from hpc_sla.sparse.matrix import DSparseMatrix

MAX_ROWS = 200_000
"""A direct solve of more rows than this may exhaust one rank's memory."""

_POWER_STEPS = 6


class ScipyMatrix:
    """A SciPy CSR matrix on rank 0. **Collective**; so is every method.

    It lives in the user's row order while DSparseMatrix lives in the partition's, so a wrong
    permutation shows as a wrong product.

    Parameters
    ----------
    layout : RowLayout
    matrix : SciPy CSR array [n_global, n_global]
        On rank 0; None elsewhere.
    """

    name = "SciPy"

    def __init__(self, layout: RowLayout, matrix: Any) -> None:
        self._layout = layout
        self._matrix = matrix

    @classmethod
    def from_matrix(cls, A: DSparseMatrix) -> ScipyMatrix:
        """Gather every entry on rank 0. **Collective.** Small problems only."""
        check_size(A.layout.n_global)
        rows, columns = A.entries()
        data = A.values.detach().cpu().numpy().astype(np.float64)
        pieces = A.world.gather_objects((rows, columns, data))
        matrix = None
        if pieces is not None:
            rows, columns, data = (np.concatenate(arrays) for arrays in zip(*pieces, strict=True))
            matrix = sp.coo_array((data, (rows, columns)), shape=A.shape).tocsr()
        return cls(A.layout, matrix)

    def multiply(self, x: np.ndarray) -> np.ndarray:
        return self._on_root(lambda full: self._matrix @ full, x)

    def multiply_transpose(self, x: np.ndarray) -> np.ndarray:
        return self._on_root(lambda full: self._matrix.T @ full, x)

    def map_entries(self, function: Callable[[np.ndarray], np.ndarray]) -> ScipyMatrix:
        matrix = self._matrix
        if matrix is not None:
            matrix = matrix.copy()
            matrix.data = function(matrix.data)
        return ScipyMatrix(self._layout, matrix)

    def solve(
        self,
        b: np.ndarray,
        method: str,
        precond: str,
        rtol: float,
        atol: float,
        max_iterations: int,
    ) -> ReferenceSolution:
        """Solve by sparse LU (SuperLU); the options of iterative methods mean nothing to it."""
        inverse_norm = 0.0

        def solved(full: np.ndarray) -> np.ndarray:
            nonlocal inverse_norm
            factor = _factor(self._matrix)
            inverse_norm = _inverse_norm(factor, len(full))
            return np.asarray(factor.solve(full))

        x = self._on_root(solved, b)
        norm = self._layout.world.max(inverse_norm)
        return ReferenceSolution(x, True, "direct", None, norm)

    def close(self) -> None:
        self._matrix = None

    def _on_root(self, function: Callable[[np.ndarray], np.ndarray], x: np.ndarray) -> np.ndarray:
        full = self._layout.gather(torch.from_numpy(np.ascontiguousarray(x)))
        answer: np.ndarray | None = None
        with self._layout.world.agree():
            if full is not None:
                answer = np.ascontiguousarray(function(full.numpy()))
        return np.asarray(self._layout.scatter(answer).cpu().numpy())


def check_size(rows: int) -> None:
    """Refuse what one rank cannot hold and factor."""
    if rows > MAX_ROWS:
        raise InputError(
            f"{rows} rows are too many for a direct solve on one rank (limit {MAX_ROWS})",
            field="--against",
            remedy="Use --against petsc, or a smaller problem.",
        )


def _factor(matrix: Any) -> Any:
    from scipy.sparse.linalg import splu  # slow to load

    try:
        # Minimum degree on the symmetrised pattern suits what comes from meshes.
        return splu(matrix.tocsc(), permc_spec="MMD_AT_PLUS_A", options={"SymmetricMode": True})
    except RuntimeError as error:
        raise HpcSlaError(f"SciPy cannot factor the matrix: {error}") from error


def _inverse_norm(factor: Any, n: int) -> float:
    """||A^-1||_2 by power iteration on A^-1 A^-T: a lower bound, mostly a close one."""
    vector = np.random.default_rng(0).standard_normal(n)
    norm = 0.0
    for _ in range(_POWER_STEPS):
        length = float(np.linalg.norm(vector))
        if not 0 < length < np.inf:
            break
        vector = factor.solve(factor.solve(vector / length, trans="T"))
        norm = float(np.sqrt(np.linalg.norm(vector)))
    return norm

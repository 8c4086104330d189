"""Eigen's sparse factorisations, through eigenpy. On the host, in double precision."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from hpc_sla.direct.base import Factorization, LocalMatrix
from hpc_sla.errors import SingularMatrixError

_CLASSES = {"llt": "SimplicialLLT", "ldlt": "SimplicialLDLT", "lu": "SparseLU"}
_FAILURES = {
    "llt": "the matrix is not positive definite",
    "ldlt": "a pivot is zero: the matrix is singular, or needs the pivoting of lu",
    "lu": "the matrix is singular: a pivot is zero",
}


def make(matrix: LocalMatrix, method: str) -> Factorization:
    """Factorise by `llt`, `ldlt` or `lu`."""
    return EigenFactorization(matrix, method)


def why_not(method: str | None) -> str | None:
    """Why it cannot be used here; None where it can."""
    try:
        import eigenpy  # noqa: F401 - optional
    except ImportError:
        return "eigenpy is not installed (pip install 'hpc_sla[eigen]')"
    return None


class EigenFactorization(Factorization):
    """SimplicialLLT and SimplicialLDLT (AMD ordering, no pivoting), or SparseLU (COLAMD)."""

    backend = "eigen"

    def __init__(self, matrix: LocalMatrix, method: str) -> None:
        super().__init__(matrix, method, torch.float64, torch.device("cpu"))
        self._solver = self._factorised(matrix)
        self._matrix = matrix if method == "lu" else None
        self._of_transpose: Any = None

    def _factorised(self, matrix: LocalMatrix) -> Any:
        import eigenpy  # optional

        solver = getattr(eigenpy, _CLASSES[self.method])()
        solver.compute(matrix.to_csc(np.float64))
        # Before any solve: one with a factorisation that failed reads memory it never wrote.
        if solver.info() != eigenpy.ComputationInfo.Success:
            raise SingularMatrixError(f"eigen {self.method}: {_FAILURES[self.method]}")
        return solver

    def _solve(self, b: torch.Tensor, transpose: bool) -> torch.Tensor:
        solver = self._solver
        if transpose and self._matrix is not None:
            # eigenpy does not bind SparseLU's transposed solve.
            if self._of_transpose is None:
                self._of_transpose = self._factorised(self._matrix.transposed)
            solver = self._of_transpose
        x = solver.solve(np.asfortranarray(b.numpy()))
        # eigenpy drops a dimension of length one, and adds one to a 1 x 1 system.
        return torch.from_numpy(np.ascontiguousarray(np.reshape(x, b.shape)))

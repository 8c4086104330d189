"""SciPy's SuperLU, and UMFPACK where scikit-umfpack is installed. On the host."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch

from hpc_sla.direct.base import Factorization, LocalMatrix
from hpc_sla.errors import MissingDependencyError, SingularMatrixError

_CPU = torch.device("cpu")


def make(matrix: LocalMatrix, method: str) -> Factorization:
    """Factorise by `lu` (SuperLU) or `umfpack`."""
    return Umfpack(matrix) if method == "umfpack" else SuperLU(matrix)


def why_not(method: str | None) -> str | None:
    """Why it cannot be used here; None where it can."""
    if method != "umfpack":
        return None
    try:
        import scikits.umfpack  # noqa: F401 - optional
    except ImportError:
        return "scikit-umfpack is not installed (pip install scikit-umfpack)"
    return None


class SuperLU(Factorization):
    """LU with partial pivoting and COLAMD ordering (J. W. Demmel et al., SIMAX 20, 1999)."""

    backend = "scipy"

    def __init__(self, matrix: LocalMatrix) -> None:
        super().__init__(matrix, "lu", matrix.values.dtype, _CPU)
        self._lu = superlu(matrix, self.backend)

    def _solve(self, b: torch.Tensor, transpose: bool) -> torch.Tensor:
        return torch.from_numpy(self._lu.solve(b.numpy(), trans="T" if transpose else "N"))


def superlu(matrix: LocalMatrix, backend: str) -> Any:
    """SciPy's SuperLU object, made for `backend`.

    Raises
    ------
    SingularMatrixError
        A pivot is zero.
    """
    from scipy.sparse.linalg import splu  # slow to load

    try:
        return splu(matrix.to_csc())
    except RuntimeError as error:
        if "singular" not in str(error):
            raise
        raise SingularMatrixError(
            f"{backend} lu: the matrix is singular: a pivot is zero"
        ) from error


class Umfpack(Factorization):
    """Multifrontal LU (T. A. Davis, ACM TOMS 30, 2004), in double precision."""

    backend = "scipy"

    def __init__(self, matrix: LocalMatrix) -> None:
        if reason := why_not("umfpack"):
            raise MissingDependencyError(reason, field="method", remedy="Or use method='lu'")
        from scikits import umfpack  # optional

        super().__init__(matrix, "umfpack", torch.float64, _CPU)
        self._matrix = matrix.to_csc(np.float64)
        self._context: Any = umfpack.UmfpackContext("di")
        self._systems = {False: umfpack.UMFPACK_A, True: umfpack.UMFPACK_At}
        # It goes on after a zero pivot, warns, and later replaces NaN by 0.
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            self._context.numeric(self._matrix)
        if any("singular matrix" in str(w.message).lower() for w in caught):
            raise SingularMatrixError("scipy umfpack: the matrix is singular: a pivot is zero")

    def _solve(self, b: torch.Tensor, transpose: bool) -> torch.Tensor:
        x = np.empty(b.shape)
        with warnings.catch_warnings():
            # Of a large condition number; what it did to the solution is for the residual to say.
            warnings.simplefilter("ignore")
            for j, column in enumerate(np.ascontiguousarray(b.numpy().T)):
                x[:, j] = self._context.solve(self._systems[transpose], self._matrix, column)
        return torch.from_numpy(x)

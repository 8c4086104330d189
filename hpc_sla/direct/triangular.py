"""SuperLU's factors, applied by this package's own triangular solves. On the matrix's device."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from hpc_sla.direct.base import Factorization, LocalMatrix
from hpc_sla.direct.scipy import superlu
from hpc_sla.kernels.incomplete import Triangle, TriangularFactor


def make(matrix: LocalMatrix, method: str) -> Factorization:
    """Factorise by `lu`."""
    return TriangularLU(matrix, method)


def why_not(method: str | None) -> str | None:
    """Why it cannot be used here: it always can."""
    return None


class TriangularLU(Factorization):
    """`L U = Pr A Pc` of SuperLU, made on the host and then kept as two sparse triangles.

    On a GPU they are solved by levels, and nothing passes through the host; on the CPU row by row
    in C, in one to three times less time than SuperLU itself takes, after a set-up that takes a
    third longer and more memory. See `hpc_sla.kernels.incomplete.TriangularFactor`.
    """

    backend = "triangular"

    def __init__(self, matrix: LocalMatrix, method: str) -> None:
        super().__init__(matrix, method, matrix.values.dtype, matrix.values.device)
        made = superlu(matrix, self.backend)
        lu = made.lu
        inverse = 1 / lu.U.diagonal()
        # In rows their columns ascend: the diagonal of L comes last, that of U first.
        lower, upper = lu.L.tocsr(), lu.U.tocsr()
        triangles = (
            _without_diagonal(lower, lower.indptr[1:] - 1),
            _without_diagonal(upper, upper.indptr[:-1]),
        )
        triangles[1].values[:] *= np.repeat(inverse, np.diff(triangles[1].indptr))
        self._factor = TriangularFactor(*triangles, inverse, self.device)
        # (Pr b)[perm_r[i]] = b[i] and (Pc y)[i] = y[perm_c[i]], of rows and columns put in order.
        places: tuple[np.ndarray, ...] = (lu.perm_r, lu.perm_c)
        if made.order is not None:
            put = np.argsort(made.order)
            places = (lu.perm_r[put], lu.perm_c[put])
        self._rows, self._columns = (
            torch.from_numpy(p.astype(np.int64)).to(self.device) for p in places
        )
        self._scales = tuple(
            None if s is None else torch.from_numpy(s).to(self.device).unsqueeze(1)
            for s in (made.rows, made.columns)
        )

    @property
    def capturable(self) -> bool:
        """Local."""
        return self._factor.capturable

    def _solve(self, b: torch.Tensor, transpose: bool) -> torch.Tensor:
        there, back = (self._columns, self._rows) if transpose else (self._rows, self._columns)
        first, last = reversed(self._scales) if transpose else self._scales
        permuted = torch.empty_like(b, memory_format=torch.contiguous_format)
        permuted.index_copy_(0, there, b if first is None else b * first)
        solved = self._factor.solve(permuted, torch.empty_like(permuted), transpose)
        x = torch.index_select(solved, 0, back, out=permuted)
        return x if last is None else x.mul_(last)


def _without_diagonal(matrix: Any, diagonal: np.ndarray) -> Triangle:
    """A SciPy CSR matrix less these entries, one of each row."""
    indptr = matrix.indptr - np.arange(len(matrix.indptr), dtype=np.int32)
    return Triangle(indptr, np.delete(matrix.indices, diagonal), np.delete(matrix.data, diagonal))

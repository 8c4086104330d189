"""NVIDIA's cuDSS, through nvmath-python. On the GPU that holds the matrix."""

from __future__ import annotations

import logging
import weakref
from typing import Any

import torch

from hpc_sla.direct.base import Factorization, LocalMatrix
from hpc_sla.errors import SingularMatrixError

_LOGGER = logging.getLogger(__name__)
# At each solver's birth it warns of a threading library that only speeds up the analysis.
_LOGGER.setLevel(logging.ERROR)


def make(matrix: LocalMatrix, method: str) -> Factorization:
    """Factorise by `lu`, `llt` or `ldlt`."""
    return CuDss(matrix, method)


def why_not(method: str | None) -> str | None:
    """Why it cannot be used here; None where it can."""
    if not torch.cuda.is_available():
        return "torch sees no GPU"
    try:
        import nvmath.sparse.advanced  # noqa: F401 - optional
    except (ImportError, OSError) as error:
        return f"nvmath-python cannot be loaded: {error} (pip install 'hpc_sla[cuda]')"
    return None


class CuDss(Factorization):
    """Supernodal LU, LL^T or LDL^T with nested dissection; `nvmath.sparse.advanced.DirectSolver`.

    cuDSS replaces a pivot that is too small by a larger one, so a singular matrix does not fail:
    where that has happened, each solution's residual is looked at.
    """

    backend = "cudss"

    def __init__(self, matrix: LocalMatrix, method: str) -> None:
        super().__init__(matrix, method, matrix.values.dtype, matrix.values.device)
        self._matrix = matrix
        # DirectSolver does not offer cuDSS's transposed solve: made when first asked for.
        self._solvers: dict[bool, tuple[Any, bool]] = {False: self._factorised(matrix)}

    def _factorised(self, matrix: LocalMatrix) -> tuple[Any, bool]:
        """The solver, and whether pivots were replaced."""
        from nvmath.sparse.advanced import (  # optional
            DirectSolver,
            DirectSolverMatrixType,
            DirectSolverMatrixViewType,
        )

        kind = {
            "lu": DirectSolverMatrixType.GENERAL,
            "ldlt": DirectSolverMatrixType.SYMMETRIC,
            "llt": DirectSolverMatrixType.SPD,
        }[self.method]
        views = DirectSolverMatrixViewType
        view = views.FULL if self.method == "lu" else views.LOWER
        pattern = matrix.pattern
        with torch.cuda.device_of(matrix.values):
            a = torch.sparse_csr_tensor(
                pattern.indptr,
                pattern.indices,
                matrix.values,
                (self.n, self.n),
                check_invariants=False,
            )
            solver = DirectSolver(
                a,
                matrix.values.new_zeros(self.n),
                options={
                    "sparse_system_type": kind,
                    "sparse_system_view": view,
                    "logger": _LOGGER,
                },
            )
            weakref.finalize(self, solver.free)
            solver.plan()
            outcome = solver.factorize()
            torch.cuda.current_stream(self.device).synchronize()
            if outcome.info != 0:
                what = "not positive definite" if self.method == "llt" else "singular"
                raise SingularMatrixError(
                    f"cudss {self.method}: the matrix is {what} (pivot {outcome.info})"
                )
            return solver, outcome.npivots > 0

    def _solve(self, b: torch.Tensor, transpose: bool) -> torch.Tensor:
        transpose = transpose and self.method == "lu"
        if transpose not in self._solvers:
            self._solvers[transpose] = self._factorised(self._matrix.transposed)
        solver, _replaced = self._solvers[transpose]
        x = torch.empty_like(b)
        with torch.cuda.device_of(b):
            # One column at a time: a DirectSolver is made for right-hand sides of one shape.
            for j in range(b.shape[1]):
                solver.reset_operands(b=b[:, j].contiguous())
                x[:, j] = solver.solve()
        return x

    def _check(self, x: torch.Tensor, b: torch.Tensor, transpose: bool) -> None:
        _solver, replaced = self._solvers[transpose and self.method == "lu"]
        if not replaced:
            return
        product = torch.empty_like(b)
        pattern = self._matrix.pattern
        (pattern.rmatmul if transpose else pattern.matmul)(self._matrix.values, x, product)
        worst = torch.linalg.vector_norm(b - product, dim=0)
        allowed = torch.finfo(b.dtype).eps ** 0.5 * torch.linalg.vector_norm(b, dim=0)
        if bool((worst > allowed).any()):
            raise SingularMatrixError(
                f"cudss {self.method}: the matrix is singular to working precision: pivots had to "
                "be replaced, and the solution does not satisfy the equations"
            )

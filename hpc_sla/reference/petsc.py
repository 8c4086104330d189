"""The reference that PETSc is: a matrix and its solvers, on a DSparseMatrix's ranks and rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from hpc_sla.distributed import petsc
from hpc_sla.distributed.petsc import available as available
from hpc_sla.reference.base import ReferenceSolution
from hpc_sla.reference.krylov import Counterpart, counterpart
from hpc_sla.sparse.matrix import DSparseMatrix
from hpc_sla.sparse.petsc import aij

if TYPE_CHECKING:
    from mpi4py import MPI

HOW_TO_GET = f"{petsc.HOW_TO_GET}; or use --against scipy to verify a small problem."
# Steps of the GMRES cycle that estimates a condition number.
_CYCLE = 100


def load() -> Any:
    """petsc4py's PETSc module: see `hpc_sla.distributed.petsc`, and what is there without it.

    Raises
    ------
    MissingDependencyError
        Saying how to get it.
    """
    return petsc.load(HOW_TO_GET)


class PetscMatrix:
    """A PETSc AIJ matrix. **Collective** over `comm`; so is every method.

    Parameters
    ----------
    comm : MPI.Comm
    n_global : int
    indptr, indices, data : arrays
        This rank's rows as CSR, with global columns.
    """

    name = "PETSc"

    def __init__(
        self,
        comm: MPI.Comm,
        n_global: int,
        indptr: np.ndarray,
        indices: np.ndarray,
        data: np.ndarray,
    ) -> None:
        self.petsc = load()
        self.comm = comm
        self._n_global = n_global
        self._csr = (indptr, indices, data)
        shape = (len(indptr) - 1, n_global)
        self.mat = aij(comm, (shape, shape), indptr, indices, data)

    @classmethod
    def from_matrix(cls, A: DSparseMatrix) -> PetscMatrix:
        """A DSparseMatrix's rows, on the same ranks. **Collective.**"""
        rows = A.local_csr()
        with A.world.agree():
            load()
        return cls(A.world.comm, A.layout.n_global, rows.indptr, rows.indices, rows.data)

    def forget_source(self) -> None:
        """Let go of the arrays it was made from; `map_entries` is then no longer possible."""
        del self._csr

    def multiply(self, x: np.ndarray) -> np.ndarray:
        source, result = self._vectors(x)
        self.mat.mult(source, result)
        return self._taken(source, result)

    def multiply_transpose(self, x: np.ndarray) -> np.ndarray:
        source, result = self._vectors(x)
        self.mat.multTranspose(source, result)
        return self._taken(source, result)

    def map_entries(self, function: Callable[[np.ndarray], np.ndarray]) -> PetscMatrix:
        indptr, indices, data = self._csr
        return PetscMatrix(self.comm, self._n_global, indptr, indices, function(data))

    def solver(
        self,
        method: str,
        precond: str,
        rtol: float,
        atol: float,
        max_iterations: int,
        singular_values: bool = False,
    ) -> Counterpart:
        """A KSP that does what ours does under these names: see `counterpart`."""
        limits = (rtol, atol, max_iterations)
        return counterpart(self.petsc, self.mat, method, precond, *limits, singular_values)

    def solve(
        self,
        b: np.ndarray,
        method: str,
        precond: str,
        rtol: float,
        atol: float,
        max_iterations: int,
    ) -> ReferenceSolution:
        found = self.solver(method, precond, rtol, atol, max_iterations, method == "cg")
        ksp = found.ksp
        right, x = self._vectors(b)
        ksp.solve(right, x)
        reason = int(ksp.getConvergedReason())
        if method == "cg":
            _largest, smallest = ksp.computeExtremeSingularValues()
        else:
            smallest = self._smallest_singular_value(right)
        scaling = self._least_scaling("jacobi" if ksp.getPC().getType() == "jacobi" else "none")
        solution = ReferenceSolution(
            x=x.getArray().copy(),
            converged=reason > 0,
            reason=self._reason_name(reason),
            iterations=int(ksp.getIterationNumber()) if found.same_iterations else None,
            inverse_norm=1.0 / (smallest * (scaling if method == "cg" else 1.0) or np.nan),
        )
        for item in (ksp, right, x):
            item.destroy()
        return solution

    def _smallest_singular_value(self, right: Any) -> float:
        """An estimate from one long GMRES cycle, with room for its coming from above."""
        ksp = self.solver(f"gmres:restart={_CYCLE}", "none", 1e-12, 0.0, _CYCLE, True).ksp
        x = right.duplicate()
        ksp.solve(right, x)
        _largest, smallest = ksp.computeExtremeSingularValues()
        ksp.destroy()
        x.destroy()
        return float(smallest) / 10

    def close(self) -> None:
        self.mat.destroy()

    def vector(self, values: np.ndarray) -> Any:
        """A PETSc vector with these owned entries, as a copy."""
        vector = self.mat.createVecRight()
        vector.getArray()[:] = values
        return vector

    def _vectors(self, x: np.ndarray) -> tuple[Any, Any]:
        return self.vector(x), self.mat.createVecLeft()

    @staticmethod
    def _taken(source: Any, result: Any) -> np.ndarray:
        values: np.ndarray = result.getArray().copy()
        source.destroy()
        result.destroy()
        return values

    def _least_scaling(self, precond: str) -> float:
        """The smallest factor between A and the preconditioned operator: min |a_ii|, or 1."""
        if precond != "jacobi":
            return 1.0
        diagonal = self.mat.createVecLeft()
        self.mat.getDiagonal(diagonal)
        diagonal.abs()
        _where, least = diagonal.min()
        diagonal.destroy()
        return float(least)

    def _reason_name(self, reason: int) -> str:
        for name, value in vars(self.petsc.KSP.ConvergedReason).items():
            if value == reason and not name.startswith("_"):
                return name
        return str(reason)

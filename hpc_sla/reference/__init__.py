"""The same problem through PETSc or SciPy, for cross-checks only; imported nowhere else."""

from __future__ import annotations

from hpc_sla.reference import petsc, scipy
from hpc_sla.reference.base import Reference
from hpc_sla.sparse.matrix import DSparseMatrix


def choose(asked: str | None, rows: int) -> str:
    """The reference's name: the one asked for, else PETSc where it is installed, else SciPy.

    Refuses at once what could only fail later.
    """
    if asked is None:
        asked = "petsc" if petsc.available() or rows > scipy.MAX_ROWS else "scipy"
    if asked == "petsc":
        petsc.load()
    else:
        scipy.check_size(rows)
    return asked


def make_reference(name: str, A: DSparseMatrix) -> Reference:
    """The named reference, holding the rows of A. **Collective.**"""
    if name == "petsc":
        return petsc.PetscMatrix.from_matrix(A)
    return scipy.ScipyMatrix.from_matrix(A)

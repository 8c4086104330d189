"""Which reference to compare with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hpc_sla.reference import petsc, scipy
from hpc_sla.reference.base import Reference

if TYPE_CHECKING:
    from hpc_sla.sparse.matrix import DSparseMatrix

CHOICES = ("petsc", "scipy")


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

"""The Poisson matrices in PETSc, for races that need nothing of hpc_sla's environment."""

from __future__ import annotations

import numpy as np
from petsc4py import PETSc


def poisson(n: int, dim: int) -> PETSc.Mat:
    """The 5- or 7-point matrix of n^dim points, in the grid's order, contiguous on each rank."""
    A = PETSc.Mat().createAIJ((n**dim, n**dim), nnz=(2 * dim + 1, dim))
    rows = np.arange(*A.getOwnershipRange(), dtype=PETSc.IntType)
    steps = [n**axis for axis in range(dim)]
    places = [rows // step % n for step in steps]
    near = [(rows - s, at > 0, -1.0) for s, at in zip(steps[::-1], places[::-1], strict=True)]
    near.append((rows, rows >= 0, 2.0 * dim))
    near += [(rows + s, at < n - 1, -1.0) for s, at in zip(steps, places, strict=True)]
    columns, here, values = (
        np.stack(part, axis=1)
        for part in zip(
            *((column, mask, np.full(len(rows), value)) for column, mask, value in near),
            strict=True,
        )
    )
    indptr = np.concatenate([[0], np.cumsum(here.sum(axis=1))]).astype(PETSc.IntType)
    A.setValuesCSR(indptr, columns[here].astype(PETSc.IntType), values[here])
    A.assemble()
    return A

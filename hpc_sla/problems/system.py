"""A linear system by name: out of its matrix file, or of a generator each rank its own rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from hpc_sla.distributed.layout import RowLayout
from hpc_sla.distributed.world import World
from hpc_sla.errors import InputError
from hpc_sla.partition.offsets import even_offsets, offsets_for
from hpc_sla.problems import distribute, make
from hpc_sla.sparse.from_hdf5 import read_rhs
from hpc_sla.sparse.matrix import DSparseMatrix
from hpc_sla.storage.matrix_file import MatrixFile

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class NamedSystem:
    """A x = b, of which each rank reads or makes its own rows.

    Attributes
    ----------
    path : str
        A matrix file, or the text of a generator.
    rhs : str
        One of the file's right-hand sides, or of `RHS_KINDS`; empty for none.
    generated : bool
        Which of both.
    """

    path: str
    rhs: str
    generated: bool

    def matrix(self, world: World, dtype: torch.dtype | None = None) -> DSparseMatrix:
        """A, in that dtype or its own. **Collective.**"""
        if self.generated:
            return distribute(make(self.path), world, dtype)
        return DSparseMatrix.from_hdf5(self.path, world, dtype)

    def right_hand_side(self, layout: RowLayout) -> torch.Tensor:
        """b: `[n_owned]`, or `[n_owned, k]` for several columns. **Collective.**"""
        if self.generated:
            with layout.world.agree():
                made = make(self.path).rhs(self.rhs, *_owned(layout))
            return torch.from_numpy(np.ascontiguousarray(made)).to(layout.world.device)
        b = read_rhs(self.path, self.rhs, layout)
        return b[:, 0].contiguous() if b.shape[1:] == (1,) else b

    def solution(self, name: str, layout: RowLayout) -> np.ndarray:
        """This rank's entries of the known x for the right-hand side `name`. **Collective.**

        Parameters
        ----------
        name : str
        layout : RowLayout
            Of A's columns.

        Returns
        -------
        array [n_owned], or [n_owned, k] for several columns

        Raises
        ------
        InputError
            On every rank: it is not known.
        """
        with layout.world.agree():
            if self.generated:
                if name != "manufactured":
                    raise InputError(
                        f"knows no solution for the right-hand side {name!r}",
                        file=self.path,
                        remedy="Choose manufactured",
                    )
                return make(self.path).solution(*_owned(layout))
            with MatrixFile(self.path) as file:
                known = file.read_solution(name, *_owned(layout))
        return known[:, 0] if known.shape[1:] == (1,) else known

    def arrays(self, world: World) -> tuple[int, Arrays, np.ndarray]:
        """As plain arrays, cut as `matrix` is. **Collective.**

        Returns
        -------
        int
            Rows, over all ranks.
        (indptr, indices, values)
            This rank's rows.
        array [n_owned]
            Its part of b, which has one column.
        """
        with world.agree():
            if self.generated:
                problem = make(self.path)
                block = problem.block_size
                offsets = even_offsets(problem.n_rows // block, world.size) * block
                first, last = int(offsets[world.rank]), int(offsets[world.rank + 1])
                rows = problem.rows(first, last)
                b = problem.rhs(self.rhs, first, last)
                return problem.n_rows, (rows.indptr, rows.indices, rows.data), b
            with MatrixFile(self.path) as file:
                offsets = offsets_for(file.part_offsets, world.size, file.block_size)
                first, last = int(offsets[world.rank]), int(offsets[world.rank + 1])
                b = file.read_rhs(self.rhs, first, last).ravel()
                return file.n_rows, file.read_rows(first, last), b


def _owned(layout: RowLayout) -> tuple[int, int]:
    return layout.start, layout.start + layout.n_owned

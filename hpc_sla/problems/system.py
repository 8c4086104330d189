"""A linear system by name: out of its matrix file, or of a generator each rank its own rows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from hpc_sla.distributed.layout import RowLayout
from hpc_sla.distributed.world import World
from hpc_sla.errors import InputError
from hpc_sla.partition.offsets import even_offsets, offsets_for
from hpc_sla.problems import distribute, make
from hpc_sla.sparse.from_hdf5 import check_together, open_together, read_rhs, read_rows
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
    file : MatrixFile or None
        The file, where rank 0 has opened it and sent its header to the others; it stays open.
    """

    path: str
    rhs: str
    generated: bool
    file: MatrixFile | None = None

    def matrix(self, world: World, dtype: torch.dtype | None = None) -> DSparseMatrix:
        """A, in that dtype or its own. **Collective.**"""
        if self.generated:
            return distribute(make(self.path), world, dtype)
        if self.file is None:
            return DSparseMatrix.from_hdf5(self.path, world, dtype)
        return DSparseMatrix._of_split(*read_rows(self.file, world, dtype))

    def right_hand_side(self, layout: RowLayout) -> torch.Tensor:
        """b: `[n_owned]`, or `[n_owned, k]` for several columns. **Collective.**"""
        if self.generated:
            with layout.world.agree():
                made = make(self.path).rhs(self.rhs, *_owned(layout))
            return torch.from_numpy(np.ascontiguousarray(made)).to(layout.world.device)
        b = read_rhs(self.file or self.path, self.rhs, layout)
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
        world = layout.world
        if self.generated:
            with world.agree():
                if name != "manufactured":
                    raise InputError(
                        f"knows no solution for the right-hand side {name!r}",
                        file=self.path,
                        remedy="Choose manufactured",
                    )
                return make(self.path).solution(*_owned(layout))
        with self._opened(world) as file:
            with world.agree():
                known = file.read_solution(name, *_owned(layout))
            check_together(file, world)
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
        if self.generated:
            with world.agree():
                problem = make(self.path)
                block = problem.block_size
                offsets = even_offsets(problem.n_rows // block, world.size) * block
                first, last = int(offsets[world.rank]), int(offsets[world.rank + 1])
                rows = problem.rows(first, last)
                b = problem.rhs(self.rhs, first, last)
                return problem.n_rows, (rows.indptr, rows.indices, rows.data), b
        with self._opened(world) as file:
            with world.agree():
                offsets = offsets_for(file.part_offsets, world.size, file.block_size)
                first, last = int(offsets[world.rank]), int(offsets[world.rank + 1])
                b = file.read_rhs(self.rhs, first, last).ravel()
                arrays = file.read_rows(first, last)
            check_together(file, world)
        return file.n_rows, arrays, b

    @contextmanager
    def _opened(self, world: World) -> Iterator[MatrixFile]:
        """The file. **Collective.**"""
        file = open_together(self.file or self.path, world)
        try:
            yield file
        finally:
            if self.file is None:
                file.close()


def _owned(layout: RowLayout) -> tuple[int, int]:
    return layout.start, layout.start + layout.n_owned

"""A DSparseMatrix from a file, from SciPy's, and from triplets."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hpc_sla.distributed.layout import RowLayout
from hpc_sla.distributed.world import World
from hpc_sla.kernels.modes import entry
from hpc_sla.sparse.compressed import in_slices
from hpc_sla.sparse.from_coo import assemble
from hpc_sla.sparse.from_hdf5 import read_rows
from hpc_sla.sparse.pattern import DistributedPattern
from hpc_sla.sparse.split import SplitRows
from hpc_sla.sparse.unknowns import NOTHING_KNOWN, Unknowns

if TYPE_CHECKING:
    from typing_extensions import Self


class Constructors:
    """How a `DSparseMatrix` comes to be."""

    @classmethod
    @entry
    def from_hdf5(
        cls, path: str | os.PathLike[str], world: World, dtype: torch.dtype | None = None
    ) -> Self:
        """Read a partitioned matrix file, each rank its own slab of rows. **Collective.**

        Any rank count opens any file: its parts are merged or split to fit.

        Parameters
        ----------
        path : path
            A file made by `python -m hpc_sla partition`; the format is in partitions/README.md.
        world : World
        dtype : torch.float64 or torch.float32, optional
            Default: the file's.

        Raises
        ------
        InputError
            On every rank, naming the file, the dataset and the remedy.
        """
        return cls._of_split(*read_rows(path, world, dtype))

    @classmethod
    @entry
    def from_scipy(
        cls,
        matrix: Any,
        world: World,
        partition: str | np.ndarray | None = None,
        coordinates: np.ndarray | None = None,
        column_partition: str | np.ndarray | None = None,
        block_size: int | None = None,
        layout: RowLayout | None = None,
        columns: RowLayout | None = None,
        near_nullspace: np.ndarray | str | None = None,
    ) -> Self:
        """Spread a SciPy matrix that rank 0 holds. **Collective.**

        Parameters
        ----------
        matrix : scipy sparse matrix or array, or None
            Read on rank 0 only. float64 or float32; other real types become float64. Other ranks
            may pass None, or the same matrix.
        world : World
        partition : {"metis", "rcb", "contiguous"} or int array [m], optional
            The method, or (on rank 0) the rank of each row. Default: "metis" for a square matrix,
            "contiguous" for a rectangular one, for which "metis" cuts the bipartite graph of rows
            and columns. On a world of one rank rows stay in the user's order, unless "metis" or
            "rcb" is named: then, as always on several, a scattered numbering gives way to one
            whose products are faster.
        coordinates : array [m, d] or [m / block_size, d], optional
            Of the rows or of their nodes, for `rcb` and multigrid; on rank 0.
        column_partition : {"majority", "contiguous"} or int array [n], optional
            For a rectangular matrix: the method, or (on rank 0) the rank of each column. Default:
            "majority", the rank with most of the column's entries. Columns of a square matrix are
            owned as its rows are.
        block_size : int, optional
            Of a square matrix, replicated: rows ``block_size * i`` to
            ``block_size * (i + 1) - 1`` are the unknowns of node i, which stay together and in
            order on one rank. Default: what is found in the matrix, where every few rows have one
            pattern of nodes; 1 is for no such nodes.
        layout : RowLayout, optional
            Of another matrix of as many rows: the same rows on the same ranks in the same order,
            in place of a partition. Vectors of the two then go together; without it their rows
            may be in different orders within a rank, even where the parts are the same.
        columns : RowLayout, optional
            The same for the columns of a rectangular matrix, in place of `column_partition`.
        near_nullspace : array [m, k], "constants" or "rigid_body", optional
            Vectors that the matrix hardly changes; on rank 0. Rigid-body modes are made of the
            coordinates, of as many unknowns a node as these have dimensions.

        Raises
        ------
        InputError
            On every rank: not sparse, not finite, complex, a partition or a layout that does not
            fit, ranks that pass different matrices or partitions.
        """
        # Loads SciPy's sparse matrices, which takes a while and a solve does without.
        from hpc_sla.sparse.from_scipy import rows_from_scipy

        about = column_partition, block_size, layout, columns, near_nullspace
        return cls._from_rows(*rows_from_scipy(matrix, world, partition, coordinates, *about))

    @classmethod
    @entry
    def from_coo(
        cls,
        rows: torch.Tensor | np.ndarray,
        cols: torch.Tensor | np.ndarray,
        values: torch.Tensor | np.ndarray,
        shape: Sequence[int],
        world: World,
        columns: torch.Tensor | np.ndarray | RowLayout | None = None,
        layout: RowLayout | None = None,
        block_size: int | None = None,
        coordinates: torch.Tensor | np.ndarray | None = None,
        near_nullspace: torch.Tensor | np.ndarray | str | None = None,
    ) -> Self:
        """Assemble from triplets, each rank bringing those of the rows it will own. **Collective.**

        Row and column numbers are the user's own; no order or contiguity is asked of them. A
        rank owns the rows it passes entries of, in ascending order; a row that nobody passes
        has no entries and goes to the rank whose even block of rows it lies in. Entries given
        twice are summed. Differentiable in `values`.

        Columns of a square matrix are owned as its rows are. Those of a rectangular one lie on
        the ranks in even contiguous blocks of the user's numbering, unless `columns` says else.

        Parameters
        ----------
        rows, cols : integer tensor or array [m]
            Per rank; 0-based.
        values : tensor or array [m]
            Per rank; float64 or float32, the same on every rank. May require grad (then on
            every rank).
        shape : (int, int)
            Replicated.
        world : World
        columns : integer tensor or array, optional
            Per rank, on every rank or on none, for a rectangular matrix: the columns this rank
            will own, each on one rank, in any order (they are stored ascending). A column that
            nobody names goes to the rank whose even block of columns it lies in.
            Or a RowLayout, of whose rows these columns are.
        layout : RowLayout, optional
            Of another matrix of as many rows: this one's are on the same ranks in the same order,
            so that vectors of the two go together. Each rank passes entries of its own rows only.
        block_size : int, optional
            Replicated: as in `from_scipy`. Each rank passes whole nodes.
        coordinates : tensor or array [n_owned, d], optional
            Per rank, of the rows it will own, in their order. Most set these two afterwards.
        near_nullspace : tensor or array [n_owned, m], "constants" or "rigid_body", optional
            Per rank, likewise.

        Raises
        ------
        InputError
            On every rank: lengths differ, an index out of range, a row passed (or a column
            named) by two ranks, a dtype that is not float32 or float64, columns of a square
            matrix, a layout that does not fit.
        """
        world.forgotten.own(values)
        A: Any = _class(cls)(*assemble(rows, cols, values, shape, world, columns, layout))
        said = {"coordinates": coordinates, "near_nullspace": near_nullspace}
        with world.agree("from_coo", block_size=block_size, **said):
            if block_size is not None:
                A.block_size = block_size
            A.coordinates, A.near_nullspace = coordinates, near_nullspace
        found: Self = A
        return found

    @classmethod
    def _from_rows(
        cls,
        layout: RowLayout,
        columns: RowLayout,
        indptr: np.ndarray,
        indices: np.ndarray,
        data: np.ndarray,
        unknowns: Unknowns = NOTHING_KNOWN,
    ) -> Self:
        n, start = columns.n_owned, columns.start
        split = SplitRows.of(indptr, indices, data, start, start + n)
        return cls._of_split(layout, columns, split.pack(n, layout.world.device), unknowns)

    @classmethod
    def _of_split(
        cls,
        layout: RowLayout,
        columns: RowLayout,
        split: SplitRows,
        unknowns: Unknowns = NOTHING_KNOWN,
    ) -> Self:
        pattern = DistributedPattern.of_split(layout, split, columns)
        held = in_slices(pattern, split.held(layout.world.device))
        found: Self = _class(cls)(pattern, held)._knowing(unknowns)
        return found


def _class(cls: type) -> Any:
    return cls

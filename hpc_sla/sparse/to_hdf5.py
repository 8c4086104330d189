"""A distributed matrix written as a matrix file, each rank its own rows."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hpc_sla.errors import InputError
from hpc_sla.kernels.modes import entry
from hpc_sla.sparse.stored import StoredMatrix
from hpc_sla.sparse.unknowns import Described

if TYPE_CHECKING:
    from hpc_sla.distributed.layout import RowLayout


class Writable(Described, StoredMatrix):
    """What of `DSparseMatrix` writes files."""

    @abstractmethod
    def local_csr(self) -> Any:
        """This rank's rows in stored numbers, a SciPy CSR array. Local."""

    @entry
    def to_hdf5(
        self,
        path: str | os.PathLike[str],
        rhs: Mapping[str, torch.Tensor] | None = None,
        solutions: Mapping[str, torch.Tensor] | None = None,
        attributes: Mapping[str, Any] | None = None,
    ) -> None:
        """Write a matrix file, in which each rank's rows are a part. **Collective.**

        All ranks write, each its own rows. What `from_hdf5` reads from it is the same matrix on
        any number of ranks, in the user's numbering, and on as many ranks in the same order;
        `solve FILE` takes it. Block size, coordinates and near-nullspace go with it. What stood at
        `path` stays until the file is complete.

        Parameters
        ----------
        path : path
            Replicated; on a file system that all ranks see.
        rhs : dict of name to tensor [n_owned] or [n_owned, k], optional
            Per rank, of the same names on all: right-hand sides, in `layout`. They are stored in
            the matrix's dtype.
        solutions : dict of name to tensor, optional
            Known solutions of some of them, under the same names, in `columns`.
        attributes : dict, optional
            Replicated: further attributes of the file, such as where the matrix came from.

        Raises
        ------
        InputError
            On every rank: the file cannot be written, a vector of another layout or with NaN,
            names that differ between ranks or that no dataset can have.
        """
        # Loads h5py and SciPy's matrices, which many solves do without.
        from hpc_sla.messages.peers import Peers
        from hpc_sla.storage.matrix_slabs import StoredColumns, write_matrix_slabs
        from hpc_sla.storage.parallel.local_rows import csr

        world, layout, columns = self.world, self.layout, self.columns
        square = columns is layout
        further = dict(attributes or {})
        said = self.unknowns.block_size
        if square and said is not None:
            further.setdefault("block_size", said)
        names = [sorted(vectors or {}) for vectors in (rhs, solutions)]
        with world.agree("to_hdf5", path=os.fspath(path), names=names, attributes=sorted(further)):
            b = {name: _owned(x, layout, f"rhs: {name}") for name, x in (rhs or {}).items()}
            known = (solutions or {}).items()
            x = {name: _owned(y, columns, f"solutions: {name}") for name, y in known}
        known_of_rows = (self.coordinates, self.near_nullspace)
        points, vectors = (None if a is None else a.detach().cpu().numpy() for a in known_of_rows)
        mine = self.local_csr()
        matrix = csr(mine.data, mine.indices, mine.indptr, mine.shape)
        matrix.sum_duplicates()
        stored = None
        if not square:
            permutation = np.asarray(columns.rows, dtype=np.int64)
            stored = StoredColumns(columns.offsets, columns.offsets, permutation)
        with Peers(world.comm) as peers:
            write_matrix_slabs(
                peers,
                path,
                layout.offsets,
                matrix,
                layout.offsets,
                np.asarray(layout.rows),
                b,
                points,
                further,
                x,
                vectors,
                stored,
            )


def _owned(given: Any, layout: RowLayout, field: str) -> np.ndarray:
    """This rank's entries as an array. Local."""
    checked = layout._checked(given, field)
    found: np.ndarray = checked.detach().cpu().numpy()
    if found.ndim > 2:
        raise InputError(
            f"shape {found.shape} is not [n_owned] or [n_owned, k]", field=f"to_hdf5: {field}"
        )
    return found

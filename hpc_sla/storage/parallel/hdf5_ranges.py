"""HDF5 files by slabs: sparse matrices of other programs, and matrix files in the user's order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np

from hpc_sla.errors import InputError
from hpc_sla.messages.peers import Peers
from hpc_sla.messages.records import look_up, on_root
from hpc_sla.storage.attributes import attribute
from hpc_sla.storage.hdf5 import open_read, read_slab
from hpc_sla.storage.hdf5_sparse import (
    chosen_group,
    read_integers,
    sparse_error,
    stored_sparse,
)
from hpc_sla.storage.importers import ImportedMatrix, importing
from hpc_sla.storage.matrix_file import MatrixFile
from hpc_sla.storage.numpy_files import real_dtype
from hpc_sla.storage.parallel.compressed_arrays import compressed_columns, compressed_rows
from hpc_sla.storage.parallel.local_rows import Cut, LocalRows, csr, cut_rows, moved


@dataclass(frozen=True)
class DatasetItems:
    """A dataset of one dimension; None is an empty one."""

    peers: Peers
    path: str
    item: h5py.Dataset | None
    integers: bool

    @property
    def length(self) -> int:
        return 0 if self.item is None else int(self.item.shape[0])

    def part(self, cuts: np.ndarray) -> np.ndarray:
        """Items ``cuts[rank]:cuts[rank+1]``. **Collective.**"""
        first, last = int(cuts[self.peers.rank]), int(cuts[self.peers.rank + 1])
        found = np.empty(0, dtype=np.int64 if self.integers else np.float64)
        with self.peers.agree(), importing(self.path):
            if self.item is not None and self.integers:
                found = read_integers(self.item, first, last)
            elif self.item is not None:
                found = read_slab(self.item, first, last)
                found = found.astype(real_dtype(found.dtype, self.path), copy=False)
        return found


def is_own(peers: Peers, path: str) -> bool:
    """Whether a file is one of this project's. **Collective:** rank 0 looks."""

    def look() -> bool:
        with importing(path), open_read(path) as file:
            return attribute(file, "format") is not None

    return on_root(peers, look)


def read_hdf5_sparse_rows(peers: Peers, path: str, cut: Cut) -> LocalRows:
    """Rows of the matrix that `read_hdf5_sparse` reads. **Collective.**"""
    name = on_root(peers, lambda: _name(path))
    with peers.agree(), importing(path):
        file = open_read(path)
    try:
        with peers.agree(), importing(path):
            stored = stored_sparse(file, name)
        offsets = cut_rows(peers, path, stored.shape, cut, None)
        with peers.agree(), importing(path):
            major = stored.shape[0 if stored.rows_first else 1]
            if stored.pointers.shape[0] != major + 1:
                raise sparse_error(
                    file,
                    name,
                    "is not a valid sparse matrix: index pointer size "
                    f"{stored.pointers.shape[0]} should be {major + 1}",
                )
        arrays = (
            DatasetItems(peers, path, stored.pointers, True),
            DatasetItems(peers, path, stored.indices, True),
            DatasetItems(peers, path, stored.values, False),
        )
        read = compressed_rows if stored.rows_first else compressed_columns
        return read(peers, path, arrays, stored.shape[1], offsets)
    finally:
        file.close()


def read_own_rows(peers: Peers, path: str, cut: Cut) -> tuple[LocalRows, ImportedMatrix]:
    """Rows of a square matrix file in the user's order, and what belongs to them. **Collective.**

    Returns
    -------
    LocalRows
    ImportedMatrix
        Per rank: of its rows, without the matrix.
    """
    with peers.agree(), importing(path):
        file = MatrixFile(path)
    try:
        said = file.block_size if file.says_block_size else None
        offsets = cut_rows(peers, path, (file.n_rows, file.n_cols), cut, said)
        first, last = int(offsets[peers.rank]), int(offsets[peers.rank + 1])
        with peers.agree(), importing(path):
            indptr, indices, data = file.read_rows(first, last)
            permutation = file.read_permutation(first, last)
            of_rows: dict[str, np.ndarray] = {}
            for name in file.rhs_names:
                of_rows[f"rhs/{name}"] = file.read_rhs(name, first, last)
            for name in file.solution_names:
                of_rows[f"solution/{name}"] = file.read_solution(name, first, last)
            if file.has_coordinates:
                of_rows["coordinates"] = file.read_coordinates(first, last)
            if file.has_near_nullspace:
                of_rows["near_nullspace"] = file.read_near_nullspace(first, last)
        n = file.n_rows
    finally:
        file.close()
    # Stored numbers to the user's: each rank has read the permutation of its own slab.
    columns = look_up(peers, offsets, permutation, indices).astype(indices.dtype)
    matrix = csr(data, columns, indptr, (last - first, n))
    names = list(of_rows)
    rows, matrix, arrays = moved(
        peers, offsets, permutation, matrix, [of_rows[name] for name in names]
    )
    with peers.agree():
        if not np.array_equal(rows, np.arange(first, last)):
            raise InputError(
                "repeats a row",
                file=path,
                field="/permutation",
                remedy="Each of the user's rows occurs exactly once.",
            )
    matrix.sum_duplicates()
    found: dict[str, Any] = dict(zip(names, arrays, strict=True))
    rest = ImportedMatrix(
        None,
        found.get("coordinates"),
        {name[4:]: b for name, b in found.items() if name.startswith("rhs/")},
        {name[9:]: x for name, x in found.items() if name.startswith("solution/")},
        said,
        found.get("near_nullspace"),
    )
    return LocalRows(offsets, matrix), rest


def _name(path: str) -> str:
    with importing(path), open_read(path) as file:
        return chosen_group(file)

"""PETSc's binary files, of which each rank reads its rows by their place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from hpc_sla.messages.peers import Peers
from hpc_sla.messages.records import on_root
from hpc_sla.storage.complex_single import SeenPairs
from hpc_sla.storage.importers import importing
from hpc_sla.storage.limits import check_fits
from hpc_sla.storage.parallel.bytes_of_files import read_into
from hpc_sla.storage.parallel.local_rows import Cut, CutOfArray, LocalRows, csr, cut_rows
from hpc_sla.storage.petsc_binary import PetscLayout, complex_single, petsc_error, petsc_layout


@dataclass(frozen=True)
class _Runs:
    """A file of PETSc's, read at given places."""

    peers: Peers
    path: str

    def read(self, place: int, dtype: Any, first: int, last: int) -> np.ndarray:
        """Items `first` to `last` of the array that begins at `place`. **Collective.**"""
        kind = np.dtype(dtype)
        found = np.empty(0, dtype=kind)
        with self.peers.agree(), importing(self.path), open(self.path, "rb") as stream:
            check_fits((last - first) * kind.itemsize, self.path)
            found = np.empty(last - first, dtype=kind)
            stream.seek(place + first * kind.itemsize)
            read_into(stream, found)
        return found

    def numbers(self, place: int, first: int, last: int, length: int) -> np.ndarray:
        """Values `first` to `last` of so many, seen to be real ones. **Collective.**"""
        data = self.read(place, ">f8", first, last)
        mine = SeenPairs.of(data, first, length)
        seen = SeenPairs.all_of(self.peers.comm.allgather(mine))
        with self.peers.agree():
            if seen.complex:
                raise complex_single(self.path, seen.example)
        return data.astype(np.float64)


def read_petsc_rows(peers: Peers, path: str, cut: Cut) -> tuple[LocalRows, np.ndarray | None]:
    """Rows of the AIJ matrix, and of the first vector after it, if any. **Collective.**"""
    layout = on_root(peers, lambda: _layout(path, True))
    assert layout.matrix is not None
    (m, n), entries, places = layout.matrix
    offsets = cut_rows(peers, path, (m, n), cut, None)
    first, last = int(offsets[peers.rank]), int(offsets[peers.rank + 1])
    runs = _Runs(peers, path)
    lengths = runs.read(places[0], layout.integer, first, last).astype(np.int64)
    # A negative length, or sums that have gone past the largest integer.
    wrong = bool((lengths < 0).any()) or bool((lengths > entries).any())
    sums = peers.allgather(np.array([-1 if wrong else lengths.sum()], dtype=np.int64))
    with peers.agree():
        if (sums < 0).any() or sum(sums.tolist()) != entries:
            raise petsc_error(path, "row lengths do not add up to the number of entries")
    begin = int(sums[: peers.rank].sum())
    end = begin + int(sums[peers.rank])
    indices = runs.read(places[1], layout.integer, begin, end)
    with peers.agree():
        if len(indices) and (indices.min() < 0 or indices.max() >= n):
            raise petsc_error(path, f"a column is outside 0 to {n - 1}")
    data = runs.numbers(places[2], begin, end, entries)
    indptr = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths)])
    matrix = csr(data, indices, indptr, (last - first, n))
    matrix.sum_duplicates()
    rhs = None
    if layout.vector is not None:
        place, length = layout.vector
        with peers.agree():
            if length != m:
                raise petsc_error(
                    path,
                    f"the right-hand side has {length} rows and the matrix {m}",
                    "Store a right-hand side that belongs to the matrix.",
                )
        rhs = runs.numbers(place, first, last, length)
    return LocalRows(offsets, matrix), rhs


def read_petsc_vector_rows(peers: Peers, path: str, cut: CutOfArray) -> np.ndarray:
    """Rows of the only vector of a file. **Collective.**"""
    layout = on_root(peers, lambda: _layout(path, False))
    assert layout.vector is not None
    place, length = layout.vector
    offsets = cut_rows(peers, path, (length,), cut)
    first, last = int(offsets[peers.rank]), int(offsets[peers.rank + 1])
    return _Runs(peers, path).numbers(place, first, last, length)


def _layout(path: str, matrix: bool) -> PetscLayout:
    with importing(path):
        return petsc_layout(path, matrix)

"""Matrices of `scipy.sparse.save_npz`, each rank its own rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp

from hpc_sla.messages.peers import Peers
from hpc_sla.messages.records import on_root
from hpc_sla.storage.importers import importing
from hpc_sla.storage.numpy_files import describe_npz, npz_headers, real_dtype
from hpc_sla.storage.parallel.compressed_arrays import (
    compressed_columns,
    compressed_rows,
    compressed_run,
)
from hpc_sla.storage.parallel.local_rows import (
    Cut,
    LocalRows,
    cut_rows,
    even_runs,
    from_triplets,
    moved,
)
from hpc_sla.storage.parallel.npz_members import MemberItems, NpzMember, members_of


def read_npz_rows(peers: Peers, path: str, cut: Cut) -> LocalRows:
    """Rows of the matrix that `scipy.sparse.save_npz` wrote. **Collective.**"""
    form, shape, there = on_root(peers, lambda: _described(path))
    offsets = cut_rows(peers, path, shape, cut, None)
    items = {name: MemberItems(peers, member) for name, member in there.items()}
    data = _Real(items["data"], real_dtype(there["data"].dtype, path))
    if form in ("csr", "csc"):
        arrays = items["indptr"], items["indices"], data
        read = compressed_rows if form == "csr" else compressed_columns
        return read(peers, path, arrays, shape[1], offsets)
    read_form = {"coo": _coo, "dia": _dia, "bsr": _bsr}[form]
    return read_form(peers, path, items, data, shape, offsets)


@dataclass(frozen=True)
class _Real:
    """Items as the floating-point numbers in which they are held."""

    items: MemberItems
    dtype: np.dtype[Any]

    @property
    def length(self) -> int:
        return self.items.length

    def part(self, cuts: np.ndarray) -> np.ndarray:
        return self.parts(cuts)[0]

    def parts(self, *several: np.ndarray) -> list[np.ndarray]:
        return [part.astype(self.dtype, copy=False) for part in self.items.parts(*several)]


def _coo(
    peers: Peers,
    path: str,
    items: Mapping[str, MemberItems],
    data: _Real,
    shape: tuple[int, int],
    offsets: np.ndarray,
) -> LocalRows:
    entries = data.length
    cuts = even_runs(peers, entries)
    if "coords" in items:
        member = items["coords"].member
        with peers.agree(), importing(path):
            if member.shape != (2, entries):
                raise ValueError(f"coords has the shape {member.shape}")
        if member.fortran:
            row, col = items["coords"].part(2 * cuts).reshape(-1, 2).T
        else:
            row, col = items["coords"].parts(cuts, entries + cuts)
    else:
        with peers.agree(), importing(path):
            for name in ("row", "col"):
                if items[name].length != entries:
                    raise ValueError(f"{items[name].length} {name} indices, {entries} entries")
        row, col = items["row"].part(cuts), items["col"].part(cuts)
    values = data.part(cuts)
    with peers.agree(), importing(path):
        for index, size, name in zip((row, col), shape, ("row", "col"), strict=True):
            if len(index) and not (int(index.min()) >= 0 and int(index.max()) < size):
                wrong = index.min() if index.min() < 0 else index.max()
                raise ValueError(f"{name} index {wrong} is outside 0 to {size - 1}")
    return from_triplets(
        peers, offsets, shape[1], [(row.astype(np.int64), col.astype(np.int64), values)]
    )


def _dia(
    peers: Peers,
    path: str,
    items: Mapping[str, MemberItems],
    data: _Real,
    shape: tuple[int, int],
    offsets: np.ndarray,
) -> LocalRows:
    """Diagonals are few and long: each rank reads a run of all of their values."""
    size = items["offsets"].length
    on_first = np.full(peers.size + 1, size)
    on_first[0] = 0
    diagonals = np.asarray(peers.comm.bcast(items["offsets"].part(on_first)))
    member = items["data"].member
    with peers.agree(), importing(path):
        if len(member.shape) != 2 or member.shape[0] != size:
            raise ValueError(f"{member.shape} values do not make {size} diagonals")
        if len(np.unique(diagonals)) != size:
            raise ValueError("offset array contains duplicate values")
    cuts = even_runs(peers, data.length)
    values = data.part(cuts)
    place = np.arange(int(cuts[peers.rank]), int(cuts[peers.rank + 1]), dtype=np.int64)
    if member.fortran:
        column, which = np.divmod(place, max(size, 1))
    else:
        which, column = np.divmod(place, max(member.shape[1], 1))
    row = column - diagonals.astype(np.int64)[which]
    # SciPy's conversion leaves zeros out, too.
    there = (row >= 0) & (row < shape[0]) & (column < shape[1]) & (values != 0)
    return from_triplets(peers, offsets, shape[1], [(row[there], column[there], values[there])])


def _bsr(
    peers: Peers,
    path: str,
    items: Mapping[str, MemberItems],
    data: _Real,
    shape: tuple[int, int],
    offsets: np.ndarray,
) -> LocalRows:
    """Each rank reads a run of block rows, whose rows then go where they belong."""
    member = items["data"].member
    with peers.agree(), importing(path):
        if len(member.shape) != 3 or not min(member.shape[1:]):
            raise ValueError(f"{member.shape} values do not make blocks")
        _, r, c = member.shape
        if shape[0] % r or shape[1] % c:
            raise ValueError(f"invalid blocksize {r, c} for shape {shape}")
    _, r, c = member.shape
    cuts = even_runs(peers, shape[0] // r)
    arrays = items["indptr"], items["indices"], _Blocks(data, (r, c), member.fortran)
    pointers, indices, values = compressed_run(peers, path, arrays, cuts, shape[1] // c)
    with peers.agree(), importing(path):
        narrow = np.int32 if max(shape[1], values.size) < 2**31 else np.int64
        ends = pointers.astype(narrow), indices.astype(narrow, copy=False)
        local = sp.bsr_array(
            (values.reshape(-1, r, c), ends[1], ends[0]),
            shape=((len(pointers) - 1) * r, shape[1]),
        ).tocsr()
        local.sum_duplicates()
    first = int(cuts[peers.rank]) * r
    position = np.arange(first, first + local.shape[0], dtype=np.int64)
    _, matrix, _ = moved(peers, offsets, position, local, [])
    return LocalRows(offsets, matrix)


@dataclass(frozen=True)
class _Blocks:
    """Values by blocks of one shape, a row of a block after another."""

    values: _Real
    shape: tuple[int, int]
    fortran: bool

    @property
    def length(self) -> int:
        rows, columns = self.shape
        return self.values.length // (rows * columns)

    def part(self, cuts: np.ndarray) -> np.ndarray:
        rows, columns = self.shape
        if not self.fortran:
            return self.values.part(cuts * (rows * columns))
        # The same place of all blocks, then the next one down a column.
        runs = [place * self.length + cuts for place in range(rows * columns)]
        table = np.stack(self.values.parts(*runs)).reshape(columns, rows, -1)
        return np.ascontiguousarray(table.transpose(2, 1, 0)).reshape(-1)


def _described(path: str) -> tuple[str, tuple[int, int], dict[str, NpzMember]]:
    """Format, shape and members of a matrix's archive. Local."""
    with importing(path):
        headers = npz_headers(path)
        return *describe_npz(path, headers), members_of(path, headers)

""".npz archives by runs of their members' items.

What is stored as it is, is read from its place; what is deflated each rank decompresses to the
end, and keeps its own run. Sums of archives are checked in both cases.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp

from hpc_sla.errors import InputError
from hpc_sla.messages.peers import Peers
from hpc_sla.messages.records import gathered, on_root
from hpc_sla.storage.checks import complex_values
from hpc_sla.storage.crc32 import joined
from hpc_sla.storage.importers import importing
from hpc_sla.storage.numpy_files import INDEX_ARRAYS, check_header, check_npz, real_dtype
from hpc_sla.storage.parallel.bytes_of_files import read_into, skip, sum_of
from hpc_sla.storage.parallel.compressed_arrays import (
    compressed_columns,
    compressed_rows,
    compressed_run,
)
from hpc_sla.storage.parallel.local_rows import Cut, LocalRows, from_triplets, moved

_LOCAL_HEADER = 30


@dataclass(frozen=True)
class NpzMember:
    """An array in an .npz archive, as its header has it. Replicated.

    Attributes
    ----------
    path, name : str
        The archive, and the member's name in it.
    shape : tuple of int
    fortran : bool
        Whether columns come one after another.
    dtype : numpy.dtype
    place : int or None
        Where its values begin in the archive; None where they are deflated.
    header_sum, header_bytes, sum : int
        CRC-32 of what comes before the values, its length, and that of the whole member.
    """

    path: str
    name: str
    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]
    place: int | None
    header_sum: int
    header_bytes: int
    sum: int


@dataclass(frozen=True)
class MemberItems:
    """A member's items in the order in which they lie there."""

    peers: Peers
    member: NpzMember

    @property
    def length(self) -> int:
        return int(np.prod(self.member.shape, dtype=object))

    def part(self, cuts: np.ndarray) -> np.ndarray:
        """Items ``cuts[rank]:cuts[rank+1]``; `cuts` begins at 0. **Collective.**

        Raises
        ------
        InputError
            On every rank: the member's sum is not that of its bytes.
        """
        return self.parts(cuts)[0]

    def parts(self, *several: np.ndarray) -> list[np.ndarray]:
        """The same of several `cuts`, each of which begins where that before it ends."""
        member, peers = self.member, self.peers
        runs = [(int(cuts[peers.rank]), int(cuts[peers.rank + 1])) for cuts in several]
        found = [np.empty(last - first, dtype=member.dtype) for first, last in runs]
        width = member.dtype.itemsize
        # What lies beyond all runs is read for its sum only.
        beyond = self.length - runs[-1][1] if peers.rank == peers.size - 1 else 0
        sums = np.zeros((len(runs), 2), dtype=np.int64)
        with peers.agree(), importing(member.path):
            if member.place is None:
                self._deflated([first for first, _ in runs], found)
            else:
                with open(member.path, "rb") as stream:
                    for k, (out, (first, _)) in enumerate(zip(found, runs, strict=True)):
                        stream.seek(member.place + first * width)
                        sums[k] = read_into(stream, out), len(out) * width
                    crc, length = sums[-1].tolist()
                    sums[-1] = sum_of(stream, beyond * width, crc), length + beyond * width
        if member.place is not None:
            self._check_sum(sums)
        return [out.astype(member.dtype.newbyteorder("="), copy=False) for out in found]

    def _deflated(self, starts: list[int], found: list[np.ndarray]) -> None:
        member, place = self.member, 0
        with zipfile.ZipFile(member.path) as archive, archive.open(member.name) as stream:
            skip(stream, member.header_bytes)
            for first, out in zip(starts, found, strict=True):
                skip(stream, (first - place) * member.dtype.itemsize)
                read_into(stream, out)
                place = first + len(out)
            skip(stream, None)  # to its end, where the sum is

    def _check_sum(self, sums: np.ndarray) -> None:
        """Sums of all ranks' bytes, one after another, must be the member's. **Collective.**"""
        peers, member = self.peers, self.member
        every = gathered(peers, sums.reshape(-1)).reshape(peers.size, -1, 2)
        whole = member.header_sum
        for crc, length in every.transpose(1, 0, 2).reshape(-1, 2).tolist():
            whole = joined(whole, crc, length) if length else whole
        with peers.agree(), importing(member.path):
            if whole != member.sum:
                raise zipfile.BadZipFile(f"Bad CRC-32 for file {member.name!r}")


def read_npz_rows(peers: Peers, path: str, cut: Cut) -> LocalRows:
    """Rows of the matrix that `scipy.sparse.save_npz` wrote. **Collective.**"""
    form, shape, there = on_root(peers, lambda: _described(path))
    n = shape[1]
    offsets = cut(shape, None)
    items = {name: MemberItems(peers, member) for name, member in there.items()}
    data = _Real(items["data"], real_dtype(there["data"].dtype, path))
    if form in ("csr", "csc"):
        arrays = items["indptr"], items["indices"], data
        read = compressed_rows if form == "csr" else compressed_columns
        return read(peers, path, arrays, n, offsets)
    if form == "coo":
        return _coo(peers, path, items, data, shape, offsets)
    if form == "dia":
        return _dia(peers, path, items, data, shape, offsets)
    return _bsr(peers, path, items, data, shape, offsets)


@dataclass(frozen=True)
class _Real:
    """Items as the floating-point numbers in which they are held."""

    items: MemberItems
    dtype: np.dtype[Any]

    @property
    def length(self) -> int:
        return self.items.length

    def part(self, cuts: np.ndarray) -> np.ndarray:
        return self.items.part(cuts).astype(self.dtype, copy=False)


def _coo(
    peers: Peers,
    path: str,
    items: Mapping[str, MemberItems],
    data: _Real,
    shape: tuple[int, int],
    offsets: np.ndarray,
) -> LocalRows:
    entries = data.length
    cuts = np.arange(peers.size + 1, dtype=np.int64) * entries // peers.size
    if "coords" in items:
        with peers.agree(), importing(path):
            if items["coords"].member.shape != (2, entries) or items["coords"].member.fortran:
                raise ValueError(f"coords has the shape {items['coords'].member.shape}")
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
    zero = np.zeros(peers.size + 1, dtype=np.int64)
    zero[1:] = size  # on rank 0
    diagonals = np.asarray(peers.comm.bcast(items["offsets"].part(zero)))
    member = items["data"].member
    with peers.agree(), importing(path):
        if len(member.shape) != 2 or member.shape[0] != size or member.fortran:
            raise ValueError(f"{member.shape} values do not make {size} diagonals")
        if len(np.unique(diagonals)) != size:
            raise ValueError("offset array contains duplicate values")
    cuts = np.arange(peers.size + 1, dtype=np.int64) * data.length // peers.size
    values = data.part(cuts)
    place = np.arange(int(cuts[peers.rank]), int(cuts[peers.rank + 1]), dtype=np.int64)
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
        if len(member.shape) != 3 or member.fortran or not min(member.shape[1:]):
            raise ValueError(f"{member.shape} values do not make blocks")
        _, r, c = member.shape
        if shape[0] % r or shape[1] % c:
            raise ValueError(f"invalid blocksize {r, c} for shape {shape}")
    _, r, c = member.shape
    cuts = np.arange(peers.size + 1, dtype=np.int64) * (shape[0] // r) // peers.size
    blocks = _Blocks(data, r * c)
    arrays = items["indptr"], items["indices"], blocks
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
    """Values by blocks of so many."""

    values: _Real
    each: int

    @property
    def length(self) -> int:
        return self.values.length // self.each

    def part(self, cuts: np.ndarray) -> np.ndarray:
        return self.values.part(cuts * self.each)


def _described(path: str) -> tuple[str, tuple[int, int], dict[str, NpzMember]]:
    """Format, shape and members of a matrix's archive. Local."""
    with importing(path):
        dtypes = check_npz(path)
        if not {"format", "shape", "data"} <= dtypes.keys():
            raise ValueError(f"it holds {', '.join(dtypes)}, not what scipy.sparse.save_npz writes")
        for name in INDEX_ARRAYS:
            if name in dtypes and dtypes[name].kind not in "iu":
                raise InputError(
                    f"holds {dtypes[name]} values, not integers",
                    file=path,
                    field=name,
                    remedy="Write it with scipy.sparse.save_npz.",
                )
        if dtypes["data"].kind not in "biuf":
            raise complex_values(path, dtype=dtypes["data"])
        with np.load(path, allow_pickle=False) as archive:
            form, declared = archive["format"].item(), archive["shape"]
        form = form.decode("ascii") if isinstance(form, bytes) else form
        shape = tuple(int(n) for n in declared)
        if len(shape) != 2:
            raise InputError(
                f"has {len(shape)} dimension(s)",
                file=path,
                field="shape",
                remedy="Give a matrix, of two dimensions.",
            )
        if min(shape) < 0:
            raise ValueError("'shape' elements cannot be negative")
        needed = {
            "csr": {"indptr", "indices"},
            "csc": {"indptr", "indices"},
            "bsr": {"indptr", "indices"},
            "dia": {"offsets"},
            "coo": {"coords"} if "coords" in dtypes else {"row", "col"},
        }
        if form not in needed:
            raise ValueError(f"it is of the format {form!r}")
        if absent := needed[form] - dtypes.keys():
            raise ValueError(f"{min(absent)!r} is not a file in the archive")
        return form, (shape[0], shape[1]), _members(path)


def _members(path: str) -> dict[str, NpzMember]:
    found = {}
    with importing(path), zipfile.ZipFile(path) as archive, open(path, "rb") as raw:
        for info in archive.infolist():
            with archive.open(info) as stream:
                shape, fortran, dtype = check_header(stream, info.file_size)
                before = stream.tell()
            with archive.open(info) as stream:
                crc = zlib.crc32(stream.read(before))
            place = None
            if info.compress_type == zipfile.ZIP_STORED:
                raw.seek(info.header_offset)
                local = raw.read(_LOCAL_HEADER)
                sizes = np.frombuffer(local[26:30], dtype="<u2").astype(int)
                place = info.header_offset + _LOCAL_HEADER + int(sizes.sum()) + before
            name = info.filename.removesuffix(".npy")
            about = shape, fortran, dtype, place, crc, before, info.CRC
            found[name] = NpzMember(path, info.filename, *about)
    return found

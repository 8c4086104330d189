"""Arrays in .npz archives, each rank a run of their items.

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

from hpc_sla.messages.peers import Peers
from hpc_sla.storage.crc32 import joined
from hpc_sla.storage.importers import importing
from hpc_sla.storage.limits import check_fits
from hpc_sla.storage.numpy_files import NpyHeader
from hpc_sla.storage.parallel.bytes_of_files import read_into, skip, sum_of

_LOCAL_HEADER = 30


@dataclass(frozen=True)
class NpzMember:
    """An array in an .npz archive. Replicated.

    Attributes
    ----------
    path, name : str
        The archive, and the member's name in it.
    header : NpyHeader
    place : int or None
        Where its values begin in the archive; None where they are deflated.
    header_sum, sum : int
        CRC-32 of what comes before the values, and that of the whole member.
    """

    path: str
    name: str
    header: NpyHeader
    place: int | None
    header_sum: int
    sum: int

    @property
    def shape(self) -> tuple[int, ...]:
        return self.header.shape

    @property
    def fortran(self) -> bool:
        """Whether columns come one after another."""
        return self.header.fortran

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.header.dtype


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
            On every rank: the member's sum is not that of its bytes, nor that which rank 0 saw; a
            rank's run does not fit into its memory.
        """
        return self.parts(cuts)[0]

    def parts(self, *several: np.ndarray) -> list[np.ndarray]:
        """The same of several `cuts`, each of which begins where that before it ends, or later."""
        member, peers = self.member, self.peers
        runs = [(int(cuts[peers.rank]), int(cuts[peers.rank + 1])) for cuts in several]
        width = member.dtype.itemsize
        found: list[np.ndarray] = []
        sums = np.zeros((len(runs), 2), dtype=np.int64)
        with peers.agree(), importing(member.path):
            check_fits(width * sum(last - first for first, last in runs), member.path, member.name)
            found += [np.empty(last - first, dtype=member.dtype) for first, last in runs]
            if member.place is None:
                self._deflated([first for first, _ in runs], found)
            else:
                # What lies between all ranks' runs, and beyond them, is read for its sum only.
                ends = [*(int(cuts[0]) for cuts in several[1:]), self.length]
                with open(member.path, "rb") as stream:
                    for k, (out, (first, last)) in enumerate(zip(found, runs, strict=True)):
                        gap = ends[k] - last if peers.rank == peers.size - 1 else 0
                        stream.seek(member.place + first * width)
                        crc = sum_of(stream, gap * width, read_into(stream, out))
                        sums[k] = crc, (len(out) + gap) * width
        if member.place is not None:
            self._check_sum(sums)
        return [out.astype(member.dtype.newbyteorder("="), copy=False) for out in found]

    def _deflated(self, starts: list[int], found: list[np.ndarray]) -> None:
        member, place = self.member, 0
        with zipfile.ZipFile(member.path) as archive:
            # Of one that has been exchanged meanwhile sums are right, too.
            if member.sum != archive.getinfo(member.name).CRC:
                raise self._wrong_sum()
            with archive.open(member.name) as stream:
                skip(stream, member.header.length)
                for first, out in zip(starts, found, strict=True):
                    skip(stream, (first - place) * member.dtype.itemsize)
                    read_into(stream, out)
                    place = first + len(out)
                skip(stream, None)  # to its end, where the sum is

    def _check_sum(self, sums: np.ndarray) -> None:
        """Sums of all ranks' bytes, one after another, must be the member's. **Collective.**"""
        peers, member = self.peers, self.member
        every = peers.allgather(sums.reshape(-1)).reshape(peers.size, -1, 2)
        whole = member.header_sum
        for crc, length in every.transpose(1, 0, 2).reshape(-1, 2).tolist():
            whole = joined(whole, crc, length) if length else whole
        with peers.agree(), importing(member.path):
            if whole != member.sum:
                raise self._wrong_sum()

    def _wrong_sum(self) -> zipfile.BadZipFile:
        return zipfile.BadZipFile(f"Bad CRC-32 for file {self.member.name!r}")


def members_of(path: str, headers: Mapping[str, NpyHeader]) -> dict[str, NpzMember]:
    """Where arrays of an archive lie, by name. Local."""
    found = {}
    with zipfile.ZipFile(path) as archive, open(path, "rb") as raw:
        for info in archive.infolist():
            name = info.filename.removesuffix(".npy")
            before = headers[name].length
            with archive.open(info) as stream:
                crc = zlib.crc32(stream.read(before))
            place = None
            if info.compress_type == zipfile.ZIP_STORED:
                raw.seek(info.header_offset)
                local = raw.read(_LOCAL_HEADER)
                sizes = np.frombuffer(local[26:30], dtype="<u2").astype(int)
                place = info.header_offset + _LOCAL_HEADER + int(sizes.sum()) + before
            found[name] = NpzMember(path, info.filename, headers[name], place, crc, info.CRC)
    return found

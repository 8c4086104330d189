"""The matrix inside a tar archive, such as the SuiteSparse Matrix Collection gives out.

Members are read where they are: nothing of an archive is ever written to a path.
"""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import PurePosixPath
from typing import IO, Any, BinaryIO, cast

import numpy as np

from hpc_sla.errors import InputError
from hpc_sla.storage.compressed import open_bytes
from hpc_sla.storage.harwell_boeing import read_harwell_boeing
from hpc_sla.storage.matrix_market import read_dense_matrix_market, read_matrix_market

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_MOST_MEMBERS = 1 << 12
# What tarfile asks for at once is a header or a long name; numbers are read in blocks.
_MOST_BYTES = 1 << 24


def read_archive(path: str) -> tuple[Any, np.ndarray | None]:
    """The matrix ``NAME/NAME.mtx``, or the only one, and ``NAME_b.mtx`` beside it, if any.

    Returns
    -------
    matrix : SciPy sparse matrix or dense array [m, n]
    rhs : float64 [m] or [m, k], or None

    Raises
    ------
    InputError
        No matrix, or several of which none is the archive's.
    """
    members = _members(path)
    matrices = [name for name in members if name.lower().endswith((".mtx", ".rb"))]
    chosen = _choose(matrices, path)

    def opener(name: str) -> BinaryIO:
        return _open_member(path, members[name])

    if chosen.lower().endswith(".rb"):
        return read_harwell_boeing(f"{path}/{chosen}", lambda: opener(chosen))
    matrix = read_matrix_market(f"{path}/{chosen}", lambda: opener(chosen))
    beside = f"{chosen[:-4]}_b{chosen[-4:]}"
    if beside not in members:
        return matrix, None
    return matrix, read_dense_matrix_market(f"{path}/{beside}", lambda: opener(beside))


def _choose(matrices: list[str], path: str) -> str:
    if len(matrices) == 1:
        return matrices[0]
    stem = os.path.basename(path).partition(".")[0].lower()
    own = [
        name
        for name in matrices
        if (inside := PurePosixPath(name)).stem.lower() in (stem, inside.parent.name.lower())
    ]
    if len(own) == 1:
        return own[0]
    shown = ", ".join(matrices[:8]) + (", ..." if len(matrices) > 8 else "")
    raise InputError(
        f"holds {len(matrices)} matrices ({shown})" if matrices else "holds no .mtx or .rb file",
        file=path,
        remedy="Unpack it and name the file that holds the matrix.",
    )


def _members(path: str) -> dict[str, tarfile.TarInfo]:
    found: dict[str, tarfile.TarInfo] = {}
    with _Bounded(path) as stream, tarfile.open(fileobj=cast(IO[bytes], stream), mode="r:") as tar:
        for count, member in enumerate(tar):
            if count >= _MOST_MEMBERS:
                raise InputError(
                    f"has more than {_MOST_MEMBERS} members",
                    file=path,
                    remedy="Unpack it and name the file that holds the matrix.",
                )
            # Links lead elsewhere, and sparse members declare zeros that are not there.
            if member.isreg() and not member.issparse():
                if member.name in found:
                    raise InputError(
                        f"holds {member.name!r} twice",
                        file=path,
                        remedy="Pack it again, with each file once.",
                    )
                found[member.name] = member
    return found


def _open_member(path: str, member: tarfile.TarInfo) -> BinaryIO:
    stream = open_bytes(path)
    stream.seek(member.offset_data)
    return cast(BinaryIO, io.BufferedReader(_Window(stream, member.size)))


class _Window(io.RawIOBase):
    """The next `size` bytes of a stream, which it owns."""

    def __init__(self, stream: BinaryIO, size: int) -> None:
        self._stream, self._left = stream, size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        found = self._stream.read(min(len(buffer), self._left))
        if not found and self._left:
            raise EOFError(f"the archive ends {self._left} bytes early")
        buffer[: len(found)] = found
        self._left -= len(found)
        return len(found)

    def close(self) -> None:
        self._stream.close()
        super().close()


class _Bounded:
    """A file for tarfile, which would take the length of a header from the archive."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._stream = open_bytes(path)

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _MOST_BYTES:
            raise InputError(
                f"declares a header of {size} bytes, more than any file name takes",
                file=self._path,
                remedy="Pack it again.",
            )
        return self._stream.read(size)

    def seek(self, place: int) -> int:
        return self._stream.seek(place)

    def tell(self) -> int:
        return self._stream.tell()

    def __enter__(self) -> _Bounded:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

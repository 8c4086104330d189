"""A file that many ranks open, each for itself: that it is one, and stays as it is."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import numpy as np

from hpc_sla.errors import InputError
from hpc_sla.messages.peers import Peers
from hpc_sla.storage.importers import importing

_PAGE = 4096


@contextmanager
def same_file(peers: Peers, path: str) -> Iterator[None]:
    """A block in which ranks read a file, however often they open it. **Collective.**

    At its end each rank opens the file once more: it must be the one that it was at the beginning,
    and not have been written to. All ranks have it open at one moment between the two, so they have
    read the same. Where nodes have copies, these are as long, and begin and end alike.

    Raises
    ------
    InputError
        On every rank: the file was replaced or written to, or ranks have different ones. That is
        told in place of what the block raises, which must be on all ranks, too.
    """
    descriptor = -1
    before: tuple[int, ...] = ()
    ends = 0
    with peers.agree(), importing(path):
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        before = _about(descriptor)
        ends = _ends(descriptor)
    try:
        most = peers.max(np.array([ends, -ends], dtype=np.int64))
        if most[0] != -most[1]:
            raise _changed(path, "ranks see different files under this name")
        try:
            yield
        except InputError:
            _check(peers, path, before)
            raise
        _check(peers, path, before)
    finally:
        with suppress(OSError):
            os.close(descriptor)


def _check(peers: Peers, path: str, before: tuple[int, ...]) -> None:
    """**Collective.**"""
    with peers.agree(), importing(path):
        # Opened, since a network's file system asks its server then, and for no less.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            now = _about(descriptor)
        finally:
            os.close(descriptor)
        if now != before:
            raise _changed(path, "was replaced or written to while it was read")


def _about(descriptor: int) -> tuple[int, ...]:
    found = os.fstat(descriptor)
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _ends(descriptor: int) -> int:
    """A number for its length, and the beginning and the end of it."""
    size = os.fstat(descriptor).st_size
    parts = os.pread(descriptor, _PAGE, 0), os.pread(descriptor, _PAGE, max(size - _PAGE, 0))
    digest = hashlib.blake2b(b"".join(parts) + str(size).encode(), digest_size=7).digest()
    return int.from_bytes(digest, "big")


def _changed(path: str, problem: str) -> InputError:
    return InputError(problem, file=path, remedy="See that nobody writes to it meanwhile.")

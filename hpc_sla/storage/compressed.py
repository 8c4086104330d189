"""Files as they are or compressed by gzip, bzip2 or xz, by what their name ends in."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
from collections.abc import Callable
from typing import BinaryIO, cast

from hpc_sla.errors import InputError
from hpc_sla.storage.limits import machine_memory

COMPRESSIONS = ("", ".gz", ".bz2", ".xz")

Open = Callable[[], BinaryIO]
"""A function that opens a file or a member of an archive again, from its first byte."""


def open_bytes(path: str) -> BinaryIO:
    """`path` for reading, decompressed on the way."""
    name = os.path.basename(path).lower()
    if name.endswith((".gz", ".tgz")):
        return cast(BinaryIO, gzip.open(path))
    if name.endswith(".bz2"):
        return cast(BinaryIO, bz2.open(path))
    if name.endswith(".xz"):
        _check_dictionary(path)
        return cast(BinaryIO, lzma.open(path))
    return open(path, "rb")


def _check_dictionary(path: str) -> None:
    """An .xz file says how much memory its reader needs."""
    with open(path, "rb") as stream:
        head = stream.read(1 << 12)
    try:
        lzma.LZMADecompressor(memlimit=max(machine_memory() // 4, 1 << 20)).decompress(head)
    except lzma.LZMAError as error:
        if "emory" in str(error):
            raise InputError(
                "needs more memory to be decompressed than there is",
                file=path,
                remedy="Decompress it with xz, or compress it again with `xz -6`.",
            ) from error
        raise

"""Runs of a stream's bytes, a window at a time."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np

_WINDOW = 1 << 20


def read_into(stream: Any, out: np.ndarray) -> int:
    """Fill a contiguous array from a stream; the CRC-32 of its bytes. Local."""
    left, total = out.reshape(-1).view(np.uint8).data, 0
    while len(left):
        count = stream.readinto(left[:_WINDOW])
        if not count:
            raise EOFError("the file has become shorter")
        total = zlib.crc32(left[:count], total)
        left = left[count:]
    return total


def sum_of(stream: Any, n_bytes: int, total: int) -> int:
    """Read on; the CRC-32 of those bytes behind others of the sum `total`. Local."""
    while n_bytes > 0:
        some = stream.read(min(_WINDOW, n_bytes))
        if not some:
            raise EOFError("the file has become shorter")
        total, n_bytes = zlib.crc32(some, total), n_bytes - len(some)
    return total


def skip(stream: Any, n_bytes: int | None) -> None:
    """Read so many bytes, or all that are left, and do without them. Local."""
    left = n_bytes
    while left is None or left > 0:
        some = stream.read(_WINDOW if left is None else min(_WINDOW, left))
        if not some:
            return
        left = None if left is None else left - len(some)

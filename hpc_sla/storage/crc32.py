"""CRC-32 of arrays, and of two runs of bytes one after the other from the sums of each."""

from __future__ import annotations

import zlib
from functools import lru_cache

import numpy as np

_POLYNOMIAL = 0xEDB88320
"""Of zlib's CRC-32, its coefficients from the highest bit down."""
_ONE = 1 << 31
_X = 1 << 30


def crc32(array: np.ndarray, before: int = 0) -> int:
    """The CRC-32 of the values, row-major and little-endian, going on from the sum `before`."""
    little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    return zlib.crc32(little.reshape(-1).view(np.uint8).data, before)


def joined(first: int, second: int, second_bytes: int) -> int:
    """The sum of two runs of bytes, one after the other, of their sums and the second's length.

    A sum is a polynomial modulo another over GF(2): bytes that follow multiply it by a power of x.
    As in zlib's ``crc32_combine`` (M. Adler).
    """
    return _times(_power(second_bytes), first) ^ second


def _times(a: int, b: int) -> int:
    """The product of two polynomials, reduced."""
    product = 0
    for bit in range(31, -1, -1):
        if a >> bit & 1:
            product ^= b
        b = b >> 1 ^ (_POLYNOMIAL if b & 1 else 0)
    return product


@lru_cache(maxsize=256)
def _power(n_bytes: int) -> int:
    """That power of x which as many bits stand for, reduced."""
    found, square = _ONE, _X
    for _ in range(3):
        square = _times(square, square)
    while n_bytes:
        if n_bytes & 1:
            found = _times(square, found)
        square = _times(square, square)
        n_bytes >>= 1
    return found

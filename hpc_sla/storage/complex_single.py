"""Complex numbers of single precision, told from the doubles that take as many bytes.

Each way of reading gives numbers. But the lower half of a double is, read as a float, of any
magnitude, while imaginary parts are of like magnitude. Where those are all zero, doubles have 20
bits of fraction at most, as whole numbers do, whose last bits are not used at small magnitudes.
"""

from __future__ import annotations

import numpy as np

_ENOUGH = 20
"""Distinct numbers, below which nothing is concluded from how their bits are distributed."""
_SAMPLE = 4096
_SMALLEST, _LARGEST = 2.0**-64, 2.0**40


def looks_complex(data: np.ndarray) -> bool:
    """Whether big-endian float64 [m] is better read as complex64. Local.

    True only where the doubles would be very strange ones; False of few or of equal numbers.
    """
    pairs = data.view(">f4").reshape(-1, 2)
    real, imaginary = np.abs(pairs[:, 0]), np.abs(pairs[:, 1])
    if not (_plausible(real) and _plausible(imaginary)):
        return False
    some = data[:: max(1, len(data) // _SAMPLE)]
    words = some.view(">u4").reshape(-1, 2)
    if imaginary.any():
        if _whole(real) and _whole(imaginary):
            return len(np.unique(imaginary[imaginary != 0])) > 1
        return len(np.unique(words[:, 1])) > _ENOUGH
    if words[:, 1].any():  # -0.0 as an imaginary part, or the lowest bits of a float
        return False
    upper = np.unique(words[:, 0])
    last_bit_used = upper[upper % 2 == 1]
    exponents = np.unique(last_bit_used >> 20 & 0x7FF)
    if len(upper) > _ENOUGH and 4 * len(last_bit_used) > len(upper) and len(exponents) > 2:
        return True
    # -1 and 4, say, would be -1/128 and 512.
    numbers = np.abs(some[some != 0])
    fractions = bool((numbers != np.floor(numbers)).any())
    return fractions and _whole(real) and len(np.unique(numbers)) > 1


def _whole(magnitudes: np.ndarray) -> bool:
    return bool(((magnitudes == np.floor(magnitudes)) & (magnitudes < 2.0**20)).all())


def _plausible(magnitudes: np.ndarray) -> bool:
    """Zeros beside numbers that people compute with. NaN is none."""
    inside = (magnitudes >= _SMALLEST) & (magnitudes <= _LARGEST)
    return bool((inside | (magnitudes == 0)).all())

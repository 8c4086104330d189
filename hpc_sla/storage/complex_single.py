"""Complex numbers of single precision, told from the doubles that take as many bytes.

Each way of reading gives numbers. But the lower half of a double is, read as a float, of any
magnitude, while imaginary parts are of like magnitude. Where those are all zero, doubles have 20
bits of fraction at most, as whole numbers do, whose last bits are not used at small magnitudes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_ENOUGH = 20
"""Distinct numbers, below which nothing is concluded from how their bits are distributed."""
_SAMPLE = 4096
_SMALLEST, _LARGEST = 2.0**-64, 2.0**40


def looks_complex(data: np.ndarray) -> bool:
    """Whether big-endian float64 [m] is better read as complex64. Local.

    True only where the doubles would be very strange ones; False of few or of equal numbers.
    """
    return SeenPairs.of(data, 0, len(data)).complex


@dataclass(frozen=True)
class SeenPairs:
    """What is looked at of numbers, or of a run of them: those of all runs make that of the whole.

    Attributes
    ----------
    plausible, whole : (bool, bool)
        Whether real and imaginary parts are numbers that people compute with; whole numbers.
    imaginary : (float, float)
        The least and the largest magnitude of imaginary parts that are not 0.
    some : big-endian float64 array
        Evenly spaced ones.
    example : float
        The first that is not 0; NaN where there is none.
    """

    plausible: tuple[bool, bool]
    whole: tuple[bool, bool]
    imaginary: tuple[float, float]
    some: np.ndarray
    example: float

    @classmethod
    def of(cls, data: np.ndarray, first: int, length: int) -> SeenPairs:
        """What is seen in numbers `first` and following of `length`. Local."""
        pairs = data.view(">f4").reshape(-1, 2)
        parts = np.abs(pairs[:, 0]), np.abs(pairs[:, 1])
        step = max(1, length // _SAMPLE)
        there = parts[1][parts[1] != 0]
        ends = (float(there.min()), float(there.max())) if len(there) else (np.inf, -np.inf)
        kept = np.flatnonzero(data)[:1]
        return cls(
            (_plausible(parts[0]), _plausible(parts[1])),
            (_whole(parts[0]), _whole(parts[1])),
            ends,
            data[-first % step :: step],
            float(data[kept[0]]) if len(kept) else np.nan,
        )

    @classmethod
    def all_of(cls, runs: Sequence[SeenPairs]) -> SeenPairs:
        """The same for runs one after another. Local."""
        examples = [run.example for run in runs if run.example == run.example]
        return cls(
            (all(run.plausible[0] for run in runs), all(run.plausible[1] for run in runs)),
            (all(run.whole[0] for run in runs), all(run.whole[1] for run in runs)),
            (min(run.imaginary[0] for run in runs), max(run.imaginary[1] for run in runs)),
            np.concatenate([run.some for run in runs]),
            examples[0] if examples else np.nan,
        )

    @property
    def complex(self) -> bool:
        """Whether they are better read as complex64."""
        if not all(self.plausible):
            return False
        words = self.some.view(">u4").reshape(-1, 2)
        if self.imaginary[1] > 0:
            if all(self.whole):
                return self.imaginary[0] != self.imaginary[1]
            return len(np.unique(words[:, 1])) > _ENOUGH
        if words[:, 1].any():  # -0.0 as an imaginary part, or the lowest bits of a float
            return False
        upper = np.unique(words[:, 0])
        last_bit_used = upper[upper % 2 == 1]
        exponents = np.unique(last_bit_used >> 20 & 0x7FF)
        if len(upper) > _ENOUGH and 4 * len(last_bit_used) > len(upper) and len(exponents) > 2:
            return True
        # -1 and 4, say, would be -1/128 and 512.
        numbers = np.abs(self.some[self.some != 0])
        fractions = bool((numbers != np.floor(numbers)).any())
        return fractions and self.whole[0] and len(np.unique(numbers)) > 1


def _whole(magnitudes: np.ndarray) -> bool:
    with np.errstate(invalid="ignore"):  # half a double may be a signalling NaN
        return bool(((magnitudes == np.floor(magnitudes)) & (magnitudes < 2.0**20)).all())


def _plausible(magnitudes: np.ndarray) -> bool:
    """Zeros beside numbers that people compute with. NaN is none."""
    inside = (magnitudes >= _SMALLEST) & (magnitudes <= _LARGEST)
    return bool((inside | (magnitudes == 0)).all())

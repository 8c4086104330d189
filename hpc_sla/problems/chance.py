"""Random numbers that any process can draw for any index without drawing those before it."""

from __future__ import annotations

import numpy as np

_STEP = np.uint64(0x9E3779B97F4A7C15)
_MIX1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX2 = np.uint64(0x94D049BB133111EB)


def uniform(index: np.ndarray, count: int, seed: int) -> np.ndarray:
    """`count` numbers in [0, 1) for every index: float64 ``[len(index), count]``.

    The mixing function of SplitMix64 (G. L. Steele, D. Lea and C. H. Flood, "Fast splittable
    pseudorandom number generators", OOPSLA 2014) applied to a counter: the same bits on every
    machine, however the indices are divided among processes.

    Parameters
    ----------
    index : int array [n]
        At least 0.
    count : int
    seed : int
    """
    start = _mixed(np.array([seed % 2**64], dtype=np.uint64) * _STEP + _STEP)
    counter = np.asarray(index, dtype=np.uint64)[:, None] * np.uint64(count)
    counter = counter + np.arange(1, count + 1, dtype=np.uint64)
    bits = _mixed(start + counter * _STEP)
    return (bits >> np.uint64(11)) * 2.0**-53


def _mixed(z: np.ndarray) -> np.ndarray:
    z = (z ^ (z >> np.uint64(30))) * _MIX1
    z = (z ^ (z >> np.uint64(27))) * _MIX2
    return z ^ (z >> np.uint64(31))

"""Numbers that look random, each a function of its index alone: no rank draws those before it.

All by the mixing function of SplitMix64 (G. L. Steele, D. Lea and C. H. Flood, "Fast splittable
pseudorandom number generators", OOPSLA 2014): the same bits on every machine, however the indices
are divided among ranks.
"""

from __future__ import annotations

import numpy as np

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
STEPS = (
    (np.uint64(30), np.uint64(0xBF58476D1CE4E5B9)),
    (np.uint64(27), np.uint64(0x94D049BB133111EB)),
)
LAST = np.uint64(31)


def mix(z: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser of each number, in place.

    Parameters
    ----------
    z : uint64 array

    Returns
    -------
    uint64 array
        `z` itself.
    """
    for shift, factor in STEPS:
        z ^= z >> shift
        z *= factor
    z ^= z >> LAST
    return z


def uniform(index: np.ndarray, count: int, seed: int) -> np.ndarray:
    """`count` numbers in [0, 1) for every index: float64 ``[len(index), count]``.

    Parameters
    ----------
    index : int array [n]
        At least 0.
    count : int
    seed : int
    """
    start = mix(np.array([seed % 2**64], dtype=np.uint64) * GOLDEN + GOLDEN)
    counter = np.asarray(index, dtype=np.uint64)[:, None] * np.uint64(count)
    counter = counter + np.arange(1, count + 1, dtype=np.uint64)
    return (mix(start + counter * GOLDEN) >> np.uint64(11)) * 2.0**-53


def noise(index: np.ndarray, seed: int) -> np.ndarray:
    """A number in [-1, 1) for every index: float64 ``[n]``.

    Parameters
    ----------
    index : int array [n]
        At least 0. Those of one seed repeat those of another from 2**40 on.
    seed : int
    """
    z = mix((index.astype(np.uint64) + np.uint64((seed << 40) % 2**64)) * GOLDEN)
    return (z >> np.uint64(11)).astype(np.float64) * 2.0**-52 - 1.0

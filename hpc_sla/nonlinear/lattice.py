"""Colours for a stencil on a grid: linear in the grid's coordinates, modulo their number."""

from __future__ import annotations

from itertools import product

import numpy as np

from hpc_sla.matrix import DSparseMatrix

_MOST_OFFSETS = 64
_MOST_TRIED = 200_000


def lattice_colours(A: DSparseMatrix) -> np.ndarray | None:
    """Colours of the owned columns, int64 [n_owned], or None where no lattice fits. **Collective.**

    Where all rows have entries at the same few distances j - i of the user's numbers, those
    distances are taken for the steps of a grid with strides 1, n, ... Each point (p, q, ...) then
    gets the colour (a p + b q + ...) mod c, with the least c for which some a, b, ... tell all
    points of a stencil apart. Every row is checked, so that a wrong guess costs time and no more.
    """
    world = A.world
    rows, columns = A.entries()
    mine = np.unique(columns - rows)
    told = world.comm.allgather(mine if len(mine) <= _MOST_OFFSETS else None)
    if any(offsets is None for offsets in told):
        return None
    offsets = np.unique(np.concatenate([o for o in told if o is not None]))
    if not 1 < len(offsets) <= _MOST_OFFSETS:
        return None
    strides = _strides(offsets)
    steps = _coordinates(offsets, strides)
    found = _fewest(steps)
    ok, colour = False, np.empty(0, dtype=np.int64)
    if found is not None:
        factors, count = found
        of_column = _colour(columns, strides, factors, count)
        distinct = np.unique(rows * count + of_column)
        ok = len(distinct) == len(np.unique(np.stack([rows, columns], axis=1), axis=0))
        colour = _colour(A.layout.rows, strides, factors, count)
    # `found` is of replicated numbers, so alike on all ranks.
    return colour if all(world.comm.allgather(ok)) else None


def _strides(offsets: np.ndarray) -> list[int]:
    """1, and what sets clusters of offsets apart: 1, n for the 5- and the 9-point stencil."""
    strides = [1]
    positive = np.unique(np.abs(offsets[offsets != 0]))
    while True:
        # As far as the strides so far reach with a few steps of each.
        reach = 4 * sum(strides)
        beyond = positive[positive > reach]
        if not len(beyond):
            return strides
        cluster = beyond[beyond <= beyond[0] + 2 * reach]
        strides.append(int(round((cluster[0] + cluster[-1]) / 2)))


def _coordinates(numbers: np.ndarray, strides: list[int]) -> np.ndarray:
    """Steps along each stride, the nearest: int64 [m, d]."""
    left, found = numbers.astype(np.int64), []
    for stride in reversed(strides):
        step = (left + stride // 2) // stride if stride > 1 else left
        found.append(step)
        left = left - step * stride
    return np.stack(found[::-1], axis=1)


def _colour(
    numbers: np.ndarray, strides: list[int], factors: tuple[int, ...], count: int
) -> np.ndarray:
    """Of grid points, by their place and not by the nearest multiple."""
    left, total = numbers.astype(np.int64), np.zeros(len(numbers), dtype=np.int64)
    for stride, factor in zip(reversed(strides), reversed(factors), strict=True):
        total += left // stride * factor
        left = left % stride
    colour: np.ndarray = total % count
    return colour


def _fewest(steps: np.ndarray) -> tuple[tuple[int, ...], int] | None:
    """The factors and the least modulus that tell all of `steps` apart."""
    d, tried = steps.shape[1], 0
    for count in range(len(steps), 2 * len(steps) + 1):
        # The first nonzero factor may be taken from the divisors of the modulus; 1 mostly does.
        for rest in product(range(count), repeat=d - 1):
            tried += 1
            if tried > _MOST_TRIED:
                return None
            factors = (1, *rest)
            if len(np.unique(steps @ np.array(factors) % count)) == len(steps):
                return factors, count
    return None

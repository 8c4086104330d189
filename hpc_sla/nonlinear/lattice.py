"""Colours for a stencil on a grid: linear in the grid's coordinates, modulo their number."""

from __future__ import annotations

from itertools import product

import numpy as np

from hpc_sla.sparse.matrix import DSparseMatrix

_MOST_OFFSETS = 64
_MOST_TRIED = 20_000
_MOST_PER_POINT = 4
_GUESSES = 12


def lattice_colours(A: DSparseMatrix) -> np.ndarray | None:
    """Colours of the owned columns, int64 [n_owned], or None where no lattice fits. **Collective.**

    Where all rows have entries at the same few distances j - i of the user's numbers, those
    distances are taken for the steps of a grid with strides 1, n, ... Each point (p, q, ...) then
    gets the colour (a p + b q + ...) mod c, with the least c for which some a, b, ... tell all
    points of a stencil apart. The same with two, three or four consecutive unknowns a point, each
    with colours of its own. Every row is checked: a wrong guess costs time and no more.
    """
    rows, columns = A.entries()
    best: np.ndarray | None = None
    fewest = 0
    for block in range(1, _MOST_PER_POINT + 1):
        if A.shape[0] % block:
            continue
        offsets = _offsets(A, rows // block, columns // block)
        if offsets is None or (best is not None and len(offsets) * block >= fewest):
            continue
        for strides in _strides(offsets):
            found = _fitting(A, rows, columns, offsets, strides, block)
            if found is not None and (best is None or found[1] < fewest):
                best, fewest = found
                break
    return best


def _offsets(A: DSparseMatrix, rows: np.ndarray, columns: np.ndarray) -> np.ndarray | None:
    """All distances j - i, replicated; None for too many. **Collective.**"""
    mine = np.unique(columns - rows)
    world, known = A.world, np.empty(0, dtype=np.int64)
    # Nearly all ranks have the same few: who has most that are not known yet tells them.
    while True:
        new = np.setdiff1d(mine, known)
        most, rank = divmod(int(world.max(len(new) * world.size + world.rank)), world.size)
        if not most:
            return known if len(known) > 1 else None
        if len(known) + most > _MOST_OFFSETS:
            return None
        told = new.astype(np.int64) if world.rank == rank else np.empty(most, dtype=np.int64)
        if world.size > 1:
            world.comm.Bcast(told, root=rank)
        known = np.union1d(known, told)


def _fitting(
    A: DSparseMatrix,
    rows: np.ndarray,
    columns: np.ndarray,
    offsets: np.ndarray,
    strides: tuple[int, ...],
    block: int,
) -> tuple[np.ndarray, int] | None:
    """The colours on a grid of these strides, and how many, if they are any. **Collective.**"""
    found = _fewest(_coordinates(offsets, strides))
    if found is None:  # alike on all ranks, being of replicated numbers
        return None
    factors, count = found

    def colour_of(numbers: np.ndarray) -> np.ndarray:
        of_point = _colour(numbers // block, strides, factors, count)
        return of_point * block + numbers % block

    total = count * block
    ok = len(np.unique(rows * total + colour_of(columns))) == len(rows)
    if not A.world.all(ok):
        return None
    return colour_of(A.layout.rows), total


def _strides(offsets: np.ndarray) -> list[tuple[int, ...]]:
    """Guesses, the likeliest first: 1, and what sets clusters of offsets apart.

    (1, n) of the 5- and of the 9-point stencil, n being in the middle of its cluster; of a stencil
    without symmetry any of the cluster may be it.
    """
    guesses: list[tuple[int, ...]] = [(1,)]
    positive = np.unique(np.abs(offsets[offsets != 0]))
    while True:
        # As far as the strides so far reach with a few steps of each.
        reach = 4 * sum(guesses[0])
        beyond = positive[positive > reach]
        if not len(beyond):
            return guesses
        cluster = beyond[beyond <= beyond[0] + 2 * reach]
        middle = (cluster[0] + cluster[-1]) / 2
        order = np.argsort(np.abs(cluster - middle), kind="stable")
        near = [int(stride) for stride in cluster[order]][:_GUESSES]
        guesses = [(*guess, stride) for guess in guesses for stride in near][:_GUESSES]


def _coordinates(numbers: np.ndarray, strides: tuple[int, ...]) -> np.ndarray:
    """Steps along each stride, the nearest: int64 [m, d]."""
    left, found = numbers.astype(np.int64), []
    for stride in reversed(strides):
        step = (left + stride // 2) // stride if stride > 1 else left
        found.append(step)
        left = left - step * stride
    return np.stack(found[::-1], axis=1)


def _colour(
    numbers: np.ndarray, strides: tuple[int, ...], factors: tuple[int, ...], count: int
) -> np.ndarray:
    """The colours of grid points, by their place and not by the nearest multiple."""
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

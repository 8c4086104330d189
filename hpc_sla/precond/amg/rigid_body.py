"""The rigid motions of nodes at points, taken where the matrix annihilates them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from hpc_sla.kernels.multigrid import moments
from hpc_sla.partition.rigid_body import candidates, constants, evaluated
from hpc_sla.precond.amg.blocks import Blocks
from hpc_sla.sparse.matrix import DSparseMatrix

_SMALL = 1e-2
"""|A r| beside |A| |r| of a row that annihilates r."""

_AWAY, _HELD = 0.2, 0.9
"""The part of the rows that must annihilate translations, as those away from boundary conditions
do, and the part of those that must annihilate the rest."""

_COUPLED = 1e-6
"""The weight of other components in a row, beside its own, that is more than rounding."""

_RUN = 1 << 14
"""Rows looked at together: what is found out of a row takes more memory than the row."""

_FLAT = 1e-9
"""The extent of points along an axis, beside the largest, that is none."""


def rigid_body_modes(
    A: DSparseMatrix, block_size: int, mask: torch.Tensor | None
) -> np.ndarray | None:
    """The rigid motions that A annihilates, by its coordinates. **Collective.**

    Each row is asked about motions around its own node, so that it does not matter where the
    origin is. Those that are not displacements alone come in several conventions: the first that
    holds is taken. Without coupling of the components there are no such motions.

    Parameters
    ----------
    A : DSparseMatrix
        In nodes of `block_size` rows.
    block_size : int
    mask : bool tensor [n_owned] or None
        The rows that do not count, on every rank or on none.

    Returns
    -------
    float64 array [n_owned, m] or None
        On every rank or on none; of the size of 1.
    """
    if A.coordinates is None or block_size not in (2, 3, 6):
        return None
    points = A.coordinates.cpu().numpy()
    largest = A.world.largest(_ends(points))
    extent = largest.sum(axis=0)
    if block_size < 6:
        points = points[:, extent > _FLAT * extent.max()]
    d = points.shape[1]
    kinds = list(candidates(block_size, d))
    if not kinds or not extent.max() > 0:
        return None
    sums = np.zeros((len(kinds), 4))
    for first, terms, sizes in _moments(A, points, block_size):
        rows = np.arange(len(terms))
        component = (first + rows) % block_size
        mine = sizes[rows, component, 0]
        counts = mine > 0
        if mask is not None:
            counts &= ~mask[first : first + len(rows)].cpu().numpy()
        coupled = counts & (sizes[:, :, 0].sum(axis=1) - mine > _COUPLED * mine)
        for total, modes in zip(sums, kinds, strict=True):
            still = _still(modes)
            away = counts & _annihilated(modes[still], terms, sizes)
            held = away & _annihilated(modes[~still], terms, sizes)
            total += [float(part.sum()) for part in (counts, away, held, coupled)]
    everywhere = A.world.sums(sums)
    for modes, (count, far, both, mixed) in zip(kinds, everywhere, strict=True):
        if far > _AWAY * count and both > _HELD * far and mixed > _AWAY * count:
            middle = A.world.sums(points.sum(axis=0)) / A.shape[0]
            component = np.arange(len(points)) % block_size
            found = evaluated(modes, points - middle, component)
            found[:, ~_still(modes)] /= extent.max()
            return found
    return None


def constant_modes(rows: int, block_size: int) -> np.ndarray:
    """A vector of ones for each unknown of a node: float64 [rows, block_size]. Local.

    Of single unknowns it is one number, seen everywhere: not to be written to.
    """
    if block_size == 1:
        return np.broadcast_to(np.ones(1), (rows, 1))
    modes = constants(block_size, 0)
    return evaluated(modes, np.empty((rows, 0)), np.arange(rows) % block_size)


def _ends(points: np.ndarray) -> np.ndarray:
    """The largest of the points and of their negatives, along each axis: [2, d]."""
    both = np.stack([points, -points])
    return both.max(axis=1, initial=-np.inf)


def _still(modes: np.ndarray) -> np.ndarray:
    """Which are the same at all points."""
    return np.asarray(~modes[:, :, 1:].any(axis=(1, 2)))


def _moments(
    A: DSparseMatrix, points: np.ndarray, block_size: int
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Run by run of rows the first of them, and two [rows, block_size, 1 + d]: sums over each row's
    entries in each component of a_ij f(x_j - x_i), f one and each coordinate, and of their sizes.
    **Collective.**
    """
    plan, n, blocks = A.pattern.plan, len(points), Blocks.of(A)
    here = np.ascontiguousarray(points)
    there = plan.exchange(torch.from_numpy(here).to(A.device)).cpu().numpy()
    far = there, (np.asarray(plan.halo) % block_size).astype(np.int32)
    halo = blocks.there
    for first in range(0, n, _RUN):
        last = min(first + _RUN, n)
        yield first, *moments(blocks.local, halo, first, last, block_size, here, far)


def _annihilated(modes: np.ndarray, moments: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Which rows annihilate all of the modes: bool [n_owned]. Local."""
    left = np.abs(np.einsum("mcp,ncp->mn", modes, moments))
    right = np.einsum("mcp,ncp->mn", np.abs(modes), sizes)
    return np.asarray((left <= _SMALL * right).all(axis=0))

"""The rigid motions of nodes at points, taken where the matrix annihilates them."""

from __future__ import annotations

import numpy as np
import torch

from hpc_sla.partition.rigid_body import candidates, constants, evaluated
from hpc_sla.sparse.matrix import DSparseMatrix

_SMALL = 1e-2
"""|A r| beside |A| |r| of a row that annihilates r."""

_AWAY, _HELD = 0.2, 0.9
"""The part of the rows that must annihilate translations, as those away from boundary conditions
do, and the part of those that must annihilate the rest."""

_COUPLED = 1e-6
"""The weight of other components in a row, beside its own, that is more than rounding."""

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
    largest = np.array(A.world.comm.allgather(_ends(points))).max(axis=0)
    extent = largest.sum(axis=0)
    if block_size < 6:
        points = points[:, extent > _FLAT * extent.max()]
    d = points.shape[1]
    kinds = list(candidates(block_size, d))
    if not kinds or not extent.max() > 0:
        return None
    moments, sizes = _moments(A, points, block_size)
    component = np.arange(len(points)) % block_size
    mine = sizes[np.arange(len(points)), component, 0]
    counts = mine > 0
    if mask is not None:
        counts &= ~mask.cpu().numpy()
    coupled = counts & (sizes[:, :, 0].sum(axis=1) - mine > _COUPLED * mine)
    for modes in kinds:
        still = ~modes[:, :, 1:].any(axis=(1, 2))
        away = counts & _annihilated(modes[still], moments, sizes)
        held = away & _annihilated(modes[~still], moments, sizes)
        sums = [float(part.sum()) for part in (counts, away, held, coupled)]
        rows, far, both, mixed = np.array(A.world.comm.allgather(sums)).sum(axis=0)
        if far > _AWAY * rows and both > _HELD * far and mixed > _AWAY * rows:
            centre = A.world.comm.allgather((points.sum(axis=0), len(points)))
            middle = sum(part for part, _ in centre) / A.shape[0]
            found = evaluated(modes, points - middle, component)
            found[:, ~still] /= extent.max()
            return found
    return None


def constant_modes(rows: int, block_size: int) -> np.ndarray:
    """A vector of ones for each unknown of a node: float64 [rows, block_size]. Local."""
    modes = constants(block_size, 0)
    return evaluated(modes, np.empty((rows, 0)), np.arange(rows) % block_size)


def _ends(points: np.ndarray) -> np.ndarray:
    """The largest of the points and of their negatives, along each axis: [2, d]."""
    both = np.stack([points, -points])
    return both.max(axis=1, initial=-np.inf)


def _moments(
    A: DSparseMatrix, points: np.ndarray, block_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Sums over each row's entries in each component of a_ij f(x_j - x_i) and of their sizes, for
    f one and each coordinate: two [n_owned, block_size, 1 + d]. **Collective.**
    """
    pattern, n, d = A.pattern, len(points), points.shape[1]
    rows = pattern.local_rows().cpu().numpy()
    columns = pattern.local_columns().cpu().numpy()
    values = A.held.plain.double().cpu().numpy()
    there = pattern.plan.extend(torch.from_numpy(np.ascontiguousarray(points)).to(A.device))
    known = there.cpu().numpy()
    stored = np.concatenate([np.arange(n), np.asarray(pattern.plan.halo)])
    place = rows * block_size + (stored % block_size)[columns]
    sums = np.empty((2, n, block_size, 1 + d))
    for k in range(1 + d):
        terms = values if k == 0 else values * (known[columns, k - 1] - points[rows, k - 1])
        for found, part in zip(sums, (terms, np.abs(terms)), strict=True):
            found[:, :, k] = np.bincount(place, part, n * block_size).reshape(n, block_size)
    return sums[0], sums[1]


def _annihilated(modes: np.ndarray, moments: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Which rows annihilate all of the modes: bool [n_owned]. Local."""
    left = np.abs(np.einsum("mcp,ncp->mn", modes, moments))
    right = np.einsum("mcp,ncp->mn", np.abs(modes), sizes)
    return np.asarray((left <= _SMALL * right).all(axis=0))

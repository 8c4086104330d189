"""Vectors that a stiffness matrix hardly changes: the rigid motions of nodes at points.

Each unknown of a node is a component of a field that is linear in space, as rigid motions are:
component c of mode k at x is ``mode[k, c, 0] + mode[k, c, 1:] . x``.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import numpy as np

from hpc_sla.errors import InputError

CONSTANTS, RIGID_BODY = "constants", "rigid_body"


def constants(b: int, d: int) -> np.ndarray:
    """A mode for each unknown of a node: ``[b, b, 1 + d]``."""
    modes = np.zeros((b, b, 1 + d))
    modes[:, :, 0] = np.eye(b)
    return modes


def displacements(d: int, b: int | None = None) -> np.ndarray:
    """Rigid motions by displacements, a node's first d unknowns of b: translations, then rotations.

    The rotations are about the origin, from axis 0 to 1, 0 to 2 and 1 to 2.
    """
    turns = list(combinations(range(d), 2))
    modes = np.zeros((d + len(turns), b or d, 1 + d))
    modes[range(d), range(d), 0] = 1
    for mode, (first, second) in zip(modes[d:], turns, strict=True):
        # Turning from one axis towards another moves a point by -x_second along the first.
        mode[first, 1 + second], mode[second, 1 + first] = -1, 1
    return modes


def candidates(b: int, d: int) -> Iterator[np.ndarray]:
    """The rigid motions of nodes of b unknowns in d dimensions, in the conventions that are usual.

    Displacements (b = d); frames in the plane with a rotation (b = 3), frames and shells in space
    with three (b = 6); plates with a deflection and two rotations or slopes (b = 3 in the plane).
    """
    if (b, d) in ((2, 2), (3, 3)):
        yield displacements(d)
    for sign in (1, -1):
        if (b, d) == (3, 2):
            frame = displacements(2, 3)
            frame[2, 2, 0] = sign
            yield frame
        if (b, d) == (6, 3):
            shell = displacements(3, 6)
            # By axes 0 to 1 about 2, 0 to 2 about -1, 1 to 2 about 0.
            for mode, (axis, turn) in zip(shell[3:], ((2, 1), (1, -1), (0, 1)), strict=True):
                mode[3 + axis, 0] = sign * turn
            yield shell
    if (b, d) == (3, 2):
        for w, first, second in ((0, 1, 2), (2, 0, 1)):
            for sign in (1, -1):
                # Slopes of w along the axes, then rotations about them.
                for pair in (((first, 1), (second, 1)), ((second, -1), (first, 1))):
                    plate = np.zeros((3, 3, 3))
                    plate[0, w, 0] = 1
                    for axis, (unknown, turn) in enumerate(pair):
                        plate[1 + axis, w, 1 + axis] = 1
                        plate[1 + axis, unknown, 0] = sign * turn
                    yield plate


def evaluated(modes: np.ndarray, points: np.ndarray, component: np.ndarray) -> np.ndarray:
    """Modes at the unknowns.

    Parameters
    ----------
    modes : array [m, b, 1 + d]
    points : array [n, d]
        Of each unknown.
    component : int array [n]
        Which of its node's it is.

    Returns
    -------
    array [n, m], of the points' dtype
    """
    of_row = modes[:, component]
    found = of_row[:, :, 0] + np.einsum("mnd,nd->mn", of_row[:, :, 1:], points)
    return np.ascontiguousarray(found.T, dtype=points.dtype)


def by_name(
    name: str, n: int, block_size: int, points: np.ndarray | None, field: str = "near_nullspace"
) -> np.ndarray:
    """The near-nullspace "constants" or "rigid_body" of n unknowns, float64 ``[n, m]``.

    Whole nodes of them; `points` is [n, d].

    Raises
    ------
    InputError
        Another name, or rigid motions without points or of nodes that are no displacements.
    """
    if name == CONSTANTS:
        return np.tile(np.eye(block_size), (n // block_size, 1))
    if name != RIGID_BODY:
        raise InputError(
            f"there is no near-nullspace {name!r}",
            field=field,
            remedy=f"Choose {CONSTANTS} or {RIGID_BODY}, or give the vectors as columns.",
        )
    if points is None:
        raise InputError(
            "rigid-body modes need the points of the rows",
            field=field,
            remedy="Give coordinates, too.",
        )
    d = points.shape[1]
    if d not in (2, 3) or block_size != d:
        raise InputError(
            f"rigid-body modes are of 2 displacements in the plane or 3 in space a node, and these "
            f"are {block_size} unknown(s) a node in {d} dimension(s)",
            field=field,
            remedy=f"Give block size {d}, or the vectors themselves.",
        )
    return evaluated(displacements(d), points, np.arange(n) % d)

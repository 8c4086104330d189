"""Convection and diffusion with a constant wind: a non-symmetric matrix."""

from __future__ import annotations

import math

from hpc_sla.errors import InputError
from hpc_sla.problems.grid import GridProblem


def convection2d(n: int = 256, peclet: float = 100.0, angle: float = 30.0) -> GridProblem:
    """-Laplace(u) + peclet (w . grad u) = f on the unit square, times h^2; not symmetric.

    First-order upwind differences, so the matrix is an M-matrix whatever `peclet` is. The wind
    w is a unit vector.

    Parameters
    ----------
    n : int
        Interior points along each axis.
    peclet : float
        Strength of convection over diffusion across the square, at least 0.
    angle : float
        Where the wind blows to, in degrees from the first axis.
    """
    if not (math.isfinite(peclet) and peclet >= 0 and math.isfinite(angle)):
        raise InputError(
            f"peclet={peclet}, angle={angle} are out of range",
            field="convection2d",
            remedy="Give a peclet of at least 0 and an angle in degrees.",
        )
    wind = (math.cos(math.radians(angle)), math.sin(math.radians(angle)))
    stencil: dict[tuple[int, ...], float] = {
        (0, 0): 4.0,
        (-1, 0): -1.0,
        (1, 0): -1.0,
        (0, -1): -1.0,
        (0, 1): -1.0,
    }
    for axis, speed in enumerate(wind):
        flow = peclet * abs(speed) / (n + 1)
        upwind = [0, 0]
        upwind[axis] = -1 if speed > 0 else 1
        stencil[0, 0] += flow
        stencil[tuple(upwind)] -= flow
    parameters = {"n": n, "peclet": peclet, "angle": angle}
    return GridProblem("convection2d", parameters, stencil, symmetric=peclet == 0)

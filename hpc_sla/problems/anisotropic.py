"""Diffusion that is strong along one direction and weak across it."""

from __future__ import annotations

import math

from hpc_sla.errors import InputError
from hpc_sla.problems.grid import GridProblem


def anisotropic2d(n: int = 256, epsilon: float = 1e-3, angle: float = 0.0) -> GridProblem:
    """-div(K grad u) = f on the unit square, times h^2; symmetric positive definite.

    K has eigenvalue 1 along the direction `angle` and `epsilon` across it. With
    K = [[a, b], [b, c]] the second differences have weights a and c, and the mixed derivative
    is the centred ``(u[+,+] - u[+,-] - u[-,+] + u[-,-]) / 4``. Its symbol is
    ``2a (1 - cos s) + 2c (1 - cos t) + 2b sin s sin t``, never negative since ``ac >= b^2``.

    Parameters
    ----------
    n : int
        Interior points along each axis.
    epsilon : float
        Ratio of the weak diffusion to the strong, in (0, 1] as a rule.
    angle : float
        Direction of the strong diffusion in degrees from the first axis.
    """
    if not (math.isfinite(epsilon) and epsilon > 0 and math.isfinite(angle)):
        raise InputError(
            f"epsilon={epsilon}, angle={angle} are out of range",
            field="anisotropic2d",
            remedy="Give a positive epsilon and an angle in degrees.",
        )
    cosine, sine = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    a = cosine**2 + epsilon * sine**2
    c = sine**2 + epsilon * cosine**2
    b = (1 - epsilon) * cosine * sine
    stencil: dict[tuple[int, ...], float] = {(0, 0): 2 * (a + c)}
    for step in (-1, 1):
        stencil[step, 0] = -a
        stencil[0, step] = -c
    # Along an axis the corners vanish but for rounding, and so does their place in the matrix.
    if abs(b) > 1e-14:
        for di in (-1, 1):
            for dj in (-1, 1):
                stencil[di, dj] = -b * di * dj / 2
    return GridProblem("anisotropic2d", {"n": n, "epsilon": epsilon, "angle": angle}, stencil)

"""The regularised p-Laplacian: power-law fluids, ice, torsion of hardening bars."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hpc_sla.errors import InputError
from hpc_sla.problems.nonlinear import NonlinearProblem, NonlinearSystem
from hpc_sla.problems.waves import wave

if TYPE_CHECKING:
    import torch

    from hpc_sla.distributed.world import World

# Linear elements on squares cut from (0, 0) to (1, 1). Below the cut the legs of a triangle go from
# its right angle to (-1, 0) and (0, 1), above it to (1, 0) and (0, -1). Of the six triangles around
# a point: where the right angle is, how the legs go along each axis, and the gradient of the
# point's hat function, times h.
_TRIANGLES = [
    ((0, 0), (-1, 1), (1, -1)),
    ((1, 0), (-1, 1), (-1, 0)),
    ((0, -1), (-1, 1), (0, 1)),
    ((0, 0), (1, -1), (-1, 1)),
    ((0, 1), (1, -1), (0, -1)),
    ((-1, 0), (1, -1), (1, 0)),
]
_AROUND: list[tuple[int, ...]] = [(0, 0), (1, 0), (1, 1), (0, 1), (-1, 0), (-1, -1), (0, -1)]


def plaplacian2d(
    n: int = 64,
    p: float = 3.0,
    epsilon: float = 0.1,
    source: float = 10.0,
    manufactured: bool = False,
) -> NonlinearProblem:
    """-div((epsilon^2 + |grad u|^2)^(p/2 - 1) grad u) = source on the unit square."""
    if not (p > 1 and epsilon > 0):
        raise InputError(
            f"p={p}, epsilon={epsilon} are out of range",
            field="plaplacian2d",
            remedy="Give p > 1 and epsilon > 0.",
        )
    return PLaplacian(n, p, epsilon, source, manufactured)


class PLaplacian(NonlinearProblem):
    """Linear triangles, the derivative of a convex energy; theta is p."""

    def __init__(self, n: int, p: float, epsilon: float, source: float, manufactured: bool) -> None:
        parameters = {
            "n": n,
            "p": p,
            "epsilon": epsilon,
            "source": source,
            "manufactured": manufactured,
        }
        super().__init__("plaplacian2d", parameters, 2, list(_AROUND))

    def on(self, world: World, dtype: torch.dtype | None = None) -> NonlinearSystem:
        place = self.place(world, dtype)
        p, eps2, exact = self.parameters["p"], self.parameters["epsilon"] ** 2, None
        load = np.full(len(place.points), self.parameters["source"])
        if self.parameters["manufactured"]:
            known = wave(place.points)
            exact = place.tensor(known.value)
            g, H = known.gradient, known.hessian
            size = eps2 + (g**2).sum(axis=1)
            bent = np.einsum("ni,nij,nj->n", g, H, g)
            load = -(size ** (p / 2 - 1)) * known.laplacian - (p - 2) * size ** (p / 2 - 2) * bent
        f = place.tensor(load) * self.h**2
        at = {offset: k for k, offset in enumerate(self.offsets)}
        h = self.h

        def residual(u: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
            near, power = place.around(u), 0.5 * world.replicate(p) - 1.0
            value = {offset: near[:, k] for offset, k in at.items()}
            total = -f
            for (a, b), (x, y), (hat_x, hat_y) in _TRIANGLES:
                corner = value[(a, b)]
                dx = (value[(a + x, b)] - corner) * x
                dy = (value[(a, b + y)] - corner) * y
                w = (eps2 + (dx.square() + dy.square()) / h**2).pow(power)
                total = total + 0.5 * w * (hat_x * dx + hat_y * dy)
            return total

        bubble = 16 * np.prod(place.points * (1 - place.points), axis=1)
        start = place.tensor(bubble)
        return NonlinearSystem(place.A, residual, (place.tensor(p),), start, None, exact)

"""Diffusion whose conductivity depends on the solution."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hpc_sla.problems.nonlinear import NonlinearProblem, NonlinearSystem, star
from hpc_sla.problems.waves import wave

if TYPE_CHECKING:
    import torch

    from hpc_sla.distributed.world import World


def diffusion2d(
    n: int = 128, strength: float = 1.0, source: float = 20.0, manufactured: bool = False
) -> NonlinearProblem:
    """-div((1 + strength u^2) grad u) = source on the unit square."""
    return Diffusion(n, strength, source, manufactured)


class Diffusion(NonlinearProblem):
    """Fluxes between neighbours with the mean of their conductivities; theta is `strength`."""

    symmetric = False

    def __init__(self, n: int, strength: float, source: float, manufactured: bool) -> None:
        parameters = {"n": n, "strength": strength, "source": source, "manufactured": manufactured}
        super().__init__("diffusion2d", parameters, 2, star(2))

    def on(self, world: World, dtype: torch.dtype | None = None) -> NonlinearSystem:
        place = self.place(world, dtype)
        s, exact = self.parameters["strength"], None
        load = np.full(len(place.points), self.parameters["source"])
        if self.parameters["manufactured"]:
            known = wave(place.points)
            exact = place.tensor(known.value)
            slope = (known.gradient**2).sum(axis=1)
            load = -(1 + s * known.value**2) * known.laplacian - 2 * s * known.value * slope
        f = place.tensor(load) * self.h**2

        def residual(u: torch.Tensor, strength: torch.Tensor) -> torch.Tensor:
            near = place.around(u)
            k = 1.0 + world.replicate(strength) * near.square()
            mine = 1.0 + world.replicate(strength) * u.square()
            flux = 0.5 * (mine.unsqueeze(1) + k) * (u.unsqueeze(1) - near)
            return flux.sum(dim=1) - f

        start = f.new_zeros(len(f))
        return NonlinearSystem(place.A, residual, (place.tensor(s),), start, None, exact)

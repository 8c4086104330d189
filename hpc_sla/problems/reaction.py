"""A steady reaction between two species that diffuse."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hpc_sla.problems.nonlinear import NonlinearProblem, NonlinearSystem, star
from hpc_sla.problems.waves import wave

if TYPE_CHECKING:
    import torch

    from hpc_sla.distributed.world import World


def reaction2d(
    n: int = 64,
    rate: float = 20.0,
    feed: float = 10.0,
    decay: float = 5.0,
    mobility: float = 0.5,
    manufactured: bool = False,
) -> NonlinearProblem:
    """-Laplace(u) + rate u v^2 = feed, -mobility Laplace(v) + decay v - rate u v^2 = feed / 2."""
    return Reaction(n, rate, feed, decay, mobility, manufactured)


class Reaction(NonlinearProblem):
    """Autocatalysis, u + 2 v -> 3 v, both fed, v decaying: u and v of a point are consecutive rows.

    theta is `rate`. With `manufactured` the feeds are those of two known waves.
    """

    block_size = 2
    symmetric = False

    def __init__(
        self,
        n: int,
        rate: float,
        feed: float,
        decay: float,
        mobility: float,
        manufactured: bool,
    ) -> None:
        parameters = {
            "n": n,
            "rate": rate,
            "feed": feed,
            "decay": decay,
            "mobility": mobility,
            "manufactured": manufactured,
        }
        super().__init__("reaction2d", parameters, 2, star(2))

    def on(self, world: World, dtype: torch.dtype | None = None) -> NonlinearSystem:
        place, given, exact = self.place(world, dtype), self.parameters, None
        rate, decay, mobility = (given[name] for name in ("rate", "decay", "mobility"))
        m = len(place.points)
        load = np.stack([np.full(m, given["feed"]), np.full(m, given["feed"] / 2)], axis=1)
        if given["manufactured"]:
            u, v = wave(place.points), wave(place.points, (2, 1))
            exact = place.tensor(np.stack([u.value, v.value], axis=1).reshape(-1))
            turned = rate * u.value * v.value**2
            load = np.stack(
                [-u.laplacian + turned, -mobility * v.laplacian + decay * v.value - turned], axis=1
            )
        f, h2 = place.tensor(load), self.h**2
        diffusion, sinks = place.tensor([1.0, mobility]), place.tensor([0.0, decay])
        gain = place.tensor([1.0, -1.0])

        def residual(w: torch.Tensor, rate: torch.Tensor) -> torch.Tensor:
            mine = w.view(-1, 2)
            # The point itself is among those around it, and takes one of five away from itself.
            spread = (5.0 * mine - place.around(w).sum(dim=1)) * diffusion
            turned = world.replicate(rate) * mine[:, :1] * mine[:, 1:].square()
            return (spread + h2 * (sinks * mine + gain * turned - f)).reshape(-1)

        start = f.new_zeros(2 * m)
        return NonlinearSystem(place.A, residual, (place.tensor(rate),), start, None, exact)

"""Bratu's problem: a solid fuel about to ignite."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from hpc_sla.problems.nonlinear import NonlinearProblem, NonlinearSystem, star
from hpc_sla.problems.waves import wave

if TYPE_CHECKING:
    import torch

    from hpc_sla.distributed.world import World
    from hpc_sla.sparse.matrix import DSparseMatrix


def bratu2d(n: int = 128, lambda_: float = 6.0, manufactured: bool = False) -> NonlinearProblem:
    """-Laplace(u) = lambda exp(u) on the unit square; two solutions below lambda = 6.808."""
    return Bratu("bratu2d", 2, n, lambda_, manufactured)


def bratu3d(n: int = 24, lambda_: float = 6.0, manufactured: bool = False) -> NonlinearProblem:
    """-Laplace(u) = lambda exp(u) on the unit cube; two solutions below lambda = 9.9."""
    return Bratu("bratu3d", 3, n, lambda_, manufactured)


class Bratu(NonlinearProblem):
    """The 5- or 7-point stencil; theta is lambda. From 0, Newton finds the lower solution.

    With `manufactured` a source makes a known wave the solution.
    """

    def __init__(
        self, name: str, dimensions: int, n: int, lambda_: float, manufactured: bool
    ) -> None:
        parameters: dict[str, Any] = {"n": n, "lambda": lambda_, "manufactured": manufactured}
        super().__init__(name, parameters, dimensions, star(dimensions))

    def on(self, world: World, dtype: torch.dtype | None = None) -> NonlinearSystem:
        place = self.place(world, dtype)
        pattern, h2 = place.A, self.h**2
        diagonal = pattern.pattern.owned.diagonal.long()
        values = (pattern.values - 1.0).index_fill(0, diagonal, 2.0 * self.dimensions)
        A = pattern.with_values(values)
        lam = place.tensor(self.parameters["lambda"])
        source: Any = None
        exact = None
        if self.parameters["manufactured"]:
            known = wave(place.points)
            exact = place.tensor(known.value)
            source = h2 * place.tensor(
                -known.laplacian - self.parameters["lambda"] * np.exp(known.value)
            )

        def residual(u: torch.Tensor, lam: torch.Tensor) -> torch.Tensor:
            found = A @ u - (h2 * world.replicate(lam)) * u.exp()
            return found if source is None else found - source

        def jacobian(u: torch.Tensor, lam: torch.Tensor) -> DSparseMatrix:
            return A.with_values(values.index_add(0, diagonal, (-h2 * lam) * u.exp()))

        start = A.values.new_zeros(A.layout.n_owned)
        return NonlinearSystem(A, residual, (lam,), start, jacobian, exact)

"""Find the coefficient of a diffusion equation from its solution.

    mpiexec -n 4 python examples/fem_diffusion.py --elements 32 --steps 40

-div(exp(m) grad u) = 1 on the unit square, u = 0 on its boundary, by bilinear finite elements on
n x n squares; m has one number an element. Some m gives an observed u; starting from m = 0, an
optimiser looks for it by the gradient of ||u(m) - observed||^2.

The parameters m are spread over the ranks, each element's on one rank. A row of the matrix needs
the elements around its node, of which some belong to other ranks: their m come by a halo exchange,
and in backward their gradients go home the same way.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch

import hpc_sla as hs
from hpc_sla.distributed.halo import HaloPlan

# Of a square with conductivity 1, corners counter-clockwise. Its size does not matter in 2D.
STIFFNESS = np.array([[4, -1, -2, -1], [-1, 4, -1, -2], [-2, -1, 4, -1], [-1, -2, -1, 4]]) / 6
CORNERS = np.array([(0, 0), (0, 1), (1, 1), (1, 0)])


class Diffusion:
    """The equation on n x n elements, its rows and its parameters spread over the ranks.

    Attributes
    ----------
    elements : RowLayout
        Who owns the parameter of which element.
    load : torch.Tensor [n_owned]
        The right-hand side.
    """

    def __init__(self, world: hs.World, n: int) -> None:
        self.world, self.n_rows = world, (n - 1) ** 2
        self.elements = hs.RowLayout.even(n * n, world)
        first, last = (self.n_rows * r // world.size for r in (world.rank, world.rank + 1))
        node = np.arange(first, last)
        y, x = node // (n - 1) + 1, node % (n - 1) + 1
        # Each owned node is corner a of the element that lies at node - CORNERS[a].
        around = np.stack([y, x], axis=1)[:, None, :] - CORNERS
        # That element's four corners, from each of the four elements: [nodes, 4, 4, 2].
        corner = around[:, :, None, :] + CORNERS
        inside = ((corner > 0) & (corner < n)).all(axis=-1)
        shape = inside.shape
        element = np.broadcast_to((around @ [n, 1])[:, :, None], shape)[inside]
        self.rows = np.broadcast_to(node[:, None, None], shape)[inside]
        self.cols = ((corner[..., 0] - 1) * (n - 1) + corner[..., 1] - 1)[inside]
        stiffness = np.broadcast_to(STIFFNESS, shape)[inside]
        self.stiffness = torch.from_numpy(np.ascontiguousarray(stiffness)).to(world.device)

        start, stop = self.elements.start, self.elements.start + self.elements.n_owned
        halo = np.setdiff1d(element, np.arange(start, stop))
        self.plan = HaloPlan(self.elements, halo)
        mine = (element >= start) & (element < stop)
        place = np.where(mine, element - start, np.searchsorted(halo, element) + stop - start)
        self.place = torch.from_numpy(place).to(world.device)
        self.load = torch.full((last - first,), 1.0 / n**2, dtype=torch.float64).to(world.device)

    def matrix(self, m: torch.Tensor) -> hs.DSparseMatrix:
        """The stiffness matrix of the parameters of this rank's elements. **Collective.**"""
        known = torch.cat([m, self.plan.exchange(m)])
        values = torch.exp(known)[self.place] * self.stiffness
        shape = (self.n_rows, self.n_rows)
        return hs.DSparseMatrix.from_coo(self.rows, self.cols, values, shape, self.world)

    def solve(self, m: torch.Tensor) -> torch.Tensor:
        """The solution for these parameters. **Collective**, in backward too."""
        u, info = hs.solve(self.matrix(m), self.load, method="cg", rtol=1e-11)
        assert info.converged, info
        return u

    def loss(self, m: torch.Tensor, observed: torch.Tensor) -> torch.Tensor:
        """||u(m) - observed||^2, relative, the same number on every rank. **Collective.**"""
        # A vector's inner product needs no layout: partial sums, and their sum over ranks.
        misfit, size = (u.square().sum() for u in (self.solve(m) - observed, observed))
        both = self.world.all_sum(torch.stack([misfit, size]))
        return both[0] / both[1]


def true_parameters(layout: hs.RowLayout, n: int) -> torch.Tensor:
    """A disc that conducts exp(1) times better: this rank's elements."""
    y, x = ((layout.rows // n + 0.5) / n, (layout.rows % n + 0.5) / n)
    disc = (x - 0.4) ** 2 + (y - 0.6) ** 2 < 0.04
    return torch.from_numpy(disc.astype(float)).to(layout.world.device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--elements", type=int, default=32, help="on a side")
    parser.add_argument("--steps", type=int, default=40, help="of the optimiser")
    arguments = parser.parse_args()
    world = hs.World()
    problem = Diffusion(world, arguments.elements)
    true = true_parameters(problem.elements, arguments.elements)
    observed = problem.solve(true)
    m = torch.zeros_like(true, requires_grad=True)
    optimiser = torch.optim.Adam([m], lr=0.1)
    for step in range(arguments.steps + 1):
        optimiser.zero_grad()
        loss = problem.loss(m, observed)
        loss.backward()  # m.grad: of this rank's elements
        wrong = float(problem.elements.norm(m.detach() - true) / problem.elements.norm(true))
        if world.rank == 0 and step % 10 == 0:
            print(f"step {step:3d}  misfit {loss.item():.3e}  error of m {wrong:.3f}", flush=True)
        optimiser.step()


if __name__ == "__main__":
    main()

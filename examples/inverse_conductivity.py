"""Recover the conductivity of a square from noisy measurements, on all ranks together.

    mpiexec -n 4 python examples/inverse_conductivity.py --plot conductivity.png

-div(kappa grad u) = f on the unit square, u = 0 on its boundary. Heat is fed in at a few places f,
one after the other, and each time u is measured at sensors, with 1 % noise. Sought is kappa, one
number a cell: the m = log kappa that minimises

    |u(m) - measured|^2 / (2 noise^2) + weight * total variation of m,

and torch's L-BFGS looks for it. A gradient costs two solves with all f as columns: one for u, and
one, the adjoint, in `backward()`.

u and the matrix are spread over the ranks by METIS. m is held by every rank, so that L-BFGS,
which knows nothing of MPI, takes the same steps on all: `world.replicate` sums its gradient.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import numpy as np
import scipy.sparse as sp
import torch

import hpc_sla as hs


class Square:
    """The equation by finite volumes on n x n cells, u and kappa constant on each.

    Cells are numbered row by row; `own` are those whose u this rank has.
    """

    def __init__(self, world: hs.World, n: int) -> None:
        self.world, self.n = world, n
        line = sp.diags_array([1.0, 1.0, 1.0], offsets=[-1, 0, 1], shape=(n, n))
        neighbours = sp.kronsum(line, line, format="csr")
        # Its values do not matter: they are made from m.
        self.A = hs.DSparseMatrix.from_scipy(neighbours if world.rank == 0 else None, world)
        self.own = torch.from_numpy(self.A.layout.rows).to(world.device)
        rows, cols = (torch.from_numpy(i).to(world.device) for i in self.A.entries())
        self.rows, self.cols, self.diagonal = rows, cols, rows == cols
        y, x = self.own // n, self.own % n
        self.sides = sum((i == end).double() for i in (x, y) for end in (0, n - 1))
        self.centres = (torch.stack([x, y], dim=1).double() + 0.5) / n

    def matrix(self, m: torch.Tensor) -> hs.DSparseMatrix:
        """From m of all cells, on every rank. Local, and differentiable."""
        kappa = torch.exp(m)
        # Between two cells conducts half of each, one after the other; to the boundary half a cell.
        through = 2 / (1 / kappa[self.rows] + 1 / kappa[self.cols])
        through = torch.where(self.diagonal, 0.0, through)
        out = torch.zeros_like(kappa).index_add(0, self.rows, through)
        out = out.index_add(0, self.own, 2 * self.sides * kappa[self.own])
        return self.A.with_values(torch.where(self.diagonal, out[self.rows], -through))

    def solve(self, m: torch.Tensor, f: torch.Tensor) -> torch.Tensor:
        """Find u of this rank's cells, one column a source. **Collective**, in backward too."""
        u, info = hs.solve(self.matrix(m), f, method="cg", precond="block_jacobi", rtol=1e-8)
        assert info.converged, info.status
        return u

    def sources(self) -> torch.Tensor:
        """Nine smooth spots, a column each. [own cells, 9]"""
        at = torch.tensor([1.0, 3.0, 5.0], dtype=torch.float64, device=self.world.device) / 6
        spots = torch.cartesian_prod(at, at)
        return torch.exp(-torch.cdist(self.centres, spots).square() / 0.005) / self.n**2


def true_conductivity(n: int) -> torch.Tensor:
    """Of all cells: m of a disc that conducts 5 times better and a bar that does 4 times worse."""
    y, x = torch.meshgrid(*[(torch.arange(n).double() + 0.5) / n] * 2, indexing="ij")
    disc = (x - 0.35) ** 2 + (y - 0.62) ** 2 < 0.2**2
    bar = ((x - 0.7).abs() < 0.12) & ((y - 0.35).abs() < 0.22)
    return (np.log(5.0) * disc.double() - np.log(4.0) * bar.double()).flatten()


def total_variation(m: torch.Tensor, n: int) -> torch.Tensor:
    """The length of edges times their height, rounded off at 0 so that there is a gradient.

    L. I. Rudin, S. Osher and E. Fatemi, Physica D 60, 1992.
    """
    m = m.reshape(n, n)
    dx, dy = m[:-1, 1:] - m[:-1, :-1], m[1:, :-1] - m[:-1, :-1]
    return (dx**2 + dy**2 + 1e-4).sqrt().sum() / n


def draw(path: Path, fields: dict[str, torch.Tensor], n: int) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(fields), figsize=(3 * len(fields) + 1, 3), sharey=True)
    for axis, (title, m) in zip(axes, fields.items(), strict=True):
        kappa = torch.exp(m).reshape(n, n).cpu()
        image = axis.imshow(
            kappa, norm="log", vmin=0.2, vmax=6, extent=(0, 1, 0, 1), origin="lower"
        )
        axis.set_title(title)
    ticks = [0.25, 0.5, 1, 2, 5]
    bar = figure.colorbar(image, ax=axes, label="conductivity", ticks=ticks)
    bar.set_ticks(ticks, labels=map(str, ticks), minor=False)
    bar.minorticks_off()
    figure.savefig(path, dpi=80, bbox_inches="tight")


def recover(
    world: hs.World, n: int, steps: int, noise: float = 0.01, weight: float = 400.0
) -> tuple[torch.Tensor, torch.Tensor, float]:
    """The true m and the m found, of all cells on every rank, and the error of exp(m), relative.

    **Collective.**
    """
    square = Square(world, n)
    f, true = square.sources(), true_conductivity(n).to(world.device)

    # The measurements, at every second cell each way.
    sensors = (square.own % n % 2 == 1) & (square.own // n % 2 == 1)
    # Drawn for all cells on every rank: the same noise on any number of ranks.
    drawn = np.random.default_rng(0).standard_normal((n * n, f.shape[1]))
    with torch.no_grad():
        measured = square.solve(true, f)[sensors]
        size, count = measured.square().sum(), torch.ones_like(measured).sum()
        size, count = world.all_sum(torch.stack([size, count]))
        sigma = noise * (size / count).sqrt()
        measured += sigma * torch.from_numpy(drawn).to(world.device)[square.own[sensors]]

    m = torch.zeros_like(true, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [m], max_iter=steps, history_size=30, tolerance_change=0, line_search_fn="strong_wolfe"
    )
    evaluations = itertools.count()

    def error() -> float:
        kappa = torch.exp(true)
        return float((torch.exp(m.detach()) - kappa).norm() / kappa.norm())

    def loss() -> torch.Tensor:
        """The same number on every rank; m.grad, whole, on every rank, too."""
        optimiser.zero_grad()
        difference = (square.solve(world.replicate(m), f)[sensors] - measured) / sigma
        misfit = 0.5 * world.all_sum(difference.square().sum())
        # Of m itself: every rank has the whole of this term, which must not be summed.
        total = misfit + weight * total_variation(m, n)
        total.backward()
        if (i := next(evaluations)) % 10 == 0 and world.rank == 0:
            print(f"evaluation {i:3d}  loss {total.item():.4e}  error {error():.3f}", flush=True)
        return total

    optimiser.step(loss)
    return true, m.detach(), error()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--n", type=int, default=48, help="cells on a side")
    parser.add_argument("--steps", type=int, default=60, help="of the optimiser")
    parser.add_argument("--noise", type=float, default=0.01, help="relative to the measurements")
    parser.add_argument("--weight", type=float, default=400.0, help="of the total variation")
    parser.add_argument("--plot", type=Path, help="where to draw the fields; needs matplotlib")
    given = parser.parse_args()
    world = hs.World()
    true, found, error = recover(world, given.n, given.steps, given.noise, given.weight)
    if world.rank == 0:
        print(f"error of the conductivity {error:.3f}")
        if given.plot:
            draw(given.plot, {"true": true, "recovered": found}, given.n)


if __name__ == "__main__":
    main()

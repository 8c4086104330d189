"""Follow both solutions of Bratu's problem through the fold where they meet.

    mpiexec -n 2 python examples/bratu_branches.py --n 31 --plot branches.png

-Laplace(u) = lambda exp(u) on the unit square has two solutions for lambda below 6.808, one at it
and none above. As a function of lambda the curve of solutions cannot be followed around that fold,
where the Jacobian is singular; as a function of u at the centre it can: lambda then is an unknown
like the others, and u(centre) = s its equation. The bordered system

    F(u, lambda) = 0,    u_centre - s = 0

is solved for one s after another, from the two solutions before.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

import hpc_sla as hs
from hpc_sla import problems
from hpc_sla.precond import make_preconditioner


class Branches:
    """Bratu's equations with lambda as the last unknown, on the last rank.

    Attributes
    ----------
    layout : RowLayout
        Of u and lambda together.
    """

    def __init__(self, world: hs.World, n: int) -> None:
        if n % 2 == 0:
            raise SystemExit(
                "n must be 31, 63 or such: odd, as its half, for a point at the centre"
            )
        self.world = world
        self.system = problems.make_nonlinear(f"bratu2d:n={n},lambda=0").on(world)
        inner = self.system.layout
        offsets = inner.offsets.copy()
        offsets[-1] += 1
        self.layout = hs.RowLayout(world, offsets)
        self.multigrid = make_preconditioner("amg", self.system.A)
        self.last = world.rank == world.size - 1
        centre = n // 2 * n + n // 2
        self.at_centre = torch.from_numpy(inner.rows == centre).to(world.device)

    def split(self, w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """This rank's u, and lambda on all. **Collective.**"""
        u = w[: self.system.layout.n_owned]
        return u, self.world.all_sum(w[self.system.layout.n_owned :].sum())

    def residual(self, w: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        """**Collective.**"""
        u, lam = self.split(w)
        centre = self.world.all_sum((u * self.at_centre).sum())
        r = self.system.residual(u, lam)
        return torch.cat([r, (centre - s).view(1)]) if self.last else r

    def along(self, heights: np.ndarray) -> list[float]:
        """Find lambda at each u(centre). **Collective.**"""
        found: list[float] = []
        before = w = torch.zeros(self.layout.n_owned, dtype=torch.float64).to(self.world.device)
        for k, s in enumerate(heights):
            start = 2 * w - before if k > 1 else w
            solved, info = hs.nonlinear_solve(
                self.residual,
                start,
                torch.tensor(s, dtype=torch.float64),
                layout=self.layout,
                precond=self.scale,
                linear_method="gmres:restart=60",
                rtol=1e-9,
                atol=1e-10,
            )
            assert info.converged, (s, info.status)
            before, w = w, solved
            found.append(float(self.split(w)[1]))
        return found

    def scale(self, r: torch.Tensor) -> torch.Tensor:
        """A multigrid cycle for the Laplacian, of which J is a change of low rank."""
        n = self.system.layout.n_owned
        inner = r[:n].contiguous()
        u = self.multigrid.apply(inner, torch.empty_like(inner))
        return torch.cat([u, r[n:]])


def fold(heights: np.ndarray, lambdas: list[float]) -> tuple[float, float]:
    """The largest lambda and u(centre) there, by the quartic through the five points around it."""
    k = min(max(int(np.argmax(lambdas)), 2), len(lambdas) - 3)
    middle = heights[k]
    curve = np.polynomial.Polynomial.fit(heights[k - 2 : k + 3] - middle, lambdas[k - 2 : k + 3], 4)
    turns = [t.real for t in curve.deriv().roots() if abs(t.imag) < 1e-9]
    top = min(turns, key=abs)
    return float(curve(top)), float(middle + top)


def draw(path: Path, heights: np.ndarray, lambdas: list[float], top: tuple[float, float]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4))
    axes.plot(lambdas, heights, marker=".", label="solutions")
    axes.plot(*top, "o", label=f"fold at {top[0]:.4f}")
    axes.set(xlabel="lambda", ylabel="u at the centre", title="-Laplace(u) = lambda exp(u)")
    axes.legend()
    figure.savefig(path, dpi=150, bbox_inches="tight")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--n", type=int, default=31, help="points on a side: 31, 63 ...")
    parser.add_argument("--steps", type=int, default=25, help="points of the curve")
    parser.add_argument("--top", type=float, default=4.0, help="the last u(centre)")
    parser.add_argument("--plot", type=Path, help="where to draw the curve; needs matplotlib")
    arguments = parser.parse_args()
    world = hs.World()
    heights = np.linspace(0, arguments.top, arguments.steps + 1)[1:]
    lambdas = Branches(world, arguments.n).along(heights)
    top = fold(heights, lambdas)
    # The grid's error is of second order in h: twice the h tells how large it is (Richardson).
    coarse = fold(heights, Branches(world, arguments.n // 2).along(heights))
    limit = top[0] + (top[0] - coarse[0]) / 3
    if world.rank == 0:
        for s, lam in zip(heights, lambdas, strict=True):
            print(f"u(centre) {s:.3f}  lambda {lam:.6f}")
        print(f"fold: lambda {top[0]:.5f} at u(centre) {top[1]:.4f}")
        print(f"extrapolated to h = 0: {limit:.4f}")
        if arguments.plot:
            draw(arguments.plot, heights, lambdas, top)


if __name__ == "__main__":
    main()

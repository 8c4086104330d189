"""Train a neural network inside a nonlinear diffusion problem that is solved on all ranks.

    mpiexec -n 4 python examples/neural_closure.py --n 9 --steps 6

-div(k(u) grad u) = f on the unit square, u = 0 on its boundary. How the conductivity k depends on u
is not known; the solutions of a few loads f are. A small network stands for k, its weights
replicated on all ranks; the gradient of the misfit comes from one linear solve for each load, the
adjoint of the nonlinear one, however many steps Newton took.
"""

from __future__ import annotations

import argparse

import torch

import hpc_sla as hs
from hpc_sla import problems


class Closure(torch.nn.Module):
    """k(u) > 0, smooth."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.inner = torch.nn.Linear(1, width, dtype=torch.float64)
        self.outer = torch.nn.Linear(width, 1, dtype=torch.float64)

    def forward(self, u: torch.Tensor) -> torch.Tensor:
        hidden = torch.tanh(self.inner(u.unsqueeze(-1)))
        return torch.nn.functional.softplus(self.outer(hidden)).squeeze(-1)


def true_closure(u: torch.Tensor) -> torch.Tensor:
    return 1.0 + u**2 / (1.0 + 0.3 * u**2)


class Diffusion:
    """The equation on n x n points, fluxes between neighbours with the mean of their k."""

    def __init__(self, world: hs.World, n: int) -> None:
        self.world, self.h2 = world, 1.0 / (n + 1) ** 2
        self.grid = problems.make_nonlinear(f"diffusion2d:n={n}").place(world, torch.float64)
        self.layout = self.grid.A.layout

    def solve(self, k, weights: dict[str, torch.Tensor], load: float, start: torch.Tensor):
        """Find u for a load, and how it went; k(u, weights). **Collective**, in backward too."""

        def residual(u: torch.Tensor, weights: dict[str, torch.Tensor]) -> torch.Tensor:
            near = self.grid.around(u)
            mean = 0.5 * (k(u, weights).unsqueeze(1) + k(near, weights))
            return (mean * (u.unsqueeze(1) - near)).sum(dim=1) - self.h2 * load

        return hs.nonlinear_solve(
            residual,
            start,
            weights,
            layout=self.layout,
            pattern=self.grid.A,
            jacobian="coloured",
            precond="block_jacobi",
            rtol=1e-8,
            atol=1e-9,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--n", type=int, default=9, help="interior points on a side")
    parser.add_argument("--steps", type=int, default=6, help="of 20 iterations each")
    arguments = parser.parse_args()
    world = hs.World()
    torch.manual_seed(0)  # the same weights on every rank
    network = Closure().to(world.device)
    problem = Diffusion(world, arguments.n)
    loads = (10.0, 40.0)
    nothing = torch.zeros(problem.layout.n_owned, dtype=torch.float64).to(world.device)
    observed = [problem.solve(lambda u, _: true_closure(u), {}, f, nothing)[0] for f in loads]
    optimiser = torch.optim.LBFGS(
        network.parameters(),
        max_iter=20,  # of one step; with fewer its line search has too few evaluations
        history_size=20,
        line_search_fn="strong_wolfe",
    )
    last = [u.clone() for u in observed]

    def closure(u: torch.Tensor, weights: dict[str, torch.Tensor]) -> torch.Tensor:
        return torch.func.functional_call(network, weights, (u,))

    def misfit() -> torch.Tensor:
        """The same number on every rank; its gradient, whole, on every rank, too."""
        optimiser.zero_grad()
        weights = {name: world.replicate(w) for name, w in network.named_parameters()}
        total = torch.zeros((), dtype=torch.float64, device=world.device)
        for i, (f, target) in enumerate(zip(loads, observed, strict=True)):
            u, info = problem.solve(closure, weights, f, last[i])
            assert info.converged, info.status
            last[i] = u.detach()  # where the next solve starts
            difference = problem.layout.norm(u - target) / problem.layout.norm(target)
            total = total + difference.square()
        total.backward()
        return total

    up_to = world.max(float(observed[-1].max()) if len(nothing) else 0.0)
    probe = torch.linspace(0.0, up_to, 50, dtype=torch.float64, device=world.device)
    for step in range(arguments.steps + 1):
        loss = optimiser.step(misfit) if step else misfit()
        with torch.no_grad():
            wrong = float((network(probe) / true_closure(probe) - 1).abs().max())
        if world.rank == 0:
            print(f"step {step:3d}  misfit {loss.item():.3e}  error of k {wrong:.3f}", flush=True)
    mine = torch.cat([w.detach().flatten() for w in network.parameters()]).cpu().numpy()
    alike = all((mine == other).all() for other in world.comm.allgather(mine))
    if world.rank == 0:
        print(f"weights alike on all ranks: {alike}")


if __name__ == "__main__":
    main()

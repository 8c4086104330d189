"""Time the backward pass of solve beside the forward pass it belongs to.

mpiexec -n 2 python scripts/bench_adjoint.py poisson2d:n=1000 --precond jacobi --repeats 3
mpiexec -n 2 python scripts/bench_adjoint.py poisson2d:n=1000 --precond amg

The loss is c . x with gradients of A and of b; b and c are drawn, or both all ones (--ones), which
makes the two solves the same. Forward is the call of `solve`, without and with the set-up of the
preconditioner, which backward uses again; backward is all of `loss.backward()`: a solve and the
gradient on the pattern. A lap is a forward and a backward pass; medians, of the slowest rank.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch

import hpc_sla as hs
from hpc_sla import problems
from hpc_sla.precond import make_preconditioner


def timed(world: hs.World, function: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of the slowest rank, and the result. **Collective.**"""
    world.barrier()
    begin = time.perf_counter()
    result = function()
    return world.max(time.perf_counter() - begin), result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("source", help="a generator such as poisson2d:n=1000")
    parser.add_argument("--method", default="cg")
    parser.add_argument("--precond", default="jacobi")
    parser.add_argument("--rtol", type=float, default=1e-8)
    parser.add_argument("--ones", action="store_true", help="b and c of ones, not drawn")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    world = hs.World()
    A = problems.distribute(problems.make(options.source), world)
    values = A.values.clone().requires_grad_()
    like = torch.empty(A.layout.n_owned, dtype=A.dtype)
    generator = torch.Generator().manual_seed(world.rank)
    b, c = (
        torch.ones_like(like) if options.ones else torch.rand(like.shape, generator=generator)
        for _ in range(2)
    )
    b, c = (t.to(A.device, A.dtype) for t in (b, c))
    b.requires_grad_()
    laps = []
    for lap in range(options.repeats + 1):
        values.grad = b.grad = None
        rtol = options.rtol if lap else 0.1  # the first one warms up
        used = A.with_values(values)
        ready, M = timed(world, lambda A=used: make_preconditioner(options.precond, A))
        forward, (x, info) = timed(
            world, lambda A=used, M=M, rtol=rtol: hs.solve(A, b, options.method, M, rtol=rtol)
        )
        loss = A.layout.dot(c, x)
        backward, _ = timed(world, loss.backward)
        assert info.converged and info.adjoint.converged
        if lap:
            laps.append((ready, forward, backward, backward / forward))
            if world.rank == 0:
                print(f"  lap {lap}: {forward:.2f} and {backward:.2f} s", flush=True)
    if world.rank == 0:
        ready, forward, backward, ratio = (median(column) for column in zip(*laps, strict=True))
        print(
            f"{options.source}, {options.method} + {options.precond}, {world.size} rank(s), medians"
            f" of {len(laps)}\n"
            f"  forward {forward:.3f} s, {info.iterations} iterations (set-up {ready:.3f} s more)\n"
            f"  backward {backward:.3f} s, {info.adjoint.iterations} iterations\n"
            f"  backward / forward {ratio:.3f}, with its set-up {backward / (ready + forward):.3f}"
        )


if __name__ == "__main__":
    main()

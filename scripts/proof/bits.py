"""The same run gives the same bits; so do steps from a graph, or compiled, and eager ones."""

from __future__ import annotations

import torch
from answers import RTOL, right_hand_side
from plan import Plan
from record import Record

import hpc_sla as hs
from hpc_sla.problems import distribute, make

REPEATED = (
    ("cg", "jacobi"), ("cg", "chebyshev"), ("cg", "amg"), ("minres", "jacobi"),
    ("bicgstab", "jacobi"), ("gmres", "jacobi"), ("pipelined_cg", "jacobi"),
)  # fmt: skip
IN_BURSTS = (hs.CG, hs.MINRES, hs.BiCGStab, hs.PipelinedCG)


def run(world: hs.World, plan: Plan, record: Record) -> None:
    """**Collective.**"""
    A = distribute(make(f"poisson2d:n={plan.answers}"), world)
    b = torch.from_numpy(right_hand_side(A.shape[0]))
    b = A.layout.scatter(b if world.rank == 0 else None)

    def solve(method: str | hs.Method, precond: str) -> tuple[torch.Tensor, hs.SolveInfo]:
        return hs.solve(A, b, method, precond, rtol=RTOL[torch.float64])

    # First, while nothing has been warned of, which is done once.
    for kind in IN_BURSTS:
        name = f"in bursts as step by step: {kind.name} + jacobi"
        with record.attempt(name):
            x, info = solve(kind(), "jacobi")
            y, eager = solve(step_by_step(kind)(), "jacobi")
            _compare(world, record, name, x, y, info, eager)
    for method, precond in REPEATED:
        name = f"the same bits again: {method} + {precond}"
        with record.attempt(name):
            (x, info), (y, again) = solve(method, precond), solve(method, precond)
            _compare(world, record, name, x, y, info, again)
    with record.attempt("the same bits again: gradient"):
        one, two = _gradient(A, b), _gradient(A, b)
        record.check("the same bits again: gradient", _differing(world, one, two) == 0)


def step_by_step(kind: type[hs.Method]) -> type[hs.Method]:
    """The same method, its steps neither captured in a graph nor compiled into bursts."""
    alike = {"capturable": False, "compiled": None, "scale_free": kind.scale_free}
    return type(f"Eager{kind.__name__}", (kind,), alike)


def _compare(
    world: hs.World,
    record: Record,
    name: str,
    x: torch.Tensor,
    y: torch.Tensor,
    info: hs.SolveInfo,
    other: hs.SolveInfo,
) -> None:
    """**Collective.**"""
    differing = _differing(world, x, y)
    record.check(
        name,
        differing == 0 and info.iterations == other.iterations and info.converged,
        entries_that_differ=differing,
        largest_difference=world.max(float((x - y).abs().max())),
        iterations=[info.iterations, other.iterations],
    )


def _differing(world: hs.World, x: torch.Tensor, y: torch.Tensor) -> int:
    return int(world.sum(int((x != y).sum())))


def _gradient(A: hs.DSparseMatrix, b: torch.Tensor) -> torch.Tensor:
    """Of |x|^2 in the matrix's values. **Collective.**"""
    values = A.values.detach().clone().requires_grad_()
    x, _ = hs.solve(A.with_values(values), b, "cg", "jacobi", rtol=RTOL[torch.float64])
    (gradient,) = torch.autograd.grad(A.layout.dot(x, x), values)
    return gradient

"""Gradients beside SciPy's adjoint solve on the CPU, and beside central differences."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy.sparse.linalg
import torch
from answers import ask
from plan import Plan
from record import Record

import hpc_sla as hs
from hpc_sla.problems import distribute, make

RTOL = 1e-12
AGREES = 1e-6
"""Relative: what the published Table 3 asks of differences."""

STEP = 1e-5
CHOICES = (("cg", "jacobi"), ("cg", "amg"), ("gmres", "jacobi"))


def run(world: hs.World, plan: Plan, record: Record) -> None:
    """Of w . x, in the matrix's values and in b. **Collective.**"""
    spec = f"poisson2d:n={plan.gradients}"
    A = distribute(make(spec), world)
    oracle = ask(spec) if world.rank == 0 else None
    b, x, adjoint, w = _expected(A, oracle)
    rows, columns = A.entries()
    mine = slice(A.layout.start, A.layout.start + A.layout.n_owned)
    device = world.device
    # The direction keeps the matrix symmetric, for which these methods are.
    turn = torch.from_numpy(np.cos(1.0 + rows) + np.cos(1.0 + columns)).to(device)
    push = torch.from_numpy(np.sin(1.0 + np.arange(A.shape[0]))[mine]).to(device)
    weight, right = (torch.from_numpy(v[mine]).to(device) for v in (w, b))

    for method, precond in CHOICES:
        name = f"gradients: {method} + {precond}"
        with record.attempt(name):

            def loss(
                values: torch.Tensor,
                rhs: torch.Tensor,
                method: str = method,
                precond: str = precond,
            ) -> torch.Tensor:
                found, _ = hs.solve(A.with_values(values), rhs, method, precond, rtol=RTOL)
                return A.layout.dot(weight, found)

            values, rhs = A.values.detach().clone().requires_grad_(), right.clone().requires_grad_()
            of_values, of_rhs = torch.autograd.grad(loss(values, rhs), (values, rhs))
            from_scipy = [
                _distance(world, of_rhs.cpu().numpy(), adjoint[mine]),
                _distance(world, of_values.cpu().numpy(), -adjoint[rows] * x[columns]),
            ]
            slope = world.sum(float(of_values @ turn + of_rhs @ push))
            difference = _difference(loss, A.values.detach(), right, turn, push)
            gap = abs(slope - difference) / abs(difference)
            record.check(
                name,
                max(*from_scipy, gap) <= AGREES,
                from_scipy_rhs=from_scipy[0],
                from_scipy_values=from_scipy[1],
                from_differences=gap,
                directional_derivative=slope,
                allowed=AGREES,
            )


def _expected(A: hs.DSparseMatrix, oracle) -> tuple[np.ndarray, ...]:
    """b, x, A^-T w and w, all rows of them on every rank. **Collective.**"""
    found = None
    if oracle is not None:
        w = np.cos(np.arange(A.shape[0], dtype=float))
        adjoint = scipy.sparse.linalg.spsolve(oracle.A.T.tocsc(), w)
        found = oracle.b, oracle.x, adjoint, w
    return A.world.comm.bcast(found)


def _difference(
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    values: torch.Tensor,
    rhs: torch.Tensor,
    turn: torch.Tensor,
    push: torch.Tensor,
) -> float:
    """Central, Richardson's with half the step: its error is of fourth order. **Collective.**"""
    with torch.no_grad():
        coarse, fine = (
            float(loss(values + h * turn, rhs + h * push) - loss(values - h * turn, rhs - h * push))
            / (2 * h)
            for h in (STEP, STEP / 2)
        )
    return (4 * fine - coarse) / 3


def _distance(world: hs.World, found: np.ndarray, expected: np.ndarray) -> float:
    """Relative, of all ranks' entries. **Collective.**"""
    gap = world.sum(float(np.square(found - expected).sum()))
    return (gap / world.sum(float(np.square(expected).sum()))) ** 0.5

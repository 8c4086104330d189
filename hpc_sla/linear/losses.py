"""The gradient of a named loss of the solution, and its check by central differences."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from hpc_sla.errors import AdjointSolveError, InputError
from hpc_sla.hashing import noise
from hpc_sla.linear.info import SolveInfo
from hpc_sla.linear.methods import make_method
from hpc_sla.linear.solver import solve
from hpc_sla.sparse.matrix import DSparseMatrix

STEPS = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7)
"""Steps of the central differences, relative to the size of the data."""

# Central differences cannot tell more: their truncation falls as h^2 and the solves' errors rise
# as 1/h.
AGREEMENT = {torch.float64: 1e-6, torch.float32: 2e-2}
_TIGHT = {torch.float64: 1e-12, torch.float32: 1e-6}


@dataclass
class LossProblem:
    """A loss of the solution of A x = b.

    Attributes
    ----------
    A : DSparseMatrix
    b : torch.Tensor [n_owned] or [n_owned, k]
    loss : {"sum", "norm2", "misfit"}
        The sum of x, ||x||_2, or ||x - target||_2^2 / 2, over all columns.
    target : torch.Tensor like x or None
    options : dict
        Of `solve`.
    """

    A: DSparseMatrix
    b: torch.Tensor
    loss: str
    target: torch.Tensor | None
    options: dict[str, Any]

    def value(self, x: torch.Tensor) -> torch.Tensor:
        """The loss of x. **Collective.** Replicated."""
        columns = self.A.columns
        if self.loss == "sum":
            return columns.world.all_sum(x.sum())
        if self.loss == "norm2":
            norms = columns.norm(x)
            return norms if norms.dim() == 0 else torch.linalg.vector_norm(norms)
        if self.target is None:
            raise InputError("misfit needs a target", field="loss")
        difference = x - self.target
        return columns.dot(difference, difference).sum() / 2

    def at(self, values: torch.Tensor, b: torch.Tensor, x0: torch.Tensor) -> float:
        """The loss for other data, from a guess. **Collective.** Replicated."""
        with torch.no_grad():
            x, _ = solve(self.A.with_values(values), b, x0=x0, **self.options)
            return float(self.value(x))


@dataclass
class Gradient:
    """What `gradient` found; the gradients are None where a solve did not converge.

    Attributes
    ----------
    x : torch.Tensor
    info : SolveInfo
    loss : float
        Replicated.
    of_values : torch.Tensor [nnz_owned] or None
        In the order of `A.values`.
    of_b : torch.Tensor like b or None
    adjoint : SolveInfo or None
        Of the backward solve, where there was one.
    """

    x: torch.Tensor
    info: SolveInfo
    loss: float
    of_values: torch.Tensor | None = None
    of_b: torch.Tensor | None = None

    @property
    def adjoint(self) -> SolveInfo | None:
        return self.info.adjoint


def gradient(problem: LossProblem) -> Gradient:
    """Solve, and differentiate the loss with respect to the matrix and b. **Collective.**"""
    values = problem.A.values.detach().requires_grad_()
    b = problem.b.detach().requires_grad_()
    x, info = solve(problem.A.with_values(values), b, **problem.options)
    loss = problem.value(x)
    found = Gradient(x.detach(), info, float(loss.detach()))
    if info.converged:
        with suppress(AdjointSolveError):  # info.adjoint says what became of it
            found.of_values, found.of_b = torch.autograd.grad(loss, (values, b))
    return found


@dataclass(frozen=True)
class Comparison:
    """A directional derivative, by the gradient and by a central difference."""

    direction: str
    step: float
    derivative: float
    difference: float
    error: float
    """Their difference, relative to the size of the derivative in such directions."""


def check(
    problem: LossProblem, found: Gradient, steps: Sequence[float] = STEPS
) -> list[Comparison]:
    """Compare the gradient with central differences, over a ladder of steps. **Collective.**

    In one random direction of the matrix's values, one of b and one of both, the same on any
    number of ranks. A direction's entries are those of the data times numbers between -1 and 1;
    for a method that needs a symmetric matrix they are symmetric.
    """
    assert found.of_values is not None and found.of_b is not None
    A, world = problem.A, problem.A.world
    options = dict(problem.options, callback=None)
    options["rtol"] = min(options["rtol"], _TIGHT[A.dtype])
    tight = replace(problem, options=options)
    d_values, d_b = _directions(problem, make_method(found.info.method).needs_symmetric)
    none = torch.zeros_like(d_b)
    compared = []
    for name, dv, db in (
        ("matrix", d_values, none),
        ("rhs", torch.zeros_like(d_values), d_b),
        ("both", d_values, d_b),
    ):
        terms = torch.cat([found.of_values * dv, (found.of_b * db).flatten()]).double()
        slope, square = world.all_sum(torch.stack([terms.sum(), terms.square().sum()])).tolist()
        # Where the terms happen to cancel, their size is the measure.
        size = max(abs(slope), square**0.5) or 1.0
        for step in steps:
            ends = [tight.at(A.values + s * dv, problem.b + s * db, found.x) for s in (step, -step)]
            difference = (ends[0] - ends[1]) / (2 * step)
            error = abs(difference - slope) / size
            compared.append(Comparison(name, step, slope, difference, error))
    return compared


def _directions(problem: LossProblem, symmetric: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Random changes of the values and of b. **Collective.**"""
    A = problem.A
    rows, columns = A.entries()
    if symmetric:
        rows, columns = np.minimum(rows, columns), np.maximum(rows, columns)
    of_values = torch.from_numpy(noise(rows * A.shape[1] + columns, 1)).to(A.values)
    columns = np.arange(problem.b.shape[1] if problem.b.dim() == 2 else 1)
    entries = A.layout.rows[:, None] * len(columns) + columns
    of_b = torch.from_numpy(noise(entries.ravel(), 2)).to(problem.b)
    return A.values.detach() * of_values, problem.b * of_b.reshape(problem.b.shape)


def best(compared: Sequence[Comparison]) -> float:
    """The worst of the directions' best errors: what the check goes by."""
    by_direction: dict[str, float] = {}
    for one in compared:
        by_direction[one.direction] = min(one.error, by_direction.get(one.direction, np.inf))
    return max(by_direction.values())

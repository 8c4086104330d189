"""A pencil as `hpc_sla.adjoint` differentiates it: its pairs, and what their derivatives need."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from hpc_sla.eigen.dense import gathered_pairs, serves
from hpc_sla.eigen.derivative import Derivative
from hpc_sla.eigen.lobpcg import Found, Lobpcg
from hpc_sla.eigen.problem import Problem, Yardstick
from hpc_sla.eigen.space import inner
from hpc_sla.linear.info import SolveInfo, summarise
from hpc_sla.linear.systems import Theta, form_of, parameters_of, with_parameters

_SIGNS = 97
"""Seed of the vector that settles signs; none of those a start is made of."""


class EigenPencil:
    """What `eigsh` was asked for; set up by its forward pass.

    Parameters
    ----------
    A, B : DSparseMatrix, LinearOperator or None
    set_up : callable(A, B) -> Problem
        **Collective.** Of plain tensors.
    x0 : torch.Tensor [n_owned, j] or None
    rtol : float
        Of the solves of derivatives.

    Attributes
    ----------
    info : SolveInfo
    """

    info: SolveInfo

    def __init__(
        self,
        A: Any,
        B: Any,
        set_up: Callable[[Any, Any], Problem],
        x0: torch.Tensor | None,
        rtol: float,
    ) -> None:
        self.A, self.B = form_of(A), None if B is None else form_of(B)
        self.split, self.world = len(parameters_of(A)), A.layout.world
        self._matrices, self._set_up, self._x0, self._rtol = (A, B), set_up, x0, rtol
        self._found: Found | None = None
        self._problem: Problem | None = None

    def pairs(self, theta: Theta) -> tuple[torch.Tensor, torch.Tensor]:
        """**Collective.**"""
        A, B = self._matrices
        plain_A = with_parameters(A, theta[: self.split])
        plain_B = None if B is None else with_parameters(B, theta[self.split :])
        self._problem = problem = self._set_up(plain_A, plain_B)
        known = problem.constraints.count if problem.constraints else 0
        if serves(problem.A.n_global, known, problem.m):
            method, found = "dense", _by_lapack(problem)
        else:
            method, found = "lobpcg", Lobpcg(problem, self._x0).run()
        _settle_signs(problem, found.vectors)
        self._found = found
        self.info = _summary(found, method, problem.precond.name)
        return found.values.to(found.vectors), found.vectors

    def _derivative(self, V: torch.Tensor) -> Derivative:
        found = self._found
        assert self._problem is not None and found is not None
        values = found.values.tolist()
        return Derivative(self._problem, V, values, found.norms, found.following, self._rtol)

    def left(
        self, V: torch.Tensor, C: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """**Collective.** See `hpc_sla.adjoint.eigen.Pencil`."""
        derivative = self._derivative(V)
        C = C.contiguous()
        M, K = derivative.within(C)
        Y, info = derivative.outside(C)
        self.info.adjoint = info
        return M, K, Y


def _by_lapack(problem: Problem) -> Found:
    """**Collective.**"""
    values, V, following = gathered_pairs(problem)
    k = problem.k
    image, B_V = torch.empty_like(V), problem.B_times(V)
    problem.A(V, image)
    random = problem.noise(1, 1)
    A_random = torch.empty_like(random)
    problem.A(random, A_random)
    others = [] if problem.B is None else [problem.B_times(random)]
    yardstick = Yardstick(problem, random, [A_random, *others])
    residual = image - B_V * values.to(V)
    sums = torch.stack([x.double().square().sum(dim=0) for x in (residual, V, B_V)])
    norms, lengths, B_lengths = problem.all_sum(sums).sqrt().tolist()
    scales = yardstick.scales(values.tolist(), lengths, B_lengths)
    met = [n <= problem.tol * s for n, s in zip(norms, scales, strict=True)]
    return Found(
        values,
        V,
        ["converged" if yes else "stagnated" for yes in met],
        norms,
        scales,
        [0] * k,
        [norms],
        following,
    )


def _settle_signs(problem: Problem, V: torch.Tensor) -> None:
    """Make each vector's inner product with a fixed one positive. **Collective.**"""
    products = problem.all_sum(inner(problem.noise(1, _SIGNS), V))
    V.mul_(torch.where(products < 0, -1.0, 1.0).to(V.dtype))


def _summary(found: Found, method: str, precond: str) -> SolveInfo:
    columns = [
        SolveInfo(
            status,
            found.iterations[i],
            found.norms[i],
            found.norms[i] / (found.scales[i] or 1.0),
            [row[i] for row in found.history],
        )
        for i, status in enumerate(found.statuses)
    ]
    info = summarise(columns, False)
    for one in (info, *columns):
        one.method, one.precond = method, precond
    return info

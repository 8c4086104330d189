"""A pencil as `hpc_sla.adjoint` differentiates it: its pairs, and what their derivatives need."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from hpc_sla.adjoint.forms import Theta, form_of, parameters_of, with_parameters
from hpc_sla.eigen.advice import advice
from hpc_sla.eigen.dense import gathered_pairs, serves
from hpc_sla.eigen.derivative import Derivative
from hpc_sla.eigen.found import Eigenpairs
from hpc_sla.eigen.lobpcg import Lobpcg
from hpc_sla.eigen.problem import Constraints, EigenProblem, ResidualScale, column_norms
from hpc_sla.eigen.scaling import number_times_power, times_power
from hpc_sla.eigen.space import inner
from hpc_sla.linear.info import SolveInfo, summarise
from hpc_sla.linear.unconverged import warn_of_gradient

_ROUGHLY = 1e-6
"""To what an eigenvalue is found that only has to be told from others."""

_SIGNS = 97
"""Seed of the vector that settles signs; none of those a start is made of."""


class EigenPencil:
    """What `eigsh` was asked for; set up by its forward pass.

    Parameters
    ----------
    A, B : DSparseMatrix, LinearOperator or None
    set_up : callable(A, B) -> EigenProblem
        **Collective.** Of plain tensors.
    x0 : torch.Tensor [n_owned, j] or None
    rtol : float
        Of the solves of derivatives.
    strict : bool
        Whether it must be met even where rounding allows no less.

    Attributes
    ----------
    info : SolveInfo
    """

    info: SolveInfo

    def __init__(
        self,
        A: Any,
        B: Any,
        set_up: Callable[[Any, Any], EigenProblem],
        x0: torch.Tensor | None,
        rtol: float,
        strict: bool,
    ) -> None:
        self.A, self.B = form_of(A), None if B is None else form_of(B)
        self.split, self.world = len(parameters_of(A)), A.layout.world
        self._matrices, self._set_up, self._x0 = (A, B), set_up, x0
        self._rtol, self._strict = rtol, strict
        self._found: Eigenpairs | None = None
        self._problem: EigenProblem | None = None

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
        units = problem.units
        self.info = _summary(found, method, problem.precond.name, units.residuals)
        self.info.tries = advice(problem, self.info, plain_A, plain_B)
        values = times_power(found.values, units.values).to(found.vectors)
        return values, times_power(found.vectors, units.vectors)

    def _derivative(self, V: torch.Tensor) -> Derivative:
        """That of the problem as it was solved, which may be scaled. **Collective.**"""
        found, problem = self._found, self._problem
        assert problem is not None and found is not None
        V = times_power(V, -problem.units.vectors)
        values = found.values.tolist()
        return Derivative(
            problem,
            V,
            values,
            found.norms,
            found.following,
            lambda: self._next(V),
            self._rtol,
            self._strict,
        )

    def _next(self, V: torch.Tensor) -> tuple[float, float] | None:
        """The eigenvalue after those found, and the norm of its residual. **Collective.**"""
        found, problem = self._found, self._problem
        assert problem is not None and found is not None
        known = V if problem.constraints is None else torch.cat([V, problem.constraints.Y], dim=1)
        left = problem.A.n_global - known.shape[1]
        if left < 1:
            return None
        beyond = replace(
            problem, k=1, m=min(3, left), tol=max(problem.tol, _ROUGHLY), callback=None, attach=None
        )
        beyond.constraints = Constraints(beyond, known)
        if serves(problem.A.n_global, known.shape[1], beyond.m):
            one = _by_lapack(beyond)
        else:
            one = Lobpcg(beyond, found.guards).run()
        return float(one.values[0]), one.norms[0]

    def refuse_parts(self, V: torch.Tensor, g: torch.Tensor) -> None:
        """**Collective.** See `hpc_sla.adjoint.eigen.Pencil`."""
        self._derivative(V).refuse_parts(g)

    def begin_derivative(self) -> None:
        """Local."""
        warn_of_gradient(self.info, what="block of eigenpairs")

    def left(
        self, V: torch.Tensor, g: torch.Tensor, C: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """**Collective.** See `hpc_sla.adjoint.eigen.Pencil`."""
        assert self._problem is not None
        derivative, units = self._derivative(V), self._problem.units
        derivative.refuse_parts(g)
        C = C.contiguous()
        M, K = derivative.within(C)
        Y, info = derivative.outside(C)
        self.info.adjoint = info
        return (
            times_power(M, units.vectors),
            times_power(K, units.vectors - units.values),
            times_power(Y, -units.A),
        )


def _by_lapack(problem: EigenProblem) -> Eigenpairs:
    """**Collective.**"""
    V = gathered_pairs(problem)
    k = problem.k
    image, B_V = torch.empty_like(V), problem.B_times(V)
    problem.A(V, image)
    products = torch.stack([(V.double() * x).sum(dim=0) for x in (image, B_V)])
    over, under = problem.all_sum(products).cpu()
    values = over / under
    residual_scale = ResidualScale(problem)
    residual_scale.measure(V)
    residual = image - B_V * values.to(V)
    lengths = column_norms(problem, torch.cat([residual, V, B_V], dim=1))
    norms, x_norms, B_norms = (part.tolist() for part in lengths.split(V.shape[1]))
    scales = residual_scale.scales(values.tolist(), x_norms, B_norms)
    met = [n <= problem.tol * s for n, s in zip(norms, scales, strict=True)][:k]
    plain = [abs(value) * norm for value, norm in zip(values.tolist(), B_norms, strict=True)]
    order = torch.argsort(problem.sign * values[:k], stable=True)
    pick = order.tolist()
    return Eigenpairs(
        values[:k][order],
        V[:, order.to(V.device)].contiguous(),
        ["converged" if met[i] else "stagnated" for i in pick],
        [norms[i] for i in pick],
        [scales[i] for i in pick],
        [0] * k,
        [[norms[i] for i in pick]],
        (float(values[k]), norms[k]) if len(values) > k else None,
        [met[i] and norms[i] > problem.tol * plain[i] for i in pick],
    )


def _settle_signs(problem: EigenProblem, V: torch.Tensor) -> None:
    """Make each vector's inner product with a fixed one positive. **Collective.**"""
    products = problem.all_sum(inner(problem.noise(1, _SIGNS), V))
    V.mul_(torch.where(products < 0, -1.0, 1.0).to(V.dtype))


def _summary(found: Eigenpairs, method: str, precond: str, power: int) -> SolveInfo:
    """In the units of the matrices as they were given: residuals are 2^power times those found."""
    columns = [
        SolveInfo(
            status,
            found.iterations[i],
            number_times_power(found.norms[i], power),
            found.norms[i] / (found.scales[i] or 1.0),
            [number_times_power(row[i], power) for row in found.history],
            reason="at the level of rounding, above tol" if found.rounding[i] else "",
        )
        for i, status in enumerate(found.statuses)
    ]
    info = summarise(columns, False)
    for one in (info, *columns):
        one.method, one.precond = method, precond
    return info

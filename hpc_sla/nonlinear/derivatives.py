"""The linear solves of a nonlinear solve's derivatives."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch.autograd import forward_ad

from hpc_sla.adjoint import JacobianForm
from hpc_sla.linear.info import SolveInfo
from hpc_sla.linear.method import Method
from hpc_sla.linear.methods import make_method
from hpc_sla.linear.unconverged import settle, warn_of_gradient
from hpc_sla.nonlinear.equations import JacobianProducts
from hpc_sla.nonlinear.fitting import fitting_method
from hpc_sla.nonlinear.info import NonlinearInfo
from hpc_sla.nonlinear.linearise import Linearisation, after
from hpc_sla.precond import Preconditioner, make_preconditioner
from hpc_sla.precond.base import transposed
from hpc_sla.sparse.matrix import DSparseMatrix
from hpc_sla.sparse.operators import as_operator

Theta = tuple[torch.Tensor, ...]


class SolvedProblem(Protocol):
    """What the derivatives of a nonlinear solve need of it.

    Attributes
    ----------
    residual : callable(u, *theta)
    info : NonlinearInfo
    precond : Preconditioner or None
        The last one that was set up.
    rtol : float
        What a derivative's solve must reach.
    loosest : (float, float)
        The tolerance that is usual, and the one up to which a derivative is returned all the same.
    """

    residual: Callable[..., torch.Tensor]
    info: NonlinearInfo
    precond: Any
    rtol: float
    loosest: tuple[float, float]

    @property
    def one_way(self) -> bool:
        """Whether J and its preconditioner are taken for symmetric."""

    def linearisation(self, theta: Theta) -> Linearisation:
        """Linear systems with the Jacobian at these (plain) tensors. Local."""

    def exact_products(self, linear: Linearisation, u: torch.Tensor) -> JacobianProducts:
        """Those with J(u) that a derivative must satisfy. **Collective.**"""


class JacobianSystem:
    """J(u, theta) x = b or its transpose, for a derivative.

    Parameters
    ----------
    problem : SolvedProblem
    """

    def __init__(self, problem: SolvedProblem) -> None:
        self._problem = problem
        self.form = JacobianForm(problem.residual, symmetric=problem.one_way)

    @torch.inference_mode(False)
    @torch.no_grad()
    def derivative(self, b: torch.Tensor, theta: Theta, transposed: bool) -> torch.Tensor:
        """**Collective.**

        With what found u, and then with ever more, until the residual with exact products is what
        was asked for: see `_attempts`.

        Warns
        -----
        NotConvergedWarning
            Where the tolerance was left open, and a looser one is met.

        Raises
        ------
        AdjointSolveError
            On every rank.
        """
        problem = self._problem
        u, *rest = map(plain, theta)
        warn_of_gradient(problem.info, what="nonlinear solve")
        linear = problem.linearisation(tuple(rest))
        equations, goal = linear.equations, problem.rtol
        exact = problem.exact_products(linear, u)
        r = b = plain(b).contiguous()
        norm = b_norm = equations.norm(b)
        x, total = torch.zeros_like(b), None
        # Products with J^T are the cheaper ones; of a symmetric J, always.
        back = transposed or problem.one_way
        for J, M, maker in self._attempts(linear, exact, u):
            # A matrix rounds otherwise than exact products do.
            asked = goal * b_norm / norm if b_norm else goal
            rtol = min((1.0 if J is exact else 0.9) * asked, 0.5)
            part, info = self._solve(linear, J, M, r, rtol, maker, back)
            total = after(total, info)
            trial = x + part
            if J is exact and info.converged:
                # Its own residual is true; another would differ by rounding.
                x, norm = trial, min(info.residual_norm, goal * b_norm)
                break
            left = b - (exact.rmatvec(trial) if back else exact.matvec(trial))
            found = equations.norm(left)
            if found < norm:
                x, r, norm = trial, left, found
            if norm <= goal * b_norm or not math.isfinite(b_norm):
                break
        assert total is not None
        total.residual_norm, total.relative_residual = norm, norm / b_norm if b_norm else norm
        problem.info.adjoint = total
        if not norm <= goal * b_norm:
            self._end(total)
        total.status = "converged"
        return x

    def _end(self, total: SolveInfo) -> None:
        """Whether what attempts came to will do that all fell short. Local; replicated."""
        usual, loosest = self._problem.loosest
        if total.status == "converged" and not total.relative_residual <= loosest:
            total.status = "stagnated"
        settle(total, usual=usual, loosest=loosest)

    def _attempts(
        self, linear: Linearisation, exact: JacobianProducts, u: torch.Tensor
    ) -> Iterator[tuple[Any, Preconditioner, Method | None]]:
        """What to solve with, one after another: an operator, a preconditioner and a method.

        **Collective.** The assembled Jacobian, where there is one, and what u was found with; exact
        products; a preconditioner set up at u and a method of long memory; none, should it be the
        preconditioner; another method.
        """
        problem = self._problem
        J, matrix = linear.at(u, None)
        inherited = linear.precond is not None
        if linear.precond is None:
            linear.set_up(u, J, matrix)
            problem.precond = linear.precond
        assert linear.precond is not None
        if matrix is not None:
            yield matrix, linear.precond, None
        yield exact, linear.precond, None
        long = fitting_method(as_operator(exact))
        if inherited:
            linear.set_up(u, J, matrix)
            problem.precond = linear.precond
        yield exact, linear.precond, long
        if linear.precond.name != "none":
            yield exact, make_preconditioner(None, exact), long
        yield exact, linear.precond, make_method("bicgstab")

    def _solve(
        self,
        linear: Linearisation,
        J: JacobianProducts | DSparseMatrix,
        M: Preconditioner,
        b: torch.Tensor,
        rtol: float,
        maker: Method | None,
        back: bool,
    ) -> tuple[torch.Tensor, SolveInfo]:
        operator, one_way = as_operator(J), self._problem.one_way
        # Of a symmetric matrix the products themselves are the cheaper ones.
        if back and not (one_way and isinstance(J, DSparseMatrix)):
            operator = operator.T
        if back and not one_way:
            M = transposed(M)
        return linear.solve(operator, b, rtol, M, maker=maker)


def plain(tensor: torch.Tensor) -> torch.Tensor:
    """Its values alone: without a graph, without a tangent; fit for derivatives."""
    primal: torch.Tensor = forward_ad.unpack_dual(tensor.detach()).primal
    return primal.clone() if primal.is_inference() else primal

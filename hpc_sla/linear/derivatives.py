"""The solves for derivatives of a linear solve: they must converge, and may use other methods."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from hpc_sla.adjoint.forms import Form, NormalForm, Theta, form_of
from hpc_sla.errors import InputError
from hpc_sla.linear.info import SolveInfo
from hpc_sla.linear.iteration import Iteration
from hpc_sla.linear.methods import make_method
from hpc_sla.linear.normal import NormalOperator, NormalPreconditioner
from hpc_sla.linear.unconverged import settle, warn_of_gradient
from hpc_sla.precond.base import transposed as transpose_of

_STRONGER = {
    "pipelined_cg": ("cg", "minres"),
    "cg": ("minres", "gmres"),
    "minres": ("cg", "gmres"),
    "richardson": ("gmres", "bicgstab"),
    "bicgstab": ("gmres",),
    "gmres": ("bicgstab",),
    "fgmres": ("bicgstab",),
    "lsqr": ("gmres", "bicgstab"),
    "lsmr": ("gmres", "bicgstab"),
}
"""What a derivative's solve goes on with, one after another, where the method fails: it may do so
for one right-hand side and not for another."""

_FAILED = ("indefinite", "breakdown", "stagnated", "diverged")


class Differentiable(Iteration):
    """An iteration whose solution has derivatives: a `LinearSystem` of `hpc_sla.adjoint`.

    Attributes
    ----------
    info : SolveInfo
        Of the solve that the derivatives are of.
    adjoint_rtol : float or None
        What their solves must reach; None for rtol, or what rounding leaves where that is more.
    A
        What the user passed for a matrix.
    transposed : bool
        Whether it is the transpose that is solved with.
    """

    A: Any
    transposed: bool = False
    info: SolveInfo
    adjoint_rtol: float | None
    _lopsided: list[bool]
    # Looked at once for a set-up, whichever of the copies of a solver needs to know.

    @property
    def form(self) -> Form:
        form = form_of(self.A)
        return form.T if self.transposed else form

    @property
    def one_way(self) -> bool:
        """Whether A and its preconditioner are taken for symmetric."""
        return self.method.needs_symmetric

    @property
    def lopsided(self) -> bool:
        """Whether a method for symmetric matrices works on one that is not. **Collective.**

        It may, and says what its residual is; but the derivative needs the transpose.
        """
        operator = self.operator
        if not (self.one_way and operator.transposable and self.precond.transposable):
            return False
        if not self._lopsided:
            self._lopsided.append(not operator.symmetric(operator.dtype or torch.float64))
        return self._lopsided[0]

    def derivative(self, b: torch.Tensor, theta: Theta, transposed: bool) -> torch.Tensor:
        """The solve for a derivative, with A or its transpose. **Collective.**

        Raises
        ------
        AdjointSolveError
            On every rank.
        """
        warn_of_gradient(self.info)
        solver = self._for_derivatives()
        if transposed and (not self.one_way or self.lopsided):
            solver.operator, solver.precond = self.operator.T, transpose_of(self.precond)
            solver.transposed, solver.given = not self.transposed, None
            if self.lopsided:
                solver.use(make_method("gmres"))
        x, info = solver.run(b)
        for other in () if self._serves(info) else self._stronger(info):
            y, found = solver.by(other).run(b)
            if self._serves(found) or found.relative_residual < info.relative_residual:
                x, info = y, found
            if self._serves(info):
                break
        self._settle(info)
        return x

    @property
    def normal(self) -> NormalEquations:
        """The normal equations, by conjugate gradients."""
        return NormalEquations(self)

    def check_gradient(self) -> None:
        """Refuse what has no derivative. **Collective.**"""
        if self.one_way:
            return
        operator, M = self.operator, self.precond
        with operator.world.agree():
            if not operator.transposable:
                what = f"{type(self.A).__name__} by {self.method.name}"
                raise InputError(
                    f"the gradient of a solve with {what} needs its transpose",
                    field="A",
                    remedy="Give it an rmatvec or, if it is symmetric, use cg or minres",
                )
            if not M.transposable:
                raise InputError(
                    f"the gradient applies the preconditioner's transpose, and {M.name} has none",
                    field="precond",
                    remedy="Pass an object with apply and apply_transpose",
                )
            rows, columns = operator.shape
            if not operator.square and rows < columns:
                raise InputError(
                    f"the gradient of a least-squares solution needs full column rank, and a "
                    f"{rows} x {columns} matrix has not",
                    field="A",
                    remedy="Solve A A^T y = b (a matrix-free operator) for x = A^T y, or add rows "
                    "that regularise it",
                )

    def _for_derivatives(self) -> Differentiable:
        """What their solves are made with, to be changed further. Local."""
        solver = self.__copy__()
        solver.rtol = self.rtol if self.adjoint_rtol is None else self.adjoint_rtol
        solver.atol = solver.loosest = 0.0
        solver.callback = solver.observer = None
        return solver

    def _serves(self, info: SolveInfo) -> bool:
        # What rounding leaves is all there is: no other method, and no more iterations, would help.
        rounded = info.at_rounding and info.relative_residual <= 1.0
        return info.converged or (rounded and self.adjoint_rtol is None)

    def _stronger(self, info: SolveInfo) -> Sequence[str]:
        """The methods to go on with where one failed. **Collective.**"""
        # Where the solve itself took less than its limit, another method may here.
        short = info.status == "max_iterations" and self.info.converged
        if not (short or info.status in _FAILED):
            return ()
        return ("gmres",) if self.lopsided else _STRONGER.get(self.method.name, ())

    def _settle(self, info: SolveInfo) -> None:
        self.info.adjoint = info
        if info.converged:
            return
        if self._serves(info):
            settle(info, loosest=1.0)
        else:
            settle(info, usual=0.0, loosest=self.loosest if self.adjoint_rtol is None else 0.0)


class NormalEquations:
    """A^T A w = c, for the derivatives of a least-squares solution."""

    def __init__(self, solver: Differentiable) -> None:
        self._solver = solver
        self.form = NormalForm(solver.form)

    def derivative(self, b: torch.Tensor, theta: Theta, transposed: bool) -> torch.Tensor:
        """**Collective.** Raises AdjointSolveError on every rank."""
        origin = self._solver
        warn_of_gradient(origin.info)
        solver = origin._for_derivatives()
        solver.operator = NormalOperator(origin.operator)
        solver.precond = NormalPreconditioner(origin.precond, origin.operator.columns.n_owned)
        solver.method, solver.rungs = make_method("cg"), ()
        x, info = solver.run(b)
        origin._settle(info)
        return x

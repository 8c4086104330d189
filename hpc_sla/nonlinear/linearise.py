"""Newton's linear systems: the Jacobian in the form asked for, and its preconditioner."""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from hpc_sla.checkpoint.observer import Observer
from hpc_sla.errors import InputError
from hpc_sla.linear.choose import GIVES_UP
from hpc_sla.linear.info import SolveInfo
from hpc_sla.linear.linear_solver import LinearSolver
from hpc_sla.linear.method import Method
from hpc_sla.linear.methods import check_precond
from hpc_sla.nonlinear.coloured import ColouredJacobian
from hpc_sla.nonlinear.equations import Equations, JacobianProducts
from hpc_sla.nonlinear.fitting import (
    fitting_method,
    fitting_preconds,
    most_colours,
    tolerance_of,
)
from hpc_sla.nonlinear.settings import Settings, check_matrix
from hpc_sla.nonlinear.sparsity import guess
from hpc_sla.nonlinear.trust import direction, serving_products
from hpc_sla.precond import AMG, Jacobi, Preconditioner, make_preconditioner, needs_matrix
from hpc_sla.precond.jacobi import positive
from hpc_sla.sparse.matrix import DSparseMatrix
from hpc_sla.sparse.operators import as_operator

_PATIENCE = 150
"""Iterations that a preconditioner is worth, where it was chosen and there is another."""

_WORTH = 5
"""Iterations of a linear solve beyond those that a fresh preconditioner would take, from which on
it is set up anew, where nobody said how long to keep it. Multigrid's update takes as long."""

_NEXT = (*GIVES_UP, "max_iterations")


@dataclass
class KnownJacobian:
    """What is known of a problem's Jacobian.

    Attributes
    ----------
    coloured : ColouredJacobian or None
    failed : bool
        Whether no pattern is known that has all its entries.
    """

    coloured: ColouredJacobian | None = None
    failed: bool = False


class Linearisation:
    """Solves J(u) s = b for one u after another.

    Parameters
    ----------
    settings : Settings
        Checked.
    maker : Method or None
        None for "auto".
    equations : Equations
    found : KnownJacobian
        Of all linearisations of one problem.
    """

    def __init__(
        self, settings: Settings, maker: Method | None, equations: Equations, found: KnownJacobian
    ) -> None:
        self.settings, self.maker, self.equations = settings, maker, equations
        self._found = found
        self.precond: Preconditioner | None = None
        self.specs: list[str] | None = None
        """What suits the matrix, where that was left open, once it was looked at."""
        self._others: list[Any] = []
        self._of: Any = None
        """The preconditioners left to try, and the matrix that they are made of."""
        self.age = 0
        """Newton steps that the preconditioner has served."""
        self.pace, self.serves = 0.0, False
        """Iterations a digit when it was fresh; whether it is worth keeping still."""
        self.latest = 0, 1.0
        """Iterations by the preconditioner of the last solve, and what they left of the residual
        that they began with."""
        self.made_at: torch.Tensor | None = None
        self.begun_at: torch.Tensor | None = None
        """The u it is of, and the one that what an update keeps of multigrid is of."""
        self.observer: Observer | None = None
        n = equations.layout.n_global
        self.max_iterations = settings.max_iterations or min(max(10 * n, 1000), 100_000)

    def products(self, u: torch.Tensor, r: torch.Tensor | None) -> JacobianProducts:
        """Those with J(u), of a kind that has shown to serve. **Collective.**"""
        equations, info = self.equations, self.equations.info
        if not info.jvp:
            r = equations(u) if r is None else r
            info.jvp, info.reason = serving_products(equations, u, r, self.settings.products)
        return JacobianProducts(equations, u, info.jvp, r)

    def at(self, u: torch.Tensor, r: torch.Tensor | None) -> tuple[Any, DSparseMatrix | None]:
        """J(u): what to multiply by, and its entries where they were assembled. **Collective.**"""
        jacobian = self.settings.jacobian
        if callable(jacobian):
            matrix = self._of_user(u)
        else:
            products = self.products(u, r)
            if jacobian == "matrix_free":
                return products, None
            if jacobian == "coloured":
                matrix = self._assembled(products)
            elif (checked := self._guessed(u, products)) is None:
                return products, None
            else:
                matrix = checked
        return matrix, matrix

    def refresh(self, u: torch.Tensor, J: Any, matrix: DSparseMatrix | None) -> None:
        """Set up the preconditioner anew if its time has come. **Collective.**"""
        lag = self.settings.lag
        kept = self.serves if lag is None else lag == 0 or self.age < lag
        if self.precond is not None and kept:
            self.age += 1
            return
        self.set_up(u, J, matrix, fresh=False)

    def judge(self, info: SolveInfo) -> None:
        """Whether the preconditioner is worth keeping after this solve. Local; replicated."""
        assert self.precond is not None
        iterations, left = self.latest
        digits = -math.log10(left) if 0 < left < 1 else 1.0
        if self.age == 1:
            self.pace = iterations / digits
        excess = iterations - self.pace * digits
        self.serves = info.converged and excess <= _WORTH and not self.precond.pointwise

    def set_up(
        self, u: torch.Tensor, J: Any, matrix: DSparseMatrix | None, fresh: bool = True
    ) -> None:
        """The preconditioner of this J. **Collective.**

        With `fresh` false multigrid keeps the prolongators of an earlier Jacobian, and what suits
        that goes for this one.
        """
        settings = self.settings
        if matrix is None and settings.has_matrix and settings.precond not in (None, "none"):
            matrix = self._of_user(u) if callable(settings.jacobian) else self._assembled(J)
        if matrix is None and settings.named:
            raise settings.no_entries()
        specs = [settings.precond]
        if settings.precond == "auto":
            if fresh or self.specs is None:
                self.specs = fitting_preconds(matrix, self.maker)
            specs = self.specs
        self._use(self._preconditioner(specs, u, J, matrix, fresh), u)

    def _use(self, M: Preconditioner, u: torch.Tensor) -> None:
        """Take a preconditioner of J(u). **Collective.**"""
        if isinstance(M, Jacobi) and self.maker and self.maker.solves == "symmetric":
            M = positive(M)
        # One that was named is of this very matrix, and what it says is the same on every rank.
        named = isinstance(self.settings.precond, str)
        with nullcontext() if named else self.equations.layout.world.agree():
            M.check(len(u), u.dtype, u.device)
            if self.maker:
                check_precond(self.maker, M)
        self.precond, self.age, self.made_at = M, 1, u
        info = self.equations.info
        info.preconditioners += 1
        info.precond = M.name

    def _preconditioner(
        self, specs: list[Any], u: torch.Tensor, J: Any, matrix: DSparseMatrix | None, fresh: bool
    ) -> Preconditioner:
        """The first of `specs` that can be made, or an update of the last. **Collective.**"""
        last = self.precond
        if (
            not fresh
            and needs_matrix(specs[0])
            and matrix is not None
            and isinstance(last, AMG)
            and last.pattern is matrix.pattern
        ):
            self._of = matrix
            return last.update(matrix, keep="prolongators")
        self.begun_at = u
        self._of, self._others = J if matrix is None else matrix, list(specs)
        return self._next()

    def _next(self) -> Preconditioner:
        """The next of those that can be made. **Collective.**"""
        while True:
            spec = self._others.pop(0)
            try:
                return make_preconditioner(spec, self._of, agreed=True)
            except InputError:  # on every rank: singular, or too large
                if not self._others:
                    raise

    @property
    def stale(self) -> bool:
        """Whether something of an earlier u is in the preconditioner."""
        return self.age > 1 or self.begun_at is not self.made_at

    def solve(
        self,
        J: Any,
        b: torch.Tensor,
        rtol: float,
        precond: Any = None,
        maker: Method | None = None,
    ) -> tuple[torch.Tensor, SolveInfo]:
        """J x = b, by `maker` rather than by what the settings say. **Collective.**

        Where the preconditioner was left open and does not pay, the next has its turn.
        """
        open_ = precond is None and maker is None
        maker = maker or self.maker
        if maker is None and self.settings.linear_method is None:
            maker = fitting_method(as_operator(J), precond or self.precond)
        most, x, before = self.max_iterations, None, None
        while True:
            more = open_ and bool(self._others) and most > _PATIENCE
            with torch.no_grad():
                operator = as_operator(J)
                operator.brief = True
                solver = LinearSolver(
                    operator,
                    maker or "auto",
                    self.precond if precond is None else precond,
                    rtol,
                    max_iterations=_PATIENCE if more else most,
                    agreed=True,
                )
                solver.observer = self.observer
                x, info = solver.set_up(b.dtype).run(b, x)
            most -= info.iterations
            begun = 1.0 if before is None else before.relative_residual
            if open_:
                ratio = info.relative_residual / begun if begun else 1.0
                self.latest = info.iterations, ratio
            before = info = after(before, info)
            if not more or info.status not in _NEXT or info.at_rounding:
                return x, info
            assert self.made_at is not None
            self._use(self._next(), self.made_at)

    def _of_user(self, u: torch.Tensor) -> DSparseMatrix:
        with torch.no_grad():
            made = self.settings.jacobian(u)
        self.equations.info.jacobians += 1
        layout = self.equations.layout
        with layout.world.agree():
            check_matrix(made, layout, u.dtype, "jacobian")
        return made

    def _assembled(self, products: JacobianProducts) -> DSparseMatrix:
        coloured = self._found.coloured
        if coloured is None:
            assert self.settings.pattern is not None
            coloured = self._found.coloured = ColouredJacobian(self.settings.pattern)
        self.equations.info.jacobians += 1
        return coloured.assemble(products)

    def _guessed(self, u: torch.Tensor, products: JacobianProducts) -> DSparseMatrix | None:
        """The Jacobian on the pattern given, or on a guessed one, if it is one. **Collective.**

        Every one is tried on a vector: what is right at one u may not be at another.
        """
        found, equations = self._found, self.equations
        if found.failed:
            return None
        if found.coloured is None:
            pattern = self.settings.pattern
            if pattern is None:
                pattern = guess(equations.layout, self.settings.columns, equations.uses(u), u.dtype)
            if pattern is not None:
                made = ColouredJacobian(pattern)
                if self.settings.pattern is not None or made.colours <= most_colours(pattern):
                    found.coloured = made
        if found.coloured is None:
            found.failed = True
            return None
        matrix = self._assembled(products)
        x = direction(equations, u, 29)
        with torch.no_grad():
            exact = products.matvec(x)
            off, size = equations.norms(matrix @ x - exact, exact)
        if off <= tolerance_of(equations.info.jvp, u.dtype) * size:
            return matrix
        found.failed = True
        if self.settings.pattern is None:
            found.coloured = None
        return None


def after(before: SolveInfo | None, info: SolveInfo) -> SolveInfo:
    """What to tell of both, one after the other. Local."""
    if before is not None:
        info.iterations += before.iterations
        info.residual_history = [*before.residual_history, *info.residual_history]
    return info

"""A solve and the solves of its derivatives, for `hpc_sla.adjoint`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from hpc_sla.adjoint import Form, MatrixForm, NormalForm, OperatorForm
from hpc_sla.errors import InputError
from hpc_sla.linear.info import SolveInfo
from hpc_sla.linear.method import Method
from hpc_sla.linear.methods import make_method
from hpc_sla.linear.normal import NormalOperator, NormalPreconditioner
from hpc_sla.linear.unconverged import settle, warn_of_gradient
from hpc_sla.precond.decoupled import DecoupledRows
from hpc_sla.precond.transposed import transposed
from hpc_sla.sparse.matrix import DSparseMatrix, TransposedMatrix
from hpc_sla.sparse.operators import Operator

if TYPE_CHECKING:
    from hpc_sla.linear.solver import Run

_STRONGER = {
    "pipelined_cg": ("cg", "minres"),
    "cg": ("minres", "gmres"),
    "minres": ("cg", "gmres"),
    "richardson": ("gmres", "bicgstab"),
    "bicgstab": ("gmres",),
    "gmres": ("bicgstab",),
    "lsqr": ("gmres", "bicgstab"),
}
"""What a derivative's solve goes on with, one after another, where the method fails: it may do so
for one right-hand side and not for another."""

_FAILED = ("indefinite", "breakdown", "stagnated", "diverged")

Theta = tuple[torch.Tensor, ...]


def parameters_of(A: Any) -> Theta:
    """The tensors whose function A is: theta of `hpc_sla.adjoint`. Local."""
    if isinstance(A, DSparseMatrix):
        return (A.values,)
    if isinstance(A, TransposedMatrix):
        return (A.T.values,)
    parameters = getattr(A, "parameters", None)
    return tuple(parameters()) if callable(parameters) else ()


def with_parameters(A: Any, theta: Theta) -> Any:
    """A of these tensors, on the same pattern; a matrix-free operator holds its own. Local."""
    if isinstance(A, DSparseMatrix):
        return A.with_values(theta[0])
    if isinstance(A, TransposedMatrix):
        return A.T.with_values(theta[0]).T
    return A


def form_of(A: Any) -> Form:
    if isinstance(A, DSparseMatrix):
        return MatrixForm(A.pattern)
    if isinstance(A, TransposedMatrix):
        return MatrixForm(A.T.pattern, transposed=True)
    return OperatorForm(A)


class KrylovSystem:
    """What `solve` was asked for; set up by its first solve and used again by those of derivatives.

    Parameters
    ----------
    A : DSparseMatrix, its transpose, or LinearOperator
    set_up : callable(A) -> Run
        **Collective.** A of plain tensors.
    maker : Method or None
        None for method="auto".
    rtol : float
        Of the derivatives' solves.
    wanted : bool
        Whether a gradient may be asked for.
    strict : bool
        Whether rtol must be met even where rounding allows no less.

    Attributes
    ----------
    info : SolveInfo
        Of the first solve.
    """

    info: SolveInfo

    def __init__(
        self,
        A: Any,
        set_up: Callable[[Any], Run],
        maker: Method | None,
        rtol: float,
        wanted: bool,
        strict: bool,
    ) -> None:
        self.form = form_of(A)
        self._matrix, self._set_up = A, set_up
        self._maker, self._rtol, self._wanted = maker, rtol, wanted
        self._fallback, self.strict = "", strict
        self._run: Run | None = None

    def solve(self, b: torch.Tensor, x0: torch.Tensor | None, theta: Theta) -> torch.Tensor:
        """The solve that was asked for. **Collective.**"""
        run = self._run = self._set_up(with_parameters(self._matrix, theta))
        b = b.detach().contiguous()
        if x0 is not None:
            x0 = x0.detach()
        if self._maker is None:
            x, self.info, self._maker, self._fallback = run.choose(b, x0)
            self._check()
        else:
            self._check()
            x, self.info = run.solve(self._maker, b, x0)
        return x

    @property
    def loosest(self) -> float:
        """The relative residual up to which one for a derivative will do, with a word."""
        return 0.0 if self._run is None or self.strict else self._run.loosest

    @property
    def _one_way(self) -> bool:
        """Whether A and its preconditioner are taken for symmetric."""
        return self._maker is not None and self._maker.needs_symmetric

    @cached_property
    def lopsided(self) -> bool:
        """Whether a method for symmetric matrices solved with one that is not. **Collective.**

        It may, and says what its residual is; but the derivative needs the transpose.
        """
        run = self._run
        assert run is not None
        operator = run.operator
        if not (self._one_way and operator.transposable and run.precond.transposable):
            return False
        return not operator.symmetric(operator.dtype or torch.float64)

    def _check(self) -> None:
        """Refuse what has no derivative before the time is spent. **Collective.**"""
        run = self._run
        if not self._wanted or run is None or self._one_way:
            return
        with run.operator.world.agree():
            if not run.operator.transposable:
                raise InputError(
                    f"the gradient of a solve with {type(self._matrix).__name__} by "
                    f"{self._maker and self._maker.name} needs its transpose",
                    field="A",
                    remedy="Give it an rmatvec or, if it is symmetric, use cg or minres",
                )
            if not run.precond.transposable:
                raise InputError(
                    f"the gradient applies the preconditioner's transpose, and {run.precond.name} "
                    "has none",
                    field="precond",
                    remedy="Pass an object with apply and apply_transpose",
                )
            rows, columns = run.operator.shape
            if not run.operator.square and rows < columns:
                raise InputError(
                    f"the gradient of a least-squares solution needs full column rank, and a "
                    f"{rows} x {columns} matrix has not",
                    field="A",
                    remedy="Solve A A^T y = b (a matrix-free operator) for x = A^T y, or add rows "
                    "that regularise it",
                )

    # The systems of its derivatives. They hold this one, so it must not hold them: in a cycle, all
    # that a solve used would stay until Python's collector comes by.

    @property
    def T(self) -> _Derived:
        return _Derived(self, self.form.T, self._backward_run, transposed=True)

    @property
    def again(self) -> _Derived:
        return _Derived(self, self.form, self._forward_run)

    @property
    def normal(self) -> _Derived:
        """Of the normal equations, by conjugate gradients."""
        return _Derived(self, NormalForm(self.form), self._normal_run, make_method("cg"))

    @cached_property
    def _backward_run(self) -> Run:
        return self._derived_run(not self._one_way or self.lopsided)

    @cached_property
    def _forward_run(self) -> Run:
        return self._derived_run(False)

    @cached_property
    def _normal_run(self) -> Run:
        assert self._run is not None
        operator, M = self._run.operator, self._run.precond
        return self._derive(
            NormalOperator(operator), NormalPreconditioner(M, operator.columns.n_owned)
        )

    def _derived_run(self, transpose: bool) -> Run:
        assert self._run is not None
        operator, M = self._run.operator, self._run.precond
        if transpose:
            return self._derive(operator.T, transposed(M))
        return self._derive(operator, M, self._run.given)

    def _derive(self, operator: Operator, M: Any, given: DecoupledRows | None = None) -> Run:
        assert self._run is not None
        return replace(
            self._run,
            operator=operator,
            precond=M,
            rtol=self._rtol,
            atol=0.0,
            callback=None,
            watch=None,
            told=False,
            loosest=0.0,
            given=given,
        )


class _Derived:
    """A solve in a backward pass, or for a tangent: it must converge."""

    def __init__(
        self,
        origin: KrylovSystem,
        form: Form,
        run: Run,
        maker: Method | None = None,
        transposed: bool = False,
    ) -> None:
        self._origin, self.form, self._run, self._maker = origin, form, run, maker
        self._transposed = transposed

    def solve(self, b: torch.Tensor, x0: torch.Tensor | None, theta: Theta) -> torch.Tensor:
        """**Collective.**

        Raises
        ------
        AdjointSolveError
            On every rank.
        """
        origin, b = self._origin, b.detach().contiguous()
        warn_of_gradient(origin.info)
        maker = self._maker or origin._maker
        assert maker is not None
        x, info = self._run.solve(maker, b, None)
        others = () if self._serves(info) else self._stronger(maker, info)
        for other in others:
            y, found = self._run.solve(self._run.maker(other), b, None)
            if self._serves(found) or found.relative_residual < info.relative_residual:
                x, info = y, found
            if self._serves(info):
                break
        origin.info.adjoint = info
        if not info.converged:
            if self._serves(info):
                settle(info, loosest=1.0)
            else:
                settle(info, usual=0.0, loosest=origin.loosest)
        return x

    def _serves(self, info: SolveInfo) -> bool:
        # What rounding leaves is all there is: no other method, and no more iterations, would help.
        rounded = info.at_rounding and info.relative_residual <= 1.0
        return info.converged or (rounded and not self._origin.strict)

    def _stronger(self, maker: Method, info: SolveInfo) -> Sequence[str]:
        """The methods to go on with where one failed. **Collective.**"""
        origin = self._origin
        if self._maker is not None:
            return ()
        if origin._fallback:
            return (origin._fallback,)
        # Where the solve itself took less than its limit, another method may here.
        short = info.status == "max_iterations" and origin.info.converged
        if not (short or info.status in _FAILED):
            return ()
        return ("gmres",) if origin.lopsided else _STRONGER.get(maker.name, ())

    @property
    def T(self) -> _Derived:
        if self._maker is not None:
            return self  # the normal equations are symmetric
        return self._origin.again if self._transposed else self._origin.T

    @property
    def again(self) -> _Derived:
        return self

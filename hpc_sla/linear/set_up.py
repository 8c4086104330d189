"""What a linear solver makes before it can solve: its method and its preconditioner."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from hpc_sla import adjoint
from hpc_sla.errors import InputError
from hpc_sla.linear.choices import AUTO
from hpc_sla.linear.choose import choose, default_rtol, loosest_rtol
from hpc_sla.linear.derivatives import Differentiable
from hpc_sla.linear.facts import MatrixFacts, look
from hpc_sla.linear.kept import Kept
from hpc_sla.linear.ladder import Rung, rungs_for
from hpc_sla.linear.method import Method
from hpc_sla.linear.methods import check_precond, check_shape, make_method
from hpc_sla.linear.prepared import GraphStore
from hpc_sla.precond import AMG, Jacobi, Preconditioner, make_preconditioner
from hpc_sla.precond.base import transposed
from hpc_sla.precond.decoupled import any_decoupled, given_rows
from hpc_sla.precond.jacobi import positive
from hpc_sla.sparse.matrix import DSparseMatrix
from hpc_sla.sparse.operator import Operator
from hpc_sla.sparse.operators import as_operator
from hpc_sla.sparse.stored import StoredMatrix


class SetUp(Differentiable):
    """A linear solver up to where it iterates.

    Attributes
    ----------
    A
        What was passed.
    facts : MatrixFacts or None
        What the matrix was found to be, where that was looked at.
    """

    facts: MatrixFacts | None = None
    _asked: Method | None
    _asked_precond: Any
    _rtol: float | None
    _agreed: bool
    _ready = False
    _own_decoupled = False
    _decoupled: bool | None
    _plain: Any
    _own_graphs: GraphStore | None = None

    def make_ready(self, dtype: torch.dtype | None, precond: Preconditioner | None = None) -> None:
        """With this preconditioner, or what was asked for. **Collective.**"""
        if self._own_graphs is not None:
            self._own_graphs.clear()
        theta = adjoint.parameters_at_hand(self.A)
        self._versions = _versions(theta)
        there = [t for t in theta if isinstance(t, torch.Tensor)]
        adjoint.plainly(lambda values: self._make(values, dtype, precond), there)
        self._ready, self._decoupled = True, None

    def _make(
        self,
        theta: tuple[torch.Tensor, ...],
        dtype: torch.dtype | None,
        precond: Preconditioner | None,
    ) -> None:
        """**Collective.**"""
        self._plain = plain = adjoint.with_parameters(self.A, theta)
        self.operator = operator = as_operator(plain)
        self._dtype = dtype = operator.dtype or dtype or torch.float64
        self._lopsided, self.kept = [], Kept()
        self._tolerate(dtype)
        self.given = self.facts = None
        if operator.square and isinstance(plain, DSparseMatrix) and self._decoupled is not False:
            self.given = given_rows(plain)
        self.rungs = self._rungs(operator, dtype, precond)
        if self.transposed:
            self.operator, self.given = operator.T, None
        self.reason = ""
        self.climb()
        if not self.chosen:
            self.reason = ""

    @property
    def chosen(self) -> bool:
        """Whether anything was left open."""
        return self._asked is None or is_auto(self._asked_precond)

    def _rungs(
        self, operator: Operator, dtype: torch.dtype, kept: Preconditioner | None
    ) -> list[Rung]:
        """What to try, one after another. **Collective.**

        `kept` is a preconditioner that is to be used, whatever was asked for.
        """
        method, plain = self._asked, self._plain
        precond = self._asked_precond if kept is None else kept
        stored = isinstance(plain, StoredMatrix)
        if is_auto(precond) and stored and operator.square:
            self.facts = look(plain.stored)
            return rungs_for(plain.stored, self.facts, method)
        if is_auto(precond):
            known = operator.square and callable(getattr(self.A, "diagonal", None))
            precond = "jacobi" if stored or known else "none"
        M = precond if self._agreed else self._precondition(precond, method)
        if method is not None:
            return [Rung(method, M, "as asked")]
        choice = choose(operator, dtype, M.symmetric)
        rungs = [Rung(choice.method, M, choice.why)]
        return rungs + [Rung(choice.fallback, M, choice.why)] * bool(choice.fallback)

    def take(self, rung: Rung) -> None:
        """Go on with a rung. **Collective.**

        Raises
        ------
        InputError
            On every rank: its preconditioner cannot be made, or does not go with the method.
        """
        method, M = make_method(rung.method), rung.precond
        if isinstance(M, str):
            M = self._precondition(M, method)
            cycle = getattr(M, "of", M)  # what is transposed, of a transpose
            if method.solves == "spd" and isinstance(cycle, AMG) and cycle.indefinite:
                raise InputError("its coarsest level shows the matrix to be indefinite")
        if isinstance(M, Jacobi) and method.solves == "symmetric":
            M = positive(M)
        self.method, self.precond = method, M
        if self.transposed and M.transposable:
            self.precond = transposed(M)

    def turn(self) -> None:
        """Solve with the transpose from here on, by what is set up for A. Local."""
        self.transposed, self.given = not self.transposed, None
        self.operator = self.operator.T
        if self.precond.transposable:
            self.precond = transposed(self.precond)

    def follow(self, other: SetUp) -> None:
        """Take what served another of the same matrix, or of its transpose. Local."""
        self.method, self.precond, self.patience = other.method, other.precond, other.patience
        self.rungs, self.reason = other.rungs, other.reason
        if other.transposed != self.transposed and self.precond.transposable:
            self.precond = transposed(self.precond)

    def _precondition(self, precond: Any, method: Method | None = None) -> Preconditioner:
        """A preconditioner, fit for the method. **Collective.**"""
        operator, A = as_operator(self._plain), self._plain
        of_transpose = self.facts is not None and A.transposed  # facts are of what is stored
        M = make_preconditioner(precond, A.stored if of_transpose else A, agreed=True)
        if of_transpose and M.transposable:
            M = transposed(M)
        if isinstance(precond, str) and has_order(A):
            # It is of this very matrix, and what it says of itself is the same on every rank.
            if method:
                check_precond(method, M)
            return M
        with operator.world.agree(
            "precond",
            symmetric=M.symmetric,
            transposable=M.transposable,
            pointwise=M.pointwise,
            of_nonsymmetric=M.of_nonsymmetric,
        ):
            M.check(operator.columns.n_owned, self._dtype, operator.device)
            if method:
                check_precond(method, M)
        return M

    def news(
        self,
        dtype: torch.dtype | None,
        theta: Sequence[torch.Tensor | adjoint.Later] | None = None,
    ) -> tuple[bool, bool]:
        """Whether to set up again, and whether this rank has rows decoupled from others. Local.

        `theta` is `parameters_at_hand` of A, if that is known.
        """
        if theta is None:
            theta = adjoint.parameters_at_hand(self.A)
        versions = _versions(theta)
        known = self._ready and self._versions == versions and None not in versions
        if not known:
            self._own_decoupled = isinstance(self.A, DSparseMatrix) and any_decoupled(self.A)
        return not known or dtype not in (None, self._dtype), self._own_decoupled

    def take_in(self, news: Sequence[tuple[bool, bool]]) -> None:
        """What all ranks said of it. Local."""
        if True in [changed for changed, _ in news]:
            self._ready, self._decoupled = False, any(decoupled for _, decoupled in news)

    def _tolerate(self, dtype: torch.dtype) -> None:
        """Take the tolerances that suit the dtype, where they were left open. Local."""
        self.rtol = default_rtol(dtype) if self._rtol is None else self._rtol
        self.loosest = loosest_rtol(dtype) if self._rtol is None else 0.0


def is_auto(precond: Any) -> bool:
    """Whether the preconditioner was left open. Local."""
    return isinstance(precond, str) and precond == AUTO


def asked(method: str | Method, operator: Operator) -> Method | None:
    """The method that was named, if it can work on such a matrix; None for "auto". Local."""
    if method == AUTO:
        return None
    named = make_method(method)
    check_shape(named, operator.shape, operator.square)
    return named


def _versions(theta: Sequence[torch.Tensor | adjoint.Later]) -> list[int | None]:
    """How often the numbers of each have been changed in place. Local.

    Of one that is yet to be made, less than never: who has it in hand may change it otherwise. Of
    an inference tensor nobody counts the changes: None.
    """
    return [_version(t) if isinstance(t, torch.Tensor) else -1 for t in theta]


def _version(t: torch.Tensor) -> int | None:
    return None if t.is_inference() else t._version


def has_order(A: Any) -> bool:
    """A matrix has; in which order an operator of the user's works it alone knows."""
    return isinstance(A, StoredMatrix)

"""LinearSolver: A x = b, set up once for any number of right-hand sides."""

from __future__ import annotations

import time
from contextlib import nullcontext
from copy import copy
from typing import Any

import torch

from hpc_sla import adjoint
from hpc_sla.checkpoint.checkpoint import Checkpoint
from hpc_sla.checkpoint.identity import identify_matrix
from hpc_sla.checkpoint.observer import Observer
from hpc_sla.distributed.arguments import empty_result, tensor_if, warn_of_trainable
from hpc_sla.distributed.forgotten import watch
from hpc_sla.distributed.row_order import check_order, made
from hpc_sla.errors import InputError
from hpc_sla.kernels.modes import entry, ordinary, transformed
from hpc_sla.linear.arguments import (
    check_keep,
    check_options,
    check_same_kind,
    check_told,
    check_vectors,
)
from hpc_sla.linear.bursts import serve
from hpc_sla.linear.choices import AUTO, DEFAULT_METHOD, DEFAULT_PRECOND, DTOL
from hpc_sla.linear.driver import Callback
from hpc_sla.linear.info import SolveInfo
from hpc_sla.linear.method import Method
from hpc_sla.linear.prepared import Borrowed, GraphStore
from hpc_sla.linear.set_up import SetUp, asked, has_order, is_auto
from hpc_sla.linear.unconverged import raise_unconverged, warn_of_rows
from hpc_sla.linear.view import view
from hpc_sla.observe import log
from hpc_sla.observe.monitors import Watch
from hpc_sla.precond import check_known
from hpc_sla.sparse.fingerprint import vector_fingerprint
from hpc_sla.sparse.matrix import DSparseMatrix
from hpc_sla.sparse.operator import LinearOperator, Operator
from hpc_sla.sparse.operators import as_operator


class LinearSolver(SetUp):
    """A x = b for any number of right-hand sides, set up once. **Collective.**

    Differentiable as `solve` is, which is this and one call of its `solve`; there the arguments
    are told of at length. Preconditioner and automatic choices are made by the first solve, or by
    `set_up`; and made again where A's values were changed in place, but for changes that torch does
    not count (through ``.data``, or memory shared with numpy): call `update` after those.

    Parameters
    ----------
    A : DSparseMatrix, its transpose, or LinearOperator
    method : str or Method
    precond : str, Preconditioner, callable or object with `apply`
    rtol, atol : float
    max_iterations : int, optional
    adjoint_rtol : float, optional
    dtol : float
    called : str
        What to call it in messages.
    agreed : bool
        For solvers that are built on this one: A is an operator and `precond` ready to apply, and
        neither they nor the rest is checked, agreed on or looked at.

    Attributes
    ----------
    A
        What was passed.
    method : Method
        The one that is used; of method="auto" once it is chosen.
    precond : Preconditioner
        Once it is set up.
    reason : str
        Why the method was chosen, where it was left open.

    Raises
    ------
    InputError
        On every rank: arguments that do not fit, or that differ between ranks.

    Examples
    --------
    >>> import hpc_sla as hs, scipy.sparse as sp, torch
    >>> world = hs.World(device="cpu")
    >>> A = hs.DSparseMatrix.from_scipy(sp.eye(8) * 2.0 if world.rank == 0 else None, world)
    >>> solver = hs.LinearSolver(A, "cg", "jacobi")
    >>> for scale in (1.0, 2.0):
    ...     b = torch.full((A.layout.n_owned,), scale, dtype=torch.float64)
    ...     x, info = solver.solve(b)
    >>> info.converged, info.iterations
    (True, 1)
    """

    @entry
    def __init__(
        self,
        A: DSparseMatrix | LinearOperator | Operator,
        method: str | Method = DEFAULT_METHOD,
        precond: Any = DEFAULT_PRECOND,
        rtol: float | None = None,
        atol: float = 0.0,
        max_iterations: int | None = None,
        adjoint_rtol: float | None = None,
        dtol: float = DTOL,
        *,
        called: str = "LinearSolver",
        agreed: bool = False,
    ) -> None:
        operator = as_operator(A)
        if max_iterations is None:
            max_iterations = min(max(10 * operator.n_global, 1000), 100_000)
        if agreed:
            named = asked(method, operator)
        else:
            with operator.world.agree(
                called,
                A=(operator.shape, operator.dtype, type(A).__name__),
                method=method,
                precond=precond,
                rtol=rtol,
                atol=atol,
                max_iterations=max_iterations,
                adjoint_rtol=adjoint_rtol,
                dtol=dtol,
                parameters=len(adjoint.parameters_at_hand(A)),
            ):
                check_options(rtol, atol, max_iterations, adjoint_rtol, dtol)
                named = asked(method, operator)
                if called != "solve":  # which sets up in a moment
                    check_known(precond, AUTO)
            warn_of_trainable(precond)
        self.A, self.operator = A, operator
        self.atol, self.dtol, self.max_iterations = atol, dtol, max_iterations
        self._asked, self._asked_precond, self._name = named, precond, str(method)
        self._rtol, self.adjoint_rtol = rtol, adjoint_rtol
        self._called, self._agreed, self._ready = called, agreed, False
        self._own_decoupled, self._decoupled = False, False if agreed else None
        self._own_graphs = None if called == "solve" else GraphStore()  # which solves but once
        self.graphs = Borrowed(self._own_graphs)
        if named:
            self.method = named

    @entry
    def set_up(self, dtype: torch.dtype | None = None) -> LinearSolver:
        """Make the preconditioner, and choose what was left open. **Collective.**

        The first solve does so otherwise. Does nothing where it is done.

        Parameters
        ----------
        dtype : torch.dtype, optional
            Of the vectors, where A does not say.

        Returns
        -------
        LinearSolver
            This one.
        """
        if not self._ready:
            self.make_ready(dtype)
        return self

    @entry
    def solve(
        self,
        b: torch.Tensor,
        x0: torch.Tensor | None = None,
        callback: Callback | None = None,
        checkpoint: Checkpoint | None = None,
        monitor: Any = None,
        throw: bool = False,
    ) -> tuple[torch.Tensor, SolveInfo]:
        """Solve A x = b. **Collective**, in backward too. Differentiable.

        Parameters
        ----------
        b : torch.Tensor [n_owned] or [n_owned, k]
        x0 : torch.Tensor like x, optional
        callback : callable(iteration, residual_norm), optional
        checkpoint : Checkpoint, optional
        monitor : str, callable, or a list of these, optional
        throw : bool

        Returns
        -------
        x : torch.Tensor [n_owned] or [n_owned, k]
        info : SolveInfo

        Raises
        ------
        InputError, NotConvergedError, AdjointSolveError
            As `hpc_sla.solve`.
        """
        started = time.perf_counter()
        operator, ordered = self.operator, has_order(self.A)
        told = None if monitor is None else Watch(operator.world, "solve", monitor, callback)
        b = tensor_if(b, operator.dtype, operator.device)
        dtype = operator.dtype or getattr(b, "dtype", torch.float64)
        x0 = None if x0 is None else tensor_if(x0, dtype, operator.device)
        theta = adjoint.parameters_at_hand(self.A)
        called = self._called if self._called == "solve" else f"{self._called}.solve"
        with adjoint.agree_on_gradients(
            operator.world, called, b=b, x0=x0, checkpoint=checkpoint, throw=bool(throw)
        ) as wanted:
            check_vectors(operator, b, x0)
            check_told(callback, checkpoint, throw)
            if ordered:
                check_order(b, operator.layout, "b")
                if x0 is not None:
                    check_order(x0, operator.columns, "x0")
            dtype = None if operator.dtype else b.dtype
            changed, decoupled = self.news(dtype, theta)
            square, able = self._foresee(b, changed)
            wanted.of((b, x0, *theta), also=(changed, decoupled, able), number=square)
        self.take_in([news[:2] for news in wanted.also])
        self.operator.refresh()
        ables = [able for _, _, able in wanted.also]
        rhs, guess, *rest = wanted.tensors
        assert rhs is not None
        if rhs.shape[1:] == (0,):
            check_known(self._asked_precond, AUTO)
            x = empty_result((operator.columns.n_owned, 0), rhs, *rest)
            return x, SolveInfo("converged", 0, 0.0, 0.0, [0.0])
        call = self._call(rhs, told.callback if told else callback, checkpoint)
        if None not in ables:
            call.first = wanted.total, all(ables)
        gradient = any(wanted.gradients)
        if gradient and not (call.rtol if call.adjoint_rtol is None else call.adjoint_rtol):
            raise InputError(
                "a gradient is wanted, and there is no relative tolerance for its solve",
                field="adjoint_rtol",
                remedy="Give adjoint_rtol a positive number",
            )
        if gradient:
            call.check_gradient()
        with told or nullcontext():
            if told:
                told.begin()
            if gradient or any(wanted.tangents) or transformed():
                function = adjoint.Solve if operator.square else adjoint.LeastSquares
                leading = (call, None) if operator.square else (call,)
                tensors = (ordinary(t) for t in rest if t is not None)
                x = function.apply(*leading, ordinary(rhs), guess, *tensors)
            else:
                with torch.set_grad_enabled(False):  # takes half as long as no_grad
                    x, call.info = call.run(rhs, guess)
        # The graph keeps this; they would keep what it is of.
        call.callback = call.observer = None
        info = call.info
        if call.rungs != self.rungs:  # it failed
            if gradient:
                call.check_gradient()
            if info.converged:
                self.follow(call)
        if not ordered and torch.is_grad_enabled():
            known = [t for t in theta if isinstance(t, torch.Tensor)]
            adjoint.refuse_hidden(self.A, operator, x, known)
        if gradient and operator.device.type != "cpu":
            watch(operator.world, x)(x)  # a sum over ranks does it on the CPU
        info.seconds = time.perf_counter() - started
        log.solved("solve", info)
        x = made(x, operator.columns) if ordered else x
        warn_of_rows(info)
        if throw:
            raise_unconverged("the solve", info, x)
        return x, info

    def _foresee(self, b: torch.Tensor, changed: bool) -> tuple[float, bool | None]:
        """This rank's b . b, and whether compiled steps serve, None where that is yet to be seen.

        Local. What `run` would else have ranks meet for.
        """
        known = self._ready and not changed and b.dim() == 1 and b.is_contiguous()
        if not known or transformed() or not b.is_cpu:
            return 0.0, None
        b = b.detach()
        able = serve(self.method, self.operator, self.precond, b)
        return torch.dot(b, b).item(), able

    def _call(
        self, b: torch.Tensor, callback: Callback | None, checkpoint: Checkpoint | None
    ) -> LinearSolver:
        """What this solve and those of its derivatives go by, whatever becomes of the solver.

        **Collective.**
        """
        if not self._ready:
            self.set_up(b.dtype)
        call = self.__copy__()  # the way by copy.copy takes as long as a small product
        if not self.operator.dtype:
            call._tolerate(b.dtype)
        call.thorough, call.callback = True, callback
        call._own_graphs = None  # a gradient's solve finds those of a solver that is still there
        if checkpoint is not None:
            operator, precond = self.operator, self.precond.name
            if is_auto(self._asked_precond):
                precond = AUTO  # whatever becomes of it

            def identify() -> dict[str, Any]:
                return {
                    "kind": "solve",
                    "method": self._name,
                    "matrix": identify_matrix(self.A, operator),
                    "rhs": vector_fingerprint(operator.layout, b),
                    "dtype": str(b.dtype).removeprefix("torch."),
                    "precond": precond,
                }

            call.observer = Observer(checkpoint, operator.world, identify)
        return call

    @entry
    def solve_transpose(
        self,
        b: torch.Tensor,
        x0: torch.Tensor | None = None,
        callback: Callback | None = None,
        monitor: Any = None,
        throw: bool = False,
    ) -> tuple[torch.Tensor, SolveInfo]:
        """Solve A^T x = b with the same set-up. **Collective**, in backward too. Differentiable.

        A method for symmetric matrices takes A for its own transpose where it has no `rmatvec`.
        Otherwise as `solve`.

        Raises
        ------
        InputError
            On every rank: A is not square, or it or its preconditioner has no transpose.
        """
        self._refresh("solve_transpose", b)
        operator, M = self.operator, self.precond
        with operator.world.agree():
            if not operator.square:
                raise InputError(
                    f"the matrix is {operator.shape[0]} x {operator.shape[1]}",
                    field="A",
                    remedy="Make a LinearSolver of A.T",
                )
            if not self.one_way and not (operator.transposable and M.transposable):
                lacking = M.name if operator.transposable else type(self.A).__name__
                raise InputError(
                    f"{lacking} has no transpose",
                    field="precond" if operator.transposable else "A",
                    remedy="Give it an rmatvec, and the preconditioner an apply_transpose",
                )
        back = copy(self)
        if operator.transposable:
            back.turn()
        x, info = back.solve(b, x0, callback, monitor=monitor, throw=throw)
        if info.converged and back.rungs != self.rungs:  # it failed, and another did not
            self.follow(back)
        return x, info

    def _refresh(self, function: str, b: torch.Tensor | None = None) -> None:
        """Be set up for the present values. **Collective.**"""
        dtype = None if self.operator.dtype else getattr(b, "dtype", None)
        with self.operator.world.agree(f"{self._called}.{function}", b=b) as agreement:
            agreement.say(self.news(dtype))
        self.take_in(agreement.heard)
        self.set_up(dtype)

    @entry
    def update(
        self, A: DSparseMatrix | LinearOperator | Operator, keep: str | None = None
    ) -> LinearSolver:
        """Go on with another matrix of the same layout. **Collective.**

        Parameters
        ----------
        A : DSparseMatrix, its transpose, or LinearOperator
            Of the same kind and layout. Solutions of the one before keep their gradients.
        keep : {"prolongators", "aggregates"}, optional
            Of multigrid, whose pattern has not changed, keep these: see `AMG.update`. Default:
            set up the preconditioner again; one that was passed ready to apply stays as it is.

        Returns
        -------
        LinearSolver
            This one.

        Raises
        ------
        InputError
            On every rank: another layout, dtype or device, or a preconditioner that cannot keep
            anything.
        """
        operator, last = as_operator(A), self.operator
        with last.world.agree(
            f"{self._called}.update",
            A=(operator.shape, operator.dtype, type(A).__name__),
            keep=keep,
            parameters=len(adjoint.parameters_at_hand(A)),
        ):
            check_same_kind(operator, last)
            if keep is not None:
                check_keep(keep, self.precond if self._ready else None)
        kept = None
        if keep is not None and self._ready:
            # A copy: gradients of solutions that are there go by the one before.
            old: Any = copy(self.precond)
            kept = adjoint.plainly(
                lambda theta: old.update(adjoint.with_parameters(A, theta), keep),
                adjoint.parameters_of(A),
            )
        self.A, self.operator = A, operator
        self._ready = False
        if kept is not None:
            self.make_ready(None, kept)
        return self

    @entry
    def view(self) -> str:
        """What is used and why, as several lines of text. **Collective**; replicated.

        The matrix, the method and the side it is preconditioned from, the norm it stops by, the
        tolerances, the preconditioner and its levels, and PETSc's names for the two.
        """
        self._refresh("view")
        return view(self)

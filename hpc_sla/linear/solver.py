"""solve: A x = b."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from hpc_sla import adjoint
from hpc_sla.checkpoint.checkpoint import Checkpoint
from hpc_sla.distributed.arguments import (
    empty_result,
    number_of,
    tensor_if,
    tensor_of,
    warn_of_trainable,
)
from hpc_sla.distributed.forgotten import watch
from hpc_sla.distributed.row_order import check_order, made
from hpc_sla.errors import InputError
from hpc_sla.kernels.modes import entry
from hpc_sla.linear.accuracy import accuracy, judge
from hpc_sla.linear.choose import choose
from hpc_sla.linear.driver import Callback, Outcome, iterate
from hpc_sla.linear.info import SolveInfo, summarise
from hpc_sla.linear.keeper import Watch, identify_matrix
from hpc_sla.linear.method import Method, System, norms_of, values_of
from hpc_sla.linear.methods import check_precond, check_shape, make_method
from hpc_sla.linear.scalars import scalars_for
from hpc_sla.linear.systems import KrylovSystem, parameters_of
from hpc_sla.linear.tolerance import default_rtol, loosest_rtol
from hpc_sla.observe import log
from hpc_sla.precond import Jacobi, Preconditioner, make_preconditioner
from hpc_sla.precond.decoupled import DecoupledRows, any_decoupled, given_rows
from hpc_sla.precond.scaling import ColumnScaling, positive
from hpc_sla.sparse.fingerprint import vector_fingerprint
from hpc_sla.sparse.matrix import DSparseMatrix, TransposedMatrix
from hpc_sla.sparse.operators import LinearOperator, Operator, as_operator
from hpc_sla.storage.limits import machine_memory

DTOL = 1e5
"""PETSc's."""

_SUSPICIOUS = ("max_iterations", "breakdown", "stagnated", "indefinite", "diverged")
"""Statuses that a matrix may have caused which is not symmetric."""

# b . b outside this range and its inverse would lose a residual's square to under- or overflow, in
# float32 as multigrid may work in it for either.
_SQUARES = {torch.float64: 1e-16, torch.float32: 1e-16}

_WORTH_A_THOUGHT = 1000
"""Options up to this fit any machine that holds the matrix."""


@entry
def solve(
    A: DSparseMatrix | LinearOperator,
    b: torch.Tensor,
    method: str | Method = "cg",
    precond: Any = "jacobi",
    rtol: float | None = None,
    atol: float = 0.0,
    max_iterations: int | None = None,
    x0: torch.Tensor | None = None,
    callback: Callback | None = None,
    adjoint_rtol: float | None = None,
    checkpoint: Checkpoint | None = None,
    dtol: float = DTOL,
) -> tuple[torch.Tensor, SolveInfo]:
    """Solve A x = b on all ranks together. **Collective**, in backward too.

    Stops when ||b - A x||_2 <= max(rtol ||b||_2, atol), where the residual is recomputed from
    x before convergence is claimed; each column of b by itself. A rectangular A is solved in the
    sense of least squares, by M^-T A^T (b - A x) relative to M^-T A^T b: see `LSQR`.

    Differentiable in b and in A's values, any number of times and in forward mode, at the cost of
    one solve more for each derivative: with the transpose, the same method and the transposed
    preconditioner, which is not set up again (see `hpc_sla.adjoint`). The gradient is that of the
    exact solution, at the x that was found; that with respect to x0 is 0. Of a rectangular A it
    takes conjugate gradients on A^T A, and A of full column rank.

    Parameters
    ----------
    A : DSparseMatrix, its transpose, or LinearOperator
        Or anything with `layout`, `matvec` and, where they are used, `rmatvec` (lsqr, and the
        gradient of methods for non-symmetric systems), `diagonal` (jacobi, the default
        preconditioner) and `parameters` (tensors to differentiate with respect to).
    b : torch.Tensor [n_owned] or [n_owned, k]
        Per rank. Several columns are solved for at once, with one halo exchange and one
        reduction for all of them; a column that is finished is frozen.
    method : str or Method
        One of `METHODS`, options after a colon: `gmres:restart=50`; or such an object as
        ``GMRES(restart=50)``, a `Method` of your own among them. "auto" chooses: see
        `hpc_sla.linear.choose`, and `info.reason`.
    precond : str, callable or object with `apply`
        See `hpc_sla.precond.make_preconditioner`.
    rtol, atol : float
        Replicated. At least one positive. Default of rtol: 1e-8 in float64, 1e-5 in float32, whose
        rounding allows no less (see `hpc_sla.linear.default_rtol`).
    max_iterations : int, optional
        Replicated. Default: ten times the number of unknowns, at least 1000 and at most 100000.
    x0 : torch.Tensor like x, optional
        Initial guess; default 0, but where a row gives its unknown to others (a Dirichlet value
        whose column was not eliminated) that value. Not modified.
    callback : callable(iteration, residual_norm), optional
        Called on every rank; with the method's own residual norm (the largest, of several
        columns); on an accelerator in bursts.
    adjoint_rtol : float, optional
        Replicated. What the solves for derivatives must reach, relative to their own right-hand
        sides. Default: rtol, or what rounding leaves (`info.adjoint.at_rounding`) where that is
        more. They keep to max_iterations, too.
    checkpoint : Checkpoint, optional
        Saves the state from time to time, and may go on from one. Of this solve, not of those for
        derivatives. The preconditioner is set up again when a solve goes on.
    dtol : float
        Replicated, above 1. A residual norm above dtol times that of b, and of x0, ends the solve
        as `diverged`. Not for a rectangular A.

    Returns
    -------
    x : torch.Tensor [n_owned] or [n_owned, k]
        Like b; of a rectangular A, in the layout of its columns. The best the method has, whatever
        the status: where it lost its way, the x of the least residual on it, and never one that is
        worse than x0, but for the rounding of an x of its size.
    info : SolveInfo
        Replicated but for `seconds`. Look at `info.converged`: a solve that does not converge
        is not an exception. For b `[n_owned, k]`, `info.columns` has one SolveInfo a column.
        After a backward pass `info.adjoint` tells of its solve.

    Raises
    ------
    InputError
        On every rank: an unknown method or preconditioner, one that needs a symmetric
        preconditioner with one that is not, tolerances that cannot be met, shapes or dtypes that
        do not fit; a gradient wanted of what has none (a method for non-symmetric systems with
        an operator or a preconditioner that has no transpose, more columns than rows); a
        checkpoint that is damaged, or of another matrix, right-hand side, method, preconditioner
        or dtype.
    AdjointSolveError
        On every rank, in backward or forward mode: the solve for a derivative did not converge.

    Warns
    -----
    NotConvergedWarning
        In backward or forward mode: the solve itself had not.

    Examples
    --------
    >>> import hpc_sla as hs, numpy as np, scipy.sparse as sp, torch
    >>> world = hs.World(device="cpu")
    >>> A = hs.DSparseMatrix.from_scipy(sp.eye(8) * 2.0 if world.rank == 0 else None, world)
    >>> x, info = hs.solve(A, torch.ones(A.layout.n_owned, dtype=torch.float64))
    >>> info.converged, info.iterations
    (True, 1)
    """
    started = time.perf_counter()
    operator = as_operator(A)
    b = tensor_if(b, operator.dtype, operator.device)
    dtype = b.dtype if isinstance(b, torch.Tensor) else torch.float64
    dtype = operator.dtype or dtype
    x0 = None if x0 is None else tensor_if(x0, dtype, operator.device)
    loosest = loosest_rtol(dtype) if rtol is None else 0.0
    if rtol is None:
        rtol = default_rtol(dtype)
    if max_iterations is None:
        max_iterations = min(max(10 * operator.n_global, 1000), 100_000)
    theta = parameters_of(A)
    with operator.world.agree(
        "solve",
        A=(operator.shape, operator.dtype, type(A).__name__),
        b=b,
        method=method,
        precond=precond,
        rtol=rtol,
        atol=atol,
        max_iterations=max_iterations,
        x0=x0,
        adjoint_rtol=adjoint_rtol,
        dtol=dtol,
        checkpoint=checkpoint,
        parameters=len(theta),
    ) as agreed:
        _check(operator, b, rtol, atol, max_iterations, x0, adjoint_rtol, dtol)
        if _has_order(A):
            check_order(b, operator.layout, "b")
            if x0 is not None:
                check_order(x0, operator.columns, "x0")
        chosen = None if method == "auto" else make_method(method)
        if chosen:
            check_shape(chosen, operator.shape, operator.square)
        wanted = adjoint.Wanted((b, x0, *theta))
        agreed.say((wanted.mine, isinstance(A, DSparseMatrix) and any_decoupled(A)))
    wanted.follow([mine for mine, _ in agreed.heard])
    decoupled = any(some for _, some in agreed.heard)
    rhs, guess, *rest = wanted.tensors
    assert rhs is not None
    if rhs.shape[1:] == (0,):
        return _no_columns(operator, rhs, rest)
    warn_of_trainable(precond)
    strict = adjoint_rtol is not None
    if adjoint_rtol is None:
        adjoint_rtol = rtol
    if any(wanted.gradients) and not adjoint_rtol:
        raise InputError(
            "a gradient is wanted, and there is no relative tolerance for its solve",
            field="adjoint_rtol",
            remedy="Give adjoint_rtol a positive number",
        )

    def set_up(plain: Any) -> Run:
        operator = as_operator(plain)
        M = _precondition(precond, plain, operator, chosen, b.dtype)
        watch = None
        if checkpoint is not None:
            watch = Watch(checkpoint).of(str(method), lambda: _identity(plain, operator, b))
        run = Run(operator, M, rtol, atol, max_iterations, callback, watch, dtol, True, loosest)
        if decoupled and operator.square:
            run.given = given_rows(plain)
        return run

    system = KrylovSystem(A, set_up, chosen, adjoint_rtol, any(wanted.gradients), strict)
    differentiable = adjoint.solve if operator.square else adjoint.least_squares
    x = differentiable(system, rhs, guess, tuple(t for t in rest if t is not None))
    info = system.info
    if torch.is_grad_enabled():
        adjoint.refuse_hidden(A, operator, x, theta)
    if any(wanted.gradients) and operator.device.type != "cpu":
        watch(operator.world, x)(x)  # a sum over ranks does it on the CPU
    info.seconds = time.perf_counter() - started
    log.solved("solve", info)
    return (made(x, operator.columns) if _has_order(A) else x), info


def _has_order(A: Any) -> bool:
    """A matrix has; in which order an operator of the user's works it alone knows."""
    return isinstance(A, (DSparseMatrix, TransposedMatrix))


def _no_columns(
    operator: Operator, b: torch.Tensor, theta: Sequence[torch.Tensor | None]
) -> tuple[torch.Tensor, SolveInfo]:
    """The solution for a block [n_owned, 0], in the graph of what it depends on. Local."""
    x = empty_result((operator.columns.n_owned, 0), b, *theta)
    return x, SolveInfo("converged", 0, 0.0, 0.0, [0.0])


def _identity(A: Any, operator: Operator, b: torch.Tensor) -> dict[str, Any]:
    """What a checkpoint of this solve belongs to. **Collective.**"""
    return {
        "matrix": identify_matrix(A, operator),
        "rhs": vector_fingerprint(operator.layout, b),
        "dtype": str(b.dtype).removeprefix("torch."),
    }


def _precondition(
    precond: Any, A: Any, operator: Operator, chosen: Method | None, dtype: torch.dtype
) -> Preconditioner:
    """The preconditioner, fit for the method. **Collective.**"""
    if precond == "jacobi" and not operator.square:
        return ColumnScaling(A, operator)
    M = make_preconditioner(precond, A, agreed=True)
    if isinstance(M, Jacobi) and chosen and chosen.solves == "symmetric":
        M = positive(M)
    if isinstance(precond, str) and _has_order(A):
        # It is of this very matrix, and what it says of itself is the same on every rank.
        if chosen:
            check_precond(chosen, M)
        return M
    with operator.world.agree():
        M.check(operator.columns.n_owned, operator.dtype or dtype, operator.device)
        if chosen:
            check_precond(chosen, M)
    return M


@dataclass
class Run:
    """One call's choices."""

    operator: Operator
    precond: Preconditioner
    rtol: float
    atol: float
    max_iterations: int
    callback: Callback | None
    watch: Watch | None = None
    dtol: float = DTOL
    told: bool = False
    """Whether the accuracy of each solution is wanted, and not only that of a failed one."""
    loosest: float = 0.0
    """The relative residual up to which a solution that rounding stops has converged."""
    given: DecoupledRows | None = None
    """Rows that give their unknowns to the others: x starts from these values."""

    def choose(
        self, b: torch.Tensor, x0: torch.Tensor | None
    ) -> tuple[torch.Tensor, SolveInfo, Method, str]:
        """method="auto". **Collective.** Also the method that was taken, and one left to try."""
        choice = choose(self.operator, b.dtype, self.precond.symmetric)
        maker, left = self.maker(choice.method), choice.fallback
        reason = f"{choice.why}: {choice.method}"
        # Or had it given up already, when it was saved?
        saved = self.watch.saved_method(self.operator) if self.watch else ""
        given_up = bool(left) and saved == left
        if not given_up:
            x, info = self.solve(maker, b, x0)
            given_up = choice.gives_up(info)
            ended = f"ended {info.status}"
        else:
            ended = "failed before it was resumed"
        if given_up:
            reason += f"; that {ended}: {choice.fallback}"
            maker, left = self.maker(choice.fallback), ""
            x, info = self.solve(maker, b, x0)
        info.reason = reason
        return x, info, maker, left

    def maker(self, name: str) -> Method:
        """The method by that name, and a preconditioner fit for it. **Collective.**"""
        made = make_method(name)
        with self.operator.world.agree():
            check_precond(made, self.precond)
        if made.solves == "symmetric" and isinstance(self.precond, Jacobi):
            self.precond = positive(self.precond)
        return made

    def solve(
        self, make: Method, b: torch.Tensor, x0: torch.Tensor | None
    ) -> tuple[torch.Tensor, SolveInfo]:
        """**Collective.**"""
        self._check_room(make, b)
        if self.given is not None and x0 is None:
            x0 = self.given.start(b)
        scalars = scalars_for(self.operator.world, b)
        (square,) = scalars.dots((b, b))
        squares = values_of(square)
        smallest = _SQUARES[b.dtype]
        if all(smallest < s < 1 / smallest or math.isnan(s) for s in squares):
            x = self._zeros(b) if x0 is None else _copy(x0)
            solved = self._iterate(make, b, x, x0, [math.sqrt(s) for s in squares], None)
        else:
            x, solved = self._solve_scaled(make, b, x0)
        info = summarise(solved, b.dim() == 1)
        symmetric = None
        if self.told and make.needs_symmetric and info.status in _SUSPICIOUS:
            symmetric = self.operator.symmetric(b.dtype)
        for one in (info, *solved):
            one.method, one.precond = str(make), self.precond.name
            one.symmetric = symmetric
        return x, info

    def _check_room(self, make: Method, b: torch.Tensor) -> None:
        """Raise InputError where the method's options ask for more memory than there is.

        **Collective** where they are so large that it is worth a thought.
        """
        counts = [value for value in make.options.values() if isinstance(value, int)]
        if max(counts, default=0) <= _WORTH_A_THOUGHT:
            return
        with self.operator.world.agree():
            columns = 1 if b.dim() == 1 else b.shape[1]
            needed = make.room(self.operator, columns) * b.element_size()
            there = machine_memory()
            if b.is_cuda:
                there = torch.cuda.get_device_properties(b.device).total_memory
            if needed > there:
                raise InputError(
                    f"{make!s} keeps {needed} bytes, and there are {there}",
                    field="method",
                    remedy="Choose a smaller restart, or bicgstab, which keeps a few vectors",
                )

    def _zeros(self, b: torch.Tensor) -> torch.Tensor:
        return b.new_zeros((self.operator.columns.n_owned, *b.shape[1:]))

    def _solve_scaled(
        self, make: Method, b: torch.Tensor, x0: torch.Tensor | None
    ) -> tuple[torch.Tensor, list[SolveInfo]]:
        """Where squares of b under- or overflow, or a column is zero. **Collective.**

        A (x / s) = b / s has the same iterates for s a power of two, one a column.
        """
        largest = self._largest(b)
        # To between 1 and 2: the exponent of the largest number is none of its dtype's too many.
        scales = [2.0 ** (math.frexp(v)[1] - 1) if 0 < v < math.inf else 1.0 for v in largest]
        scale = torch.tensor(scales, dtype=b.dtype, device=b.device).reshape(b.shape[1:])
        b = b / scale
        x = self._zeros(b) if x0 is None else _copy(x0) / scale
        # Whatever the guess, the answer for a column of zeros is known.
        nonzero = torch.tensor([v != 0 for v in largest], device=b.device).reshape(b.shape[1:])
        x = torch.where(nonzero, x, 0.0).contiguous()
        scalars = scalars_for(self.operator.world, b)
        (square,) = scalars.dots((b, b))
        norms = norms_of(square)
        start = None if x0 is None else x.clone()
        solved = self._iterate(make, b, x, start, norms, scales)
        for one, s in zip(solved, scales, strict=True):
            one.residual_norm *= s
            one.residual_history = [norm * s for norm in one.residual_history]
        return x.mul_(scale), solved

    def _largest(self, b: torch.Tensor) -> list[float]:
        """The largest absolute entry of each column. **Collective.**"""
        columns = b.unsqueeze(1) if b.dim() == 1 else b  # -1 would not do for no rows
        mine = columns.abs().amax(dim=0).tolist() if b.shape[0] else [0.0] * columns.shape[1]
        return [self.operator.world.max(value) for value in mine]

    def _iterate(
        self,
        make: Method,
        b: torch.Tensor,
        x: torch.Tensor,
        x0: torch.Tensor | None,
        b_norms: list[float],
        scales: list[float] | None,
    ) -> list[SolveInfo]:
        """**Collective.**"""
        callback, world = self.callback, self.operator.world
        if scales is not None and callback is not None:
            told, largest = callback, max(scales)
            callback = lambda i, norm: told(i, norm * largest)  # noqa: E731
        scalars = scalars_for(world, b)
        r, square = torch.empty_like(b), self.operator.square
        system = System(self.operator, self.precond, b, x, r, [], scalars, not square)
        measures = b_norms
        if not square:
            r.copy_(b)
            measures = self._measures(system)
        elif self.given is not None:
            measures = self._beside_given(system, b_norms)
        system.target = [
            max(self.rtol * norm, min(self.atol / scale, sys.float_info.max))
            for norm, scale in zip(measures, scales or [1.0] * len(b_norms), strict=True)
        ]
        if square:
            system.dtol, system.ceiling = self.dtol, [self.dtol * norm for norm in b_norms]
        one_rank = world.size == 1
        keeper = self.watch.keeper(str(make), system) if self.watch else None
        outcomes = iterate(
            make.on(system),
            system,
            x0,
            measures,
            self.max_iterations,
            one_rank,
            callback,
            keeper,
        )
        norms = b_norms
        if not square:
            (left,) = scalars.dots((r, r))
            norms = norms_of(left)
        infos = [
            _info(outcome, b_norm, None if square else (norm, measure))
            for outcome, b_norm, norm, measure in zip(
                outcomes, b_norms, norms, measures, strict=True
            )
        ]
        for info in infos:
            info.rtol, info.dtype = self.rtol, str(b.dtype).removeprefix("torch.")
        if square and (self.told or not all(info.converged for info in infos)):
            loosest = self.loosest
            if self.given is not None and loosest:
                # What rounding leaves is of the scale of the rows that these values are given to,
                # and b need not be.
                loosest = max(loosest, loosest_rtol(torch.float32))
            judge(infos, accuracy(self.operator, b, x, r, self.rtol), loosest)
        return infos

    def _beside_given(self, system: System, b_norms: list[float]) -> list[float]:
        """What to be small against where rows are given: b, or what is left of it where that is
        less, by columns; but for rounding. **Collective.**
        """
        assert self.given is not None
        start = self.given.start(system.b)
        self.operator(start, system.r)
        torch.sub(system.b, system.r, out=system.r)
        floor = 100 * torch.finfo(start.dtype).eps / max(self.rtol, sys.float_info.min)
        left = norms_of(system.measure())
        return [min(b, max(r, floor * b)) for b, r in zip(b_norms, left, strict=True)]

    def _measures(self, system: System) -> list[float]:
        """||M^-T A^T b||_2 by columns. **Collective.**"""
        measures = norms_of(system.measure())
        if 0.0 in measures:
            # Zero, or squares that underflow?
            found, work = torch.empty_like(system.x), torch.empty_like(system.x)
            system.transposed_product(system.r, found, work)
            pairs = zip(self._largest(found), measures, strict=True)
            if any(largest and not measure for largest, measure in pairs):
                raise InputError(
                    "the entries of A are too small to square",
                    field="A",
                    remedy='Scale the matrix, or use precond="jacobi"',
                )
        return measures


def _info(o: Outcome, b_norm: float, least_squares: tuple[float, float] | None) -> SolveInfo:
    """What became of one column; of a least-squares one its ||b - A x|| and ||M^-T A^T b||."""
    norm, normal = o.norm, None
    if least_squares:
        norm, measure = least_squares
        normal = o.norm / measure if measure else o.norm
    relative = norm / b_norm if b_norm else norm
    info = SolveInfo(o.status or "max_iterations", o.iterations, norm, relative, o.history)
    info.normal_residual = normal
    return info


def _copy(x: torch.Tensor) -> torch.Tensor:
    return x.clone(memory_format=torch.contiguous_format)


def _check(
    operator: Operator,
    b: torch.Tensor,
    rtol: float,
    atol: float,
    max_iterations: int,
    x0: torch.Tensor | None,
    adjoint_rtol: float | None,
    dtol: float,
) -> None:
    tensor_of(b, "b")
    if x0 is not None:
        tensor_of(x0, "x0")
    for name, tolerance in (("rtol", rtol), ("atol", atol), ("adjoint_rtol", adjoint_rtol or 0.0)):
        tolerance = number_of(tolerance, name)
        if not (math.isfinite(tolerance) and tolerance >= 0):
            raise InputError(
                f"{tolerance} is not a tolerance", field=name, remedy="Give a number >= 0"
            )
    if rtol == 0 and atol == 0:
        raise InputError(
            "both tolerances are zero", field="rtol", remedy="Make rtol or atol positive"
        )
    if not number_of(dtol, "dtol") > 1:
        raise InputError(
            f"{dtol} is not above 1", field="dtol", remedy="Give a number such as 1e5, or math.inf"
        )
    if number_of(max_iterations, "max_iterations") < 0:
        raise InputError(f"{max_iterations} is negative", field="max_iterations")
    n_owned = operator.layout.n_owned
    if b.dim() not in (1, 2) or b.shape[0] != n_owned:
        raise InputError(
            f"shape {tuple(b.shape)} is not this rank's [{n_owned}] or [{n_owned}, k]", field="b"
        )
    expected = (operator.columns.n_owned, *b.shape[1:])
    if x0 is not None and x0.shape != expected:
        raise InputError(f"shape {tuple(x0.shape)} is not that of x, {expected}", field="x0")
    dtype = operator.dtype or b.dtype
    if dtype not in _SQUARES:
        raise InputError(f"{dtype} is not supported", field="b", remedy="Pass float64 or float32")
    for name, vector in (("b", b), ("x0", x0)):
        if vector is not None and (vector.dtype != dtype or vector.device != operator.device):
            raise InputError(
                f"{vector.dtype} on {vector.device} does not go with a matrix of "
                f"{dtype} on {operator.device}",
                field=name,
                remedy=f"Pass {name}.to({str(operator.device)!r}, {dtype})",
            )

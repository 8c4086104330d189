"""solve: A x = b, for one right-hand side or one block of them."""

from __future__ import annotations

from typing import Any

import torch

from hpc_sla.checkpoint.checkpoint import Checkpoint
from hpc_sla.linear.choices import DEFAULT_METHOD, DEFAULT_PRECOND, DTOL
from hpc_sla.linear.driver import Callback
from hpc_sla.linear.info import SolveInfo
from hpc_sla.linear.linear_solver import LinearSolver
from hpc_sla.linear.method import Method
from hpc_sla.sparse.matrix import DSparseMatrix
from hpc_sla.sparse.operator import LinearOperator


def solve(
    A: DSparseMatrix | LinearOperator,
    b: torch.Tensor,
    method: str | Method = DEFAULT_METHOD,
    precond: Any = DEFAULT_PRECOND,
    rtol: float | None = None,
    atol: float = 0.0,
    max_iterations: int | None = None,
    x0: torch.Tensor | None = None,
    callback: Callback | None = None,
    adjoint_rtol: float | None = None,
    checkpoint: Checkpoint | None = None,
    dtol: float = DTOL,
    monitor: Any = None,
    throw: bool = False,
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
        gradient of methods for non-symmetric systems), `diagonal` (jacobi) and `parameters`
        (tensors to differentiate with respect to).
    b : torch.Tensor [n_owned] or [n_owned, k]
        Per rank. Several columns are solved for at once, with one halo exchange and one
        reduction for all of them; a column that is finished is frozen.
    method : str or Method
        One of `METHODS`, options after a colon: `gmres:restart=50`; or such an object as
        ``GMRES(restart=50)``, a `Method` of your own among them. "auto" chooses by what A is: see
        `hpc_sla.linear.ladder`, and `info.reason`.
    precond : str, callable or object with `apply`
        See `hpc_sla.precond.make_preconditioner`. "auto" chooses, and goes on to another choice,
        x kept, where one fails or does not pay.
    rtol, atol : float
        Replicated. At least one positive. Default of rtol: 1e-8 in float64, 1e-5 in float32, whose
        rounding allows no less (see `hpc_sla.linear.default_rtol`).
    max_iterations : int, optional
        Replicated. Of all that is tried together. Default: ten times the number of unknowns, at
        least 1000 and at most 100000.
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
    monitor : str, callable, or a list of these, optional
        Whom to tell of each iteration: "print", "print:every=10", "file:PATH", "tensorboard",
        "tensorboard:DIRECTORY", a `hs.Monitor` (these work on rank 0), or a callable as `callback`.
    throw : bool
        Replicated. Whether a solve that does not converge is an exception.

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
    NotConvergedError
        On every rank, with `throw`: its `info` and `x` are what would have been returned.
    AdjointSolveError
        On every rank, in backward or forward mode: the solve for a derivative did not converge.

    Warns
    -----
    AccuracyWarning
        It converged by the norm of the residual, and has rows that did not: `info.hidden`.
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
    solver = LinearSolver(
        A, method, precond, rtol, atol, max_iterations, adjoint_rtol, dtol, called="solve"
    )
    return solver.solve(b, x0, callback, checkpoint, monitor, throw)

"""eigsh: A x = lambda x and A x = lambda B x, A symmetric."""

from __future__ import annotations

import math
import numbers
import time
from typing import Any

import torch

from hpc_sla import adjoint
from hpc_sla.adjoint.forms import parameters_of
from hpc_sla.checkpoint.checkpoint import Checkpoint
from hpc_sla.checkpoint.identity import identify_matrix
from hpc_sla.checkpoint.observer import Observer
from hpc_sla.distributed.arguments import check_count, number_of, tensor_of, warn_of_trainable
from hpc_sla.distributed.forgotten import watch
from hpc_sla.distributed.row_order import check_order, made
from hpc_sla.eigen.dense import serves
from hpc_sla.eigen.mass import aligned
from hpc_sla.eigen.pencil import EigenPencil
from hpc_sla.eigen.precondition import precondition
from hpc_sla.eigen.problem import Callback, Constraints, EigenProblem
from hpc_sla.eigen.scaling import (
    Exponents,
    exponent,
    number_times_power,
    scaled,
)
from hpc_sla.errors import InputError, InputTypeError
from hpc_sla.kernels.modes import entry
from hpc_sla.linear.arguments import check_told
from hpc_sla.linear.choose import default_rtol
from hpc_sla.linear.info import SolveInfo
from hpc_sla.linear.unconverged import raise_unconverged
from hpc_sla.observe import log
from hpc_sla.observe.monitors import Watch
from hpc_sla.precond import check_known, make_preconditioner
from hpc_sla.sparse.matrix import DSparseMatrix
from hpc_sla.sparse.operator import LinearOperator, Operator
from hpc_sla.sparse.operators import as_operator
from hpc_sla.sparse.stored import StoredMatrix

WHICH = {"smallest": 1.0, "largest": -1.0}


@entry
def eigsh(
    A: DSparseMatrix | LinearOperator,
    k: int = 6,
    which: str = "smallest",
    B: DSparseMatrix | LinearOperator | None = None,
    precond: Any = "auto",
    tol: float | None = None,
    max_iterations: int | None = None,
    x0: torch.Tensor | None = None,
    deflate: torch.Tensor | None = None,
    guard: int | None = None,
    callback: Callback | None = None,
    adjoint_rtol: float | None = None,
    checkpoint: Checkpoint | None = None,
    monitor: Any = None,
    throw: bool = False,
) -> tuple[torch.Tensor, torch.Tensor, SolveInfo]:
    """Find eigenpairs of A x = lambda B x. **Collective**, in backward too.

    A pair has converged when ||A v - lambda B v||_2 <= tol |lambda| ||B v||_2,
    recomputed from v; or, where rounding lets none be that small (lambda = 0 of a singular A,
    single precision), when it is at the level of rounding: see
    `hpc_sla.eigen.problem.ResidualScale`.
    Few rows (at most five times k + guard, or 100) are gathered for LAPACK instead.

    Differentiable in the values of A and B: eigenvalues twice, the first time at the cost of no
    solve (unless the pair after the k is not known well enough to tell whether it belongs to a
    cluster: then it is looked for); eigenvectors once, by one more solve with all of them as
    columns. The eigenvalues of a cluster have a gradient in their sum (or another symmetric
    function of all of them), its vectors in what depends on the space they span.

    Parameters
    ----------
    A : DSparseMatrix or LinearOperator
        Symmetric; definite or not.
    k : int
        Replicated. Pairs wanted, at most the number of rows less the vectors of `deflate`.
    which : {"smallest", "largest"}
        Algebraically. Pairs come in that order: ascending, or descending.
    B : DSparseMatrix or LinearOperator, optional
        Symmetric positive definite. A matrix of any pattern, moved to the ranks that have the rows
        of A, where it must be already if it requires grad; or an operator on A's layout.
        Default: the identity.
    precond : str, callable or object with `apply`, optional
        Symmetric and positive definite, an approximation of A, set up once: see
        `hpc_sla.precond.make_preconditioner`. "amg" for the smallest pairs of elliptic problems;
        for the largest pairs none of A helps. "auto", or None: for the smallest pairs of 500 rows
        or more amg, where A's diagonal is positive and its coarsest level does not show A to be
        indefinite; else none, but jacobi where rows are of very different size (penalties,
        units), of A for the smallest and of B for the largest.
    tol : float, optional
        Replicated; positive. Default: 1e-8, and 1e-5 in single precision.
    max_iterations : int, optional
        Replicated. Default: 5000.
    x0 : torch.Tensor [n_owned] or [n_owned, j], optional
        Guesses, such as the vectors of a matrix nearby. Not modified. Without, and beside them,
        the start is pseudo-random in the user's row numbers, the same on any number of ranks.
        Guesses may be eigenvectors of other pairs: so it ends only when a guard beside them, from
        a random start, has found nothing nearer to the wanted end.
    deflate : torch.Tensor [n_owned, c], optional
        Eigenvectors already known; those found are B-orthogonal to them.
    guard : int, optional
        Replicated. How many vectors beyond k are iterated on, for convergence to depend on the
        gap after those. Default: 2 or k / 5, the larger; at least 1 beside x0.
    callback : callable(iteration, residual_norm), optional
        Called on every rank, with the largest norm of the k.
    adjoint_rtol : float, optional
        Replicated. What the solves for derivatives of eigenvectors must reach. Default: tol, or
        what the dtype allows.
    checkpoint : Checkpoint, optional
        Saves the state from time to time, and may go on from one; not where LAPACK does it all.
    monitor : str, callable, or a list of these, optional
        As of `hpc_sla.solve`.
    throw : bool
        Replicated. Whether one that does not converge is an exception.

    Returns
    -------
    w : torch.Tensor [k]
        Replicated: as `layout.dot`'s results, for a loss that every rank holds the same value of.
    V : torch.Tensor [n_owned, k]
        Per rank, with v_i . B v_j = 1 if i = j else 0. Each one's sign is fixed by a pseudo-random
        vector, so that other ranks or a small change of A do not turn it.
    info : SolveInfo
        Replicated but for `seconds`. `info.columns` has one a pair, `relative_residual` relative
        to what tol is; a pair that did not converge is not an exception. Then
        `info.advice` says what to try. After a backward pass through V `info.adjoint` tells of its
        solve.

    Raises
    ------
    InputError
        On every rank: A or B not symmetric, B not positive definite, options out of range, shapes
        or dtypes that do not fit; a checkpoint that is damaged, or of another matrix, number of
        pairs, end of the spectrum, preconditioner or dtype.
    DegenerateEigenvaluesError
        On every rank, in backward: the loss depends on vectors that their eigenvalues do not
        determine.
    NotConvergedError
        On every rank, with `throw`: its `info` and `x` (V) are what would have been returned.
    AdjointSolveError
        On every rank, in backward: the solve for the gradient did not converge.

    Examples
    --------
    >>> import hpc_sla as hs, scipy.sparse as sp
    >>> world = hs.World(device="cpu")
    >>> matrix = sp.diags([float(i) for i in range(1, 301)], format="csr")
    >>> A = hs.DSparseMatrix.from_scipy(matrix if world.rank == 0 else None, world)
    >>> w, V, info = hs.eigsh(A, k=3)
    >>> info.converged, [round(x, 6) for x in w.tolist()]
    (True, [1.0, 2.0, 3.0])
    """
    started = time.perf_counter()
    if isinstance(B, StoredMatrix):
        B = B.stored  # its transpose is the same, as it is to be symmetric
    a, b = as_operator(A), None if B is None else as_operator(B)
    if guard is None:
        guard = max(2, k // 5)
    elif x0 is not None and guard == 0:
        guard = 1  # guesses may be good and of other pairs: one vector looks for what they lack
    if max_iterations is None:
        max_iterations = 5000
    with a.world.agree("eigsh"):
        x0 = None if x0 is None else tensor_of(x0, "x0", a.dtype, a.device)
        deflate = None if deflate is None else tensor_of(deflate, "deflate", a.dtype, a.device)
    if precond is None:
        precond = "auto"
    warn_of_trainable(precond)
    told = Watch(a.world, "eigsh", monitor, callback)
    x0, deflate = (t.unsqueeze(1) if t is not None and t.dim() == 1 else t for t in (x0, deflate))
    theta = (*parameters_of(A), *(() if B is None else parameters_of(B)))
    with adjoint.agree_on_gradients(
        a.world,
        "eigsh",
        A=(a.shape, a.dtype),
        k=k,
        which=which,
        B=b and (b.shape, b.dtype),
        precond=precond,
        tol=tol,
        max_iterations=max_iterations,
        x0=x0,
        deflate=deflate,
        guard=guard,
        adjoint_rtol=adjoint_rtol,
        checkpoint=checkpoint,
        parameters=len(theta),
        throw=bool(throw),
    ) as wanted:
        check_told(callback, checkpoint, throw)
        check_known(precond, "auto")  # few rows need none
        dtype = _dtype(a, b, x0, deflate)
        _check(a, k, which, tol, max_iterations, guard, adjoint_rtol, dtype, x0, deflate)
        matrix = isinstance(A, StoredMatrix)
        for name, block in (("x0", x0), ("deflate", deflate)) if matrix else ():
            if block is not None:
                check_order(block, a.layout, name)
        if b is not None:
            _check_mass(a, B if isinstance(B, DSparseMatrix) else b)
        if tol is None:
            tol = default_rtol(dtype)
        wanted.of(theta)
    tensors = tuple(t for t in wanted.tensors if t is not None)
    if isinstance(B, DSparseMatrix):
        B = aligned(B.with_values(tensors[-1]), a.layout)
        tensors = (*tensors[:-1], B.values)
    units = Exponents(exponent(A, "A", dtype), 0 if B is None else exponent(B, "B", dtype))
    _check_symmetric(scaled(A, units.A), None if B is None else scaled(B, units.B), dtype)
    strict = adjoint_rtol is not None
    if adjoint_rtol is None:
        adjoint_rtol = max(tol, 100 * torch.finfo(dtype).eps)

    def report(iteration: int, norm: float) -> None:
        if told.callback:
            told.callback(iteration, number_times_power(norm, units.residuals))

    def set_up(plain_A: Any, plain_B: Any) -> EigenProblem:
        near_A = scaled(plain_A, units.A)
        near_B = None if plain_B is None else scaled(plain_B, units.B)
        a, b = as_operator(near_A), None if near_B is None else as_operator(near_B)
        problem = EigenProblem(
            a, b, make_preconditioner(None, near_A), k, k + guard, WHICH[which], tol,
            max_iterations, dtype, units, callback=report,
        )  # fmt: skip
        if deflate is not None:
            problem.constraints = Constraints(problem, deflate)
        known = problem.constraints.count if problem.constraints else 0
        if k > a.n_global - known:
            raise InputError(
                f"{k} pairs are wanted of a matrix of {a.n_global} rows"
                + (f", {known} of them known" if known else ""),
                field="k",
                remedy=f"Ask for {a.n_global - known} at most",
            )
        if any(wanted.gradients) or not serves(a.n_global, known, problem.m):
            problem.precond = precondition(
                precond, plain_A, near_A, near_B, problem.sign, units.A, dtype,
                any(wanted.gradients),
            )  # fmt: skip
        if checkpoint is not None:
            asked = {
                "pairs": k,
                "vectors": problem.m,
                "which": which,
                "dtype": str(dtype).removeprefix("torch."),
                "precond": problem.precond.name,
                "deflated": known,
            }
            of = lambda: {**_identity(plain_A, plain_B), **asked}  # noqa: E731
            problem.attach = Observer(checkpoint, a.world, of).attach
        told.begin()
        return problem

    pencil = EigenPencil(A, B, set_up, x0, adjoint_rtol, strict)
    with told:
        w, V = adjoint.eigenpairs(pencil, tensors)
    if torch.is_grad_enabled():
        for operator, own in ((A, tensors[: pencil.split]), (B, tensors[pencil.split :])):
            adjoint.refuse_hidden(operator, a, V, own)
    if any(wanted.gradients):
        watch(a.world, w)(w, V)
    info = pencil.info
    info.seconds = time.perf_counter() - started
    log.solved("eigsh", info)
    V = made(V, a.layout) if matrix else V
    if throw:
        raise_unconverged("eigsh", info, V)
    return w, V, info


def _identity(A: Any, B: Any) -> dict[str, Any]:
    """What a checkpoint belongs to. **Collective.**"""
    return {
        "kind": "eigsh",
        "method": "lobpcg",
        "matrix": identify_matrix(A, as_operator(A)),
        "B": None if B is None else identify_matrix(B, as_operator(B)),
    }


def _dtype(a: Operator, b: Operator | None, *vectors: torch.Tensor | None) -> torch.dtype:
    """That of whatever has one; float64 where nothing does."""
    kinds = [a.dtype, None if b is None else b.dtype]
    kinds += [None if v is None else v.dtype for v in vectors]
    found = {kind for kind in kinds if kind is not None}
    if len(found) > 1:
        raise InputError(
            f"{' and '.join(sorted(map(str, found)))} do not go together",
            field="A, B, x0, deflate",
            remedy="Make all of one dtype",
        )
    dtype = next(iter(found), torch.float64)
    if dtype not in (torch.float64, torch.float32):
        raise InputError(f"{dtype} is not supported", remedy="Use float64 or float32")
    return dtype


def _check(
    a: Operator,
    k: int,
    which: str,
    tol: float | None,
    max_iterations: int,
    guard: int,
    adjoint_rtol: float | None,
    dtype: torch.dtype,
    x0: torch.Tensor | None,
    deflate: torch.Tensor | None,
) -> None:
    if not a.square:
        raise InputError(f"a {a.shape[0]} x {a.shape[1]} matrix has no eigenvalues", field="A")
    if which not in WHICH:
        raise InputError(
            f"{which!r} is unknown", field="which", remedy=f"Choose {' or '.join(WHICH)}"
        )
    for name, number, least in (("k", k, 1), ("guard", guard, 0)):
        if not isinstance(number, numbers.Integral):
            raise InputTypeError(f"{number!r} is not a whole number", field=name)
        if number < least:
            raise InputError(f"is {number}", field=name, remedy=f"Give {least} or more")
    check_count(max_iterations, "max_iterations")
    for name, tolerance in (("tol", tol), ("adjoint_rtol", adjoint_rtol)):
        if tolerance is None:
            continue
        if not (math.isfinite(number_of(tolerance, name)) and tolerance > 0):
            raise InputError(
                f"{tolerance} is not a tolerance", field=name, remedy="Give a positive number"
            )
    for name, block in (("x0", x0), ("deflate", deflate)):
        if block is None:
            continue
        if block.dim() != 2 or block.shape[0] != a.layout.n_owned or not block.shape[1]:
            raise InputError(
                f"shape {tuple(block.shape)} is not this rank's [{a.layout.n_owned}, m]",
                field=name,
            )
        if block.device != a.device:
            raise InputError(f"is on {block.device} and the matrix on {a.device}", field=name)


def _check_mass(a: Operator, B: Any) -> None:
    """Where its rows are is left to `aligned`, of one that has entries."""
    if isinstance(B, DSparseMatrix):
        if B.columns is B.layout and bool((B.diagonal() < 0).any()):
            raise InputError(
                "is not positive definite: it has negative entries on the diagonal",
                field="B",
                remedy="Pass a matrix of which v . B v > 0 for every v",
            )
        return
    b = as_operator(B)
    if not (b.square and a.layout.same(b.layout)):
        raise InputError(
            "does not have its rows on the ranks, and in the order, in which A has them",
            field="B",
            remedy="Pass an operator on A.layout",
        )


def _check_symmetric(A: Any, B: Any, dtype: torch.dtype) -> None:
    """**Collective.**"""
    for name, matrix in (("A", A), ("B", B)):
        if matrix is not None and not as_operator(matrix).symmetric(dtype):
            raise InputError(
                "is not symmetric",
                field=name,
                remedy="Pass a symmetric matrix, such as (A + A^T) / 2",
            )

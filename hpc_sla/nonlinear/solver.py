"""nonlinear_solve: F(u, theta) = 0."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch

from hpc_sla import adjoint
from hpc_sla.checkpoint.checkpoint import Checkpoint
from hpc_sla.distributed.arguments import tensor_if, tensor_of, warn_of_trainable
from hpc_sla.distributed.layout import RowLayout
from hpc_sla.errors import InputError, InputTypeError
from hpc_sla.kernels.modes import entry, transformed
from hpc_sla.linear.arguments import check_told
from hpc_sla.linear.method import Method as LinearMethod
from hpc_sla.linear.unconverged import raise_unconverged
from hpc_sla.nonlinear.arguments import Arguments
from hpc_sla.nonlinear.equations import FirstLook
from hpc_sla.nonlinear.info import MEANINGS, NonlinearInfo
from hpc_sla.nonlinear.method import Callback, Choices, NonlinearMethod, make_method
from hpc_sla.nonlinear.problem import NonlinearSolve
from hpc_sla.nonlinear.settings import Settings
from hpc_sla.observe import log
from hpc_sla.observe.monitors import Watch
from hpc_sla.sparse.matrix import DSparseMatrix
from hpc_sla.sparse.product import uses


@entry
def nonlinear_solve(
    residual: Callable[..., torch.Tensor],
    u0: torch.Tensor,
    *theta: Any,
    layout: RowLayout | None = None,
    method: str | NonlinearMethod = "newton",
    rtol: float | None = None,
    atol: float = 0.0,
    max_iterations: int | None = None,
    jacobian: str | Callable[..., DSparseMatrix] = "auto",
    pattern: DSparseMatrix | None = None,
    jvp: str = "forward",
    linear_method: str | LinearMethod | None = None,
    precond: Any = "auto",
    precond_lag: int | None = None,
    linear_max_iterations: int | None = None,
    forcing: float | None = None,
    line_search: bool = True,
    fixed_point: Callable[..., torch.Tensor] | None = None,
    callback: Callback | None = None,
    adjoint_rtol: float | None = None,
    checkpoint: Checkpoint | None = None,
    monitor: Any = None,
    throw: bool = False,
) -> tuple[torch.Tensor, NonlinearInfo]:
    """Find u with F(u, theta) = 0 on all ranks together. **Collective**, in backward too.

    Stops when ||F(u)||_2 <= max(rtol ||F(u0)||_2, atol). From a u0 that is nearly a root (the
    step before, in a continuation) give atol, since rtol may then ask for less than rounding
    leaves. Where rtol is left open, what rounding leaves will do: at a u0 that is a root already,
    and up to 100 times the default.

    Differentiable in theta, any number of times in reverse mode and once in forward mode, at the
    cost of one linear solve for each derivative: with the transposed Jacobian at the solution, and
    the forward preconditioner transposed. It does not depend on how the root was found (see
    `hpc_sla.adjoint.nonlinear`). The gradient with respect to u0 is 0.

    Parameters
    ----------
    residual : callable(u, *theta) -> r
        Torch code on this rank's owned entries, like u0 in and out. It may communicate: products
        `A @ u`, `A.halo(u)` or `A.with_halo(u)` (or those of a HaloPlan), `world.all_sum`. The same
        communication on every rank, whatever it owns.
    u0 : torch.Tensor [n_owned] or [n_owned, k]
        Per rank: where to start; not modified. `[n_owned, k]` is one system with k unknowns at each
        point of `layout`.
    *theta
        What else F depends on: tensors (owned; or replicated, through `world.replicate` outside or
        inside the residual, once), DSparseMatrix, torch.nn.Module (its parameters), lists, tuples,
        named ones too, dicts and dataclasses of these, and constants.
    layout : RowLayout, optional
        Of u. Default: that of `pattern`, or of the first matrix in theta.
    method : str
        One of `METHODS`, options after a colon: "newton", "picard:relaxation=0.5",
        "anderson:memory=5,relaxation=1"; or an object, such as `Anderson(memory=5)`.
    rtol, atol : float
        Replicated. At least one positive. Default of rtol: 1e-8, and 1e-5 in float32.
    max_iterations : int, optional
        Replicated; outer ones. Default: 50 for newton, 1000 for the others.
    jacobian : {"auto", "matrix_free", "coloured"} or callable(u, *theta) -> DSparseMatrix
        Of newton, and of the gradient with any method. "auto": coloured, on `pattern` or else on
        the entries of the matrices that F multiplies by, as long as its product with a vector is
        the exact one; else matrix-free. A function gives dF/du with this rank's rows; one that is
        inexact costs iterations, but no accuracy, in the gradient neither.
    pattern : DSparseMatrix, optional
        Where the Jacobian may have entries. For "coloured" and "auto", and for a preconditioner
        that needs entries beside matrix-free products.
    jvp : {"forward", "reverse", "fd"}
        How a product with dF/du is found; see `PRODUCTS`. "fd" takes differences, gradients are
        exact still. Those of torch are held against a difference; where torch has none, or they do
        not agree, differences serve: see `info.jvp` and `info.reason`.
    linear_method : str or Method, optional
        Of the linear systems, as `method` of `hpc_sla.solve`: "cg" where J is symmetric positive
        definite, "auto" to choose by each J. Default: gmres, with as long a restart as memory
        allows, up to 500.
    precond : Any
        Of the linear systems, as of `hpc_sla.solve`; of picard and anderson M in
        g(u) = u - M^-1 F(u), set up at u0. "auto": for newton and gradients, where J has entries,
        what `hpc_sla.solve` takes where nothing is named, one after another; else "none".
    precond_lag : int, optional
        Set up anew every so many Newton steps; 0 keeps the first. Default: as soon as linear solves
        take some iterations more by it than by a fresh one. One that has become useless is set up
        anew in any case.
    linear_max_iterations : int, optional
        Of a linear solve. Default: as `hpc_sla.solve`.
    forcing : float, optional
        Relative tolerance of every linear solve. Default: Eisenstat and Walker's, see `Forcing`.
    line_search : bool
        Whether newton shortens steps that do not make ||F|| smaller.
    fixed_point : callable(u, *theta) -> g, optional
        For picard and anderson: a map whose fixed point is the root, in place of u - M^-1 F(u).
    callback : callable(iteration, residual_norm), optional
        Called on every rank at each outer iteration, 0 included.
    adjoint_rtol : float, optional
        Replicated. What linear solves for derivatives must reach. They try what found u, and
        then a fresh preconditioner, a longer restart and other methods. Default: the smaller of
        rtol and 1e-8 (1e-5 in float32); where all that falls short 1e-8 will do, and with a warning
        up to 100 times that.
    checkpoint : Checkpoint, optional
        Of newton: saves u from time to time, between outer iterations, and may go on from there.
        Told to stop within a linear solve it saves the u before, and that solve is lost. A
        function has no digest: give the checkpoint a `tag`. A u whose ||F(u)|| is not what it
        was is refused.
    monitor : str, callable, or a list of these, optional
        As of `hpc_sla.solve`.
    throw : bool
        Replicated. Whether one that does not converge is an exception.

    Returns
    -------
    u : torch.Tensor like u0
        The iterate with the smallest ||F(u)||, whatever the status.
    info : NonlinearInfo
        Replicated but for `seconds`. Look at `info.converged`.

    Raises
    ------
    InputError
        On every rank: unknown names, tolerances or limits out of range, shapes, layouts or dtypes
        that do not fit, a preconditioner that needs entries where there are none; a residual that
        computes with tensors that require a gradient and are not in theta; a gradient wanted with
        a preconditioner that has no transpose; a checkpoint that is damaged or of something else.
        In backward: a residual that autograd cannot follow back to u.
    NotConvergedError
        On every rank, with `throw`: its `info` and `x` are what would have been returned.
    AdjointSolveError
        On every rank, in backward or forward mode: the solve for a derivative did not converge.

    Warns
    -----
    NotConvergedWarning
        In backward, once: u is no root.
    RuntimeWarning
        In backward, once: autograd's derivative of F in u is not that of its values.

    Examples
    --------
    >>> import hpc_sla as hs, torch
    >>> world = hs.World(device="cpu")
    >>> layout = hs.RowLayout.even(6, world)
    >>> a = torch.full((layout.n_owned,), 2.0, dtype=torch.float64, requires_grad=True)
    >>> u, info = hs.nonlinear_solve(
    ...     lambda u, a: u**2 - a, torch.ones_like(a).detach(), a, layout=layout
    ... )
    >>> info.converged
    True
    """
    started = time.perf_counter()
    arguments = Arguments(theta)
    layout = _layout(layout, pattern, arguments)
    u0 = tensor_if(u0, None, layout.world.device)
    told = Watch(layout.world, "nonlinear_solve", monitor, callback)
    choices = Choices(
        rtol=rtol,
        atol=atol,
        max_iterations=max_iterations,
        forcing=forcing,
        line_search=line_search,
        fixed_point=None,
        callback=told.callback,
        adjoint_rtol=adjoint_rtol,
        checkpoint=checkpoint,
    )
    settings = Settings(
        jacobian,
        pattern,
        jvp,
        linear_method,
        precond,
        precond_lag,
        linear_max_iterations,
    )
    with adjoint.agree_on_gradients(
        layout.world,
        "nonlinear_solve",
        rows=layout.n_global,
        u0=u0,
        theta=len(arguments.tensors),
        method=method,
        rtol=rtol,
        atol=atol,
        max_iterations=max_iterations,
        jacobian=jacobian,
        pattern=pattern,
        jvp=jvp,
        linear_method=linear_method,
        precond=precond,
        precond_lag=precond_lag,
        linear_max_iterations=linear_max_iterations,
        forcing=forcing,
        line_search=bool(line_search),
        fixed_point=fixed_point,
        adjoint_rtol=adjoint_rtol,
        checkpoint=checkpoint,
        throw=bool(throw),
    ) as wanted:
        check_told(callback, checkpoint, throw)
        u0 = tensor_of(u0, "u0")
        _check_start(u0, layout)
        if not callable(residual):
            raise InputTypeError(f"a {type(residual).__name__} cannot be called", field="residual")
        made = make_method(method)
        choices.settle(made, u0.dtype)
        maker = settings.check()
        settings.columns = u0.shape[1] if u0.dim() == 2 else 1
        if settings.columns == 1:
            settings.check_pattern(layout)
        wanted.of((u0, *arguments.tensors))
    inner = layout.blocked(settings.columns)
    if inner is not layout:
        with layout.world.agree():
            settings.check_pattern(inner)
    warn_of_trainable(precond)
    start, *rest = wanted.tensors
    tensors = tuple(t for t in rest if t is not None)
    assert start is not None
    shape = u0.shape

    looked = False

    def evaluated(u: torch.Tensor, *tensors: torch.Tensor) -> torch.Tensor:
        # Outside of any agreement: it communicates, and a rank that fails half way must end the
        # job, not wait for others that wait for it.
        return residual(u.view(shape), *arguments.put(tensors))

    def flat(u: torch.Tensor, *tensors: torch.Tensor) -> torch.Tensor:
        nonlocal looked
        r = evaluated(u, *tensors)
        # What is wrong with it is so each time: that once all ranks agree on it will do.
        with nullcontext() if looked else layout.world.agree():
            _check_residual(r, shape, u)
        looked = True
        return r.reshape(-1)

    def with_theta(function: Any) -> Any:
        """The user's function of (u, *theta), as one of the flat u and theta's tensors."""
        return lambda u, tensors: function(u.view(shape), *arguments.put(tensors))

    if fixed_point is not None:
        given = with_theta(fixed_point)
        choices.fixed_point = lambda u, tensors: given(u, tensors).reshape(-1)
    if callable(jacobian):
        settings.jacobian = with_theta(jacobian)
    warn_behind: Callable[..., None] | None = None
    first: FirstLook | None = None
    if torch.is_grad_enabled():
        warn_behind, first = _refuse_hidden(evaluated, layout, start, tensors)
        looked = True
    problem = NonlinearSolve(flat, inner, choices, made, settings, maker, any(wanted.gradients[1:]))
    with told:
        told.begin()
        problem.find(start.reshape(-1), tensors, None if transformed() else first)
    u = adjoint.root(problem, start.reshape(-1), tensors)
    if warn_behind is not None:
        warn_behind(u)
    problem.info.seconds = time.perf_counter() - started
    log.solved("nonlinear_solve", problem.info)
    if throw:
        raise_unconverged("the nonlinear solve", problem.info, u.view(shape), MEANINGS)
    return u.view(shape), problem.info


def _layout(layout: Any, pattern: Any, arguments: Arguments) -> RowLayout:
    """Local: without a layout there are no other ranks to agree with."""
    if layout is None:
        known = [m for m in (pattern, *arguments.matrices) if isinstance(m, DSparseMatrix)]
        for other in known if isinstance(pattern, DSparseMatrix) else []:
            square = other.columns is other.layout and other.shape == known[0].shape
            if square and not other.layout.fits(known[0].layout):
                raise InputError(
                    "orders rows otherwise than a matrix that is passed to the residual",
                    field="pattern",
                    remedy="Give it layout=A.layout where it is made, or say whose layout is that "
                    "of u",
                )
        if known:
            return known[0].layout
    if not isinstance(layout, RowLayout):
        raise InputError(
            "whose unknowns these are is not known" if layout is None else "not a RowLayout",
            field="layout",
            remedy="Pass the RowLayout of u, such as A.layout or RowLayout.even(n, world)",
        )
    return layout


def _check_start(u0: Any, layout: RowLayout) -> None:
    n = layout.n_owned
    if u0.dtype not in (torch.float64, torch.float32):
        raise InputError(
            f"not a tensor of float64 or float32 but of {u0.dtype}",
            field="u0",
            remedy="Pass u0.double()",
        )
    if u0.dim() not in (1, 2) or u0.shape[0] != n:
        raise InputError(
            f"shape {tuple(u0.shape)} is not this rank's [{n}] or [{n}, k]", field="u0"
        )
    if u0.device != layout.world.device:
        raise InputError(f"on {u0.device}, this rank's device is {layout.world.device}", field="u0")


def _check_residual(r: Any, shape: torch.Size, u: torch.Tensor) -> None:
    """Local."""
    if not isinstance(r, torch.Tensor):
        raise InputError(
            f"the residual gave a {type(r).__name__} where a tensor is needed", field="residual"
        )
    if r.shape != shape:
        raise InputError(
            f"the residual gave shape {tuple(r.shape)} where {tuple(shape)}, that of u, is needed",
            field="residual",
        )
    if r.dtype != u.dtype or r.device != u.device:
        raise InputError(
            f"the residual gave {r.dtype} on {r.device} where {u.dtype} on {u.device}, that of u, "
            "is needed",
            field="residual",
            remedy="Have all that it computes with of the dtype of u0",
        )


def _refuse_hidden(
    evaluated: Callable[..., torch.Tensor],
    layout: RowLayout,
    u0: torch.Tensor,
    tensors: Sequence[torch.Tensor],
) -> tuple[Callable[..., None] | None, FirstLook]:
    """Refuse a residual whose gradient would be lost without a word. **Collective.**

    Also what warns behind u of parameters that are not replicated (see `distributed.forgotten`),
    and what F(u0) was found to be.
    """
    world, look = layout.world, None
    with torch.enable_grad(), uses() as found:
        image = evaluated(u0.detach().reshape(-1), *tensors)
    with world.agree() as agreed:
        _check_residual(image, u0.shape, u0)
        image = image.reshape(-1)
        if hidden := adjoint.hidden_tensors(image, tensors):
            raise InputError(
                f"the residual computes with {hidden} tensor(s) that require a gradient and are "
                "not among its arguments",
                field="theta",
                remedy="Pass them after u0, as tensors, matrices or modules, or in lists, tuples, "
                "dicts or dataclasses of these; or detach them, or solve under torch.no_grad()",
            )
        if world.size > 1:
            look = world.forgotten.look(image, (layout.n_owned,))
            agreed.say(bool(look.new))
    if look is not None and any(agreed.heard):
        world.forgotten.compare(look)
    return None if look is None else look.warn_behind, (image.detach(), found)

"""The root of a nonlinear system as a differentiable function.

Of u(theta) with F(u, theta) = 0, a cotangent c of u gives with one linear solve (the implicit
function theorem; M. Blondel et al., "Efficient and modular implicit differentiation", NeurIPS 2022)

    J^T y = c,    theta: -d(y . F(u, theta)) / d theta at fixed u,    J = dF / du,

and a tangent of theta the tangent -J^-1 dF. Both are made of differentiable functions again (the
linear solve is that of `hpc_sla.adjoint.linear`, its matrix a function of u and theta), so that
derivatives of any order exist. What is kept is u and theta, however the root was found.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch

from hpc_sla.adjoint import linear
from hpc_sla.adjoint.forms import Changes, Form, Theta, minus
from hpc_sla.distributed.keep_in_graph import keep_in_graph, tied
from hpc_sla.errors import HpcSlaError
from hpc_sla.kernels.function import Function
from hpc_sla.kernels.modes import ordinary

Residual = Callable[..., torch.Tensor]
"""`residual(u, *theta)`, of tensors, by differentiable torch code. **Collective** in general."""


class Equation(Protocol):
    """F(u, theta) = 0, with the solver for it."""

    residual: Residual

    def solve(self, u0: torch.Tensor, theta: Theta) -> torch.Tensor:
        """The u, a new tensor. **Collective** in general; not differentiable."""

    @property
    def jacobian(self) -> linear.Derivable:
        """J(u, theta) x = b, its theta being (u, *theta), its form a `JacobianForm`."""


def root(equation: Equation, u0: torch.Tensor, theta: Theta) -> torch.Tensor:
    """The u with F(u, theta) = 0. **Collective** as the equation's solve is, in backward too.

    Differentiable in theta, any number of times in reverse mode and once in forward mode; the
    gradient with respect to u0 is zero. Which of u0 and theta require a gradient must be the same
    on every rank: see `Wanted`.
    """
    return _Root.apply(equation, u0, *map(ordinary, theta))


class _Root(Function):
    @staticmethod
    def forward(equation: Equation, u0: torch.Tensor, *theta: torch.Tensor) -> torch.Tensor:
        return equation.solve(u0, theta)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        ctx.equation, _, *theta = inputs
        ctx.save_for_backward(output, *theta)
        ctx.save_for_forward(output, *theta)

    @staticmethod
    def leads_to(node: Any) -> tuple[Any, ...]:
        """Nowhere: whether theta is replicated shows in the residual only."""
        return ()

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        u, *theta = ctx.saved_tensors
        _, wants_u0, *wants = ctx.needs_input_grad
        d_u0 = torch.zeros_like(u) if wants_u0 else None
        if not any(wants):
            return (None, d_u0, *(None for _ in theta))
        c = keep_in_graph(grads[0], u, *theta)
        y = linear.derivative(ctx.equation.jacobian, c, (u, *theta), True)
        pulled = pull(ctx.equation.residual, (u, *theta), y, (False, *wants))
        return (None, d_u0, *map(minus, pulled[1:]))

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> torch.Tensor:
        u, *theta = ctx.saved_tensors
        changes = tuple(tangents[2:])
        # Absent tangents are absent on every rank alike.
        if all(d is None for d in changes):
            return torch.zeros_like(u)
        change = push(ctx.equation.residual, (u, *theta), (None, *changes))
        return linear.derivative(ctx.equation.jacobian, -change, (u, *theta), False)


def pull(
    residual: Residual, point: Sequence[torch.Tensor], y: torch.Tensor, wanted: Sequence[bool]
) -> Changes:
    """The gradient of y . F(point) with respect to the wanted tensors of `point`. **Collective.**

    Each taken for a variable of its own, also where one was computed from another. Differentiable
    in `point` and y.
    """
    track = torch.is_grad_enabled()
    with torch.enable_grad():
        own = _variables(point, wanted, track)
        image = residual(*own)
    return _gradients(image, own, wanted, y, track)


def push(residual: Residual, point: Sequence[torch.Tensor], changes: Changes) -> torch.Tensor:
    """The change of F for changes of some tensors of `point`. **Collective.** Differentiable.

    By the transpose of the transpose, which needs no forward mode: it may be called in that.
    """
    track = torch.is_grad_enabled()
    wanted = tuple(d is not None for d in changes)
    with torch.enable_grad():
        own = _variables(point, wanted, track)
        image = residual(*own)
        y = torch.zeros_like(image, requires_grad=True)
        pulled = _gradients(image, own, wanted, y, True)
    pairs = [
        (g, d)
        for g, d in zip(pulled, changes, strict=True)
        if g is not None and d is not None and g.requires_grad
    ]
    if not pairs:
        return torch.zeros_like(image)
    of, along = zip(*pairs, strict=True)
    (found,) = torch.autograd.grad(of, y, along, create_graph=track, allow_unused=True)
    return torch.zeros_like(image) if found is None else found


class JacobianForm(Form):
    """J(u, theta) = dF / du as a function of (u, *theta).

    Parameters
    ----------
    residual : callable(u, *theta)
    transposed : bool
    symmetric : bool
        Whether J is taken for its own transpose.
    """

    plain = False

    def __init__(
        self, residual: Residual, transposed: bool = False, symmetric: bool = False
    ) -> None:
        self._residual, self._transposed = residual, transposed
        self._symmetric = symmetric

    def times(self, theta: Theta, x: torch.Tensor) -> torch.Tensor:
        rest = len(theta) - 1
        if self._transposed:
            (found, *_) = pull(self._residual, theta, x, (True, *[False] * rest))
            assert found is not None
            return found
        return push(self._residual, theta, (x, *[None] * rest))

    def pull(
        self, theta: Theta, y: torch.Tensor, x: torch.Tensor, wanted: tuple[bool, ...]
    ) -> Changes:
        if self._transposed:
            x, y = y, x
        track = torch.is_grad_enabled()
        with torch.enable_grad():
            own = _variables(theta, (True, *wanted[1:]), track)
            image = self._residual(*own)
            (along,) = _gradients(image, own[:1], (True,), y if track else y.detach(), True)
        assert along is not None
        return _gradients(along, own, wanted, x, track)

    def push(self, theta: Theta, changes: Changes, x: torch.Tensor) -> torch.Tensor:
        raise HpcSlaError("second derivatives of a nonlinear solve exist in reverse mode only")

    @property
    def T(self) -> JacobianForm:
        if self._symmetric:
            return self
        return JacobianForm(self._residual, not self._transposed)


def _variables(
    point: Sequence[torch.Tensor], wanted: Sequence[bool], track: bool
) -> list[torch.Tensor]:
    """The same values as variables that nothing else in the graph was computed from.

    With `track`, as views: what is found with them stays a function of `point`.
    """
    own = []
    for tensor, wants in zip(point, wanted, strict=True):
        if track and tensor.requires_grad:
            own.append(tensor.view_as(tensor))
        else:
            own.append(tensor.detach().requires_grad_(wants and tensor.is_floating_point()))
    return own


def _gradients(
    image: torch.Tensor,
    own: Sequence[torch.Tensor],
    wanted: Sequence[bool],
    y: torch.Tensor,
    track: bool,
) -> Changes:
    """Zero where the image does not depend on a wanted one, None where it is not wanted."""
    chosen = [t for t, wants in zip(own, wanted, strict=True) if wants]
    found: tuple[torch.Tensor | None, ...] = (None,) * len(chosen)
    if image.requires_grad:
        with tied(y, image):
            found = torch.autograd.grad(
                image, chosen, y, create_graph=track, retain_graph=track, allow_unused=True
            )
    full = iter(torch.zeros_like(t) if g is None else g for t, g in zip(chosen, found, strict=True))
    return tuple(next(full) if wants else None for wants in wanted)

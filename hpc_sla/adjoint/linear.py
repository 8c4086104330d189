"""The solution of a linear system as a differentiable function.

Of x = A(theta)^-1 b, a cotangent c of x gives with one solve more (M. B. Giles, "An extended
collection of matrix derivative results for forward and reverse mode automatic differentiation",
2008, section 2.2.3)

    A^T y = c,    b: y,    theta: -d(y . A(theta) x) / d theta,    x0: 0,

and tangents of b and theta give the tangent A^-1 (db - dA x). Both are made of differentiable
functions again, this one among them, so that derivatives of any order exist. What is kept is x
and theta, however the solution was found.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import torch

from hpc_sla.adjoint.forms import Form, leads_to
from hpc_sla.distributed.keep_in_graph import keep_in_graph
from hpc_sla.kernels.function import Function
from hpc_sla.kernels.modes import ordinary


class Derivable(Protocol):
    """A(theta) x = b for any b, at one theta, with the solver for derivatives."""

    @property
    def form(self) -> Form:
        """What A(theta) is."""

    def derivative(
        self, b: torch.Tensor, theta: tuple[torch.Tensor, ...], transposed: bool
    ) -> torch.Tensor:
        """The x of A(theta) x = b, or of A(theta)^T x = b, for a derivative.

        **Collective** in general. Raises where an error must not go unnoticed: nobody looks at what
        became of a solve in a backward pass. theta is that of the system, and without a graph.
        """


class LinearSystem(Derivable, Protocol):
    """The same, with the solve that derivatives are of."""

    info: Any
    """What `run` says of itself."""

    def run(self, b: torch.Tensor, x0: torch.Tensor | None) -> tuple[torch.Tensor, Any]:
        """The x, a new tensor, and what is to be said of it. **Collective** in general.

        Not differentiable.
        """


class Solve(Function):
    """`Solve.apply(system, None, ordinary(b), x0, *map(ordinary, theta))` is the x.

    **Collective** as the system's solve is, in backward too. Differentiable in b and theta, any
    number of times, and in forward mode. Which of b, x0 and theta require a gradient must be the
    same on every rank: see `Wanted`. The second argument is None for the solve that was asked for;
    of one for a derivative, whether it is with the transpose.
    """

    @staticmethod
    def forward(
        system: LinearSystem,
        transposed: bool | None,
        b: torch.Tensor,
        x0: torch.Tensor | None,
        *theta: torch.Tensor,
    ) -> torch.Tensor:
        if transposed is None:
            x, system.info = system.run(b, x0)
            return x
        return system.derivative(b, theta, transposed)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        ctx.system, transposed, _, _, *theta = inputs
        ctx.transposed = bool(transposed)
        ctx.save_for_backward(output, *theta)
        ctx.save_for_forward(output, *theta)

    @staticmethod
    def leads_to(node: Any) -> tuple[Any, ...]:
        return leads_to(node, node.system.form.plain)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, *theta = ctx.saved_tensors
        _, _, wants_b, wants_x0, *wants_theta = ctx.needs_input_grad
        d_x0 = torch.zeros_like(x) if wants_x0 else None
        if not (wants_b or any(wants_theta)):
            return (None, None, None, d_x0, *(None for _ in theta))
        y = derivative(ctx.system, keep_in_graph(grads[0], x, *theta), theta, not ctx.transposed)
        d_theta: tuple[torch.Tensor | None, ...] = tuple(None for _ in theta)
        if any(wants_theta):
            # The sign on the vector: there are more entries than rows.
            d_theta = _form(ctx).pull(tuple(theta), -y, x, tuple(wants_theta))
        return (None, None, y if wants_b else None, d_x0, *d_theta)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> torch.Tensor:
        x, *theta = ctx.saved_tensors
        _, _, rhs, _, *d_theta = tangents
        # Absent tangents are absent on every rank alike.
        if any(d is not None for d in d_theta):
            change = _form(ctx).push(tuple(theta), tuple(d_theta), x)
            rhs = -change if rhs is None else rhs - change
        if rhs is None:
            return torch.zeros_like(x)
        return derivative(ctx.system, rhs, theta, ctx.transposed)


def derivative(
    system: Derivable, b: torch.Tensor, theta: Sequence[torch.Tensor], transposed: bool
) -> torch.Tensor:
    """`system.derivative`, differentiable as `Solve` is. **Collective.**"""
    found: torch.Tensor = Solve.apply(system, transposed, ordinary(b), None, *map(ordinary, theta))
    return found


def _form(ctx: Any) -> Form:
    form: Form = ctx.system.form
    return form.T if ctx.transposed else form


R = TypeVar("R")

_TRANSFORMED = getattr(torch._C, "_are_functorch_transforms_active", None)
"""What `apply` itself asks for torch.func; without it the long way is taken."""


def plainly(function: Callable[[tuple[torch.Tensor, ...]], R], theta: Sequence[torch.Tensor]) -> R:
    """What `function` makes of the values of theta, without graphs, tangents and torch.func. Local.

    For what is made of theta once, before a `Solve`: within a transform every new tensor would be
    wrapped.
    """
    made: list[R] = []
    with torch.no_grad():
        if _TRANSFORMED is not None and not _TRANSFORMED():
            return function(tuple(ordinary(t).detach() for t in theta))
        _Plainly.apply(lambda values: made.append(function(values)), *map(ordinary, theta))
    return made[0]


class _Plainly(Function):
    """A forward is where torch has unwrapped its tensors, whatever is at work."""

    @staticmethod
    def forward(function: Callable[[Any], None], *theta: torch.Tensor) -> torch.Tensor:
        function(tuple(t.detach() for t in theta))
        return torch.empty(0)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[None, ...]:
        raise AssertionError("nothing comes of it")

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> torch.Tensor:
        return torch.zeros(0)

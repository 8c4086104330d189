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

from typing import Any, Protocol

import torch

from hpc_sla.adjoint.forms import Form, leads_to
from hpc_sla.distributed.keep_in_graph import kept
from hpc_sla.kernels.modes import ordinary


class System(Protocol):
    """A(theta) x = b for any b, with the solver for it."""

    @property
    def form(self) -> Form:
        """What A(theta) is."""

    def solve(
        self, b: torch.Tensor, x0: torch.Tensor | None, theta: tuple[torch.Tensor, ...]
    ) -> torch.Tensor:
        """The x, a new tensor. **Collective** in general; not differentiable.

        theta is what the system was made of, at every call. Raises where an error must not go
        unnoticed: nobody looks at what became of a solve in a backward pass.
        """

    @property
    def T(self) -> System:
        """The transposed system, for a backward pass: the set-up reused."""

    @property
    def again(self) -> System:
        """This system, for a tangent."""


def solve(
    system: System,
    b: torch.Tensor,
    x0: torch.Tensor | None,
    theta: tuple[torch.Tensor, ...],
) -> torch.Tensor:
    """Solve A(theta) x = b. **Collective** as the system's solve is, in backward too.

    Differentiable in b and theta, any number of times, and in forward mode. Which of b, x0 and
    theta require a gradient must be the same on every rank: see `Wanted`.
    """
    return _Solve.apply(system, ordinary(b), x0, *map(ordinary, theta))


class _Solve(torch.autograd.Function):
    @staticmethod
    def forward(
        system: System, b: torch.Tensor, x0: torch.Tensor | None, *theta: torch.Tensor
    ) -> torch.Tensor:
        return system.solve(b, x0, theta)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        ctx.system, _, _, *theta = inputs
        ctx.save_for_backward(output, *theta)
        ctx.save_for_forward(output, *theta)

    @staticmethod
    def leads_to(node: Any) -> tuple[Any, ...]:
        return leads_to(node, node.system.form.plain)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, *theta = ctx.saved_tensors
        _, wants_b, wants_x0, *wants_theta = ctx.needs_input_grad
        d_x0 = torch.zeros_like(x) if wants_x0 else None
        if not (wants_b or any(wants_theta)):
            return (None, None, d_x0, *(None for _ in theta))
        y = _Solve.apply(ctx.system.T, kept(grads[0], x, *theta), None, *theta)
        d_theta: tuple[torch.Tensor | None, ...] = tuple(None for _ in theta)
        if any(wants_theta):
            # The sign on the vector: there are more entries than rows.
            d_theta = ctx.system.form.pull(tuple(theta), -y, x, tuple(wants_theta))
        return (None, y if wants_b else None, d_x0, *d_theta)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> torch.Tensor:
        x, *theta = ctx.saved_tensors
        _, rhs, _, *d_theta = tangents
        # Absent tangents are absent on every rank alike.
        if any(d is not None for d in d_theta):
            change = ctx.system.form.push(tuple(theta), tuple(d_theta), x)
            rhs = -change if rhs is None else rhs - change
        if rhs is None:
            return torch.zeros_like(x)
        return _Solve.apply(ctx.system.again, rhs, None, *theta)

"""The least-squares solution of a system with more rows than columns, as a differentiable function.

x = (A^T A)^-1 A^T b of a matrix of full column rank. A cotangent c of x gives, with the residual
r = b - A x and one solve more (G. H. Golub and V. Pereyra, SIAM J. Numer. Anal. 10, 1973)

    A^T A w = c,    b: A w,    theta: d(r . A w) / d theta - d((A w) . A x) / d theta,    x0: 0.

Of a rank-deficient A that solve has no end, but for c in A's row space: then this is the derivative
along changes that keep the rank.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch

from hpc_sla.adjoint.forms import Form, leads_to, minus, plus
from hpc_sla.adjoint.linear import Derivable, derivative
from hpc_sla.distributed.keep_in_graph import keep_in_graph
from hpc_sla.kernels.function import Function


class LeastSquaresSystem(Protocol):
    """min ||b - A(theta) x||_2 for any b, at one theta, with the solver for it."""

    info: Any
    """What `run` says of itself."""

    @property
    def form(self) -> Form:
        """What A(theta) is."""

    def run(self, b: torch.Tensor, x0: torch.Tensor | None) -> tuple[torch.Tensor, Any]:
        """As of `LinearSystem`."""

    @property
    def normal(self) -> Derivable:
        """A^T A w = c; its form is the `NormalForm` of this one."""


class LeastSquares(Function):
    """`LeastSquares.apply(system, ordinary(b), x0, *map(ordinary, theta))` is the x.

    It makes ||b - A(theta) x||_2 least. As `Solve` otherwise. **Collective.**
    """

    @staticmethod
    def forward(
        system: LeastSquaresSystem, b: torch.Tensor, x0: torch.Tensor | None, *theta: torch.Tensor
    ) -> torch.Tensor:
        x, system.info = system.run(b, x0)
        return x

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        ctx.system, b, _, *theta = inputs
        ctx.save_for_backward(output, b, *theta)
        ctx.save_for_forward(output, b, *theta)

    @staticmethod
    def leads_to(node: Any) -> tuple[Any, ...]:
        return leads_to(node, node.system.form.plain)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, b, *saved = ctx.saved_tensors
        theta = tuple(saved)
        _, wants_b, wants_x0, *wants_theta = ctx.needs_input_grad
        d_x0 = torch.zeros_like(x) if wants_x0 else None
        if not (wants_b or any(wants_theta)):
            return (None, None, d_x0, *(None for _ in theta))
        form = ctx.system.form
        w = derivative(ctx.system.normal, keep_in_graph(grads[0], x, *theta), theta, True)
        y = form.times(theta, w)
        d_theta: tuple[torch.Tensor | None, ...] = tuple(None for _ in theta)
        if any(wants_theta):
            wants = tuple(wants_theta)
            through_r = form.pull(theta, b - form.times(theta, x), w, wants)
            through_x = form.pull(theta, y, x, wants)
            d_theta = tuple(map(plus, through_r, map(minus, through_x)))
        return (None, y if wants_b else None, d_x0, *d_theta)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> torch.Tensor:
        x, b, *saved = ctx.saved_tensors
        theta = tuple(saved)
        _, d_b, _, *changes = tangents
        form, d_theta = ctx.system.form, tuple(changes)
        rhs = None if d_b is None else form.T.times(theta, d_b)
        if any(d is not None for d in d_theta):
            r = b - form.times(theta, x)
            through_x = form.T.times(theta, form.push(theta, d_theta, x))
            rhs = plus(rhs, form.T.push(theta, d_theta, r) - through_x)
        if rhs is None:
            return torch.zeros_like(x)
        return derivative(ctx.system.normal, rhs, theta, False)

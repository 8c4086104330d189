"""Eigenvalues and eigenvectors of a symmetric pencil as differentiable functions.

Of A v_i = lambda_i B v_i with v_i . B v_j = [i = j], for symmetric changes of A and B (J. R.
Magnus, Econometric Theory 1, 1985; M. B. Giles, 2008, section 3.1)

    d lambda_i = v_i . (dA - lambda_i dB) v_i,
    d v_i = -(A - lambda_i B)^+ (dA - lambda_i dB) v_i - v_i (v_i . dB v_i) / 2.

Cotangents g of the values and C of the vectors are turned round into two coefficient matrices of
the known vectors, whose pairs cost no solve, and one projected solve a vector for the rest.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch

from hpc_sla.adjoint.forms import Changes, Form, Theta
from hpc_sla.distributed.reductions import Replicate
from hpc_sla.distributed.world import World
from hpc_sla.errors import HpcSlaError
from hpc_sla.kernels.function import Function
from hpc_sla.kernels.modes import ordinary


class Pencil(Protocol):
    """A(theta_A) x = lambda B(theta_B) x, with what computes its pairs."""

    A: Form
    B: Form | None
    split: int
    """How many of theta are A's."""
    world: World

    def pairs(self, theta: Theta) -> tuple[torch.Tensor, torch.Tensor]:
        """(values [k], vectors [n_owned, k]). **Collective**; not differentiable."""

    def refuse_parts(self, V: torch.Tensor, g: torch.Tensor) -> None:
        """Raise where cotangents g of the values tell apart what coincides. **Collective.**"""

    def begin_derivative(self) -> None:
        """Say what there is to say of one. Local."""

    def left(
        self, V: torch.Tensor, g: torch.Tensor, C: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(M, K, Y) for cotangents g of the values and C of V. **Collective.**

        M = V^T C; the weights of pairs of known vectors, K_ji = (M_ji - M_ij) / (2 (lambda_i -
        lambda_j)); and -(A - lambda_i B)^+ c_i outside the span of V, by columns. Raises where
        the loss depends on values or vectors that are not determined.
        """


def eigenpairs(pencil: Pencil, theta: Theta) -> tuple[torch.Tensor, torch.Tensor]:
    """(values [k] replicated, vectors [n_owned, k]). **Collective**, in backward too.

    Differentiable in theta, those of A followed by those of B: values twice, vectors once.
    """
    return _Pairs.apply(pencil, *map(ordinary, theta))


class _Pairs(Function):
    @staticmethod
    def forward(pencil: Pencil, *theta: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return pencil.pairs(theta)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
        ctx.pencil, *theta = inputs
        ctx.save_for_backward(*output, *theta)
        ctx.set_materialize_grads(False)

    @staticmethod
    def leads_to(node: Any) -> tuple[Any, ...]:
        pencil = node.pencil
        plain = pencil.A.plain and (pencil.B is None or pencil.B.plain)
        return tuple(before for before, _ in node.next_functions) if plain else ()

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        values, V, *theta = ctx.saved_tensors
        g, C = grads
        pencil, (_, *wanted) = ctx.pencil, ctx.needs_input_grad
        if (g is None and C is None) or not any(wanted):
            return (None,) * (1 + len(theta))
        pencil.begin_derivative()
        if C is None:
            assert g is not None
            pencil.refuse_parts(V.detach(), g.detach())
            # For a second derivative: each rank's use of what is the same on all is a part.
            g, values = (Replicate.apply(t, pencil.world, None) for t in (g, values))
            left_A, left_B = V * g, V * (-g * values)
        else:
            if g is None:
                g = torch.zeros_like(values)
            left_A, left_B = _Left.apply(pencil, values, V, g, C)
        split = pencil.split
        found = _pull(pencil.A, tuple(theta[:split]), left_A, V, tuple(wanted[:split]))
        if pencil.B is not None:
            found += _pull(pencil.B, tuple(theta[split:]), left_B, V, tuple(wanted[split:]))
        return (None, *found)


def _pull(
    form: Form, theta: Theta, left: torch.Tensor, V: torch.Tensor, wanted: tuple[bool, ...]
) -> Changes:
    """The gradient of sum_i left_i . F(theta) v_i, along symmetric changes. **Collective.**"""
    if not any(wanted):
        return (None,) * len(wanted)
    # Both halves in one exchange.
    y, x = torch.cat([left, V], dim=1) * 0.5, torch.cat([V, left], dim=1)
    return tuple(form.pull(theta, y, x, wanted))


class _Left(Function):
    """What A's and B's changes are multiplied with from the left, for a loss with vectors in it."""

    @staticmethod
    def forward(
        ctx: Any,
        pencil: Pencil,
        values: torch.Tensor,
        V: torch.Tensor,
        g: torch.Tensor,
        C: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        M, K, Y = pencil.left(V, g, C)
        means = (values + values.unsqueeze(1)) * 0.5
        for_A = K + torch.diag(g)
        for_B = means * K + torch.diag(g * values) + (M + M.T) * 0.25
        return torch.addmm(Y, V, for_A), -torch.addmm(Y * values, V, for_B)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        raise HpcSlaError(
            "second derivatives of eigenvectors are not available, and none higher than the second "
            "of eigenvalues; make the loss of eigenvalues alone, or differentiate it once"
        )

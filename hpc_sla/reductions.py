"""Sums over ranks and replicated values, as each other's adjoint."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from hpc_sla.kept import kept

if TYPE_CHECKING:
    from hpc_sla.world import World


class AllSum(torch.autograd.Function):
    """Partial values in, their replicated sum out; the adjoint of `Replicate`."""

    @staticmethod
    def forward(tensor: torch.Tensor, world: World) -> torch.Tensor:
        total = tensor.detach().clone(memory_format=torch.contiguous_format)
        world.transport.all_reduce_sum(total)
        return total

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        ctx.world = inputs[1]

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return Replicate.apply(kept(grads[0]), ctx.world), None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> torch.Tensor:
        return AllSum.apply(tangents[0], ctx.world)


class Replicate(torch.autograd.Function):
    """A replicated value in, the same value out, its cotangents summed over ranks."""

    @staticmethod
    def forward(tensor: torch.Tensor, world: World) -> torch.Tensor:
        return tensor.view_as(tensor)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        ctx.world = inputs[1]

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return AllSum.apply(kept(grads[0]), ctx.world), None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> torch.Tensor:
        return tangents[0].view_as(tangents[0])

"""Sums over ranks and replicated values, as each other's adjoint."""

from __future__ import annotations

import math
from typing import Any

import torch

from hpc_sla.distributed.forgotten import Tags
from hpc_sla.distributed.keep_in_graph import keep_in_graph
from hpc_sla.distributed.ranks import Ranks
from hpc_sla.errors import PartialGradientWarning, warn
from hpc_sla.kernels.function import Function


class AllSum(Function):
    """Partial values in, their replicated sum out; the adjoint of `Replicate`."""

    @staticmethod
    def forward(tensor: torch.Tensor, world: Ranks, tags: Tags | None) -> torch.Tensor:
        if not tagged(world, tensor):
            total = tensor.detach().clone(memory_format=torch.contiguous_format)
            world.transport.all_reduce_sum(total)
            return total
        # On every rank alike, whatever it has to tell.
        tags = tags or Tags()
        packed = torch.cat([tensor.detach().reshape(-1), tensor.new_tensor(tags.own)])
        world.transport.all_reduce_sum(packed)
        first, second, third = packed[-3:].tolist()
        tags.sums = (first, second, third)
        # Not a view, which nobody might change in place.
        return packed[:-3].reshape(tensor.shape).clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        ctx.world = inputs[1]

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return Replicate.apply(keep_in_graph(grads[0]), ctx.world, None), None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> torch.Tensor:
        return AllSum.apply(tangents[0], ctx.world, None)


class Replicate(Function):
    """A replicated value in, the same value out, its cotangents summed over ranks.

    `digest` is one of the value's numbers, for ranks to see in backward that they have the same.
    """

    @staticmethod
    def forward(tensor: torch.Tensor, world: Ranks, digest: int | None) -> torch.Tensor:
        return tensor.view_as(tensor)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        _, ctx.world, ctx.digest = inputs
        ctx.shape = output.shape

    @staticmethod
    def leads_to(node: Any) -> tuple[Any, ...]:
        """Nowhere, for `distributed.forgotten`: what lies before gets its whole gradient."""
        return ()

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        world, digest = ctx.world, ctx.digest
        kind = f"{grads[0].dtype} {list(grads[0].shape)}".removeprefix("torch.")
        with world.agree("replicate", tensor=kind):
            pass
        tags = Tags()
        if digest is not None:
            # Sums of their squares are exact up to 2^53, in single precision up to 2^24.
            exact = 2**53 if grads[0].dtype == torch.float64 else 2**24
            digest %= math.isqrt(exact // world.size) + 1
            tags.own = (1.0, float(digest), float(digest * digest))
        found = AllSum.apply(keep_in_graph(grads[0]), world, tags)
        ranks, total, squares = map(int, tags.sums)
        # The variance, which all ranks know: a filter may make an error of the warning.
        if digest is not None and ranks == world.size and ranks * squares != total * total:
            warn(
                f"what went through world.replicate (shape {list(ctx.shape)}) differs between "
                "ranks: give it the same value on all, as world.replicate_module and comm.bcast do",
                PartialGradientWarning,
            )
        return found, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> torch.Tensor:
        return tangents[0].view_as(tangents[0])


class ReplicateAll(Function):
    """`Replicate` of several tensors, the sums of their cotangents in one reduction for a dtype."""

    @staticmethod
    def forward(world: Ranks, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(t.view_as(t) for t in tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
        ctx.world, *tensors = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def leads_to(node: Any) -> tuple[Any, ...]:
        return ()

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        found: list[torch.Tensor | None] = [None] * len(grads)
        for dtype in dict.fromkeys(g.dtype for g in grads):
            which = [i for i, g in enumerate(grads) if g.dtype == dtype]
            packed = torch.cat([grads[i].reshape(-1) for i in which])
            total = AllSum.apply(keep_in_graph(packed, *ctx.saved_tensors), ctx.world, None)
            parts = total.split([grads[i].numel() for i in which])
            for i, part in zip(which, parts, strict=True):
                found[i] = part.view_as(grads[i])
        return (None, *found)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> tuple[torch.Tensor, ...]:
        return tuple(t.view_as(t) for t in tangents[1:])


def tagged(world: Ranks, tensor: torch.Tensor) -> bool:
    """Whether sums of such tensors carry `Tags`. Local; the same on every rank.

    Reading them would wait for a device.
    """
    floats = tensor.dtype in (torch.float64, torch.float32)
    return world.size > 1 and world.device.type == "cpu" and floats

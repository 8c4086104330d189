"""Collectives that no rank may leave out of a graph that is differentiated again.

Autograd runs what lies between an output and the tensors asked for. On a rank whose part of a
vector is empty that can be less than elsewhere: the derivative of `torch.cat` gives a part without
entries a fresh zero for a gradient, and the backward of the collective that made the part, having
been handed a constant, is no function of anything. Differentiated once more, that rank would leave
out a collective which the others wait in. So the backward of every collective first ties the
cotangent it was handed to what its derivatives may be asked for: its own inputs, and what the
solvers name with `tied`.

The order is the same on all ranks in any case: autograd goes through a graph in the reverse order
of its making.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from hpc_sla.kernels.function import Function

# Not thread-local: on CUDA, backward functions run in a thread of autograd's own.
_TIES: list[tuple[torch.Tensor, ...]] = []


@contextmanager
def tied(*tensors: torch.Tensor) -> Iterator[None]:
    """Within, backward passes with create_graph=True stay functions of `tensors`. Local.

    Of the cotangent a pass begins with, and of the tensor it goes back from: its graph holds every
    collective of the forward pass, which a further derivative goes through on other ranks.
    """
    _TIES.append(tensors)
    try:
        yield
    finally:
        _TIES.pop()


def keep_in_graph(cotangent: torch.Tensor, *inputs: torch.Tensor | None) -> torch.Tensor:
    """The cotangent, in the graph of `inputs` and of what `tied` names. Local.

    The graph says so; the gradients with respect to them stay what they were.
    """
    if not torch.is_grad_enabled():
        return cotangent
    candidates = [t for t in inputs if t is not None]
    candidates.extend(t for tensors in _TIES for t in tensors)
    ties = [t for t in candidates if t.requires_grad]
    return _KeepInGraph.apply(cotangent, *ties) if ties else cotangent


def end_of(x: torch.Tensor) -> torch.Tensor | None:
    """An empty tensor in x's graph, which holds none of x's memory. Local."""
    if not (torch.is_grad_enabled() and x.requires_grad):
        return None
    return x.reshape(-1)[:0].clone()


class _KeepInGraph(Function):
    @staticmethod
    def forward(cotangent: torch.Tensor, *ties: torch.Tensor) -> torch.Tensor:
        return cotangent.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        ctx.ties = len(inputs) - 1
        ctx.save_for_forward(inputs[0])

    @staticmethod
    def leads_to(node: Any) -> tuple[Any, ...]:
        """To the cotangent only, for `hpc_sla.distributed.forgotten`: nothing comes of the ties."""
        return (node.next_functions[0][0],)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return (grads[0], *[None] * ctx.ties)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> torch.Tensor:
        if tangents[0] is not None:
            return tangents[0].clone()
        (cotangent,) = ctx.saved_tensors
        return torch.zeros_like(cotangent)

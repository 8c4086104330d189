"""Which gradients are wanted. All ranks must answer alike, since backward communicates."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.autograd import forward_ad

from hpc_sla.distributed.forgotten import watch
from hpc_sla.distributed.world import World
from hpc_sla.errors import InputError
from hpc_sla.sparse.operators import Operator
from hpc_sla.sparse.stored import StoredMatrix

Later = Callable[[], torch.Tensor]
Tensors = Sequence[torch.Tensor | Later | None]
"""One that has yet to be made wants nothing of itself, and is made where another rank's does."""


class Wanted:
    """Whether a gradient is wanted of each tensor of a call, and whether it has a tangent.

    A rank with nothing in a tensor may not know: it follows the others. Made by
    `agree_on_gradients`.

    Attributes
    ----------
    mine : tuple of (bool, bool)
        What this rank says of each.
    tensors : list of tensor or None
        Once ranks have agreed, those that a rank follows others in require a gradient, too; None
        for those that were not made.
    gradients : tuple of bool
        Replicated, once ranks have agreed.
    also : list
        What ranks said beside it, in some order; those who said the same may be left out.
    """

    gradients: tuple[bool, ...]
    also: list[Any]

    def __init__(self, tensors: Tensors = ()) -> None:
        self.of(tensors)

    def of(self, tensors: Tensors, also: Any = None) -> None:
        """Say so of these tensors, and something small that pickles. Local."""
        self._given, self.said = list(tensors), also
        self.tensors: list[torch.Tensor | None] = []
        enabled = torch.is_grad_enabled()
        self.mine = tuple((enabled and _requires_grad(t), _has_tangent(t)) for t in tensors)

    def follow(self, everyone: Sequence[tuple[tuple[bool, bool], ...]]) -> None:
        """Take in every rank's `mine`: `gradients` and `tensors` are then alike on all. Local."""
        numbers = range(len(self.mine))
        self.gradients = tuple(any(rank[i][0] for rank in everyone) for i in numbers)
        tangents = tuple(any(rank[i][1] for rank in everyone) for i in numbers)
        self.tensors = [*map(_follow, self._given, self.mine, self.gradients, tangents)]


@contextmanager
def agree_on_gradients(world: World, function: str, /, **arguments: Any) -> Iterator[Wanted]:
    """`World.agree`, by which ranks also come to want the same gradients. **Collective.**

    The block checks what the user gave, and ends with a call of `Wanted.of`; what it is given is
    then alike on all ranks.
    """
    wanted = Wanted()
    with world.agree(function, **arguments) as agreed:
        yield wanted
        agreed.say((wanted.mine, wanted.said))
    wanted.follow([gradients for gradients, _ in agreed.heard])
    wanted.also = [also for _, also in agreed.heard]


def _follow(
    tensor: torch.Tensor | Later | None, mine: tuple[bool, bool], gradient: bool, tangent: bool
) -> torch.Tensor | None:
    if isinstance(tensor, torch.Tensor):
        made = tensor
    elif tensor is None or not (gradient or tangent):
        return None
    else:
        made = tensor()
    if gradient and not mine[0]:
        made = made.detach().requires_grad_()
    if tangent and not mine[1]:
        made = forward_ad.make_dual(made, torch.zeros_like(made))
    return made


def _requires_grad(tensor: torch.Tensor | Later | None) -> bool:
    return isinstance(tensor, torch.Tensor) and tensor.requires_grad


def _has_tangent(tensor: torch.Tensor | Later | None) -> bool:
    if not isinstance(tensor, torch.Tensor):
        return False
    return forward_ad.unpack_dual(tensor).tangent is not None


def hidden_tensors(image: torch.Tensor, known: Sequence[torch.Tensor]) -> int:
    """How many leaves that require a gradient `image` depends on other than through `known`."""
    stop = {torch.autograd.graph.get_gradient_edge(t).node for t in known if t.requires_grad}
    todo: list[Any] = [image.grad_fn] if image.requires_grad else []
    seen: set[Any] = set()
    hidden = 0
    while todo:
        node = todo.pop()
        if node is None or node in seen or node in stop:
            continue
        seen.add(node)
        hidden += hasattr(node, "variable")
        todo.extend(next_node for next_node, _ in node.next_functions)
    return hidden


def refuse_hidden(
    A: Any, operator: Operator, x: torch.Tensor, theta: Sequence[torch.Tensor]
) -> None:
    """Refuse a matrix-free operator whose gradient would be lost without a word. **Collective.**

    Parameters
    ----------
    A : object with matvec
        As the user gave it; a matrix, and None, have nothing to hide.
    operator : Operator
        Over the same ranks.
    x : torch.Tensor
        The solution: to multiply by, and what to warn behind, see `hpc_sla.distributed.forgotten`.
    theta : sequence of torch.Tensor
        What is known to want a gradient.

    Raises
    ------
    InputError
        On every rank.
    """
    if A is None or isinstance(A, (StoredMatrix, Operator)):
        return
    with torch.enable_grad():
        image = A.matvec(x.detach())
    with operator.world.agree():
        if hidden := hidden_tensors(image, theta):
            raise InputError(
                f"{type(A).__name__}.matvec computes with {hidden} tensor(s) that require a "
                "gradient and that its parameters() does not name",
                field="A",
                remedy="Name them there, detach them, or solve under torch.no_grad()",
            )
    watch(operator.world, image)(x)

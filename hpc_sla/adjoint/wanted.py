"""Which gradients are wanted. All ranks must answer alike, since backward communicates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

import torch
from torch.autograd import forward_ad

from hpc_sla.distributed.agreement import Agreement
from hpc_sla.distributed.forgotten import watch
from hpc_sla.distributed.world import World
from hpc_sla.errors import InputError
from hpc_sla.sparse.operator import Operator
from hpc_sla.sparse.stored import StoredMatrix

Later = Callable[[], torch.Tensor]
Tensors = Sequence[torch.Tensor | Later | None]
"""One that has yet to be made wants nothing of itself, and is made where another rank's does."""


class Wanted:
    """`World.agree`, by which ranks also come to want the same gradients. **Collective.**

    Whether a gradient is wanted of each tensor of a call, and whether it has a tangent: a rank with
    nothing in a tensor may not know, and follows the others. The block checks what the user gave,
    and ends with a call of `of`; what that is given is then alike on all ranks.

    Parameters
    ----------
    agreement : Agreement
        Of `World.agree`.

    Attributes
    ----------
    tensors : list of tensor or None
        Once ranks have agreed, those that a rank follows others in require a gradient, too; None
        for those that were not made.
    gradients, tangents : tuple of bool
        Replicated, once ranks have agreed.
    also : list
        What ranks said beside it, in some order; those who said the same may be left out.
    total : float
        The sum over ranks of the numbers that they gave.
    """

    __slots__ = (
        "_agreement",
        "_given",
        "_mine",
        "_said",
        "also",
        "gradients",
        "tangents",
        "tensors",
        "total",
    )

    _mine: tuple[tuple[bool, bool], ...]
    _said: Any
    gradients: tuple[bool, ...]
    tangents: tuple[bool, ...]
    also: list[Any]
    total: float
    tensors: list[torch.Tensor | None]

    def __init__(self, agreement: Agreement) -> None:
        self._agreement = agreement

    def of(self, tensors: Tensors, also: Any = None, number: float = 0.0) -> None:
        """Say so of these tensors, something small that pickles, and a number. Local."""
        self._given, self._said = tensors, also
        self._agreement.number = number
        enabled = torch.is_grad_enabled()
        # Outside of any level, which is nearly always, there is no tangent; asking takes long.
        within = getattr(forward_ad, "_current_level", 0) >= 0
        self.tensors = [t if isinstance(t, torch.Tensor) else None for t in tensors]
        mine = [
            (False, False)
            if t is None
            else (enabled and t.requires_grad, within and _has_tangent(t))
            for t in self.tensors
        ]
        self._mine = tuple(mine)

    def __enter__(self) -> Wanted:
        self._agreement.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        agreement = self._agreement
        if error is None:
            agreement.say((self._mine, self._said))
        agreement.__exit__(kind, error, trace)
        if error is not None:
            return
        self.total = agreement.number
        self.also = [also for _, also in agreement.heard]
        if len(agreement.heard) == 1:  # all ranks said the same
            each = zip(*self._mine, strict=True) if self._mine else ((), ())
            self.gradients, self.tangents = each
            return
        columns = list(zip(*(mine for mine, _ in agreement.heard), strict=True))
        self.gradients = tuple(any(g for g, _ in column) for column in columns)
        self.tangents = tuple(any(t for _, t in column) for column in columns)
        followed = map(_follow, self._given, self._mine, self.gradients, self.tangents)
        self.tensors = list(followed)


def agree_on_gradients(world: World, function: str, /, **arguments: Any) -> Wanted:
    """What `World.agree` gives, and what ranks want of gradients. **Collective.**"""
    return Wanted(world.agree(function, **arguments))


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


def _has_tangent(tensor: torch.Tensor) -> bool:
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

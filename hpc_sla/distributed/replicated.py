"""A network that all ranks hold, called by each on its own data."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.func import functional_call

from hpc_sla.distributed.forgotten import bytes_of
from hpc_sla.distributed.ranks import Ranks
from hpc_sla.distributed.reductions import ReplicateAll
from hpc_sla.errors import InputError
from hpc_sla.kernels.modes import entry


class Replicated(torch.nn.Module):
    """`module` with replicated parameters. Made by `World.replicate_module`.

    Its own state_dict is `module`'s under the prefix `module.`; save `module.state_dict()`.
    """

    def __init__(self, module: torch.nn.Module, world: Ranks, broadcast: bool) -> None:
        super().__init__()
        _check(module, world, broadcast)
        self.module = module
        self._world = world
        self._broadcast = broadcast
        if broadcast and world.size > 1:
            _take_over_root([*module.parameters(), *module.buffers()], world)

    @entry
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """`module(*args, **kwargs)`. **Collective** in backward; so while it trains buffers."""
        module = self.module
        if self.training and self._broadcast and self._world.size > 1:
            _take_over_root(list(module.buffers()), self._world)
        names, parameters = [], []
        # What is frozen stays out of the sum. Within another functional_call, what that puts there.
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                names.append(name)
                parameters.append(parameter)
        if not parameters:
            return module(*args, **kwargs)
        replicated = ReplicateAll.apply(self._world, *parameters)
        return functional_call(module, dict(zip(names, replicated, strict=True)), args, kwargs)


def _check(module: Any, world: Ranks, broadcast: bool) -> None:
    """**Collective.**"""
    with world.agree("replicate_module", broadcast=bool(broadcast)) as agreed:
        if not isinstance(module, torch.nn.Module):
            raise InputError(
                f"a {type(module).__name__} is not a torch.nn.Module",
                field="module",
                remedy="Pass tensors through world.replicate",
            )
        tensors = [*module.named_parameters(), *module.named_buffers()]
        for name, tensor in tensors:
            if tensor.device != world.device:
                raise InputError(
                    f"{name} is on {tensor.device} and the World on {world.device}",
                    field="module",
                    remedy="Move it first: net.to(world.device)",
                )
        agreed.say([(name, tuple(t.shape), t.dtype, t.requires_grad) for name, t in tensors])
    everyone = agreed.heard
    other = [rank for rank, theirs in enumerate(everyone) if theirs != everyone[0]]
    if other:
        raise InputError(
            "ranks differ in the names, shapes, dtypes or requires_grad of the parameters: rank "
            f"{other[0]} and rank 0",
            field="module",
            remedy="Make the same network on every rank",
        )


@torch.no_grad()
def _take_over_root(tensors: list[torch.Tensor], world: Ranks) -> None:
    """Copy rank 0's values to all. **Collective.**"""
    if not tensors:
        return
    root = None
    if world.rank == 0:
        root = [bytes_of(t) for t in tensors]
    for tensor, values in zip(tensors, world.comm.bcast(root), strict=True):
        # A change in place, even to the same, would be one too many for autograd.
        if world.rank and not np.array_equal(bytes_of(tensor), values):
            tensor.copy_(torch.from_numpy(values).view(tensor.dtype).view(tensor.shape))

"""Values sent to other ranks, each to a place of its own: a permutation, differentiable."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from hpc_sla.distributed.keep_in_graph import end_of, keep_in_graph
from hpc_sla.distributed.world import World
from hpc_sla.kernels.function import Function


class Shipment:
    """Which of a rank's values go where. **Collective**, and so is all of it.

    Parameters
    ----------
    world : World
    goal : int array [m]
        Per rank: the rank that each value goes to.
    """

    def __init__(self, world: World, goal: np.ndarray) -> None:
        order = np.argsort(goal, kind="stable")
        ranks, starts = np.unique(goal[order], return_index=True)
        pieces = np.split(order, starts[1:])
        self.world = world
        self._leaving = dict(zip(ranks.tolist(), pieces, strict=False))
        self._places: dict[int, np.ndarray] | None = None

    def arrived(self, *columns: np.ndarray) -> list[np.ndarray]:
        """What arrived of int64 columns `[m]`: those of rank 0 first, each in its order."""
        messages = {r: np.concatenate([c[i] for c in columns]) for r, i in self._leaving.items()}
        came = self.world.sparse_exchange(messages)
        tables = {r: message.reshape(len(columns), -1) for r, message in came.items()}
        lengths = np.array([table.shape[1] for table in tables.values()], dtype=np.int64)
        runs = np.split(np.arange(lengths.sum()), np.cumsum(lengths)[:-1])
        self._places = dict(zip(tables, runs, strict=False))
        none = np.empty(0, dtype=np.int64)
        stacked = [np.stack([none] * len(columns)), *tables.values()]
        return list(np.concatenate(stacked, axis=1))

    def put(self, place: np.ndarray) -> None:
        """Say which entry of the result each that arrived is: int [arrived]. Local."""
        assert self._places is not None
        self._places = {rank: place[which] for rank, which in self._places.items()}

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        """Values [m], float64 or float32, in their new places. Differentiable, any number of times.

        Every rank's require a gradient, or none's do.
        """
        return _Ship.apply(values, end_of(values), self, False)

    def moved(self, values: torch.Tensor, back: bool) -> torch.Tensor:
        """There or back again, without a graph."""
        assert self._places is not None
        leaving, places = (self._places, self._leaving) if back else (self._leaving, self._places)
        wide = values.detach().cpu().numpy().astype(np.float64)  # exact, both ways
        found = np.empty(sum(map(len, places.values())))
        messages = {rank: wide[which] for rank, which in leaving.items()}
        for rank, message in self.world.sparse_exchange(messages).items():
            found[places[rank]] = message.view(np.float64)
        return torch.from_numpy(found).to(values.device, values.dtype)


class _Ship(Function):
    @staticmethod
    def forward(
        x: torch.Tensor, end: torch.Tensor | None, shipment: Shipment, back: bool
    ) -> torch.Tensor:
        return shipment.moved(x, back)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        _, end, ctx.shipment, ctx.back = inputs
        ctx.save_for_backward(end)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        c = keep_in_graph(grads[0], *ctx.saved_tensors)
        return _Ship.apply(c, end_of(c), ctx.shipment, not ctx.back), None, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> torch.Tensor:
        return _Ship.apply(tangents[0], end_of(tangents[0]), ctx.shipment, ctx.back)

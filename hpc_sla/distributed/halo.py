"""HaloPlan: who sends which owned values to whom, and the differentiable exchange."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from hpc_sla.distributed.keep_in_graph import end_of, keep_in_graph
from hpc_sla.distributed.layout import RowLayout
from hpc_sla.distributed.shared import Shared
from hpc_sla.distributed.transport import Channel, Neighbours
from hpc_sla.kernels.function import Function
from hpc_sla.kernels.modes import entry, lasting


class HaloPlan(Shared):
    """The values this rank needs from others, and those others need from it.

    **Collective.** The ranks that need this rank's values are found by a scalable exchange:
    each rank asks the owners of its halo rows, and no rank learns more than its neighbours.

    Parameters
    ----------
    layout : RowLayout
        Of the vectors to exchange.
    halo : int64 array [n_halo]
        Per rank: the stored rows wanted from other ranks, strictly ascending, none of them owned.

    Attributes
    ----------
    halo : int64 array [n_halo]
    n_halo : int
    send_index : int32 tensor [n_send]
        Owned rows to pack, grouped by receiving rank.
    sends, receives : Neighbours
    """

    def __init__(self, layout: RowLayout, halo: np.ndarray) -> None:
        self.layout = layout
        self.halo = halo
        self.n_halo = len(halo)
        world = layout.world
        owner = np.searchsorted(layout.offsets, halo, side="right") - 1
        ranks, counts = np.unique(owner, return_counts=True)
        edges = np.concatenate([[0], np.cumsum(counts)])
        wanted = {
            int(rank): halo[edges[i] : edges[i + 1]].astype(np.int64)
            for i, rank in enumerate(ranks)
        }
        asked = world.sparse_exchange(wanted)
        self.receives = Neighbours(tuple(wanted), tuple(len(w) for w in wanted.values()))
        self.sends = Neighbours(tuple(asked), tuple(len(a) for a in asked.values()))
        packed = np.concatenate([*asked.values(), np.empty(0, dtype=np.int64)]) - layout.start
        self.send_index = torch.from_numpy(packed.astype(np.int32)).to(world.device)
        self._channels: dict[tuple[str, torch.dtype, tuple[int, ...]], Channel] = {}

    @entry
    def exchange(self, x: torch.Tensor) -> torch.Tensor:
        """The halo values of a distributed vector. **Collective.** Differentiable, twice too.

        Parameters
        ----------
        x : torch.Tensor [n_owned] or [n_owned, k]

        Returns
        -------
        torch.Tensor [n_halo] or [n_halo, k]
            Values of the rows `halo`, in that order.
        """
        return _Exchange.apply(x, end_of(x), self)

    @entry
    def extend(self, x: torch.Tensor) -> torch.Tensor:
        """A distributed vector with its halo values behind. **Collective.** Differentiable, so too.

        One step in the graph: `torch.cat` of the two would lose sight of one that is empty.

        Parameters
        ----------
        x : torch.Tensor [n_owned] or [n_owned, k]

        Returns
        -------
        torch.Tensor [n_owned + n_halo] or [n_owned + n_halo, k]
        """
        return _Extend.apply(x, end_of(x), self)

    @entry
    def reduce(self, h: torch.Tensor) -> torch.Tensor:
        """Send halo contributions home and sum them; the adjoint of `exchange`. **Collective.**

        Parameters
        ----------
        h : torch.Tensor [n_halo] or [n_halo, k]

        Returns
        -------
        torch.Tensor [n_owned] or [n_owned, k]
        """
        return _Reduce.apply(h, end_of(h), self)

    # The raw exchange, on buffers that stay: for loops that must not allocate

    def start_exchange(self, x: torch.Tensor, again: bool = False) -> Channel:
        """Pack and begin; then `finish()` and read `recv_buffer`. **Collective.**

        With `again` (replicated) the values are those of the last time, and stay where they are.
        """
        channel = self.forward_channel(x)
        if again:
            return channel
        if self.sends.ranks:
            torch.index_select(x, 0, self.send_index, out=channel.send_buffer)
        channel.start()
        return channel

    def forward_channel(self, like: torch.Tensor) -> Channel:
        """What `start_exchange` goes through. **Collective** at first use, as `reduce_channel`."""
        return self._channel("forward", like)

    def reduce_channel(self, like: torch.Tensor) -> Channel:
        """Where to put halo contributions: fill `send_buffer`, `start()`, `finish_reduce`.

        **Collective** at first use for a dtype and number of columns.
        """
        return self._channel("reverse", like)

    def finish_reduce(self, channel: Channel, y: torch.Tensor) -> None:
        """Add what arrived to the owned vector `y`, in place. **Collective.**

        One neighbour at a time, in rank order: within one neighbour no row comes twice, so the
        sum's order is fixed and the result repeatable on any device.
        """
        channel.finish()
        start = 0
        for count in self.sends.counts:
            rows = self.send_index.narrow(0, start, count)
            y.index_add_(0, rows, channel.recv_buffer.narrow(0, start, count))
            start += count

    def _channel(self, direction: str, like: torch.Tensor) -> Channel:
        trailing = tuple(like.shape[1:])
        key = (direction, like.dtype, trailing)
        if key not in self._channels:
            there, back = self.sends, self.receives
            if direction == "reverse":
                there, back = back, there
            transport = self.layout.world.transport
            with lasting():
                self._channels[key] = transport.channel(there, back, trailing, like.dtype)
        return self._channels[key]


class _Exchange(Function):
    @staticmethod
    def forward(x: torch.Tensor, end: torch.Tensor | None, plan: HaloPlan) -> torch.Tensor:
        channel = plan.start_exchange(x)
        channel.finish()
        return channel.recv_buffer.clone()  # the buffer is overwritten by the next exchange

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        _, end, ctx.plan = inputs
        ctx.save_for_backward(end)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        c = keep_in_graph(grads[0], *ctx.saved_tensors)
        return _Reduce.apply(c, end_of(c), ctx.plan), None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> torch.Tensor:
        return _Exchange.apply(tangents[0], end_of(tangents[0]), ctx.plan)


class _Extend(Function):
    @staticmethod
    def forward(x: torch.Tensor, end: torch.Tensor | None, plan: HaloPlan) -> torch.Tensor:
        channel = plan.start_exchange(x)
        extended = x.new_empty((len(x) + plan.n_halo, *x.shape[1:]))
        extended[: len(x)] = x
        channel.finish()
        extended[len(x) :] = channel.recv_buffer
        return extended

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        _, end, ctx.plan = inputs
        ctx.save_for_backward(end)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        c = keep_in_graph(grads[0], *ctx.saved_tensors)
        n = len(c) - ctx.plan.n_halo
        h = c[n:]
        return c[:n] + _Reduce.apply(h, end_of(h), ctx.plan), None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> torch.Tensor:
        return _Extend.apply(tangents[0], end_of(tangents[0]), ctx.plan)


class _Reduce(Function):
    @staticmethod
    def forward(h: torch.Tensor, end: torch.Tensor | None, plan: HaloPlan) -> torch.Tensor:
        channel = plan.reduce_channel(h)
        channel.send_buffer.copy_(h)
        channel.start()
        y = h.new_zeros((plan.layout.n_owned, *h.shape[1:]))
        plan.finish_reduce(channel, y)
        return y

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        _, end, ctx.plan = inputs
        ctx.save_for_backward(end)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        c = keep_in_graph(grads[0], *ctx.saved_tensors)
        return _Exchange.apply(c, end_of(c), ctx.plan), None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> torch.Tensor:
        return _Reduce.apply(tangents[0], end_of(tangents[0]), ctx.plan)

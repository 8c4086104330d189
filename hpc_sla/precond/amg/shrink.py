"""A level moved to fewer ranks, where each rank has too little of it to be worth a message."""

from __future__ import annotations

import numpy as np
import torch

from hpc_sla.distributed.layout import RowLayout
from hpc_sla.distributed.transport import Channel, Neighbours
from hpc_sla.distributed.world import World
from hpc_sla.kernels.cycle import Shrinking
from hpc_sla.precond.amg.products import linked
from hpc_sla.sparse.matrix import DSparseMatrix


class Shrink:
    """Vectors of a layout, brought together on every few-th rank. **Collective.**

    Ranks are put into groups of neighbours in number; the first of a group takes its rows, in
    order, so that stored row numbers stay.

    Parameters
    ----------
    layout : RowLayout
        Over all ranks.
    ranks : int
        How many shall go on; at least 1 and below the present number.

    Attributes
    ----------
    world : World or None
        Of those that go on; None on the others.
    layout : RowLayout or None
        There.
    """

    def __init__(self, layout: RowLayout, ranks: int) -> None:
        outer = layout.world
        self._outer = layout
        first = [rank * outer.size // ranks for rank in range(ranks)]
        group = int(np.searchsorted(first, outer.rank, side="right")) - 1
        self._leader = first[group]
        end = first[group + 1] if group + 1 < ranks else outer.size
        self._members = range(self._leader, end)
        self.world: World | None = outer.thinned(ranks)
        self.layout: RowLayout | None = None
        if self.world is not None:
            self.layout = RowLayout(self.world, layout.offsets[[*first, outer.size]])
        self._channels: dict[tuple[torch.dtype, tuple[int, ...]], tuple[Channel, Channel]] = {}

    def matrix(self, A: DSparseMatrix) -> DSparseMatrix | None:
        """A on fewer ranks; None on those left out. **Collective.**"""
        rows = A.local_csr()
        packed = np.concatenate(
            [
                np.diff(rows.indptr).astype(np.int64),
                rows.indices.astype(np.int64),
                rows.data.astype(np.float64).view(np.int64),
            ]
        )
        parts = self._to_leaders(packed)
        if self.layout is None:
            return None
        sizes = np.diff(self._outer.offsets)[self._members.start : self._members.stop]
        counts, columns, values = [], [], []
        for n, part in zip(sizes, parts, strict=True):
            counts.append(part[:n])
            entries = (len(part) - n) // 2
            columns.append(part[n : n + entries])
            values.append(part[n + entries :].view(np.float64))
        indptr = np.concatenate([[0], np.cumsum(np.concatenate(counts))])
        data = np.concatenate(values).astype(A.values.detach().cpu().numpy().dtype)
        return DSparseMatrix._from_rows(
            self.layout, self.layout, indptr, np.concatenate(columns), data
        )

    def rows(self, values: np.ndarray) -> np.ndarray | None:
        """A float64 array [n_owned, m] on fewer ranks; None on those left out. **Collective.**"""
        parts = self._to_leaders(np.ascontiguousarray(values).ravel().view(np.int64))
        if self.layout is None:
            return None
        return np.concatenate(parts).view(np.float64).reshape(self.layout.n_owned, values.shape[1])

    def _to_leaders(self, packed: np.ndarray) -> list[np.ndarray]:
        world = self._outer.world
        away = {} if world.rank == self._leader else {self._leader: packed}
        arrived = world.sparse_exchange(away)
        arrived[world.rank] = packed
        return [arrived[rank] for rank in self._members] if self.layout is not None else []

    # Vectors, in the cycle

    def gather(self, x: torch.Tensor, out: torch.Tensor | None) -> None:
        """`out` on the leaders: the owned entries of the group's ranks. **Collective.**"""
        there, _ = self._pair(x)
        if out is None:
            there.send_buffer.copy_(x)
        there.start()
        there.finish()
        if out is not None:
            n = x.shape[0]
            out.narrow(0, 0, n).copy_(x)
            out.narrow(0, n, out.shape[0] - n).copy_(there.recv_buffer)

    def scatter(self, inner: torch.Tensor | None, out: torch.Tensor) -> None:
        """The reverse: each rank's entries of the leaders' `inner` into `out`. **Collective.**"""
        _, back = self._pair(out)
        n = out.shape[0]
        if inner is not None:
            back.send_buffer.copy_(inner.narrow(0, n, inner.shape[0] - n))
        back.start()
        back.finish()
        out.copy_(back.recv_buffer if inner is None else inner.narrow(0, 0, n))

    def compiled(self, like: torch.Tensor) -> Shrinking:
        """`gather` and `scatter` as a compiled cycle takes them. **Collective.**"""
        there, back = (linked(self._outer, channel, like) for channel in self._pair(like))
        inner = 0 if self.layout is None else self.layout.n_owned
        return Shrinking(there, back, self._outer.n_owned, inner)

    def _pair(self, like: torch.Tensor) -> tuple[Channel, Channel]:
        trailing = tuple(like.shape[1:])
        key = (like.dtype, trailing)
        if key not in self._channels:
            sizes = np.diff(self._outer.offsets)
            rank = self._outer.world.rank
            others = [r for r in self._members if r != self._leader and sizes[r]]
            nobody = Neighbours((), ())
            if rank == self._leader:
                sends, receives = (
                    nobody,
                    Neighbours(tuple(others), tuple(int(sizes[r]) for r in others)),
                )
            else:
                owned = int(sizes[rank])
                sends = Neighbours((self._leader,), (owned,)) if owned else nobody
                receives = nobody
            transport = self._outer.world.transport
            self._channels[key] = (
                transport.channel(sends, receives, trailing, like.dtype),
                transport.channel(receives, sends, trailing, like.dtype),
            )
        return self._channels[key]

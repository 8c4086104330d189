"""Moving vectors between the stored row order (by rank) and the user's."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from hpc_sla.partition.offsets import even_offsets
from hpc_sla.world import World


class UserOrder:
    """A repeatable redistribution between stored order and even blocks of the user's order.

    **Collective.** Rank r is *home* to the r-th even block of the user's rows. Going through
    homes keeps every rank's memory at O(n_global / size), on the way to a file or to rank 0.

    Parameters
    ----------
    world : World
    offsets : int64 array [size + 1]
        Replicated: stored rows by rank.
    rows : int64 array [n_owned] or None
        Per rank: the user's rows; None (on every rank) where both orders are the same.
    """

    def __init__(self, world: World, offsets: np.ndarray, rows: np.ndarray | None) -> None:
        self._world = world
        self._homes = even_offsets(int(offsets[-1]), world.size)
        start, stop = offsets[world.rank], offsets[world.rank + 1]
        if rows is None:
            rows = np.arange(start, stop, dtype=np.int64)
        order = np.argsort(rows, kind="stable")
        self._order = order.astype(np.int32 if len(order) < 2**31 else np.int64, copy=False)
        user = rows[order]
        edges = np.searchsorted(user, self._homes)
        self._send = np.diff(edges)
        self._recv = self._send.copy()
        if world.size > 1:
            world.comm.Alltoall(self._send, self._recv)
        places = np.empty(int(self._recv.sum()), dtype=np.int64)
        self._exchange(user, places, self._send, self._recv)
        self._places = places - self._homes[world.rank]

    def blocks(self, x: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """Each home's block, in order, on rank 0. **Collective.**"""
        comm, homes = self._world.comm, self._homes
        block = self._to_home(x)
        if comm.rank != 0:
            comm.Send(block, dest=0)
            return
        received = 1
        try:
            yield 0, block
            for rank in range(1, comm.size):
                block = np.empty((int(homes[rank + 1] - homes[rank]), *x.shape[1:]), dtype=x.dtype)
                comm.Recv(block, source=rank)
                received += 1
                yield int(homes[rank]), block
        finally:
            # A caller that stops early (a full disk) must not leave the senders waiting, or their
            # slabs to be taken for the next call's.
            for rank in range(received, comm.size):
                block = np.empty((int(homes[rank + 1] - homes[rank]), *x.shape[1:]), dtype=x.dtype)
                comm.Recv(block, source=rank)

    def scatter(self, full: np.ndarray | None) -> np.ndarray:
        """This rank's owned entries of the array on rank 0. **Collective.**"""
        comm, homes = self._world.comm, self._homes
        dtype, trailing = comm.bcast(
            None if full is None or comm.rank else (full.dtype, full.shape[1:])
        )
        if comm.rank == 0:
            assert full is not None
            for rank in range(1, comm.size):
                comm.Send(full[homes[rank] : homes[rank + 1]], dest=rank)
            block = full[: homes[1]]
        else:
            block = np.empty((int(homes[comm.rank + 1] - homes[comm.rank]), *trailing), dtype=dtype)
            comm.Recv(block, source=0)
        return self.from_home(block)

    @property
    def home(self) -> tuple[int, int]:
        """The user's rows whose home this rank is: first, and one past the last. Local."""
        rank = self._world.rank
        return int(self._homes[rank]), int(self._homes[rank + 1])

    def from_home(self, block: np.ndarray) -> np.ndarray:
        """This rank's owned entries, of what each rank has of the rows it is home to.

        **Collective.**
        """
        arrived = np.empty((len(self._order), *block.shape[1:]), dtype=block.dtype)
        self._exchange(block[self._places], arrived, self._recv, self._send)
        owned = np.empty_like(arrived)
        owned[self._order] = arrived
        return owned

    def _to_home(self, x: np.ndarray) -> np.ndarray:
        arrived = np.empty((len(self._places), *x.shape[1:]), dtype=x.dtype)
        self._exchange(x[self._order], arrived, self._send, self._recv)
        block = np.empty_like(arrived)
        block[self._places] = arrived
        return block

    def _exchange(
        self, out: np.ndarray, into: np.ndarray, send: np.ndarray, recv: np.ndarray
    ) -> None:
        """Alltoallv of rows. Counted in rows of a derived type, so 2**31 rows is the limit."""
        if self._world.size == 1:
            into[...] = out
            return
        from mpi4py import MPI

        width = int(np.prod(out.shape[1:], dtype=np.int64)) * out.itemsize
        row = MPI.BYTE.Create_contiguous(width).Commit()
        try:
            self._world.comm.Alltoallv([out, send, row], [into, recv, row])
        finally:
            row.Free()

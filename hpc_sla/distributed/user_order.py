"""Moving vectors between the stored row order (by rank) and the user's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from typing import Any

import numpy as np

from hpc_sla.distributed.world import World
from hpc_sla.errors import HpcSlaError
from hpc_sla.observe.heartbeat import beat
from hpc_sla.partition.offsets import even_offsets

_WINDOW_BYTES = 8 << 20


def write_on_root(
    world: World, slabs: Iterable[tuple[Any, ...]], write: Callable[..., object] | None
) -> None:
    """Hand to `write` what rank 0 receives, slab by slab. **Collective.**

    Parameters
    ----------
    world : World
    slabs : iterable of tuples
        Collective to run through; it yields on rank 0 only: `RowLayout.user_blocks`, or
        `hpc_sla.sparse.gather_rows`.
    write : callable or None
        Called on rank 0 with each tuple's members; not again once it has failed. Elsewhere None.

    Raises
    ------
    HpcSlaError
        On every rank, when all slabs were sent: what `write` raised.
    """
    error: HpcSlaError | None = None
    for slab in slabs:
        # The others are sending: rank 0 must hear them out even when it can write no more.
        if write is not None and error is None:
            try:
                write(*slab)
            except HpcSlaError as caught:
                error = caught
    with world.agree():
        if error is not None:
            raise error


class UserOrder:
    """A repeatable redistribution between stored order and the user's.

    On the way to a file, rank 0 sees one window of the user's rows after another, a few MiB each,
    and nobody holds more than that beside its own entries. On the way from rank 0, rank r is
    *home* to the r-th even block of the user's rows.

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
        self._n = int(offsets[-1])
        start, stop = offsets[world.rank], offsets[world.rank + 1]
        self._rows = np.arange(start, stop, dtype=np.int64) if rows is None else rows
        order = np.argsort(self._rows)  # no two are the same
        self._order = order.astype(np.int32 if len(order) < 2**31 else np.int64, copy=False)

    def blocks(self, x: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """Windows of the user's rows, in order, on rank 0. **Collective.**"""
        width = max(1, x.itemsize * int(np.prod(x.shape[1:], dtype=np.int64)))
        rows = max(1, min(_WINDOW_BYTES // width, -(-self._n // self._world.size)))
        starts = np.arange(0, max(self._n, 1), rows, dtype=np.int64)
        # Where each window begins among this rank's rows, in ascending order of the user's.
        edges = np.append(np.searchsorted(self._rows, starts, sorter=self._order), len(self._order))
        counts = self._gather_counts(np.diff(edges))
        todo = iter(range(len(starts)))

        def window(k: int) -> tuple[int, np.ndarray] | None:
            start = int(starts[k])
            owned = self._order[edges[k] : edges[k + 1]]
            places = self._rows[owned] - start
            return self._on_root(start, x[owned], places, None if counts is None else counts[:, k])

        try:
            for k in todo:
                found = window(k)
                beat()
                if found is not None:
                    yield found
        finally:
            # A caller that stops early (a full disk) must not leave the senders waiting, or their
            # rows to be taken for the next call's.
            for k in todo:
                window(k)

    def _gather_counts(self, counts: np.ndarray) -> np.ndarray | None:
        """On rank 0, [size, windows]: how many rows of each window come from each rank."""
        comm = self._world.comm
        counts = counts.astype(np.int64, copy=False)
        if comm.size == 1:
            return counts[None]
        every = np.empty((comm.size, len(counts)), dtype=np.int64) if comm.rank == 0 else None
        comm.Gather(counts, every)
        return every

    def _on_root(
        self, start: int, values: np.ndarray, places: np.ndarray, counts: np.ndarray | None
    ) -> tuple[int, np.ndarray] | None:
        comm = self._world.comm
        whole = None if counts is None else (int(counts.sum()), *values.shape[1:])
        if comm.size > 1:
            from mpi4py import MPI

            places = places.astype(np.int32)  # a window is short
            every = None if whole is None else np.empty(whole, dtype=values.dtype)
            where = None if whole is None else np.empty(whole[0], dtype=np.int32)
            row = _row_type(values)
            try:
                comm.Gatherv([values, len(values), row], [every, counts, row], root=0)
            finally:
                row.Free()
            comm.Gatherv([places, len(places), MPI.INT32_T], [where, counts, MPI.INT32_T], root=0)
            if every is None or where is None:
                return None
            values, places = every, where
        block = np.empty_like(values)
        block[places] = values
        return start, block

    def scatter(self, full: np.ndarray | None) -> np.ndarray:
        """This rank's owned entries of the array on rank 0. **Collective.**"""
        comm, homes = self._world.comm, even_offsets(self._n, self._world.size)
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
        homes, rank = even_offsets(self._n, self._world.size), self._world.rank
        return int(homes[rank]), int(homes[rank + 1])

    def from_home(self, block: np.ndarray) -> np.ndarray:
        """This rank's owned entries, of what each rank has of the rows it is home to.

        **Collective.**
        """
        send, recv, places = self._homes
        arrived = np.empty((len(self._order), *block.shape[1:]), dtype=block.dtype)
        self._exchange(block[places], arrived, recv, send)
        owned = np.empty_like(arrived)
        owned[self._order] = arrived
        return owned

    def to_home(self, owned: np.ndarray) -> np.ndarray:
        """The way back: what ranks have of the rows that this one is home to. **Collective.**"""
        send, recv, places = self._homes
        arrived = np.empty((len(places), *owned.shape[1:]), dtype=owned.dtype)
        self._exchange(owned[self._order], arrived, send, recv)
        block = np.empty_like(arrived)
        block[places] = arrived
        return block

    @cached_property
    def _homes(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows to and from each home, and where in this rank's block those from it go.

        **Collective.**
        """
        world = self._world
        homes = even_offsets(self._n, world.size)
        send = np.diff(np.searchsorted(self._rows, homes, sorter=self._order)).astype(np.int64)
        recv = send.copy()
        if world.size > 1:
            world.comm.Alltoall(send, recv)
        places = np.empty(int(recv.sum()), dtype=np.int64)
        self._exchange(self._rows[self._order], places, send, recv)
        return send, recv, places - homes[world.rank]

    def _exchange(
        self, out: np.ndarray, into: np.ndarray, send: np.ndarray, recv: np.ndarray
    ) -> None:
        """Alltoallv of rows. Counted in rows of a derived type, so 2**31 rows is the limit."""
        if self._world.size == 1:
            into[...] = out
            return
        row = _row_type(out)
        try:
            self._world.comm.Alltoallv([out, send, row], [into, recv, row])
        finally:
            row.Free()


def _row_type(array: np.ndarray) -> Any:
    from mpi4py import MPI

    width = int(np.prod(array.shape[1:], dtype=np.int64)) * array.itemsize
    return MPI.BYTE.Create_contiguous(width).Commit()

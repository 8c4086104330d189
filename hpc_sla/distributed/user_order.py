"""Moving vectors between the stored row order (by rank) and the user's."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from hpc_sla.distributed.world import World
from hpc_sla.observe.heartbeat import beat
from hpc_sla.partition.offsets import even_offsets

_WINDOW_BYTES = 8 << 20
_TAG = 1024
"""Above those of sparse exchanges."""


class _Homes(NamedTuple):
    """Who sends what on the way home; on the way back it is the other way round.

    Attributes
    ----------
    send, recv : list of (rank, first, last)
        This rank itself among them. What goes to a rank is a run of the owned rows in the user's
        order, and what comes from one a run of `places`. Only ranks with something, ascending.
    places : int array [rows of this home]
        Where in this rank's block, ascending within each run.
    """

    send: list[tuple[int, int, int]]
    recv: list[tuple[int, int, int]]
    places: np.ndarray


class UserOrder:
    """A repeatable redistribution between stored order and the user's.

    Rank r is *home* to the r-th even block of the user's rows. Ranks exchange with those whose
    rows they have, and know of no others.

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

    @property
    def home(self) -> tuple[int, int]:
        """The user's rows whose home this rank is: first, and one past the last. Local."""
        rank, size = self._world.rank, self._world.size
        return rank * self._n // size, (rank + 1) * self._n // size

    def blocks(self, x: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """Windows of the rows that this rank is home to, in order. **Collective.**

        A few MiB each; nobody holds more than three of them beside its own entries. All ranks have
        as many windows, some of which may be empty.
        """
        homes, size = self._homes, self._world.size
        largest = -(-self._n // size)
        width = max(1, x.itemsize * int(np.prod(x.shape[1:], dtype=np.int64)))
        rows = max(1, min(_WINDOW_BYTES // width, largest))
        todo = iter(range(max(1, -(-largest // rows))))
        first, last = self.home

        def window(k: int) -> tuple[int, np.ndarray]:
            start, stop = min(first + k * rows, last), min(first + (k + 1) * rows, last)
            out = [(r, *self._within(r, k * rows, rows)) for r, _, _ in homes.send]
            into = [(r, *_run(homes.places, i, j, k * rows, rows)) for r, i, j in homes.recv]
            block = np.empty((stop - start, *x.shape[1:]), dtype=x.dtype)

            def put(i: int, j: int, values: np.ndarray) -> None:
                block[homes.places[i:j] - k * rows] = values

            self._exchange(out, into, lambda i, j: x[self._order[i:j]], put, x)
            return start, block

        try:
            for k in todo:
                found = window(k)
                beat()
                yield found
        finally:
            # A caller that stops early (an error of its own) must not leave others waiting.
            for k in todo:
                window(k)

    def to_home(self, owned: np.ndarray) -> np.ndarray:
        """What ranks have of the rows that this one is home to. **Collective.**"""
        homes = self._homes
        block = np.empty((len(homes.places), *owned.shape[1:]), dtype=owned.dtype)

        def put(i: int, j: int, values: np.ndarray) -> None:
            block[homes.places[i:j]] = values

        self._exchange(homes.send, homes.recv, lambda i, j: owned[self._order[i:j]], put, owned)
        return block

    def from_home(self, block: np.ndarray) -> np.ndarray:
        """This rank's owned entries, of what each rank has of the rows it is home to.

        **Collective.**
        """
        homes = self._homes
        owned = np.empty((len(self._order), *block.shape[1:]), dtype=block.dtype)

        def put(i: int, j: int, values: np.ndarray) -> None:
            owned[self._order[i:j]] = values

        self._exchange(homes.recv, homes.send, lambda i, j: block[homes.places[i:j]], put, block)
        return owned

    def gather(self, owned: np.ndarray) -> np.ndarray | None:
        """All of it, on rank 0; None elsewhere. **Collective.**"""
        comm, block = self._world.comm, self.to_home(owned)
        if comm.rank:
            comm.Send(block, dest=0, tag=_TAG)
            return None
        if comm.size == 1:
            return block
        cuts = even_offsets(self._n, comm.size)
        full = np.empty((self._n, *owned.shape[1:]), dtype=owned.dtype)
        full[: len(block)] = block
        for rank in range(1, comm.size):
            comm.Recv(full[cuts[rank] : cuts[rank + 1]], source=rank, tag=_TAG)
            beat()
        return full

    def scatter(self, full: np.ndarray | None) -> np.ndarray:
        """This rank's owned entries of the array on rank 0. **Collective.**"""
        comm, cuts = self._world.comm, even_offsets(self._n, self._world.size)
        dtype, trailing = comm.bcast(
            None if full is None or comm.rank else (full.dtype, full.shape[1:])
        )
        if comm.rank == 0:
            assert full is not None
            for rank in range(1, comm.size):
                comm.Send(full[cuts[rank] : cuts[rank + 1]], dest=rank, tag=_TAG)
            block = full[: cuts[1]]
        else:
            block = np.empty((int(cuts[comm.rank + 1] - cuts[comm.rank]), *trailing), dtype=dtype)
            comm.Recv(block, source=0, tag=_TAG)
        return self.from_home(block)

    @cached_property
    def _homes(self) -> _Homes:
        """**Collective.**"""
        world = self._world
        cuts = even_offsets(self._n, world.size)
        edges = np.searchsorted(self._rows, cuts, sorter=self._order)
        there = np.flatnonzero(np.diff(edges))
        send = [(int(r), int(edges[r]), int(edges[r + 1])) for r in there]
        messages = {r: self._rows[self._order[i:j]] for r, i, j in send}
        found = {world.rank: messages.pop(world.rank)} if world.rank in messages else {}
        found.update(world.sparse_exchange(messages))
        recv, runs, end = [], [], 0
        first, last = self.home
        kind = np.int32 if last - first < 2**31 else np.int64
        for rank in sorted(found):
            rows = found.pop(rank)
            runs.append((rows - first).astype(kind))
            recv.append((rank, end, end + len(rows)))
            end += len(rows)
        return _Homes(send, recv, np.concatenate(runs) if runs else np.empty(0, dtype=kind))

    def _within(self, rank: int, start: int, rows: int) -> tuple[int, int]:
        """The owned rows that lie in one window of that rank's home, as a run of `_order`."""
        n, size = self._n, self._world.size
        first, end = rank * n // size + start, (rank + 1) * n // size
        ends = min(first, end), min(first + rows, end)
        low, high = np.searchsorted(self._rows, ends, sorter=self._order)
        return int(low), int(high)

    def _exchange(self, out: Any, into: Any, take: Any, put: Any, like: np.ndarray) -> None:
        """Send runs to ranks and put away what comes from others; `take` and `put` move rows.

        Counted in rows of a derived type, so that 2**31 rows are the limit. **Collective** among
        those that exchange.
        """
        rank = self._world.rank
        for (r, i, j), (s, k, m) in zip(
            (run for run in out if run[0] == rank),
            (run for run in into if run[0] == rank),
            strict=True,
        ):
            assert r == s
            put(k, m, take(i, j))
        out = [run for run in out if run[0] != rank and run[1] < run[2]]
        into = [run for run in into if run[0] != rank and run[1] < run[2]]
        if not out and not into:
            return
        from mpi4py import MPI

        comm = self._world.comm
        row = _row_type(like)
        try:
            buffers = [np.empty((j - i, *like.shape[1:]), dtype=like.dtype) for _, i, j in into]
            requests = [
                comm.Irecv([buffer, len(buffer), row], source=r, tag=_TAG)
                for (r, _, _), buffer in zip(into, buffers, strict=True)
            ]
            sent = [take(i, j) for _, i, j in out]
            requests += [
                comm.Isend([values, len(values), row], dest=r, tag=_TAG)
                for (r, _, _), values in zip(out, sent, strict=True)
            ]
            MPI.Request.Waitall(requests)
        finally:
            row.Free()
        for (_, i, j), buffer in zip(into, buffers, strict=True):
            put(i, j, buffer)


def _run(places: np.ndarray, i: int, j: int, start: int, rows: int) -> tuple[int, int]:
    """The part of a run of places that lies in one window."""
    low, high = np.searchsorted(places[i:j], (start, start + rows))
    return i + int(low), i + int(high)


def _row_type(array: np.ndarray) -> Any:
    from mpi4py import MPI

    width = int(np.prod(array.shape[1:], dtype=np.int64)) * array.itemsize
    return MPI.BYTE.Create_contiguous(width).Commit()

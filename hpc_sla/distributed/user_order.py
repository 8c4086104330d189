"""Moving vectors between the stored row order (by rank) and the user's."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from hpc_sla.distributed.world import World
from hpc_sla.errors import InputError
from hpc_sla.messages.tags import USER_ORDER
from hpc_sla.observe.heartbeat import beat
from hpc_sla.partition.offsets import even_offsets

_WINDOW_BYTES = 2 << 20
_AT_ONCE = 1 << 16

Runs = list[tuple[int, np.ndarray]]
"""Ranks, this one among them, ascending; with each, places in an array of this rank's."""


class _Homes(NamedTuple):
    """Who sends what on the way home; on the way back it is the other way round.

    Attributes
    ----------
    send : list of (rank, first, last)
        What goes to a rank is a run of the owned rows in the user's order.
    recv : Runs
        Where what comes from a rank goes in this rank's block, ascending.
    """

    send: list[tuple[int, int, int]]
    recv: Runs


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
        self._order = _ascending(self._rows)

    @property
    def home(self) -> tuple[int, int]:
        """The user's rows whose home this rank is: first, and one past the last. Local."""
        rank, size = self._world.rank, self._world.size
        return rank * self._n // size, (rank + 1) * self._n // size

    def blocks(self, x: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """Windows of the rows that this rank is home to, in order. **Collective.**

        Some MiB each; nobody holds more than three of them beside its own entries. All ranks have
        as many windows, some of which may be empty.
        """
        (send, recv), rows = self._homes, _rows_at_once(x)
        todo = iter(range(self._windows(rows)))
        first, _ = self.home

        def window(k: int) -> tuple[int, np.ndarray]:
            start, stop = self._window(self._world.rank, k, rows)
            out = [(r, self._owned_within(r, k, rows)) for r, *_ in send]
            into = [(r, _run_within(places, start - first, stop - first)) for r, places in recv]
            block = np.empty((stop - start, *x.shape[1:]), dtype=x.dtype)
            self._exchange(out, into, x, block, start - first)
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
        homes, (first, last) = self._homes, self.home
        block = np.empty((last - first, *owned.shape[1:]), dtype=owned.dtype)
        self._exchange(self._owned_runs(homes), homes.recv, owned, block)
        return block

    def from_blocks(self, read: Callable[[int, int], np.ndarray]) -> np.ndarray:
        """`from_home`, of what `read(start, stop)` finds of windows as those of `blocks`.

        **Collective.** What it raises on one rank is raised on all.
        """
        (send, recv), (first, _) = self._homes, self.home
        with self._world.agree() as agreed:
            like = read(first, first)
            agreed.say((like.shape[1:], like.dtype.str))
        if len(set(agreed.heard)) > 1:
            raise InputError(f"ranks read rows of different kinds: {sorted(set(agreed.heard))}")
        owned = np.empty((len(self._order), *like.shape[1:]), dtype=like.dtype)
        rows = _rows_at_once(like)
        for k in range(self._windows(rows)):
            start, stop = self._window(self._world.rank, k, rows)
            with self._world.agree():
                block = read(start, stop)
            out = [
                (r, _run_within(places, start - first, stop - first) - (start - first))
                for r, places in recv
            ]
            into = [(r, self._owned_within(r, k, rows)) for r, *_ in send]
            self._exchange(out, into, block, owned)
            beat()
        return owned

    def from_home(self, block: np.ndarray) -> np.ndarray:
        """This rank's owned entries, of what each rank has of the rows it is home to.

        **Collective.**
        """
        homes = self._homes
        owned = np.empty((len(self._order), *block.shape[1:]), dtype=block.dtype)
        self._exchange(homes.recv, self._owned_runs(homes), block, owned)
        return owned

    def _owned_runs(self, homes: _Homes) -> Runs:
        return [(r, self._order[i:j]) for r, i, j in homes.send]

    def gather(self, owned: np.ndarray) -> np.ndarray | None:
        """All of it, on rank 0; None elsewhere. **Collective.**"""
        comm, block = self._world.comm, self.to_home(owned)
        if comm.rank:
            comm.Send(block, dest=0, tag=USER_ORDER)
            return None
        if comm.size == 1:
            return block
        cuts = even_offsets(self._n, comm.size)
        full = np.empty((self._n, *owned.shape[1:]), dtype=owned.dtype)
        full[: len(block)] = block
        for rank in range(1, comm.size):
            comm.Recv(full[cuts[rank] : cuts[rank + 1]], source=rank, tag=USER_ORDER)
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
                comm.Send(full[cuts[rank] : cuts[rank + 1]], dest=rank, tag=USER_ORDER)
            block = full[: cuts[1]]
        else:
            block = np.empty((int(cuts[comm.rank + 1] - cuts[comm.rank]), *trailing), dtype=dtype)
            comm.Recv(block, source=0, tag=USER_ORDER)
        return self.from_home(block)

    @cached_property
    def _homes(self) -> _Homes:
        """**Collective.**"""
        world = self._world
        cuts = even_offsets(self._n, world.size)
        edges = [self._place(cut) for cut in cuts]
        there = np.flatnonzero(np.diff(edges))
        send = [(int(r), int(edges[r]), int(edges[r + 1])) for r in there]
        # Counted from where the home begins, so that 32 bits do for all that fit on a rank.
        kind: Any = np.int32 if self._n // world.size < 2**31 - 2 else np.int64
        messages = {r: self._packed(i, j, cuts[r], kind) for r, i, j in send}
        found = {world.rank: messages.pop(world.rank)} if world.rank in messages else {}
        found.update(world.sparse_exchange(messages))
        return _Homes(send, [(r, _unpacked(found[r], kind)) for r in sorted(found)])

    def _packed(self, i: int, j: int, cut: int, kind: Any) -> np.ndarray:
        """Owned rows from there on, counted from `cut`: as int64, how many there are first."""
        words = np.empty(1 + -(-(j - i) * np.dtype(kind).itemsize // 8), dtype=np.int64)
        words[0] = j - i
        rows = _unpacked(words, kind)
        for start in range(0, j - i, _AT_ONCE):  # no more of them in 64 bits
            stop = min(start + _AT_ONCE, j - i)
            rows[start:stop] = self._rows[self._order[i + start : i + stop]] - cut
        return words

    def _window(self, rank: int, k: int, rows: int) -> tuple[int, int]:
        """The k-th window of that rank's home: its first row, and one past the last.

        They end at multiples of `rows`, as checked blocks of files do, of which none is read twice.
        """
        n, size = self._n, self._world.size
        first, last = rank * n // size, (rank + 1) * n // size
        edge = (first // rows + k) * rows
        return min(max(first, edge), last), min(edge + rows, last)

    def _windows(self, rows: int) -> int:
        """How many there are, at most."""
        largest = -(-self._n // self._world.size)
        return 1 + -(-largest // rows)

    def _owned_within(self, rank: int, k: int, rows: int) -> np.ndarray:
        """Places of the owned rows that lie in one window of that rank's home."""
        start, stop = self._window(rank, k, rows)
        return self._order[self._place(start) : self._place(stop)]

    def _place(self, row: int) -> int:
        """Where the owned rows from this one on begin in `_order`."""
        # NumPy's searchsorted would make a copy of the order, in 64 bits, for each call.
        return bisect_left(self._order, row, key=self._rows.__getitem__)

    def _exchange(
        self, out: Runs, into: Runs, source: np.ndarray, target: np.ndarray, before: int = 0
    ) -> None:
        """Rows of one array go to their places in others, which begin `before` rows later.

        Counted in rows of a derived type, so that 2**31 rows are the limit. **Collective** among
        those that exchange.
        """
        rank = self._world.rank
        own = [places for r, places in into if r == rank]
        for places, taken in zip(own, (p for r, p in out if r == rank), strict=True):
            target[places - before] = source[taken]
        out = [(r, places) for r, places in out if r != rank and len(places)]
        into = [(r, places) for r, places in into if r != rank and len(places)]
        if not out and not into:
            return
        from mpi4py import MPI

        comm = self._world.comm
        row = _row_type(source)
        try:
            buffers = [np.empty((len(p), *source.shape[1:]), dtype=source.dtype) for _, p in into]
            requests = [
                comm.Irecv([buffer, len(buffer), row], source=r, tag=USER_ORDER)
                for (r, _), buffer in zip(into, buffers, strict=True)
            ]
            sent = [source[places] for _, places in out]
            requests += [
                comm.Isend([values, len(values), row], dest=r, tag=USER_ORDER)
                for (r, _), values in zip(out, sent, strict=True)
            ]
            MPI.Request.Waitall(requests)
        finally:
            row.Free()
        for (_, places), buffer in zip(into, buffers, strict=True):
            target[places - before] = buffer


def _ascending(rows: np.ndarray) -> np.ndarray:
    """The order in which distinct rows ascend: int32, or int64 where there are 2^31. Local.

    Numbers that carry their places with them are sorted twice as fast as places by their numbers.
    """
    count = len(rows)
    bits, kind = count.bit_length(), np.int32 if len(rows) < 2**31 else np.int64
    if count and int(rows.max()).bit_length() + bits < 64:
        order = rows << bits
        order |= np.arange(count, dtype=kind)
        order.sort()
        order &= (1 << bits) - 1
    else:
        order = np.argsort(rows)
    return order.astype(kind, copy=False)


def _run_within(places: np.ndarray, start: int, stop: int) -> np.ndarray:
    """Those from one to another."""
    # Ends of the same kind: or NumPy would make a copy of the places, in 64 bits, to compare.
    low, high = np.searchsorted(places, np.array((start, stop), dtype=places.dtype))
    return places[low:high]


def _rows_at_once(like: np.ndarray) -> int:
    """Rows of a window, replicated: a power of two."""
    width = max(1, like.itemsize * int(np.prod(like.shape[1:], dtype=np.int64)))
    return 1 << max(0, (_WINDOW_BYTES // width).bit_length() - 1)


def _unpacked(words: np.ndarray, kind: Any) -> np.ndarray:
    return words[1:].view(kind)[: int(words[0])]


def _row_type(array: np.ndarray) -> Any:
    from mpi4py import MPI

    width = int(np.prod(array.shape[1:], dtype=np.int64)) * array.itemsize
    return MPI.BYTE.Create_contiguous(width).Commit()

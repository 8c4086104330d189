"""Rows of arrays sent to the ranks they belong to, numbers asked of the ranks that know them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar
from zlib import crc32

import numpy as np

from hpc_sla.messages.fetch import Fetch
from hpc_sla.messages.peers import Peers

_CHUNK = 1 << 20

T = TypeVar("T")


def on_root(peers: Peers, function: Callable[[], T]) -> T:
    """Run `function` on rank 0 and give every rank its (small) result. **Collective.**

    An `HpcSlaError` there is raised on every rank.
    """
    found = None
    with peers.agree():
        if peers.rank == 0:
            found = function()
    told: T = peers.comm.bcast(found)
    return told


def owners(offsets: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """The rank of each number, int32, where rank r has ``offsets[r]:offsets[r+1]``. Local."""
    return (np.searchsorted(offsets, numbers, side="right") - 1).astype(np.int32)


def send_records(peers: Peers, dest: np.ndarray, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Row i of each array goes to rank ``dest[i]``. **Collective.**

    Parameters
    ----------
    peers : Peers
    dest : int array [m]
        Per rank.
    arrays : sequence of array [m, ...]
        Per rank; of each the same dtype and the same trailing dimensions on all ranks.

    Returns
    -------
    list of array
        Per rank: what came here, by ascending rank that sent it, and in the order it had there.
        On one rank the very arrays.

    Raises
    ------
    TypeError
        On a rank that is sent arrays of another kind than its own.
    """
    if peers.size == 1:
        return list(arrays)
    # Most rows stay in order: sorting what is sorted already would cost a copy of everything.
    order = None
    if len(dest) and (dest[1:] < dest[:-1]).any():
        order = np.argsort(dest, kind="stable")
        dest = dest[order]
    ranks, starts = np.unique(dest, return_index=True)
    ends = [*starts[1:].tolist(), len(dest)][: len(ranks)]
    kinds = crc32(repr([(array.dtype.str, array.shape[1:]) for array in arrays]).encode())
    messages: dict[int, np.ndarray] = {}
    own: slice | np.ndarray = slice(0)
    for rank, start, stop in zip(ranks.tolist(), starts.tolist(), ends, strict=True):
        where = slice(start, stop) if order is None else order[start:stop]
        if rank == peers.rank:
            own = where
        else:
            parts = [array[where] for array in arrays]
            messages[rank] = _packed(stop - start, kinds, parts)
            del parts
    received = peers.exchange(messages)
    messages.clear()
    arrived = {rank: _unpacked(message, kinds, arrays) for rank, message in received.items()}
    before = [rank for rank in arrived if rank < peers.rank]
    behind = [rank for rank in arrived if rank > peers.rank]
    return [
        np.concatenate(
            [*(arrived[r][k] for r in before), array[own], *(arrived[r][k] for r in behind)]
        )
        for k, array in enumerate(arrays)
    ]


def distinct(numbers: np.ndarray) -> np.ndarray:
    """Each once, ascending, of integers few of which repeat. Local.

    `np.unique` goes through a table of hashes, which takes several times as long then.
    """
    ascending = np.sort(numbers)
    first = np.ones(len(ascending), dtype=bool)
    np.not_equal(ascending[1:], ascending[:-1], out=first[1:])
    return ascending[first]


def look_up(
    peers: Peers, offsets: np.ndarray, table: np.ndarray, numbers: np.ndarray
) -> np.ndarray:
    """What the rank that has a number's entry of a table says of it. **Collective.**

    Parameters
    ----------
    peers : Peers
    offsets : int64 array [size + 1]
        Replicated: rank r has entries ``offsets[r]:offsets[r+1]``.
    table : array [n_local]
        Per rank: its entries, of one dtype on all ranks.
    numbers : int array [m]
        Per rank: any of all entries' numbers, repeats allowed.

    Returns
    -------
    array [m], of the table's dtype
    """
    first, last = int(offsets[peers.rank]), int(offsets[peers.rank + 1])
    found = np.empty(len(numbers), dtype=table.dtype)
    # A chunk at a time: what finds the distinct ones takes several times their room.
    away = [np.empty(0, dtype=np.int64)]
    for start in range(0, len(numbers), _CHUNK):
        some = numbers[start : start + _CHUNK]
        mine = (some >= first) & (some < last)
        found[start : start + _CHUNK][mine] = table[some[mine] - first]
        away.append(distinct(some[~mine]).astype(np.int64, copy=False))
    asked = distinct(np.concatenate(away))
    del away
    known = Fetch(peers, offsets, asked)(table)
    for start in range(0, len(numbers) if len(asked) else 0, _CHUNK):
        some = numbers[start : start + _CHUNK]
        (there,) = np.nonzero((some < first) | (some >= last))
        found[start + there] = known[np.searchsorted(asked, some[there])]
    return found


def _packed(count: int, kinds: int, parts: Sequence[np.ndarray]) -> np.ndarray:
    """Arrays of so many rows as int64, each padded to a whole number of them."""
    lengths = [-(-part.nbytes // 8) for part in parts]
    message = np.empty(2 + sum(lengths), dtype=np.int64)
    message[:2] = count, kinds
    place = 2
    for part, length in zip(parts, lengths, strict=True):
        room = message[place : place + length]
        room[-1:] = 0
        room.view(np.uint8)[: part.nbytes] = np.ascontiguousarray(part).reshape(-1).view(np.uint8)
        place += length
    return message


def _unpacked(message: np.ndarray, kinds: int, like: Sequence[np.ndarray]) -> list[np.ndarray]:
    count, place = int(message[0]), 16
    if message[1] != kinds:
        mine = ", ".join(f"{array.dtype} {array.shape[1:]}" for array in like)
        raise TypeError(f"another rank's arrays are not of this rank's kinds: {mine}")
    raw = message.view(np.uint8)
    found = []
    for array in like:
        shape = (count, *array.shape[1:])
        size = array.itemsize * int(np.prod(shape, dtype=np.int64))
        found.append(raw[place : place + size].view(array.dtype).reshape(shape))
        place += -(-size // 8) * 8
    return found

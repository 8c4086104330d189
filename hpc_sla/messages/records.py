"""Rows of arrays sent to the ranks they belong to, numbers asked of the ranks that know them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

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


def gathered(peers: Peers, array: np.ndarray) -> np.ndarray:
    """What all ranks have, `[m]`, one after another, on every rank. **Collective.**

    For a few numbers a rank.
    """
    if peers.size == 1:
        return array
    counts = np.empty(peers.size, dtype=np.int64)
    peers.comm.Allgather(np.array([len(array)], dtype=np.int64), counts)
    whole = np.empty(int(counts.sum()), dtype=array.dtype)
    peers.comm.Allgatherv(np.ascontiguousarray(array), [whole, counts])
    return whole


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
    """
    if peers.size == 1:
        return [np.array(array) for array in arrays]
    # Most rows stay in order: sorting what is sorted already would cost a copy of everything.
    order = None
    if len(dest) and (dest[1:] < dest[:-1]).any():
        order = np.argsort(dest, kind="stable")
        dest = dest[order]
    ranks, starts = np.unique(dest, return_index=True)
    ends = [*starts[1:].tolist(), len(dest)][: len(ranks)]
    messages: dict[int, np.ndarray] = {}
    own: list[np.ndarray] | None = None
    for rank, start, stop in zip(ranks.tolist(), starts.tolist(), ends, strict=True):
        where = slice(start, stop) if order is None else order[start:stop]
        if rank == peers.rank:
            own = [array[where] for array in arrays]
        else:
            parts = [_words(array[where]) for array in arrays]
            messages[rank] = np.concatenate([np.array([stop - start], dtype=np.int64), *parts])
    del order
    received = peers.exchange(messages)
    messages.clear()
    arrived = {rank: _unpack(message, arrays) for rank, message in received.items()}
    if own is not None:
        arrived[peers.rank] = own
    return [
        np.concatenate([array[:0], *(arrived[rank][k] for rank in sorted(arrived))])
        for k, array in enumerate(arrays)
    ]


def look_up(
    peers: Peers, offsets: np.ndarray, table: np.ndarray, numbers: np.ndarray
) -> np.ndarray:
    """What the rank that has a number's entry of a table says of it. **Collective.**

    Parameters
    ----------
    peers : Peers
    offsets : int64 array [size + 1]
        Replicated: rank r has entries ``offsets[r]:offsets[r+1]``.
    table : int64 or float64 array [n_local]
        Per rank: its entries.
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
        away.append(np.unique(some[~mine]).astype(np.int64, copy=False))
    asked = np.unique(np.concatenate(away))
    del away
    owner = np.searchsorted(offsets, asked, side="right") - 1
    ranks, starts = np.unique(owner, return_index=True)
    parts = np.split(asked, starts[1:])
    questions = {int(rank): part for rank, part in zip(ranks, parts, strict=False)}
    answers = peers.exchange(
        {rank: table[part - first] for rank, part in peers.exchange(questions).items()}
    )
    # Both in ascending order of ranks, hence of numbers.
    known = np.concatenate([np.empty(0, dtype=np.int64), *answers.values()]).view(table.dtype)
    for start in range(0, len(numbers) if len(asked) else 0, _CHUNK):
        some = numbers[start : start + _CHUNK]
        (there,) = np.nonzero((some < first) | (some >= last))
        found[start + there] = known[np.searchsorted(asked, some[there])]
    return found


def _words(array: np.ndarray) -> np.ndarray:
    """Its bytes as int64, with zeros up to a whole number of them."""
    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    words = np.zeros(-(-len(flat) // 8), dtype=np.int64)
    words.view(np.uint8)[: len(flat)] = flat
    return words


def _unpack(message: np.ndarray, like: Sequence[np.ndarray]) -> list[np.ndarray]:
    count, place = int(message[0]), 8
    raw = message.view(np.uint8)
    found = []
    for array in like:
        shape = (count, *array.shape[1:])
        size = array.itemsize * int(np.prod(shape, dtype=np.int64))
        found.append(raw[place : place + size].view(array.dtype).reshape(shape))
        place += -(-size // 8) * 8
    return found

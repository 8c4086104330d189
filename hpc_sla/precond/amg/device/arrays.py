"""What set-up on a device is made of: sorted keys, their sums, rows written out, work by pieces.

Where a size depends on what was found the host has to wait for it: in `host`, and in torch's
`nonzero` and `unique`.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import TypeVar

import torch

Tensor = torch.Tensor
Parts = TypeVar("Parts", bound=tuple[Tensor, ...])

ROOM = 1 << 24
"""Numbers that are summed up at a time, about: each takes some 64 bytes meanwhile."""


def host(*numbers: Tensor) -> list[int]:
    """Some integers for the host, in one wait."""
    found: list[int] = torch.stack(numbers).tolist()
    return found


def joined(parts: list[Parts]) -> list[Tensor]:
    """Pieces of some tensors, each tensor's one after the other. `parts` is empty then.

    Of those that are joined none is left: no more than one tensor is there twice at a time. One
    piece that is alone beside empty ones is not copied.
    """
    kinds = [[t for t in kind if len(t)] or [kind[0]] for kind in zip(*parts, strict=True)]
    parts.clear()
    found = []
    for kind in kinds:
        found.append(torch.cat(kind) if len(kind) > 1 else kind[0])
        kind.clear()
    return found


def true_places(mask: Tensor) -> Tensor:
    """Where it is true: int64. The host waits."""
    return mask.nonzero().squeeze(1)


def pointers(rows: Tensor, n: int) -> Tensor:
    """Where each of n rows begins in ascending row numbers, and the end: int64 [n + 1]."""
    edges = torch.arange(n + 1, dtype=rows.dtype, device=rows.device)
    return torch.searchsorted(rows, edges)


def written_out(starts: Tensor, counts: Tensor, total: int) -> tuple[Tensor, Tensor]:
    """Runs of entries, one after the other: of which run each is, and its number.

    Parameters
    ----------
    starts, counts : int32 or int64 tensor [n]
    total : int
        The sum of counts.
    """
    counts = counts.long()
    runs = torch.arange(len(counts), device=counts.device)
    run = torch.repeat_interleave(runs, counts, output_size=total)
    shift = starts - (counts.cumsum(0) - counts)
    return run, torch.arange(total, device=counts.device) + shift.index_select(0, run)


def grouped(keys: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Equal keys brought together. The host waits.

    Parameters
    ----------
    keys : int64 tensor [t]

    Returns
    -------
    int64 tensor [t]
        The entries by ascending key; those of one key in their old order.
    int64 tensor [u]
        The first entry of each key, of those entered in their old places.
    int64 tensor [u + 1]
        Where each key begins, and the end, in the new order.
    """
    keys, order = torch.sort(keys, stable=True)
    first = torch.ones_like(keys[:1], dtype=torch.bool)
    starts = true_places(torch.cat([first, keys[1:] != keys[:-1]]))
    ends = torch.cat([starts, starts.new_full((1,), len(keys))])
    return order, order.index_select(0, starts), ends


def segment_sums(values: Tensor, ends: Tensor) -> Tensor:
    """Sums over segments, each in its order: [segments, ...] for values [t, ...].

    Parameters
    ----------
    values : float64 tensor [t] or [t, ...]
    ends : int64 tensor [segments + 1]
    """
    flat = values.reshape(len(values), values[:1].numel() if len(values) else 1)
    if not len(values):
        return values.new_zeros((len(ends) - 1, *values.shape[1:]))
    # With a second dimension a GPU has a thread a segment and number, which adds in order.
    sums = torch.segment_reduce(flat, "sum", offsets=ends, axis=0, unsafe=True)
    return sums.view(len(ends) - 1, *values.shape[1:])


def segment_largest(values: Tensor, ends: Tensor, without: float) -> Tensor:
    """The largest of each segment, `without` of an empty one: [segments].

    Parameters
    ----------
    values : float tensor [t]
    ends : int64 tensor [segments + 1]
    without : float
        No larger than any value.
    """
    if not len(values):
        return values.new_full((len(ends) - 1,), without)
    flat = values.unsqueeze(1)
    largest = torch.segment_reduce(flat, "max", offsets=ends, axis=0, unsafe=True, initial=without)
    return largest.squeeze(1)


def pieces(ends: Tensor) -> list[int]:
    """Edges of pieces of rows that cost `ROOM` each, or a row more. The host waits.

    Parameters
    ----------
    ends : int64 tensor [n]
        What the rows up to each cost.
    """
    n = len(ends)
    if n == 0:
        return [0]
    (total,) = host(ends[-1])
    if total <= ROOM:
        return [0, n]
    marks = torch.arange(ROOM, total, ROOM, device=ends.device)
    return sorted({0, *torch.searchsorted(ends, marks).tolist(), n})


def cuts(indptr: Tensor, count: int) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """Pieces of rows of `ROOM` entries each, or a row more: rows, and entries, from and to.

    The host waits where there are several.

    Parameters
    ----------
    indptr : int64 tensor [n + 1]
    count : int
        Entries.
    """
    n = len(indptr) - 1
    if count <= ROOM:
        return iter([((0, n), (0, count))])
    edges = pieces(indptr[1:])
    return zip(pairwise(edges), pairwise(at(indptr, edges)), strict=True)


def at(pointer: Tensor, edges: list[int]) -> list[int]:
    """A pointer's values there. The host waits."""
    where = torch.tensor(edges, device=pointer.device)
    found: list[int] = pointer.index_select(0, where).tolist()
    return found

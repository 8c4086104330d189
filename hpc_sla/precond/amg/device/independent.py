"""Nodes that are far apart: maximal independent sets of distance two, many nodes at a time."""

from __future__ import annotations

from collections.abc import Callable

import torch

from hpc_sla.precond.amg.device.arrays import cuts, host, segment_largest, segment_sums
from hpc_sla.precond.amg.device.numbers import mixed

Tensor = torch.Tensor

_BITS, _RANDOM = 31, 16
"""Bits of a node's number, and random ones. A float64 holds 53 exactly, which leaves six for how
far a node is enclosed, and what became of it."""

ABOVE = 2.0 ** (_BITS + _RANDOM)
"""Every priority is below."""

_ENCLOSED = 8.0
"""For a node whose neighbours are all taken; part of it for part of them."""

_OPEN, _CHOSEN = 1.0, 2.0

_ROUNDS = 4
"""Between two looks at whether any node is open still."""


def priorities(nodes: Tensor) -> Tensor:
    """What decides between nodes, no two alike: float64 [n], whole numbers. Local.

    Parameters
    ----------
    nodes : int64 tensor [n]
        Their global numbers, ascending by one.
    """
    random = (mixed(nodes + 1) >> 11) & (2**_RANDOM - 1)
    return (random * 2**_BITS + torch.arange(len(nodes), device=nodes.device)).double()


def node_of(priority: Tensor) -> Tensor:
    """The place that a priority belongs to: int64. Local."""
    return priority.long() & (2**_BITS - 1)


def independent_set(indptr: Tensor, columns: Tensor, priority: Tensor, open_: Tensor) -> Tensor:
    """A maximal set of nodes of which no two are neighbours, or neighbours of one node. Local.

    Bell, Dalton and Olson, SIAM J. Sci. Comput. 34 (2012), algorithm 5: among nodes that are open,
    one that is the largest of all within distance two is chosen, and those are no longer open.
    Here a node is the larger the more of its neighbours are taken, and only then by its priority:
    sets grow from where they began, and are packed nearly as densely as one after the other.

    Parameters
    ----------
    indptr, columns : int64 tensor [n + 1], int tensor [t]
        The graph.
    priority : float64 tensor [n]
        As of `priorities`.
    open_ : bool tensor [n]
        Which nodes may be chosen.

    Returns
    -------
    bool tensor [n]
    """
    state, degree = open_.double(), indptr.diff().clamp_(min=1).int()
    top = 16 * ABOVE
    around = Around(indptr, columns)
    while len(columns):
        for _ in range(_ROUNDS):
            still = state == _OPEN
            taken = around(segment_sums, (state == 0).double())
            enclosed = taken.mul_(_ENCLOSED).div_(degree).ceil_().mul_(ABOVE).mul_(still)
            mine = enclosed.add_(priority).add_(state, alpha=top)
            largest = mine
            for _ in range(2):
                largest = torch.maximum(largest, around(segment_largest, largest, 0.0))
            state.masked_fill_(still & (largest >= _CHOSEN * top), 0.0)
            state.masked_fill_(still & (largest == mine), _CHOSEN)
        (left,) = host((state == _OPEN).sum())
        if not left:
            break
    return state == _CHOSEN


class Around:
    """What nodes' neighbours have, brought together for `ROOM` of them at a time.

    Parameters
    ----------
    indptr, columns : int64 tensor [n + 1], int tensor [t]
        The graph.
    """

    def __init__(self, indptr: Tensor, columns: Tensor) -> None:
        self._parts = [
            (ends - begin if begin else ends, columns[begin:end])
            for (first, last), (begin, end) in cuts(indptr, len(columns))
            for ends in (indptr[first : last + 1],)
        ]

    def __call__(self, function: Callable[..., Tensor], values: Tensor, *further: float) -> Tensor:
        """The function of segments, of the values [n] at the neighbours of each: [n]."""
        found = [function(values.index_select(0, c), ends, *further) for ends, c in self._parts]
        return found[0] if len(found) == 1 else torch.cat(found)

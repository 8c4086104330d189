"""Nodes that are far apart: maximal independent sets of distance two, many nodes at a time."""

from __future__ import annotations

import torch

from hpc_sla.precond.amg.device.arrays import host, segment_largest
from hpc_sla.precond.amg.device.numbers import mixed

Tensor = torch.Tensor

_BITS = 31
"""Of a node's number; 20 more are random, and what stands above says what becomes of it. A float64
holds all 53 exactly."""

_OPEN, _CHOSEN = 1.0, 2.0

_ROUNDS = 4
"""Between two looks at whether any node is open still."""


def priorities(nodes: Tensor) -> Tensor:
    """What decides between nodes, no two alike: float64 [n], whole numbers below 2^51. Local.

    Parameters
    ----------
    nodes : int64 tensor [n]
        Their global numbers, ascending by one.
    """
    random = (mixed(nodes + 1) >> 11) & (2**20 - 1)
    return (random * 2**_BITS + torch.arange(len(nodes), device=nodes.device)).double()


def node_of(priority: Tensor) -> Tensor:
    """The place that a priority belongs to: int64. Local."""
    return priority.long() & (2**_BITS - 1)


def independent_set(indptr: Tensor, columns: Tensor, priority: Tensor, open_: Tensor) -> Tensor:
    """A maximal set of nodes of which no two are neighbours, or neighbours of one node. Local.

    Bell, Dalton and Olson, SIAM J. Sci. Comput. 34 (2012), algorithm 5: among nodes that are open,
    one that is the largest of all within distance two is chosen, and those are no longer open.

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
    state = open_.double()
    top = float(2 ** (_BITS + 20))
    while len(columns):
        for _ in range(_ROUNDS):
            mine = largest = state * top + priority
            for _ in range(2):
                around = segment_largest(largest.index_select(0, columns), indptr, 0.0)
                largest = torch.maximum(largest, around)
            still = state == _OPEN
            state = torch.where(still & (largest >= _CHOSEN * top), 0.0, state)
            state = torch.where(still & (largest == mine), _CHOSEN, state)
        (left,) = host((state == _OPEN).sum())
        if not left:
            break
    return state == _CHOSEN

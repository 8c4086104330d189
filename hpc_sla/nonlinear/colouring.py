"""Colours of a matrix's columns such that no row has two entries in columns of one colour."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import torch

from hpc_sla.distributed.halo import HaloPlan
from hpc_sla.distributed.layout import RowLayout
from hpc_sla.errors import InputError
from hpc_sla.hashing import noise
from hpc_sla.nonlinear.lattice import lattice_colours
from hpc_sla.sparse.matrix import DSparseMatrix


def colour_columns(A: DSparseMatrix) -> tuple[np.ndarray, int]:
    """Colour the columns of a square matrix's pattern. **Collective.**

    A distance-2 colouring, in the terms of A. H. Gebremedhin, F. Manne and A. Pothen, "What color
    is your Jacobian?", SIAM Review 47 (2005). A stencil on a grid is recognised by its row numbers
    and coloured as a lattice, with the fewest colours of that kind (`lattice_colours`): 5 and 7 for
    the 5- and 7-point stencils, 9 and 27 for the full ones. Everything else is coloured greedily,
    in parallel (M. T. Jones and P. E. Plassmann, "A parallel graph coloring heuristic", SIAM J.
    Sci. Comput. 14, 1993), columns with the most neighbours first. The colours depend on the
    matrix alone, not on the ranks.

    Returns
    -------
    colour : int64 array [n_owned]
        Per rank: the colour of each owned column.
    colours : int
        Replicated: how many there are; at least the entries of the fullest row.

    Raises
    ------
    InputError
        On every rank, where the matrix is rectangular.
    """
    if A.columns is not A.layout:
        raise InputError("only a square pattern can be coloured", field="pattern")
    colour = lattice_colours(A)
    if colour is None:
        colour = _greedy(A)
    largest = int(colour.max()) if len(colour) else -1
    return colour, int(A.world.max(largest)) + 1


def _greedy(A: DSparseMatrix) -> np.ndarray:
    """Jones and Plassmann's rounds: a column is coloured once all that outrank it are.

    **Collective.**
    """
    layout = A.layout
    graph, ghosts = _column_graph(A)
    plan = HaloPlan(layout, ghosts)
    n, world = layout.n_owned, layout.world

    def everywhere(own: np.ndarray) -> np.ndarray:
        there = plan.exchange(torch.from_numpy(own).to(world.device)).cpu().numpy()
        return np.concatenate([own, there])

    # By degree, then by chance, then by the user's number: the same on any number of ranks.
    rows = layout.rows
    degree = everywhere(np.diff(graph.indptr).astype(np.float64))
    chance = everywhere(noise(rows, 11))
    number = everywhere(rows.astype(np.int64))
    source = np.repeat(np.arange(n), np.diff(graph.indptr))
    target = graph.indices.astype(np.int64)
    outranks = _outranks(degree, chance, number, target, source)
    # Only those that come before matter: each edge is looked at from its lower end.
    source, target = source[outranks], target[outranks]
    colour = np.full(n + len(ghosts), -1, dtype=np.int64)
    while True:
        open_edges = colour[target] < 0
        blocked = np.zeros(n, dtype=bool)
        blocked[source[open_edges]] = True
        ready = (colour[:n] < 0) & ~blocked
        mine = ready[source]
        colour[:n][ready] = _smallest_free(source[mine], colour[target[mine]], n)[ready]
        colour[n:] = everywhere(colour[:n])[n:]
        left = source[colour[source] < 0]
        if not world.sum(len(left)):
            break
        keep = colour[source] < 0
        source, target = source[keep], target[keep]
    return colour[:n]


def _outranks(
    degree: np.ndarray, chance: np.ndarray, number: np.ndarray, a: np.ndarray, b: np.ndarray
) -> np.ndarray:
    same_degree, same_chance = degree[a] == degree[b], chance[a] == chance[b]
    return (degree[a] > degree[b]) | (
        same_degree & ((chance[a] > chance[b]) | (same_chance & (number[a] < number[b])))
    )


def _smallest_free(vertex: np.ndarray, taken: np.ndarray, n: int) -> np.ndarray:
    """For each of n vertices the least colour not taken: int64 [n]."""
    free = np.zeros(n, dtype=np.int64)
    if not len(vertex):
        return free
    pairs = np.unique(np.stack([vertex, taken], axis=1), axis=0)
    vertex, taken = pairs[:, 0], pairs[:, 1]
    first = np.searchsorted(vertex, vertex)
    rank = np.arange(len(vertex)) - first
    # Ascending and distinct, colours run 0, 1, 2 ... up to the first gap.
    count = np.bincount(vertex[taken == rank], minlength=n)
    free[:] = count
    return free


def _column_graph(A: DSparseMatrix) -> tuple[sp.csr_array, np.ndarray]:
    """Which columns share a row with each owned one. **Collective.**

    Returns
    -------
    graph : CSR [n_owned, n_owned + n_ghosts]
        Without the diagonal.
    ghosts : int64 array [n_ghosts]
        The stored columns of other ranks that occur, ascending.
    """
    layout, world, halo = A.layout, A.world, A.pattern.plan.halo
    n, n_local = layout.n_owned, layout.n_owned + len(halo)
    rows = A.pattern.local_rows().cpu().numpy()
    stored = A.pattern.stored_columns().cpu().numpy()
    local = _local_of(stored, layout, halo)
    shape = (n, n_local)
    incidence = sp.csr_array((np.ones(len(rows), dtype=np.int32), (rows, local)), shape=shape)
    shared = sp.coo_array(incidence.T @ incidence)
    number = np.concatenate([np.arange(layout.start, layout.start + n), halo])
    one, other = number[shared.coords[0]], number[shared.coords[1]]
    mine = shared.coords[0] < n
    # What this rank's rows say about columns of others goes to their owners.
    owner = np.searchsorted(layout.offsets, one[~mine], side="right") - 1
    away = np.stack([one[~mine], other[~mine]])
    order = np.argsort(owner, kind="stable")
    ranks, starts = np.unique(owner[order], return_index=True)
    parts = np.split(away[:, order], starts[1:], axis=1) if len(ranks) else []
    messages = {int(r): part.reshape(-1) for r, part in zip(ranks, parts, strict=True)}
    received = [part.reshape(2, -1) for part in world.sparse_exchange(messages).values()]
    pairs = np.concatenate([np.stack([one[mine], other[mine]]), *received], axis=1)
    pairs = pairs[:, pairs[0] != pairs[1]].astype(np.int64)
    start, stop = layout.start, layout.start + n
    foreign = (pairs[1] < start) | (pairs[1] >= stop)
    ghosts = np.unique(pairs[1][foreign])
    where = _local_of(pairs[1], layout, ghosts)
    data = np.ones(pairs.shape[1], dtype=np.int8)
    graph = sp.csr_array(
        (data, (pairs[0] - start, where)), shape=(n, n + len(ghosts)), dtype=np.int32
    )
    graph.sum_duplicates()
    return graph, ghosts


def _local_of(stored: np.ndarray, layout: RowLayout, halo: np.ndarray) -> np.ndarray:
    """Where stored columns lie in [owned | halo]."""
    start, stop = layout.start, layout.start + layout.n_owned
    mine = (stored >= start) & (stored < stop)
    return np.where(mine, stored - start, np.searchsorted(halo, stored) + layout.n_owned)

"""Rows brought to the ranks and the order in which their parts are stored, no rank seeing all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hpc_sla.messages.peers import Peers
from hpc_sla.messages.records import look_up, owners, send_records
from hpc_sla.partition.blocks import node_pattern, spread_over_rows
from hpc_sla.partition.offsets import even_offsets, offsets_for
from hpc_sla.partition.reorder import closer_order
from hpc_sla.storage.parallel.local_rows import LocalRows, csr, moved


@dataclass(frozen=True)
class PartedRows:
    """A square matrix's rows part by part. Per rank.

    Attributes
    ----------
    offsets : int64 array [size + 1]
        Replicated: this rank has the stored rows ``offsets[rank]:offsets[rank+1]``.
    part_offsets : int64 array [parts + 1]
        Replicated.
    permutation : int64 array [n_local]
        The user's row of each.
    matrix : SciPy CSR array [n_local, n]
        Canonical, columns in stored order.
    others : list of array [n_local, ...]
        What else belongs to the rows.
    """

    offsets: np.ndarray
    part_offsets: np.ndarray
    permutation: np.ndarray
    matrix: Any
    others: list[np.ndarray]


def stored_rows(
    peers: Peers,
    rows: LocalRows,
    part: np.ndarray,
    parts: int,
    others: Sequence[np.ndarray] = (),
    block_size: int = 1,
) -> PartedRows:
    """What `stored_order` and `reorder` make of the whole, from rows on many ranks. **Collective.**

    With as many parts as ranks or more, each rank gets whole parts, and orders the rows in them as
    `order_by_part` does. Fewer parts are spread over ranks, and rows within them keep the user's
    order: no rank has a part as a whole.

    Parameters
    ----------
    peers : Peers
    rows : LocalRows
        Of a square matrix, in the user's order; whole nodes a rank.
    part : int array [n_local]
        Per rank: the part of each of its rows.
    parts : int
    others : sequence of array [n_local, ...]
        Per rank.
    block_size : int
        As in `stored_order`.
    """
    first = int(rows.offsets[peers.rank])
    counts = np.bincount(part, minlength=parts).astype(np.int64)
    part_offsets = np.concatenate([[0], np.cumsum(peers.sum(counts))]).astype(np.int64)
    position = _positions(part, part_offsets[:-1] + peers.before(counts))
    whole = parts >= peers.size
    if whole:
        offsets = part_offsets[even_offsets(parts, peers.size)]
    else:
        offsets = offsets_for(part_offsets, peers.size, block_size)
    users = np.arange(first, first + len(part), dtype=np.int64)
    places, matrix, (permutation, *arrays) = moved(
        peers, offsets, position, rows.matrix, [users, *others]
    )
    if whole:
        order = _closer(matrix, permutation, places, part_offsets, block_size)
        if order is not None:
            permutation, matrix = permutation[order], matrix[order]
            arrays = [array[order] for array in arrays]
    # Who has the user's rows first, learns where each is stored.
    start = int(offsets[peers.rank])
    stored = np.arange(start, start + len(permutation), dtype=np.int64)
    user, place = send_records(peers, owners(rows.offsets, permutation), [permutation, stored])
    table = np.empty(len(part), dtype=np.int64)
    table[user - first] = place
    indices = look_up(peers, rows.offsets, table, matrix.indices).astype(matrix.indices.dtype)
    matrix = csr(matrix.data, indices, matrix.indptr, matrix.shape)
    matrix.sum_duplicates()
    return PartedRows(offsets, part_offsets, permutation, matrix, arrays)


def _positions(part: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Stored numbers of rows, those of each part from its start on, in their order."""
    order = np.argsort(part, kind="stable")
    counts = np.bincount(part, minlength=len(starts))
    within = np.arange(len(part)) - np.repeat(np.cumsum(counts) - counts, counts)
    position = np.empty(len(part), dtype=np.int64)
    position[order] = np.repeat(starts, counts) + within
    return position


def _closer(
    matrix: Any,
    users: np.ndarray,
    places: np.ndarray,
    part_offsets: np.ndarray,
    block_size: int,
) -> np.ndarray | None:
    """The order of the rows of this rank's parts; None where it is the present one. Local.

    `users` ascend within parts, and columns are the user's.
    """
    import scipy.sparse as sp  # slow to load

    order = np.arange(len(users))
    changed = False
    begin = int(places[0]) if len(places) else 0
    cuts = np.unique(np.clip(part_offsets - begin, 0, len(users)))
    for start, stop in zip(cuts[:-1].tolist(), cuts[1:].tolist(), strict=True):
        own = users[start:stop]
        ends = matrix.indptr[start : stop + 1]
        columns = matrix.indices[ends[0] : ends[-1]]
        at = np.minimum(np.searchsorted(own, columns), len(own) - 1)
        inside = own[at] == columns
        before = np.concatenate([[0], np.cumsum(inside)])
        indptr = before[ends - ends[0]].astype(np.int32)
        indices = at[inside].astype(np.int32)
        shape = (stop - start, stop - start)
        ones = np.ones(len(indices), dtype=np.bool_)
        pattern = sp.csr_array((ones, indices, indptr), shape=shape)
        if block_size > 1:
            pattern = node_pattern(pattern, block_size)
        local = closer_order(pattern)
        if local is not None:
            changed = True
            order[start:stop] = start + spread_over_rows(local.astype(np.int64), block_size)
    return order if changed else None

"""How good a partition is, counted by ranks that each see their own rows."""

from __future__ import annotations

from typing import Any

import numpy as np

from hpc_sla.messages.fetch import Fetch
from hpc_sla.messages.peers import Peers
from hpc_sla.messages.records import owners, send_records
from hpc_sla.partition.offsets import even_offsets
from hpc_sla.partition.quality import PartitionQuality


def partition_quality(
    comm: Any,
    offsets: np.ndarray,
    indptr: np.ndarray,
    indices: np.ndarray,
    part: np.ndarray,
    parts: int,
) -> PartitionQuality:
    """The figures of `hpc_sla.partition.quality` of rows that lie on many ranks. **Collective.**

    No rank holds more than its rows and entries a few times, and a few numbers for each part.

    Parameters
    ----------
    comm, offsets, indptr, indices
        As of `partition_rows`: rows of a square matrix in the user's order.
    part : int array [n_local]
        Per rank: the part of each of its rows.
    parts : int
        Replicated.

    Returns
    -------
    PartitionQuality
        Replicated.
    """
    with Peers(comm) as peers:
        n = int(offsets[-1])
        first, last = int(offsets[peers.rank]), int(offsets[peers.rank + 1])
        part = np.asarray(part, dtype=np.int64)
        counts = np.diff(indptr).astype(np.int64)
        columns = np.asarray(indices, dtype=np.int64)
        wanted, place = np.unique(columns, return_inverse=True)
        theirs = Fetch(peers, offsets, wanted)(part)[place]
        rows = np.repeat(np.arange(first, last, dtype=np.int64), counts)
        mine = np.repeat(part, counts)
        cut = theirs != mine
        rows, columns, mine, theirs = rows[cut], columns[cut], mine[cut], theirs[cut]
        # Each pair of rows once, at the owner of the first of them.
        low, high = _distinct(np.minimum(rows, columns), np.maximum(rows, columns))
        low, high = _distinct(*send_records(peers, owners(offsets, low), [low, high]))
        # Each column once in each other part that wants it, at the owner of the column.
        halo_of, column = _distinct(mine, columns)
        halo_of, column = _distinct(
            *send_records(peers, owners(offsets, column), [halo_of, column])
        )
        # Each pair of parts once, at the rank in whose run of the parts the first of them is.
        pair = _distinct(np.concatenate([mine, theirs]), np.concatenate([theirs, mine]))
        homes = even_offsets(parts, peers.size)
        pair = _distinct(*send_records(peers, owners(homes, pair[0]), pair))
        table = [
            np.bincount(part, minlength=parts),
            np.bincount(part, weights=counts, minlength=parts),
            np.bincount(halo_of, minlength=parts),
            np.bincount(pair[0], minlength=parts),
            np.full(parts, len(low)),
        ]
        rows_of, nnz, halo, neighbours, edges = peers.sum(np.array(table).astype(np.int64))
    assert rows_of.sum() == n
    return PartitionQuality(int(edges[0]), rows_of, rows_of.copy(), nnz, halo, neighbours)


def _distinct(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    order = np.lexsort((second, first))
    first, second = first[order], second[order]
    new = np.ones(len(first), dtype=bool)
    new[1:] = (first[1:] != first[:-1]) | (second[1:] != second[:-1])
    return first[new], second[new]

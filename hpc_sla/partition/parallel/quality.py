"""How good a partition is, of rows that lie on many ranks."""

from __future__ import annotations

import numpy as np

from hpc_sla.messages.peers import Peers
from hpc_sla.messages.records import gathered, send_records
from hpc_sla.partition.parallel.stored import PartedRows
from hpc_sla.partition.quality import PartitionQuality, count_neighbours
from hpc_sla.storage.parallel.local_rows import owners


def quality_of_rows(peers: Peers, rows: PartedRows) -> PartitionQuality:
    """What `quality` says of the whole, on every rank. **Collective.**

    Only what lies between parts is sent, to the ranks that have the columns.
    """
    cuts, matrix = rows.part_offsets, rows.matrix
    parts, first = len(cuts) - 1, int(rows.offsets[peers.rank])
    counts = np.diff(matrix.indptr).astype(np.int64)
    own = np.arange(first, first + matrix.shape[0], dtype=np.int64)
    part = _part_of(cuts, own)
    nnz = np.bincount(part, weights=counts, minlength=parts).astype(np.int64)
    entry_part = np.repeat(part, counts)
    (away,) = np.nonzero(
        (matrix.indices < cuts[entry_part]) | (matrix.indices >= cuts[entry_part + 1])
    )
    column = matrix.indices[away].astype(np.int64)
    row = np.repeat(own, counts)[away]
    entry_part = entry_part[away]
    # Which parts want which columns, each once: a part's rows may be on several ranks.
    asked = np.unique(np.stack([column, entry_part]), axis=1)
    pairs = np.stack(send_records(peers, owners(rows.offsets, asked[0]), [*asked]))
    wanted, by = np.unique(pairs, axis=1)
    halo = np.bincount(by, minlength=parts).astype(np.int64)
    met = np.unique(np.stack([by, _part_of(cuts, wanted)]), axis=1)
    # Coupled rows are one pair whichever of the two has the entry.
    low, high = np.minimum(row, column), np.maximum(row, column)
    coupled = np.unique(np.stack([low, high]), axis=1)
    coupled = np.stack(send_records(peers, owners(rows.offsets, coupled[0]), [*coupled]))
    cut = np.unique(coupled, axis=1).shape[1]
    sums = peers.sum(np.concatenate([nnz, halo, [cut]]))
    every = gathered(peers, np.ascontiguousarray(met.T).reshape(-1)).reshape(-1, 2).T
    return PartitionQuality(
        edge_cut=int(sums[-1]),
        rows=np.diff(cuts),
        columns=np.diff(cuts),
        nnz=sums[:parts],
        halo=sums[parts:-1],
        neighbours=count_neighbours([every], parts),
    )


def _part_of(cuts: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return np.searchsorted(cuts, rows, side="right") - 1

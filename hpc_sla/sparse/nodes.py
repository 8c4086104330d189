"""Nodes of several unknowns, found in a distributed matrix."""

from __future__ import annotations

import numpy as np
import torch

from hpc_sla.partition.nodes import MOST, NodeRows, find
from hpc_sla.sparse.matrix import DSparseMatrix
from hpc_sla.sparse.unknowns import keeps_nodes


def find_block_size(A: DSparseMatrix) -> int:
    """Unknowns of a node: every how many rows have one pattern of nodes. **Collective.**

    As `hpc_sla.partition.nodes.block_size_of` says it of the whole matrix in the user's numbering,
    on any number of ranks; 1 where a node's rows are not on one rank, one after the other. What
    A says of itself (`A.block_size`) is not looked at.
    """
    if A.columns is not A.layout:
        return 1
    sizes = [b for b in range(MOST, 1, -1) if keeps_nodes(A.layout, b)]
    lacking = A.world.any_bits(sum(1 << b for b in range(2, MOST + 1) if b not in sizes))
    sizes = [b for b in sizes if not lacking >> b & 1]
    if not sizes:
        return 1
    plan, mine = A.pattern.plan, A.local_csr()
    start, n = A.layout.start, A.layout.n_owned
    halo = np.asarray(plan.halo, dtype=np.int64)

    def extend(values: np.ndarray) -> np.ndarray:
        here = torch.from_numpy(np.ascontiguousarray(values)).to(A.device)
        there: np.ndarray = plan.exchange(here).cpu().numpy()
        return np.concatenate([values, there])

    def place(columns: np.ndarray) -> np.ndarray:
        outside = (columns < start) | (columns >= start + n)
        return np.where(outside, n + np.searchsorted(halo, columns), columns - start)

    arrays = mine.indptr, mine.indices, mine.data
    return find(
        NodeRows(start, A.shape[0], *arrays, extend, place, A.world.sums, A.world.any_bits), sizes
    )

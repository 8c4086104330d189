"""A model problem as a distributed matrix, without a file in between."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hpc_sla.partition.offsets import even_offsets
from hpc_sla.problems.base import LinearProblem

if TYPE_CHECKING:
    import torch

    from hpc_sla.distributed.world import World
    from hpc_sla.sparse.matrix import DSparseMatrix


def distribute(
    problem: LinearProblem, world: World, dtype: torch.dtype | None = None
) -> DSparseMatrix:
    """Every rank builds its own rows of `problem`. **Collective.**

    Ranks own even contiguous runs of rows, whole nodes where a node has several unknowns:
    rows `A.layout.start` to `A.layout.start + A.layout.n_owned`, which are also the arguments for
    this rank's share of `problem.rhs`, `.solution`, `.coordinates` and `.near_nullspace`.

    Parameters
    ----------
    problem : LinearProblem
        From `hpc_sla.problems.make`; the same on every rank.
    world : World
    dtype : torch.float64 or torch.float32, optional
        Default: float64.
    """
    # Here, so that `partition`, which builds problems too, does without torch.
    import torch

    from hpc_sla.distributed.layout import RowLayout
    from hpc_sla.sparse.matrix import DSparseMatrix

    block = problem.block_size
    offsets = even_offsets(problem.n_rows // block, world.size) * block
    with world.agree("distribute", problem=(problem.name, problem.parameters), dtype=dtype):
        mine = problem.rows(int(offsets[world.rank]), int(offsets[world.rank + 1]))
    data = mine.data.astype(np.float32 if dtype == torch.float32 else np.float64, copy=False)
    layout = RowLayout(world, offsets)
    indptr, indices = mine.indptr.astype(np.int64), mine.indices.astype(np.int64)
    A = DSparseMatrix._from_rows(layout, layout, indptr, indices, data)
    A.block_size = block
    if block > 1:
        A.coordinates = problem.coordinates(layout.start, layout.start + layout.n_owned)
    return A

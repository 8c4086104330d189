"""A model problem as a distributed matrix, without a file in between."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hpc_sla.partition.offsets import even_offsets
from hpc_sla.problems.base import LinearProblem

if TYPE_CHECKING:
    import torch

    from hpc_sla.distributed.world import World
    from hpc_sla.sparse.matrix import DSparseMatrix
    from hpc_sla.sparse.split import Rows


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
    from hpc_sla.sparse.split import read_split

    block = problem.block_size
    layout = RowLayout(world, even_offsets(problem.n_rows // block, world.size) * block)

    def read(first: int, last: int) -> Rows:
        rows = problem.rows(first, last)
        return rows.indptr, rows.indices, rows.data

    with world.agree("distribute", problem=(problem.name, problem.parameters), dtype=dtype):
        kind = torch.float32 if dtype == torch.float32 else torch.float64
        mine = slice(layout.start, layout.start + layout.n_owned)
        split = read_split(read, mine, mine, kind, world.device, block)
    A = DSparseMatrix._of_split(layout, layout, split)
    A.block_size = block
    if block > 1:
        A.coordinates = problem.coordinates(layout.start, layout.start + layout.n_owned)
    return A

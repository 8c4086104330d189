"""Some rows and columns of a matrix as matrices of their own."""

from __future__ import annotations

import numpy as np
import torch

from hpc_sla.distributed.layout import RowLayout
from hpc_sla.sparse.matrix import DSparseMatrix


class Part:
    """Some rows of a layout as a layout of their own, each on the rank where it is. **Collective.**

    Their numbers are their ranks among each other in the user's order, whatever the partition.

    Parameters
    ----------
    layout : RowLayout
    mask : bool tensor [n_owned]
        Per rank: which rows.

    Attributes
    ----------
    layout : RowLayout
        Of the part.
    index : int64 tensor [layout.n_owned]
        Per rank: where its rows are among those owned of the whole.
    """

    def __init__(self, layout: RowLayout, mask: torch.Tensor) -> None:
        world, order = layout.world, layout._user_order
        self.index = mask.nonzero().squeeze(1)
        chosen = order.to_home(mask.cpu().numpy().astype(np.int64))
        before = world.offsets(int(chosen.sum()))[world.rank]
        numbers = order.from_home(before + np.cumsum(chosen) - 1)
        offsets = world.offsets(len(self.index))
        self.layout = RowLayout.numbered(world, offsets, numbers[self.index.cpu().numpy()])

    def take(self, x: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """`out`: x `[n_owned]` or `[n_owned, k]` in these rows. Local."""
        return torch.index_select(x, 0, self.index, out=out)

    def put(self, part: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """`out` with `part` in these rows. Local."""
        return out.index_copy_(0, self.index, part)


def submatrix(A: DSparseMatrix, rows: Part, columns: Part) -> DSparseMatrix:
    """The entries of a square A in rows of one part and columns of another. **Collective.**

    Zeros that A stores stay. Not differentiable.
    """
    pattern, values = A.pattern, A.held.plain
    number = torch.full((A.layout.n_owned,), -1, dtype=torch.int64, device=A.device)
    mine = torch.arange(columns.layout.n_owned, device=A.device) + columns.layout.start
    number = pattern.plan.extend(number.index_copy(0, columns.index, mine))
    n = A.layout.n_owned
    column = number.index_select(0, pattern.local_columns())
    row = torch.full((n,), -1, dtype=torch.int64, device=A.device)
    row[rows.index] = torch.arange(rows.layout.n_owned, device=A.device)
    row = row.index_select(0, pattern.local_rows())
    kept = ((row >= 0) & (column >= 0)).nonzero().squeeze(1)
    row = row.index_select(0, kept)
    order = torch.argsort(row, stable=True)
    counts = torch.bincount(row, minlength=rows.layout.n_owned)
    indptr = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    kept = kept.index_select(0, order)
    found = [t.cpu().numpy() for t in (indptr, column[kept], values[kept])]
    layout = rows.layout if rows is columns else columns.layout
    return DSparseMatrix._from_rows(rows.layout, layout, found[0], found[1], found[2])

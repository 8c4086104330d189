"""Which neighbours count, on a device: as `precond/amg/strength.py`, which see."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch

from hpc_sla.distributed.halo import HaloPlan
from hpc_sla.distributed.layout import RowLayout
from hpc_sla.precond.amg.device.arrays import grouped, joined, pointers, segment_sums, true_places
from hpc_sla.precond.amg.device.rows import RankRows
from hpc_sla.sparse.matrix import DSparseMatrix

Tensor = torch.Tensor
Triplets: TypeAlias = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Connections:
    """What is strong among a rank's nodes and those of others (per rank).

    Attributes
    ----------
    indptr : int64 tensor [n_nodes + 1]
    columns : int32 tensor [t]
        Owned nodes, none its own neighbour.
    sizes : tensor [t]
    far_rows, far_columns : int64 tensor [f]
        Owned nodes and their neighbours among the halo's.
    far_sizes : tensor [f]
    """

    indptr: Tensor
    columns: Tensor
    sizes: Tensor
    far_rows: Tensor
    far_columns: Tensor
    far_sizes: Tensor


class NodeGraph:
    """All connections between nodes of `block_size` unknowns. **Collective.**

    Between two nodes of several unknowns stands the Frobenius norm of their block.

    Parameters
    ----------
    A : DSparseMatrix
    block_size : int

    Attributes
    ----------
    layout : RowLayout
        Of the nodes.
    plan : HaloPlan
        Of values at nodes.
    """

    def __init__(self, A: DSparseMatrix, block_size: int) -> None:
        self._of, diagonal = A, A.diagonal().detach()
        self.layout, self.plan = A.layout, A.pattern.plan
        self._nodes: Triplets | None = None
        if block_size > 1:
            self.layout = RowLayout(A.world, A.layout.offsets // block_size)
            halo, node = np.unique(self.plan.halo // block_size, return_inverse=True)
            self.plan = HaloPlan(self.layout, halo)
            of_halo = torch.from_numpy(node).to(A.device) + self.layout.n_owned
            n = A.layout.n_owned
            of_owned = torch.arange(n, device=A.device).div_(block_size, rounding_mode="floor")
            self._nodes = self._condensed(torch.cat([of_owned, of_halo]), block_size)
            rows, columns, sizes = self._nodes
            own = torch.where(rows == columns, sizes, 0.0)
            diagonal = own.new_zeros(self.layout.n_owned).scatter_reduce_(0, rows, own, "amax")
        self._root = self.plan.extend(diagonal.abs().sqrt())

    def strong(self, threshold: float) -> Connections:
        """Those with `|a_ij| > threshold sqrt(|a_ii a_jj|)`. Local.

        Vanek, Mandel and Brezina, Computing 56 (1996), equation 5.1.

        Parameters
        ----------
        threshold : float
        """
        n, root = self.layout.n_owned, self._root
        none, no_size = root.new_empty(0, dtype=torch.int64), root.new_empty(0)
        near, far = [(none, none.int(), no_size)], [(none, none, no_size)]
        for first, last, (rows, columns, sizes) in self._triplets():
            limit = threshold * root.index_select(0, rows) * root.index_select(0, columns)
            keep = (sizes > limit) & (sizes > 0) & (rows != columns)
            inner = true_places(keep & (columns < n))
            counts = pointers(rows.index_select(0, inner) - first, last - first).diff()
            # What is as long as the entries is held in few bytes.
            columns_of = columns.index_select(0, inner).to(torch.int32)
            near.append((counts, columns_of, sizes.index_select(0, inner)))
            if self.plan.n_halo:
                outer = true_places(keep & (columns >= n))
                parts = (part.index_select(0, outer) for part in (rows, columns - n, sizes))
                far.append(tuple(parts))  # type: ignore[arg-type]
        counts, *connections = joined(near)
        indptr = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        return Connections(indptr, *connections, *joined(far))

    def _triplets(self) -> Iterator[tuple[int, int, Triplets]]:
        """Connections by rows, of some rows after the other, from the first to the last."""
        if self._nodes is not None:
            yield 0, self.layout.n_owned, self._nodes
            return
        for piece in RankRows(self._of).pieces():
            sizes = piece.values.abs()
            yield piece.first, piece.last, (piece.rows + piece.first, piece.columns, sizes)

    def _condensed(self, node: Tensor, high: int) -> Triplets:
        """Row, column and size of each connection between nodes, by rows. Local."""
        width, parts = self.layout.n_owned + self.plan.n_halo, []
        for piece in RankRows(self._of).pieces(high=high):
            rows = (piece.rows + piece.first).div_(high, rounding_mode="floor")
            columns = node.index_select(0, piece.columns)
            order, first, ends = grouped(rows * width + columns)
            squares = piece.values.index_select(0, order).double().square_()
            sizes = segment_sums(squares, ends).sqrt_().to(piece.values.dtype)
            parts.append((rows.index_select(0, first), columns.index_select(0, first), sizes))
        if not parts:
            return node[:0], node[:0], self._of.diagonal().detach()[:0]
        rows, columns, sizes = (torch.cat(part) for part in zip(*parts, strict=True))
        return rows, columns, sizes

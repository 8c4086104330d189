"""B in the rows of A, whatever pattern each has."""

from __future__ import annotations

import numpy as np
import torch

from hpc_sla.distributed.layout import RowLayout
from hpc_sla.distributed.ownership import Directory
from hpc_sla.errors import InputError
from hpc_sla.sparse.matrix import DSparseMatrix
from hpc_sla.sparse.pattern import DistributedPattern


def aligned(B: DSparseMatrix, layout: RowLayout) -> DSparseMatrix:
    """B with its rows in the order that `layout` has. **Collective.** Differentiable in its values.

    Matrices of different patterns are stored in different orders within a rank, and where each is
    partitioned by its own graph, on other ranks: then B is moved, unless a gradient is wanted.

    Raises
    ------
    InputError
        On every rank, where one has other rows of B than of `layout` and B requires grad.
    """
    world = layout.world
    with world.agree():
        if B.shape != (layout.n_global, layout.n_global):
            n = layout.n_global
            raise InputError(f"is {B.shape[0]} x {B.shape[1]}, and A is {n} x {n}", field="B")
    here = np.array_equal(np.sort(layout.rows), np.sort(B.layout.rows))
    if not world.all(here):
        with world.agree():
            if B.values.requires_grad and torch.is_grad_enabled():
                raise InputError(
                    "requires grad, and does not have its rows on the ranks that have those of A",
                    field="B",
                    remedy="Give from_scipy or from_coo layout=A.layout where B is made, both the "
                    "same array as partition=, or store "
                    "both on one pattern, with explicit zeros, and use A.with_values",
                )
        B = moved(B, layout)
    ours, theirs = np.argsort(layout.rows), np.argsort(B.layout.rows)
    if world.all(layout.same(B.layout)):
        return B
    # Where each owned row of B is in A, and by the halo where its columns are.
    place = np.empty(len(ours), dtype=np.int64)
    place[theirs] = ours
    stored = torch.from_numpy(place + layout.start).to(B.device)
    there = torch.cat([stored, B.pattern.plan.exchange(stored)])
    pattern = B.pattern
    columns = there.index_select(0, pattern.local_columns()).cpu().numpy()
    rows = place[pattern.local_rows().cpu().numpy()]
    order = np.lexsort((columns, rows))
    indptr = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=layout.n_owned))])
    made, order = DistributedPattern.from_rows(
        layout, indptr.astype(np.int64), columns[order], order.astype(np.int64)
    )
    chosen = torch.from_numpy(order).to(B.device)
    return DSparseMatrix(made, B.values.index_select(0, chosen))


def moved(B: DSparseMatrix, layout: RowLayout) -> DSparseMatrix:
    """B with each row on the rank that has it in `layout`. **Collective.** Not differentiable.

    In an order of its own: see `aligned`.
    """
    world, n = layout.world, layout.n_global
    rows, columns = B.entries()
    values = B.values.detach().cpu().numpy()
    bits = values.astype(np.float64).view(np.int64)
    stored = Directory(layout).stored(rows)
    owner = np.searchsorted(layout.offsets, stored, side="right") - 1
    parts = {
        int(rank): np.stack([part[owner == rank] for part in (rows, columns, bits)])
        for rank in np.unique(owner)
    }
    # A row without entries stays with its owner, too.
    arrived = [np.stack([layout.rows, layout.rows, np.zeros(layout.n_owned, dtype=np.int64)])]
    if world.rank in parts:
        arrived.append(parts.pop(world.rank))
    messages = {rank: part.ravel() for rank, part in parts.items()}
    arrived += [part.reshape(3, -1) for part in world.sparse_exchange(messages).values()]
    rows, columns, bits = np.concatenate(arrived, axis=1)
    here = bits.view(np.float64).astype(values.dtype)
    return DSparseMatrix.from_coo(rows, columns, here, (n, n), world)

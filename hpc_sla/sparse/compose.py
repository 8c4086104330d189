"""Sums, products and transposes of distributed matrices as patterns and values. **Collective.**

Each rank makes the rows of the result that it owns. What it needs of other ranks it fetches once
for the pattern, and by one exchange of values, which derivatives go back through: a matrix's stored
entries are a distributed vector of their own, on a layout of entries.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from hpc_sla.distributed.halo import HaloPlan
from hpc_sla.distributed.layout import RowLayout
from hpc_sla.distributed.ownership import Directory
from hpc_sla.sparse.contraction import Triples, contract
from hpc_sla.sparse.entries import pattern_of
from hpc_sla.sparse.pattern import DistributedPattern
from hpc_sla.sparse.product import used

Made = tuple[DistributedPattern, torch.Tensor]


def entry_layout(pattern: DistributedPattern) -> RowLayout:
    """The stored entries by rank, as rows. **Collective.**"""
    world = pattern.layout.world
    return RowLayout(world, world.offsets(pattern.nnz_owned))


def add(
    a: torch.Tensor, left: DistributedPattern, b: torch.Tensor, right: DistributedPattern
) -> Made:
    """A + B on the union of their patterns. **Collective.** Differentiable in a and b.

    Parameters
    ----------
    a, b : torch.Tensor [nnz_owned]
    left, right : DistributedPattern
        Of the same rows and columns.
    """
    width = max(left.columns.n_global, 1)
    keys = [one.local_rows() * width + one.stored_columns() for one in (left, right)]
    union = torch.unique(torch.cat(keys))
    pattern, place = _pattern(union, width, left.layout, left.columns)
    where = [place.index_select(0, torch.searchsorted(union, key)) for key in keys]
    total = a.new_zeros(pattern.nnz_owned).index_add(0, where[0], a).index_add(0, where[1], b)
    return pattern, total


def transpose(values: torch.Tensor, pattern: DistributedPattern) -> Made:
    """A^T, its rows with the owners of A's columns. **Collective.** Differentiable."""
    world, columns = pattern.layout.world, pattern.columns
    entries = entry_layout(pattern)
    rows = (pattern.local_rows() + pattern.layout.start).cpu().numpy()
    there = pattern.stored_columns().cpu().numpy()
    n = pattern.owned.nnz
    owner = np.searchsorted(columns.offsets, there[n:], side="right") - 1
    order = np.argsort(owner, kind="stable")
    ranks, counts = np.unique(owner, return_counts=True)
    pieces = np.split(order, np.cumsum(counts)[:-1]) if len(ranks) else []
    messages = {
        int(rank): np.concatenate(
            [there[n:][piece], rows[n:][piece], entries.start + n + piece.astype(np.int64)]
        )
        for rank, piece in zip(ranks, pieces, strict=True)
    }
    arrived = [m.reshape(3, -1) for m in world.sparse_exchange(messages).values()]
    far = np.concatenate([np.empty((3, 0), dtype=np.int64), *arrived], axis=1)
    far = far[:, np.argsort(far[2])]
    # After this rank's own entries, halo ones included, come those of others.
    number = np.concatenate([np.arange(n), pattern.nnz_owned + np.arange(far.shape[1])])
    row = np.concatenate([there[:n], far[0]]) - columns.start
    column = np.concatenate([rows[:n], far[1]])
    order = np.lexsort((column, row))
    counts = np.bincount(row, minlength=columns.n_owned)
    indptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    turned, number = DistributedPattern.from_rows(
        columns, indptr, column[order], number[order], pattern.layout
    )
    used(pattern, transposed=True)
    extended = HaloPlan(entries, far[2]).extend(values)
    return turned, extended.index_select(0, torch.from_numpy(number).to(values.device))


def multiply(
    a: torch.Tensor,
    left: DistributedPattern,
    b: torch.Tensor,
    right: DistributedPattern,
    stored: torch.Tensor,
    columns: RowLayout,
) -> Made:
    """A B. **Collective.** Differentiable in a and b, any number of times.

    Its pattern has every entry that there may be, and not only those that do not cancel.
    Gustavson's row by row (ACM TOMS 4, 1978), over rows of B that were fetched first.

    Parameters
    ----------
    a, b : torch.Tensor [nnz_owned]
    left, right : DistributedPattern
        A's columns are where B's rows are.
    stored : int64 tensor [nnz_owned]
        The column of each of B's entries as stored in `columns`.
    columns : RowLayout
        Of the product.
    """
    entries = entry_layout(right)
    order = torch.argsort(right.local_rows(), stable=True)
    count = torch.bincount(right.local_rows(), minlength=right.layout.n_owned)
    runs = left.plan.exchange(_runs(right) + torch.tensor([entries.start, 0] * 2, device=a.device))
    wanted = _ranges(runs[:, [0, 2]].reshape(-1), runs[:, [1, 3]].reshape(-1))
    far_count = runs[:, 1] + runs[:, 3]
    ascending, inverse = torch.unique(wanted, return_inverse=True)
    plan = HaloPlan(entries, ascending.cpu().numpy())
    count = torch.cat([count, far_count])
    by_row = torch.argsort(left.local_rows(), stable=True)
    triples = Triples(
        by_row,
        left.local_rows().index_select(0, by_row),
        left.local_columns().index_select(0, by_row),
        count.cumsum(0) - count,
        count,
        torch.cat([order, right.nnz_owned + inverse]),
        plan.extend(stored),
        max(columns.n_global, 1),
    )
    keys = triples.distinct()
    pattern, place = _pattern(keys, triples.width, left.layout, columns)
    used(left)
    return pattern, contract(a, plan.extend(b), replace(triples, keys=keys, place=place))


def columns_in(target: RowLayout, pattern: DistributedPattern, user: np.ndarray) -> torch.Tensor:
    """Each entry's column as `target` stores it. **Collective.**

    Parameters
    ----------
    target : RowLayout
        Of the same columns as the pattern's, maybe in another order.
    user : int64 array [nnz_owned]
        The user's column of each entry.
    """
    return torch.from_numpy(Directory(target).stored(user)).to(pattern.boundary.device)


def _pattern(
    keys: torch.Tensor, width: int, layout: RowLayout, columns: RowLayout
) -> tuple[DistributedPattern, torch.Tensor]:
    """That of `row * width + column`, ascending; and where its values have each. **Collective.**"""
    rows, stored = (keys // width).cpu().numpy(), (keys % width).cpu().numpy()
    pattern, place = pattern_of(layout, rows, stored, columns)
    return pattern, torch.from_numpy(place).to(keys.device)


def _runs(pattern: DistributedPattern) -> torch.Tensor:
    """Where each row's entries are: int64 [n_owned, 4], first and count, owned and halo. Local."""
    ends = pattern.owned.at_hand().indptr.long()
    runs = ends.new_zeros((pattern.layout.n_owned, 4))
    runs[:, 0], runs[:, 1] = ends[:-1], ends.diff()
    far, rows = pattern.halo.indptr.long(), pattern.boundary.long()
    runs[rows, 2], runs[rows, 3] = far[:-1] + pattern.owned.nnz, far.diff()
    return runs


def _ranges(first: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
    """`first[i]` to `first[i] + count[i]`, one after another. Local."""
    several = torch.repeat_interleave(first - (count.cumsum(0) - count), count)
    return several + torch.arange(len(several), device=first.device)

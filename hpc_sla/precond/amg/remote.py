"""Rows of sparse matrices between ranks: fetched from their owners, or sent home."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from hpc_sla.distributed.halo import HaloPlan
from hpc_sla.kernels.tiles import Tiles
from hpc_sla.precond.amg.blocks import Columns, csr


def fetch_rows(plan: HaloPlan, rows: sp.csr_matrix | Tiles, columns: Columns) -> sp.csr_matrix:
    """The halo's rows of a matrix that is spread as the plan's vectors are. **Collective.**

    Parameters
    ----------
    plan : HaloPlan
    rows : csr_matrix or Tiles [n_owned, len(columns)]
        Per rank: the owned rows, in local columns.
    columns : Columns
        New ones are added as the rows bring them.

    Returns
    -------
    csr_matrix [n_halo, len(columns)]
    """
    world = plan.layout.world
    send = plan.send_index.cpu().numpy()
    messages = {rank: _pack(rows[send[where]], columns) for rank, where in plan.sends.slices()}
    answers = world.sparse_exchange(messages)
    counts, stored, data = [], [], []
    for rank, where in plan.receives.slices():
        n = where.stop - where.start
        count, column, value = _unpack(answers[rank], n)
        counts.append(count)
        stored.append(column)
        data.append(value)
    local = columns.local(_joined(stored))
    indptr = np.concatenate([[0], np.cumsum(_joined(counts))]).astype(np.int32)
    return csr(_joined(data).view(np.float64), local, indptr, plan.n_halo, len(columns))


def send_home(
    product: sp.csr_matrix, rows: Columns, columns: Columns
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of a matrix that belong to other ranks, to their owners. **Collective.**

    Parameters
    ----------
    product : csr_matrix [len(rows.away), len(columns)]
        Per rank, in local numbers.
    rows, columns : Columns
        New columns are added as others bring them.

    Returns
    -------
    int64 array, int32 array, float64 array
        Row, column and value of what arrived here, in local numbers; the same entry may come
        from several ranks.
    """
    layout = rows.layout
    owner = np.searchsorted(layout.offsets, rows.away, side="right") - 1
    messages = {}
    for rank in np.unique(owner):
        mine = np.flatnonzero(owner == rank)
        packed = _pack(product[mine], columns)
        messages[int(rank)] = np.concatenate([[len(mine)], rows.away[mine], packed])
    row, column, value = [], [], []
    for message in layout.world.sparse_exchange(messages).values():
        count = int(message[0])
        target = message[1 : 1 + count] - layout.start
        counts, stored, data = _unpack(message[1 + count :], count)
        row.append(np.repeat(target, counts))
        column.append(stored)
        value.append(data)
    return _joined(row), columns.local(_joined(column)), _joined(value).view(np.float64)


def _pack(rows: sp.csr_matrix, columns: Columns) -> np.ndarray:
    """Lengths, stored columns and values of rows, one after the other, as int64."""
    counts = np.diff(rows.indptr).astype(np.int64)
    values = rows.data.astype(np.float64)
    return np.concatenate([counts, columns.stored(rows.indices), values.view(np.int64)])


def _unpack(message: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    counts = message[:n]
    total = int(counts.sum())
    return counts, message[n : n + total], message[n + total : n + 2 * total]


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([*parts, np.empty(0, dtype=np.int64)])

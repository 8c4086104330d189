"""Rows of vectors between ranks, on their devices: fetched from their owners, or sent home."""

from __future__ import annotations

import torch

from hpc_sla.distributed.halo import HaloPlan
from hpc_sla.distributed.transport import Neighbours
from hpc_sla.distributed.world import World
from hpc_sla.precond.amg.device.arrays import host, pointers, written_out
from hpc_sla.precond.amg.device.prolongator import VectorRows

Tensor = torch.Tensor


def fetch_rows(plan: HaloPlan, rows: VectorRows, numbers: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The halo's rows of a matrix that is spread as the plan's vectors are. **Collective.**

    Parameters
    ----------
    plan : HaloPlan
    rows : VectorRows
        Per rank: the owned rows.
    numbers : int64 tensor
        The stored number of each column.

    Returns
    -------
    int64 tensor [n_halo]
        Entries of each row.
    int64 tensor [t]
        Their stored columns.
    tensor [t, m]
    """
    counts = rows.indptr.diff().long()
    arriving = plan.exchange(counts)
    leaving = counts.index_select(0, plan.send_index)
    sends, receives = _totals((plan.sends, leaving), (plan.receives, arriving))
    starts = rows.indptr.index_select(0, plan.send_index)
    _, entry = written_out(starts, leaving, sends.total)
    columns = numbers.index_select(0, rows.columns.index_select(0, entry))
    values = rows.values.index_select(0, entry)
    world = plan.layout.world
    columns, values = (_exchanged(world, sends, receives, part) for part in (columns, values))
    return arriving, columns, values


def send_home(
    plan: HaloPlan, rows: Tensor, columns: Tensor, values: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Entries in rows of the halo, to the owners of these. **Collective.**

    Parameters
    ----------
    plan : HaloPlan
    rows : int64 tensor [t]
        Ascending, from the first of the halo.
    columns : int64 tensor [t]
    values : tensor [t, ...]

    Returns
    -------
    The same of what arrived here, in the order of the ranks it came from; rows are owned ones.
    """
    leaving = pointers(rows, plan.n_halo).diff()
    channel = plan.reduce_channel(leaving)
    channel.send_buffer.copy_(leaving)
    channel.start()
    channel.finish()
    arriving = channel.recv_buffer
    sends, receives = _totals((plan.receives, leaving), (plan.sends, arriving))
    row = torch.repeat_interleave(plan.send_index.long(), arriving, output_size=receives.total)
    world = plan.layout.world
    columns, values = (_exchanged(world, sends, receives, part) for part in (columns, values))
    return row, columns, values


def _totals(*sides: tuple[Neighbours, Tensor]) -> list[Neighbours]:
    """Neighbours by how many entries the rows exchanged with them have. The host waits."""
    sums = [counts[rows].sum() for neighbours, counts in sides for _, rows in neighbours.slices()]
    totals, found = iter(host(*sums) if sums else []), []
    for neighbours, _ in sides:
        pairs = [(rank, next(totals)) for rank in neighbours.ranks]
        some = [pair for pair in pairs if pair[1]]
        found.append(Neighbours(tuple(rank for rank, _ in some), tuple(n for _, n in some)))
    return found


def _exchanged(world: World, sends: Neighbours, receives: Neighbours, entries: Tensor) -> Tensor:
    """**Collective.** Once only: nothing is kept of the channel."""
    channel = world.transport.channel(sends, receives, tuple(entries.shape[1:]), entries.dtype)
    channel.send_buffer.copy_(entries)
    channel.start()
    channel.finish()
    channel.close()
    return channel.recv_buffer

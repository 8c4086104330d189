"""Messages to ranks that do not know they will get one."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from mpi4py import MPI

# With more ranks than cores the rank that is waited for runs only where the others sleep.
_EAGER_POLLS = 50
_NAP_SECONDS = 2e-5


def sparse_exchange(
    comm: MPI.Comm, messages: Mapping[int, np.ndarray], tag: int
) -> dict[int, np.ndarray]:
    """Send each rank in `messages` its array; return what arrived here. **Collective.**

    Nobody learns the whole communication graph: the cost on a rank grows with its own number of
    neighbours (and the logarithm of the rank count), not with the rank count. This is the
    non-blocking consensus of T. Hoefler, C. Siebert and A. Lumsdaine, "Scalable communication
    protocols for dynamic sparse data exchange", PPoPP 2010, algorithm 2 (NBX).

    Parameters
    ----------
    comm : MPI.Comm
    messages : mapping of rank to int64 or float64 array [m]
        Per rank. Every message of one call, on all ranks, has the same dtype width (8 bytes).
    tag : int
        The same on every rank, and different from the previous call's: a rank that has left the
        consensus may already send its next call's messages while another is still inside.

    Returns
    -------
    dict of rank to int64 array
        In ascending rank order. View as float64 where that was sent.
    """
    if any(array.itemsize != 8 for array in messages.values()):
        raise TypeError("messages are of int64 or float64")  # others would arrive as other numbers
    if comm.size == 1:
        own = {rank: np.array(array).view(np.int64) for rank, array in messages.items()}
        return own  # and MPI, which a World of one process may not have, stays out of it
    from mpi4py import MPI

    pending = [
        comm.Issend(np.ascontiguousarray(array).view(np.int64), dest=rank, tag=tag)
        for rank, array in messages.items()
    ]
    received: dict[int, np.ndarray] = {}
    status = MPI.Status()
    barrier = None
    polls = 0
    while True:
        if comm.Iprobe(source=MPI.ANY_SOURCE, tag=tag, status=status):
            source = status.Get_source()
            buffer = np.empty(status.Get_count(MPI.INT64_T), dtype=np.int64)
            comm.Recv(buffer, source=source, tag=tag)
            received[source] = buffer
            polls = 0
            continue
        if barrier is None:
            if MPI.Request.Testall(pending):
                barrier = comm.Ibarrier()
        elif barrier.Test():
            return dict(sorted(received.items()))
        polls += 1
        if polls > _EAGER_POLLS:
            time.sleep(_NAP_SECONDS)

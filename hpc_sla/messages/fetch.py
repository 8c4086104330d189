"""Values of numbered things from the ranks that own them, as often as wanted."""

from __future__ import annotations

import numpy as np

from hpc_sla.messages.peers import Peers


def owners(offsets: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """The rank of each number, where rank r has `offsets[r]` to `offsets[r + 1]`. Local."""
    return np.searchsorted(offsets, ids, side="right") - 1


def sent_to(peers: Peers, owner: np.ndarray, *columns: np.ndarray) -> list[np.ndarray]:
    """Rows of a table, each sent to its rank: what arrived here, and this rank's own first.

    **Collective.** From each rank in the order in which they were, ranks ascending.

    Parameters
    ----------
    owner : int array [m]
    columns : int64 arrays [m]
    """
    if peers.size == 1:
        return list(columns)
    order = np.argsort(owner, kind="stable")
    ranks, starts = np.unique(owner[order], return_index=True)
    edges = np.append(starts, len(order))
    messages = {}
    mine = np.empty(0, dtype=np.int64)
    for i, rank in enumerate(ranks):
        rows = order[edges[i] : edges[i + 1]]
        if rank == peers.rank:
            mine = rows
        else:
            messages[int(rank)] = np.concatenate([column[rows] for column in columns])
    arrived = [m.reshape(len(columns), -1) for m in peers.exchange(messages).values()]
    return [
        np.concatenate([column[mine], *(table[i] for table in arrived)])
        for i, column in enumerate(columns)
    ]


class Fetch:
    """Who needs which values of whom. **Collective.**

    Parameters
    ----------
    peers : Peers
    offsets : int64 array [size + 1]
        Replicated: rank r owns numbers ``offsets[r]`` to ``offsets[r + 1] - 1``.
    wanted : int64 array [m]
        Per rank: ascending; its own may be among them.
    """

    def __init__(self, peers: Peers, offsets: np.ndarray, wanted: np.ndarray) -> None:
        self._peers = peers
        start = offsets[peers.rank]
        self._count = len(wanted)
        cuts = np.searchsorted(wanted, offsets)
        self._mine = slice(int(cuts[peers.rank]), int(cuts[peers.rank + 1]))
        self._own = wanted[self._mine] - start
        self._from: dict[int, slice] = {}
        for rank in np.flatnonzero(np.diff(cuts)):
            if rank != peers.rank:
                self._from[int(rank)] = slice(int(cuts[rank]), int(cuts[rank + 1]))
        asked = peers.exchange({rank: wanted[part] for rank, part in self._from.items()})
        self._to = {rank: ids - start for rank, ids in asked.items() if rank != peers.rank}

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """The wanted ones `[m]`, of each rank's own `[n_owned]`, in one dtype. **Collective.**"""
        found = np.empty(self._count, dtype=values.dtype)
        found[self._mine] = values[self._own]
        if self._peers.size > 1:
            from mpi4py import MPI

            comm, tag = self._peers.comm, self._peers.tag()
            requests = [comm.Irecv(found[p], source=r, tag=tag) for r, p in self._from.items()]
            packed = [values[ids] for ids in self._to.values()]  # kept until they are sent
            requests += [
                comm.Isend(a, dest=r, tag=tag) for r, a in zip(self._to, packed, strict=True)
            ]
            MPI.Request.Waitall(requests)
        return found

"""Values of numbered things from the ranks that own them, as often as wanted."""

from __future__ import annotations

import numpy as np

from hpc_sla.messages.peers import Peers


class Fetch:
    """Who needs which values of whom. **Collective.**

    Parameters
    ----------
    peers : Peers
    offsets : int64 array [size + 1]
        Replicated: rank r owns numbers ``offsets[r]`` to ``offsets[r + 1] - 1``.
    wanted : int array [m]
        Per rank: ascending, no two the same; its own may be among them.
    """

    def __init__(self, peers: Peers, offsets: np.ndarray, wanted: np.ndarray) -> None:
        self._peers = peers
        wanted = wanted.astype(np.int64, copy=False)
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

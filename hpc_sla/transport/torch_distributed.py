"""The `gloo` and `nccl` transports: torch.distributed, brought up over MPI."""

from __future__ import annotations

import atexit
import os
import socket
from datetime import timedelta

import torch
import torch.distributed as dist
from mpi4py import MPI

from hpc_sla.errors import HpcSlaError
from hpc_sla.transport.base import Channel, Neighbours, Pending

_TIMEOUT = timedelta(minutes=10)


class TorchDistributedTransport:
    """Transport over a torch.distributed process group with the ranks of `comm`.

    **Collective.** The first one in a process initialises torch.distributed itself, with the
    address that rank 0 broadcasts over MPI, so `mpiexec` or `srun` is the only launcher needed.
    Later ones, and those that find it initialised by somebody else, make a subgroup, which only
    its members take part in. The default group lives until the process ends.

    Raises
    ------
    HpcSlaError
        On every rank, where `comm` has ranks outside the default group: torch.distributed has one
        a process and it cannot grow.
    """

    def __init__(self, comm: MPI.Comm, device: torch.device, backend: str) -> None:
        self.name = backend
        self._device = device
        fresh = comm.allgather(not dist.is_initialized())
        if all(fresh):
            store, address = _store(comm)
            dist.init_process_group(
                backend, store=store, rank=comm.rank, world_size=comm.size, timeout=_TIMEOUT
            )
            atexit.register(_tear_down)
            global _default_group
            _default_group = address
            self._group = _group_of_all()
            members = list(range(comm.size))
        else:
            members = _members(comm, fresh)
            _count_alike(comm, backend)
            self._group = dist.new_group(
                sorted(members), timeout=_TIMEOUT, backend=backend, use_local_synchronization=True
            )
        # Ranks of the default group, in `comm`'s order: new_group sorts, MPI does not.
        self._peers = members
        # nccl makes its communicator at the group's first operation, which all must take part in;
        # a halo exchange may have ranks that talk to nobody.
        self.all_reduce_sum(torch.zeros(1, device=device))

    def all_reduce_sum(self, tensor: torch.Tensor) -> None:
        if len(self._peers) > 1:
            dist.all_reduce(tensor, group=self._group)

    def start_all_reduce_sum(self, tensor: torch.Tensor) -> Pending:
        work = None
        if len(self._peers) > 1:
            work = dist.all_reduce(tensor, group=self._group, async_op=True)
        return _Reduction(work)

    def channel(
        self, send: Neighbours, recv: Neighbours, trailing: tuple[int, ...], dtype: torch.dtype
    ) -> Channel:
        return TorchDistributedChannel(
            self._group, self._peers, self._device, send, recv, trailing, dtype
        )

    def close(self) -> None:
        """Nothing to do: groups live until the process ends, other Worlds may be in them."""


class _Reduction:
    def __init__(self, work: dist.Work | None) -> None:
        self._work = work

    def wait(self) -> None:
        # With nccl this orders the current stream after the reduction and returns at once.
        if self._work is not None:
            self._work.wait()


class TorchDistributedChannel:
    """One batch of isend and irecv, posted anew at each start."""

    def __init__(
        self,
        group: dist.ProcessGroup,
        peers: list[int],
        device: torch.device,
        send: Neighbours,
        recv: Neighbours,
        trailing: tuple[int, ...],
        dtype: torch.dtype,
    ) -> None:
        self.send_buffer = torch.empty((send.total, *trailing), dtype=dtype, device=device)
        self.recv_buffer = torch.empty((recv.total, *trailing), dtype=dtype, device=device)
        self._operations = [
            dist.P2POp(dist.irecv, self.recv_buffer[rows], peers[rank], group)
            for rank, rows in recv.slices()
        ]
        self._operations += [
            dist.P2POp(dist.isend, self.send_buffer[rows], peers[rank], group)
            for rank, rows in send.slices()
        ]
        self._works: list[dist.Work] = []

    def start(self) -> None:
        if self._operations:
            self._works = dist.batch_isend_irecv(self._operations)

    def finish(self) -> None:
        # With nccl, wait() orders the current stream after the transfer and returns at once.
        for work in self._works:
            work.wait()
        self._works = []

    def close(self) -> None:
        self._operations.clear()


_default_group: tuple[str, int] | None = None
"""The address that brought up the default group; None where it was not us."""


def _group_of_all() -> dist.ProcessGroup:
    group = dist.group.WORLD
    assert group is not None
    return group


def _tear_down() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def _store(comm: MPI.Comm) -> tuple[dist.Store, tuple[str, int]]:
    """A TCPStore served by rank 0 of `comm`, its address told over MPI. **Collective.**"""
    node = comm.Split_type(MPI.COMM_TYPE_SHARED)
    one_node = node.size == comm.size
    node.Free()
    server, address = None, None
    if comm.rank == 0:
        host = "127.0.0.1" if one_node else os.environ.get("MASTER_ADDR") or socket.getfqdn()
        server = dist.TCPStore(
            host, 0, comm.size, is_master=True, timeout=_TIMEOUT, wait_for_workers=False
        )
        address = (host, server.port)
    host, port = address = comm.bcast(address)
    if server is not None:
        return server, address
    return dist.TCPStore(host, port, comm.size, is_master=False, timeout=_TIMEOUT), address


def _count_alike(comm: MPI.Comm, backend: str) -> None:
    """Bring the number of groups this process knows to the same on all of `comm`. **Collective.**

    torch names a subgroup after its ranks and that number, which differs where some ranks were in
    more groups than others; the members then wait for each other under different names (PyTorch
    pull request 189073). A group of one rank raises the number and waits for nobody.
    """
    known = len(dist.distributed_c10d._world.pg_names)
    for _ in range(max(comm.allgather(known)) - known):
        dist.new_group([dist.get_rank()], backend=backend, use_local_synchronization=True)


def _members(comm: MPI.Comm, fresh: list[bool]) -> list[int]:
    """The default group's ranks that `comm`'s are, in `comm`'s order. **Collective.**"""
    mine = None if fresh[comm.rank] else (_default_group, dist.get_rank())
    known = comm.allgather(mine)
    groups = {item and item[0] for item in known}
    ranks = [item[1] for item in known if item is not None]
    if any(fresh) or len(groups) > 1 or len(set(ranks)) < comm.size:
        raise HpcSlaError(
            "torch.distributed is already up in this process, without some of these ranks; make "
            "the World of the largest communicator first, or use transport='mpi'"
        )
    return ranks

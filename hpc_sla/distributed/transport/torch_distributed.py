"""The `gloo` and `nccl` transports: torch.distributed, brought up over MPI."""

from __future__ import annotations

import atexit
import os
import socket
import sys
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from mpi4py import MPI

from hpc_sla.distributed.transport.base import Channel, Neighbours, Pending
from hpc_sla.distributed.transport.rendezvous import make_store
from hpc_sla.errors import HpcSlaError

_TIMEOUT = timedelta(minutes=10)

_CAPTURABLE = (2, 9, 6)
"""NCCL's first version whose operations a CUDA graph can be made of."""


class TorchDistributedTransport:
    """Transport over a torch.distributed process group with the ranks of `comm`.

    **Collective.** The first one in a process initialises torch.distributed itself, with the
    address that rank 0 broadcasts over MPI, so `mpiexec` or `srun` is the only launcher needed.
    Later ones, and those that find it initialised by somebody else, make a subgroup, which only
    its members take part in. Groups live until the process ends, or somebody else destroys them:
    then a later World makes them anew.

    Parameters
    ----------
    comm : MPI.Comm
    device : torch.device
    backend : {"gloo", "nccl"}
    groups : dict
        What has been made for these ranks before; added to.

    Raises
    ------
    HpcSlaError
        On every rank, where `comm` has ranks outside the default group: torch.distributed has one
        a process and it cannot grow.
    """

    def __init__(
        self,
        comm: MPI.Comm,
        device: torch.device,
        backend: str,
        groups: dict[tuple[str, ...], Any],
    ) -> None:
        self.name = backend
        self._device = device
        self._channels: weakref.WeakSet[TorchDistributedChannel] = weakref.WeakSet()
        # Worlds on other devices have groups of their own: nccl's is bound to one. By the devices
        # of all: where only one rank's is another, all must take part in making a group.
        key = (backend, *comm.allgather(str(device)))
        if key not in groups or not _lives(comm, groups[key][0]):
            groups[key] = _group(comm, backend, device)
        # Ranks of the default group, in `comm`'s order: new_group sorts, MPI does not.
        self._group, self._peers = groups[key]
        self.capturable = len(self._peers) == 1 or (
            backend == "nccl" and tuple(torch.cuda.nccl.version()) >= _CAPTURABLE
        )
        # Messages of fewer ranks travel by the communicator of all, which is there: one of their
        # own is made by their first reduction, if there ever is one.
        self._messages = self._group
        ours = _default()
        if all(comm.allgather(ours is not None and ours.of == (backend, str(device)))):
            self._messages = _group_of_all()
        # nccl makes a communicator at the group's first operation, which all must take part in; a
        # halo exchange may have ranks that talk to nobody.
        if self._messages is self._group:
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
        channel = TorchDistributedChannel(
            self._messages, self._peers, self._device, send, recv, trailing, dtype
        )
        self._channels.add(channel)
        return channel

    def calls(self, dtype: torch.dtype) -> None:
        """No pointers to its functions are to be had."""

    def close(self) -> None:
        """Channels only: groups live until the process ends, other Worlds may be in them."""
        for channel in list(self._channels):
            channel.close()


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
        self._closed = False

    def start(self) -> None:
        if self._closed:
            raise HpcSlaError("this World has been closed")
        if self._operations:
            self._works = dist.batch_isend_irecv(self._operations)

    def finish(self) -> None:
        # With nccl, wait() orders the current stream after the transfer and returns at once.
        for work in self._works:
            work.wait()
        self._works = []

    def requests(self) -> None:
        """It has none that last."""

    def close(self) -> None:
        self._closed = True
        self._operations.clear()


@dataclass(frozen=True)
class _Default:
    """The default group that we have made: by which store, and its backend and device."""

    group: dist.ProcessGroup
    store: str
    of: tuple[str, str]


_made: _Default | None = None


def _default() -> _Default | None:
    """What is known of the default group; None where it was not us who made it. Local."""
    alive = _made is not None and dist.is_initialized() and _group_of_all() is _made.group
    return _made if alive else None


def _lives(comm: MPI.Comm, group: dist.ProcessGroup) -> bool:
    """Whether a group is still there on all ranks: a user may destroy it. **Collective.**"""
    return _sum(comm, int(group in dist.distributed_c10d._world.pg_map)) == comm.size


def _group_of_all() -> dist.ProcessGroup:
    group = dist.group.WORLD
    assert group is not None
    return group


def _tear_down() -> None:
    if _default() is not None:  # and not a user's own
        dist.destroy_process_group()


@contextmanager
def _unbound() -> Iterator[None]:
    """No group made within splits off the communicator of all, as torch has it of one that is bound
    to a device: all ranks would have to take part, and only members come here. Local.
    """
    group = _group_of_all()
    bound: Any = group.bound_device_id
    if bound is None:
        yield
        return
    group.bound_device_id = None
    try:
        yield
    finally:
        group.bound_device_id = bound


def _group(
    comm: MPI.Comm, backend: str, device: torch.device
) -> tuple[dist.ProcessGroup, list[int]]:
    """The group of `comm`'s ranks, and who they are in the default group. **Collective.**"""
    new = not dist.is_initialized()
    fresh = _sum(comm, int(new))
    if fresh < comm.size:
        members = _members(comm, new, fresh > 0)
        _count_alike(comm, backend)
        with _interface(_on_one_node(comm)), _unbound():
            group = dist.new_group(
                sorted(members), timeout=_TIMEOUT, backend=backend, use_local_synchronization=True
            )
        return group, members
    store, name = make_store(comm, _on_one_node(comm), _TIMEOUT)
    # Where nccl knows its device, it connects now, and not in the first exchange.
    bound: dict[str, Any] = {"device_id": device} if backend == "nccl" else {}
    with _interface(_on_one_node(comm)), _hook_kept():
        dist.init_process_group(
            backend, store=store, rank=comm.rank, world_size=comm.size, timeout=_TIMEOUT, **bound
        )
    atexit.register(_tear_down)
    global _made
    _made = _Default(_group_of_all(), name, (backend, str(device)))
    return _made.group, list(range(comm.size))


@contextmanager
def _hook_kept() -> Iterator[None]:
    """What is called for an uncaught error stays. Local.

    torch's prints a traceback after the hook that it found, and ours ends the job.
    """
    before = sys.excepthook
    try:
        yield
    finally:
        sys.excepthook = before


def _sum(comm: MPI.Comm, number: int) -> int:
    """**Collective.**"""
    total = np.array([number])
    comm.Allreduce(MPI.IN_PLACE, total)
    return int(total[0])


def _on_one_node(comm: MPI.Comm) -> bool:
    """**Collective.**"""
    node = comm.Split_type(MPI.COMM_TYPE_SHARED)
    same_node = node.size == comm.size
    node.Free()
    return same_node


@contextmanager
def _interface(one_node: bool) -> Iterator[None]:
    """On one node gloo's own sockets keep to the loopback device, unless told otherwise. Local."""
    name = "GLOO_SOCKET_IFNAME"
    loopback = [interface for _, interface in socket.if_nameindex() if interface == "lo"]
    if not one_node or name in os.environ or not loopback:
        yield
        return
    os.environ[name] = loopback[0]
    try:
        yield
    finally:
        del os.environ[name]


def _count_alike(comm: MPI.Comm, backend: str) -> None:
    """Bring the number of groups this process knows to the same on all of `comm`. **Collective.**

    torch names a subgroup after its ranks and that number, which differs where some ranks were in
    more groups than others; the members then wait for each other under different names (PyTorch
    pull request 189073). A group of one rank raises the number and waits for nobody.
    """
    known = len(dist.distributed_c10d._world.pg_names)
    most = np.array([known])
    comm.Allreduce(MPI.IN_PLACE, most, op=MPI.MAX)
    for _ in range(int(most[0]) - known):
        dist.new_group([dist.get_rank()], backend=backend, use_local_synchronization=True)


def _members(comm: MPI.Comm, new: bool, any_new: bool) -> list[int]:
    """The default group's ranks that `comm`'s are, in `comm`'s order. **Collective.**"""
    ours = _default()
    own = None if new else (ours and ours.store, dist.get_rank())
    known = comm.allgather(own)
    groups = {item and item[0] for item in known}
    ranks = [item[1] for item in known if item is not None]
    if any_new or len(groups) > 1 or len(set(ranks)) < comm.size:
        raise HpcSlaError(
            "torch.distributed is already up in this process, without some of these ranks; make "
            "the World of the largest communicator first, or use transport='mpi'"
        )
    return ranks

"""The `mpi` transport: mpi4py on the tensors' own memory."""

from __future__ import annotations

import weakref
from collections.abc import Iterator

import torch
from mpi4py import MPI

from hpc_sla.distributed.transport.base import Channel, Neighbours, Pending
from hpc_sla.distributed.transport.mpi_calls import calls_of, requests_of
from hpc_sla.errors import HpcSlaError
from hpc_sla.kernels.burst import Calls, Requests
from hpc_sla.messages.tags import CHANNELS


class MpiTransport:
    """Transport over mpi4py.

    On the CPU messages leave from and land in the tensors' memory. On another device they are
    staged through page-locked host memory, which needs no CUDA-aware MPI and allows several
    ranks to share a GPU.
    """

    name = "mpi"

    def __init__(self, comm: MPI.Comm, device: torch.device, numbers: Iterator[int]) -> None:
        self._comm = comm
        self.capturable = comm.size == 1  # which has nothing to send; MPI waits on the host
        self._device = device
        self._numbers = numbers  # of channels, over all transports on this communicator
        self._channels: weakref.WeakSet[MpiChannel] = weakref.WeakSet()
        self._calls: dict[torch.dtype, Calls | None] = {}

    def all_reduce_sum(self, tensor: torch.Tensor) -> None:
        if self._comm.size == 1:
            return
        if tensor.device.type == "cpu":
            self._comm.Allreduce(MPI.IN_PLACE, tensor.numpy())
        else:
            host = tensor.cpu()
            self._comm.Allreduce(MPI.IN_PLACE, host.numpy())
            tensor.copy_(host)

    def start_all_reduce_sum(self, tensor: torch.Tensor) -> Pending:
        return _MpiReduction(self._comm, tensor)

    def channel(
        self, send: Neighbours, recv: Neighbours, trailing: tuple[int, ...], dtype: torch.dtype
    ) -> Channel:
        # A tag a channel: two channels in flight at once must not take each other's messages.
        tag = CHANNELS[next(self._numbers) % len(CHANNELS)]
        channel = MpiChannel(self._comm, self._device, send, recv, trailing, dtype, tag)
        self._channels.add(channel)
        return channel

    def calls(self, dtype: torch.dtype) -> Calls | None:
        if self._device.type != "cpu":
            return None
        if dtype not in self._calls:
            self._calls[dtype] = calls_of(self._comm, dtype)
        return self._calls[dtype]

    def close(self) -> None:
        for channel in list(self._channels):
            channel.close()


class _MpiReduction:
    """A non-blocking allreduce (MPI 4.1, section 6.12), staged through the host off the CPU."""

    def __init__(self, comm: MPI.Comm, tensor: torch.Tensor) -> None:
        self._tensor = tensor
        self._host = tensor if tensor.device.type == "cpu" else tensor.cpu()
        self._request = MPI.REQUEST_NULL
        if comm.size > 1:
            self._request = comm.Iallreduce(MPI.IN_PLACE, self._host.numpy())

    def wait(self) -> None:
        self._request.Wait()
        if self._host is not self._tensor:
            self._tensor.copy_(self._host)


class MpiChannel:
    """Persistent requests between fixed buffers (MPI 4.1, section 3.9)."""

    def __init__(
        self,
        comm: MPI.Comm,
        device: torch.device,
        send: Neighbours,
        recv: Neighbours,
        trailing: tuple[int, ...],
        dtype: torch.dtype,
        tag: int,
    ) -> None:
        self.send_buffer = torch.empty((send.total, *trailing), dtype=dtype, device=device)
        self.recv_buffer = torch.empty((recv.total, *trailing), dtype=dtype, device=device)
        self._staged = device.type != "cpu"
        self._send_host = _host_buffer(self.send_buffer)
        self._recv_host = _host_buffer(self.recv_buffer)
        send_view, recv_view = self._send_host.numpy(), self._recv_host.numpy()
        self._requests: list[MPI.Prequest] = [
            comm.Recv_init(recv_view[rows], source=rank, tag=tag) for rank, rows in recv.slices()
        ]
        self._requests += [
            comm.Send_init(send_view[rows], dest=rank, tag=tag) for rank, rows in send.slices()
        ]
        # Requests still alive when MPI is finalised are an error, and atexit runs before that.
        self._closed = False
        self._handles: Requests | None = None  # made once: a new type of array each time is a cycle
        self._release = weakref.finalize(self, _free, self._requests)

    def start(self) -> None:
        if self._closed:
            raise HpcSlaError("this World has been closed")
        if self._staged:
            self._send_host.copy_(self.send_buffer)
        MPI.Prequest.Startall(self._requests)

    def finish(self) -> None:
        MPI.Prequest.Waitall(self._requests)
        if self._staged:
            self.recv_buffer.copy_(self._recv_host)

    def requests(self) -> Requests | None:
        if self._staged or self._closed:
            return None
        if self._handles is None:
            self._handles = requests_of(self._requests)
        return self._handles

    def close(self) -> None:
        self._closed = True
        self._release()


def _host_buffer(buffer: torch.Tensor) -> torch.Tensor:
    """The buffer itself on the CPU, else page-locked host memory of the same shape."""
    if buffer.device.type == "cpu":
        return buffer
    return torch.empty(buffer.shape, dtype=buffer.dtype, device="cpu", pin_memory=True)


def _free(requests: list[MPI.Prequest]) -> None:
    if not MPI.Is_finalized():
        for request in requests:
            request.Free()
    requests.clear()

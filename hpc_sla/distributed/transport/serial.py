"""One rank without MPI: its communicator, and the `serial` transport, which moves nothing."""

from __future__ import annotations

from typing import Any, TypeVar

import torch

from hpc_sla.distributed.transport.base import Channel, Neighbours
from hpc_sla.kernels.burst import ALONE, Calls, Requests

T = TypeVar("T")


class SerialComm:
    """What this package uses of an mpi4py communicator, among one rank.

    Every collective is what MPI makes of it there: the rank's own value, unchanged. Point-to-point
    messages are missing, for there is nobody to send to.
    """

    rank = 0
    size = 1

    def Dup(self) -> SerialComm:
        return self

    def Free(self) -> None:
        """Nothing is held."""

    def Barrier(self) -> None:
        """Nobody to wait for."""

    def allreduce(self, value: T, op: Any = None) -> T:
        return value

    def bcast(self, value: T, root: int = 0) -> T:
        return value

    def gather(self, value: T, root: int = 0) -> list[T]:
        return [value]

    def allgather(self, value: T) -> list[T]:
        return [value]


class SerialTransport:
    """Transport of a World of one process, without MPI."""

    name = "serial"
    capturable = True

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def all_reduce_sum(self, tensor: torch.Tensor) -> None:
        """The sum over one rank is there already."""

    def start_all_reduce_sum(self, tensor: torch.Tensor) -> SerialReduction:
        return SerialReduction()

    def channel(
        self, send: Neighbours, recv: Neighbours, trailing: tuple[int, ...], dtype: torch.dtype
    ) -> Channel:
        return SerialChannel(self._device, trailing, dtype)

    def calls(self, dtype: torch.dtype) -> Calls:
        return ALONE

    def close(self) -> None:
        """Nothing is held."""


class SerialReduction:
    """A reduction that was finished when it began."""

    def wait(self) -> None:
        """Nothing to wait for."""


class SerialChannel:
    """No neighbours: both buffers are empty."""

    def __init__(self, device: torch.device, trailing: tuple[int, ...], dtype: torch.dtype) -> None:
        self.send_buffer = torch.empty((0, *trailing), dtype=dtype, device=device)
        self.recv_buffer = torch.empty((0, *trailing), dtype=dtype, device=device)

    def start(self) -> None:
        """Nothing to send."""

    def finish(self) -> None:
        """Nothing to receive."""

    def requests(self) -> Requests:
        return Requests()

    def close(self) -> None:
        """Nothing is held."""

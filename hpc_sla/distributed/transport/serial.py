"""The `serial` transport: one rank, nothing to move."""

from __future__ import annotations

import torch

from hpc_sla.distributed.transport.base import Channel, Neighbours


class SerialTransport:
    """Transport of a World of one process, without MPI."""

    name = "serial"

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

    def close(self) -> None:
        """Nothing is held."""

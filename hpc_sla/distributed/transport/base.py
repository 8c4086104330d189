"""The protocol every transport satisfies.

A transport knows ranks, tensors and nothing else: no matrices, no layouts. Adding one means
implementing the two protocols below and naming it in `hpc_sla.distributed.choose_transport`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch

from hpc_sla.kernels.burst import Calls, Requests


@dataclass(frozen=True)
class Neighbours:
    """Whom this rank talks to, in ascending rank order (per rank).

    Attributes
    ----------
    ranks : tuple of int
        The neighbours' ranks.
    counts : tuple of int
        Rows exchanged with each, in the same order. All are positive.
    """

    ranks: tuple[int, ...]
    counts: tuple[int, ...]

    @property
    def total(self) -> int:
        """Rows over all neighbours."""
        return sum(self.counts)

    def slices(self) -> Iterator[tuple[int, slice]]:
        """Each neighbour's rank, with the rows of the packed buffer that are its own."""
        start = 0
        for rank, count in zip(self.ranks, self.counts, strict=True):
            yield rank, slice(start, start + count)
            start += count


class Channel(Protocol):
    """A repeatable neighbour exchange of fixed shape, on buffers that stay where they are.

    Fill `send_buffer`, `start()`, do other work, `finish()`, read `recv_buffer`. Both buffers
    are `[rows, ...]` tensors on the rank's device, rows grouped by neighbour.
    """

    send_buffer: torch.Tensor
    recv_buffer: torch.Tensor

    def start(self) -> None:
        """Begin sending and receiving. **Collective** over the neighbours; does not block."""

    def finish(self) -> None:
        """Make `recv_buffer` readable and `send_buffer` writable. **Collective.**"""

    def requests(self) -> Requests | None:
        """What compiled loops start and wait for instead; None where they cannot. Local."""

    def close(self) -> None:
        """Release what the channel holds outside Python. Local."""


class Pending(Protocol):
    """A reduction on its way."""

    def wait(self) -> None:
        """Make the tensor readable. **Collective.**"""


class Transport(Protocol):
    """Moves tensors between the ranks of one communicator."""

    name: str
    """`mpi`, `gloo`, `nccl` or `serial`."""

    capturable: bool
    """Whether a CUDA graph can be made of what it does between ranks. Replicated."""

    def all_reduce_sum(self, tensor: torch.Tensor) -> None:
        """Sum a contiguous tensor over ranks, in place, the same on every rank. **Collective.**"""

    def start_all_reduce_sum(self, tensor: torch.Tensor) -> Pending:
        """Begin `all_reduce_sum`; the tensor may not be touched until `wait`. **Collective.**"""

    def channel(
        self, send: Neighbours, recv: Neighbours, trailing: tuple[int, ...], dtype: torch.dtype
    ) -> Channel:
        """Set up a repeatable exchange of `[rows, *trailing]` tensors. **Collective.**"""

    def calls(self, dtype: torch.dtype) -> Calls | None:
        """How compiled loops communicate without it; None where they cannot. Local."""

    def close(self) -> None:
        """Release everything the transport holds. **Collective.**"""

"""Scalars of an iteration: read at once on the CPU, left on the device elsewhere.

A Krylov loop written against this class is the same code on both. On the CPU its scalars are
Python floats. On an accelerator they are tensors that the host does not look at, so the loop
runs ahead of the device; a finished solve is frozen (its step lengths become 0) until the host
next looks.
"""

from __future__ import annotations

import torch

from hpc_sla.kernels.vectors import Scalar, dot_into
from hpc_sla.world import World


class HostScalars:
    """For vectors the host can read without waiting."""

    check_every = 1

    def __init__(self, world: World, like: torch.Tensor) -> None:
        self._transport = world.transport
        self._buffer = torch.empty(4, dtype=like.dtype, device=like.device)

    def dots(self, *pairs: tuple[torch.Tensor, torch.Tensor]) -> list[Scalar]:
        """Inner products of distributed vectors, in one reduction. **Collective.**"""
        buffer = self._buffer.narrow(0, 0, len(pairs))
        for i, (x, y) in enumerate(pairs):
            dot_into(buffer.select(0, i), x, y)
        self._transport.all_reduce_sum(buffer)
        return buffer.tolist()

    def ratio(self, numerator: Scalar, denominator: Scalar, where: bool) -> Scalar:
        """The quotient, or 0 where not `where`."""
        return numerator / denominator if where else 0.0

    def record(self, *scalars: Scalar) -> None:
        """Keep an iteration's scalars for the next `read`."""
        self._row = [float(s) for s in scalars]

    def read(self) -> list[list[float]]:
        """The scalars recorded since the last call, one list an iteration."""
        return [self._row]


class DeviceScalars:
    """For vectors on an accelerator."""

    check_every = 25

    def __init__(self, world: World, like: torch.Tensor, width: int = 3) -> None:
        self._transport = world.transport
        self._like = like
        self._history = like.new_empty((self.check_every, width))
        self._zero = like.new_zeros(())
        self._recorded = 0

    def dots(self, *pairs: tuple[torch.Tensor, torch.Tensor]) -> list[Scalar]:
        # A fresh tensor: the loop keeps these across the next reduction, and the caching
        # allocator makes a few bytes cost nothing.
        buffer = self._like.new_empty(len(pairs))
        for i, (x, y) in enumerate(pairs):
            dot_into(buffer.select(0, i), x, y)
        self._transport.all_reduce_sum(buffer)
        return list(buffer.unbind())

    def ratio(self, numerator: Scalar, denominator: Scalar, where: torch.Tensor) -> Scalar:
        return torch.where(where, numerator / denominator, self._zero)

    def record(self, *scalars: Scalar) -> None:
        torch.stack(scalars, out=self._history.select(0, self._recorded))
        self._recorded += 1

    def read(self) -> list[list[float]]:
        rows = self._history.narrow(0, 0, self._recorded).tolist()
        self._recorded = 0
        return rows


def scalars_for(world: World, like: torch.Tensor) -> HostScalars | DeviceScalars:
    """The kind of scalars that suits the vectors' device."""
    return (HostScalars if like.device.type == "cpu" else DeviceScalars)(world, like)

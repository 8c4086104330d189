"""Scalars of an iteration: read at once on the CPU, left on the device elsewhere.

A Krylov loop written against this class is the same code on both. On the CPU its scalars are
Python floats. On an accelerator they are tensors that the host does not look at, so the loop
runs ahead of the device; a finished solve is frozen (its step lengths become 0) until the host
next looks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch

from hpc_sla.kernels.vectors import Scalar, dot_into
from hpc_sla.world import World


class Scalars(ABC):
    """What both kinds share.

    Parameters
    ----------
    world : World
    like : torch.Tensor
        A vector of the iteration: its dtype and device are the scalars'.
    """

    check_every: int
    """Iterations between looks at the numbers."""

    recorded: int = 0
    """Iterations recorded since the last `read`."""

    def __init__(self, world: World, like: torch.Tensor) -> None:
        self._transport = world.transport
        self._like = like

    def dots(self, *pairs: tuple[torch.Tensor, torch.Tensor]) -> list[Scalar]:
        """Inner products of distributed vectors, in one reduction. **Collective.**"""
        partial = self.partial(len(pairs))
        for i, (x, y) in enumerate(pairs):
            dot_into(partial.select(0, i), x, y)
        return self.reduce(partial)

    @abstractmethod
    def partial(self, count: int) -> torch.Tensor:
        """Room for this rank's part of `count` sums, to hand to `reduce`."""

    @abstractmethod
    def reduce(self, partial: torch.Tensor) -> list[Scalar]:
        """The sums over ranks. **Collective.**"""

    @abstractmethod
    def ratio(self, numerator: Scalar, denominator: Scalar, where: Any) -> Scalar:
        """The quotient, or 0 where not `where`."""

    @abstractmethod
    def record(self, *scalars: Scalar) -> None:
        """Keep an iteration's scalars for the next `read`."""

    @abstractmethod
    def read(self) -> list[list[float]]:
        """The scalars recorded since the last call, one list an iteration."""


class HostScalars(Scalars):
    """For vectors the host can read without waiting."""

    check_every = 1

    def __init__(self, world: World, like: torch.Tensor) -> None:
        super().__init__(world, like)
        self._buffer = like.new_empty(4)
        self._row: list[float] = []

    def partial(self, count: int) -> torch.Tensor:
        return self._buffer.narrow(0, 0, count)

    def reduce(self, partial: torch.Tensor) -> list[Scalar]:
        self._transport.all_reduce_sum(partial)
        return partial.tolist()

    def ratio(self, numerator: Scalar, denominator: Scalar, where: Any) -> Scalar:
        return numerator / denominator if where else 0.0

    def record(self, *scalars: Scalar) -> None:
        self._row = [float(s) for s in scalars]

    def read(self) -> list[list[float]]:
        return [self._row]


class DeviceScalars(Scalars):
    """For vectors on an accelerator."""

    check_every = 25

    def __init__(self, world: World, like: torch.Tensor, width: int = 3) -> None:
        super().__init__(world, like)
        self._history = like.new_empty((self.check_every, width))
        self._zero = like.new_zeros(())

    def partial(self, count: int) -> torch.Tensor:
        # A fresh tensor: the loop keeps these across the next reduction, and the caching
        # allocator makes a few bytes cost nothing.
        return self._like.new_empty(count)

    def reduce(self, partial: torch.Tensor) -> list[Scalar]:
        self._transport.all_reduce_sum(partial)
        return list(partial.unbind())

    def ratio(self, numerator: Scalar, denominator: Scalar, where: Any) -> Scalar:
        return torch.where(where, numerator / denominator, self._zero)

    def record(self, *scalars: Scalar) -> None:
        torch.stack(scalars, out=self._history.select(0, self.recorded))  # type: ignore[arg-type]
        self.recorded += 1

    def read(self) -> list[list[float]]:
        rows = self._history.narrow(0, 0, self.recorded).tolist()
        self.recorded = 0
        return rows


def scalars_for(world: World, like: torch.Tensor) -> Scalars:
    """The kind of scalars that suits the vectors' device."""
    return (HostScalars if like.device.type == "cpu" else DeviceScalars)(world, like)

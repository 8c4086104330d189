"""Scalars of an iteration: read at once on the CPU, left on the device elsewhere.

A Krylov loop written against this class is the same code for one right-hand side and for many,
on the CPU and on an accelerator. For one right-hand side on the CPU its scalars are Python floats.
Otherwise they are tensors ([] or one value a column) that the host does not look at, so on an
accelerator the loop runs ahead of the device; what is finished is frozen (its step lengths become
0) until the host next looks.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from hpc_sla.distributed.world import World
from hpc_sla.kernels import native
from hpc_sla.kernels.fused import dot_pass
from hpc_sla.kernels.vectors import Scalar, dot_into

Flag = Any
"""A condition: a bool, or a bool tensor of the scalars' shape."""


class Scalars(ABC):
    """What both kinds share.

    Parameters
    ----------
    world : World
    like : torch.Tensor [n_owned] or [n_owned, k]
        A vector of the iteration: its dtype, device and columns are the scalars'.
    """

    check_every: int
    """Iterations between looks at the numbers."""

    recorded: int = 0
    """Iterations recorded since the last `read`."""

    def __init__(self, world: World, like: torch.Tensor) -> None:
        self._transport, self._alone = world.transport, world.size == 1
        self._like = like
        self.shape = tuple(like.shape[1:])
        self.count = self.shape[0] if self.shape else 1
        """Right-hand sides."""

    def dots(self, *pairs: tuple[torch.Tensor, torch.Tensor]) -> list[Scalar]:
        """Inner products of distributed vectors, in one reduction. **Collective.**"""
        return self.reduce(self.partial_dots(*pairs))

    def burst_dots(self, *pairs: tuple[torch.Tensor, torch.Tensor]) -> list[Scalar]:
        """`dots` of contiguous vectors, to the bit what compiled steps sum. **Collective.**"""
        if not native.serves(pairs[0][0]):
            return self.dots(*pairs)
        partial = self.partial(len(pairs))
        for i, (x, y) in enumerate(pairs):
            dot_pass(x, y, partial.select(0, i))
        return self.reduce(partial)

    def partial_dots(self, *pairs: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """This rank's parts of inner products, to hand to a reduction. Local."""
        partial = self.partial(len(pairs))
        for i, (x, y) in enumerate(pairs):
            dot_into(partial.select(0, i), x, y)
        return partial

    @abstractmethod
    def partial(self, count: int) -> torch.Tensor:
        """Room for this rank's part of `count` sums: `[count]` or `[count, k]`."""

    @abstractmethod
    def unpack(self, reduced: torch.Tensor) -> list[Scalar]:
        """Reduced sums as scalars."""

    def reduce(self, partial: torch.Tensor) -> list[Scalar]:
        """The sums over ranks. **Collective.**"""
        self._transport.all_reduce_sum(partial)
        return self.unpack(partial)

    def sum_(self, partial: torch.Tensor) -> None:
        """Sum a contiguous tensor over ranks, in place. **Collective.**"""
        self._transport.all_reduce_sum(partial)

    @property
    def reduction(self) -> Callable[[torch.Tensor], None] | None:
        """`sum_`, or None for one rank, which has nothing to sum."""
        return None if self._alone else self.sum_

    def start_sum(self, partial: torch.Tensor) -> Callable[[], None]:
        """Begin `sum_`; call the result before the tensor is touched again. **Collective.**"""
        return self._transport.start_all_reduce_sum(partial).wait

    def start_reduce(self, partial: torch.Tensor) -> Callable[[], list[Scalar]]:
        """Begin a reduction; call the result for the sums. **Collective.**"""
        pending = self._transport.start_all_reduce_sum(partial)

        def finish() -> list[Scalar]:
            pending.wait()
            return self.unpack(partial)

        return finish

    @abstractmethod
    def scalar(self, values: Sequence[float]) -> Scalar:
        """The host's numbers, one a right-hand side, as a scalar."""

    @abstractmethod
    def flag(self, values: Sequence[bool]) -> Flag:
        """The host's conditions, one a right-hand side."""

    @abstractmethod
    def ratio(self, numerator: Scalar, denominator: Scalar, where: Flag) -> Scalar:
        """The quotient, or 0 where not `where`."""

    @abstractmethod
    def where(self, condition: Flag, yes: Scalar, no: Scalar) -> Scalar:
        """One or the other."""

    @abstractmethod
    def sqrt(self, value: Scalar) -> Scalar:
        """The square root, NaN of a negative number."""

    @abstractmethod
    def record(self, *scalars: Scalar) -> None:
        """Keep an iteration's scalars for the next `read`."""

    def row(self, width: int) -> torch.Tensor:
        """Where the next iteration's scalars are recorded by a kernel itself: [width]."""
        raise NotImplementedError

    @abstractmethod
    def read(self) -> list[list[list[float]]]:
        """The scalars recorded since the last call: [iteration][right-hand side][scalar]."""


class HostScalars(Scalars):
    """For one right-hand side that the host can read without waiting."""

    check_every = 1

    def __init__(self, world: World, like: torch.Tensor) -> None:
        super().__init__(world, like)
        self._row: list[float] = []

    def dots(self, *pairs: tuple[torch.Tensor, torch.Tensor]) -> list[Scalar]:
        """As of all; one rank has no tensor to reduce, which takes longer. **Collective.**"""
        if self._alone:
            return [torch.dot(x, y).item() for x, y in pairs]
        return super().dots(*pairs)

    def partial(self, count: int) -> torch.Tensor:
        return self._like.new_empty(count)

    def unpack(self, reduced: torch.Tensor) -> list[Scalar]:
        return reduced.tolist()

    def scalar(self, values: Sequence[float]) -> Scalar:
        return values[0]

    def flag(self, values: Sequence[bool]) -> Flag:
        return values[0]

    def ratio(self, numerator: Scalar, denominator: Scalar, where: Flag) -> Scalar:
        return numerator / denominator if where else 0.0

    def where(self, condition: Flag, yes: Scalar, no: Scalar) -> Scalar:
        return yes if condition else no

    def sqrt(self, value: Scalar) -> Scalar:
        return math.sqrt(value) if value >= 0 else math.nan

    def record(self, *scalars: Scalar) -> None:
        self._row = [float(s) for s in scalars]

    def read(self) -> list[list[list[float]]]:
        return [[self._row]]


class TensorScalars(Scalars):
    """For vectors on an accelerator, and for several right-hand sides."""

    def __init__(
        self, world: World, like: torch.Tensor, width: int = 4, check_every: int = 24
    ) -> None:
        super().__init__(world, like)
        # Even, for methods that swap two vectors at each step: see Bursts.
        self.check_every = 1 if like.device.type == "cpu" else check_every
        self._history = like.new_empty((self.check_every, width, *self.shape))
        self._zero = like.new_zeros(())
        self._width = width
        # Where a graph records: in rows of its own, which it copies to those that `_place` says.
        self._own: torch.Tensor | None = None
        self._place: torch.Tensor | None = None
        self._placed = -1

    def partial(self, count: int) -> torch.Tensor:
        # A fresh tensor: the loop keeps these across the next reduction, and the caching
        # allocator makes a few bytes cost nothing.
        return self._like.new_empty((count, *self.shape))

    def unpack(self, reduced: torch.Tensor) -> list[Scalar]:
        return list(reduced.unbind())

    def scalar(self, values: Sequence[float]) -> Scalar:
        tensor = torch.tensor(values, dtype=self._like.dtype, device=self._like.device)
        return tensor.reshape(self.shape)

    def flag(self, values: Sequence[bool]) -> Flag:
        return torch.tensor(values, device=self._like.device).reshape(self.shape)

    def ratio(self, numerator: Scalar, denominator: Scalar, where: Flag) -> Scalar:
        return torch.where(where, numerator / denominator, self._zero)

    def where(self, condition: Flag, yes: Scalar, no: Scalar) -> Scalar:
        return torch.where(condition, yes, no)

    def sqrt(self, value: Scalar) -> Scalar:
        assert isinstance(value, torch.Tensor)
        return value.sqrt()

    def record(self, *scalars: Scalar) -> None:
        torch.stack(scalars, out=self.row(len(scalars)))  # type: ignore[arg-type]

    def row(self, width: int) -> torch.Tensor:
        rows = self._history if self._own is None else self._own
        row = rows.select(0, self.recorded).narrow(0, 0, width)
        self._width = width
        self.recorded += 1
        return row

    @contextmanager
    def graph(self, steps: int) -> Iterator[None]:
        """Record so many steps as a graph does, wherever its turn comes in a burst."""
        recorded, self.recorded = self.recorded, 0
        if self._place is None:
            raise RuntimeError("no room was made for it: see `prepare`")
        self._own = self._history.new_empty((steps, *self._history.shape[1:]))
        try:
            yield
            self._history.index_copy_(0, self._place, self._own)
            self._place.add_(steps)
        finally:
            self._own, self.recorded = None, recorded

    def prepare(self, steps: int) -> None:
        """Make room for `graph`, before it is captured. Local."""
        if self._place is None:
            self._place = torch.arange(steps, device=self._like.device)
            self._placed = 0

    def replayed(self, steps: int) -> None:
        """Say that a graph is about to record so many steps. Local."""
        assert self._place is not None
        if self._placed != self.recorded:
            self._place.add_(self.recorded - self._placed)
        self.recorded += steps
        self._placed = self.recorded

    def read(self) -> list[list[list[float]]]:
        rows = self._history.narrow(0, 0, self.recorded).narrow(1, 0, self._width)
        self.recorded = 0
        if not self.shape:
            rows = rows.unsqueeze(2)
        return rows.transpose(1, 2).tolist()


def scalars_for(world: World, like: torch.Tensor, check_every: int = 24) -> Scalars:
    """The kind of scalars that suits the vectors.

    `check_every` is how many iterations an accelerator may run ahead.
    """
    if like.device.type == "cpu" and like.dim() == 1:
        return HostScalars(world, like)
    return TensorScalars(world, like, check_every=check_every)

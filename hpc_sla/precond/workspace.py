"""Vectors to work in, made once for each shape."""

from __future__ import annotations

import threading
from types import TracebackType

import torch

from hpc_sla.kernels.modes import lasting


class Turns:
    """One thread at a time: `with turns:`, as whoever works in a `Workspace` that threads share.

    A thread may take its turn within its turn. A copy, or what comes back from a pickle, is new.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._lock.release()

    def __deepcopy__(self, memo: dict[int, object]) -> Turns:
        return Turns()

    def __reduce__(self) -> tuple[type[Turns], tuple[()]]:
        return Turns, ()


class Workspace:
    """`count` vectors of `rows` rows, for whatever columns and dtype come. They stay.

    Loops must not allocate, and a preconditioner learns only on use how many columns it gets.
    """

    def __init__(self, count: int, rows: int) -> None:
        self._count, self._rows = count, rows
        self._vectors: dict[tuple[torch.dtype, tuple[int, ...]], list[torch.Tensor]] = {}

    def like(self, x: torch.Tensor) -> list[torch.Tensor]:
        """The vectors, with x's columns, dtype and device; what is in them is anyone's guess."""
        trailing = tuple(x.shape[1:])
        key = (x.dtype, trailing)
        if key not in self._vectors:
            with lasting():
                self._vectors[key] = [
                    x.new_empty((self._rows, *trailing)) for _ in range(self._count)
                ]
        return self._vectors[key]


def scale(x: torch.Tensor, d: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """`out = diag(d) x` for x `[n]` or `[n, k]`. Local."""
    return torch.mul(x, d if x.dim() == 1 else d.unsqueeze(1), out=out)

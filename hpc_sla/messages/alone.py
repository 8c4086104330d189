"""What a communicator is among one process, without MPI."""

from __future__ import annotations

from typing import Any, TypeVar

T = TypeVar("T")


class Alone:
    """As much of an mpi4py communicator as `Peers` uses of one of a single rank. Local."""

    rank = 0
    size = 1

    def allreduce(self, value: T, op: Any = None) -> T:
        return value

    def bcast(self, value: T, root: int = 0) -> T:
        return value

    def gather(self, value: T, root: int = 0) -> list[T]:
        return [value]

    def allgather(self, value: T) -> list[T]:
        return [value]

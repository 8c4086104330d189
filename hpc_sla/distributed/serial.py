"""A communicator of one process, for a World that needs no MPI library."""

from __future__ import annotations

from typing import Any, TypeVar

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

"""Ranks that work together on plain arrays: sums, scans, and messages to whom it concerns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import cycle
from types import TracebackType
from typing import Any

import numpy as np

from hpc_sla.errors import HpcSlaError
from hpc_sla.messages.sparse_exchange import sparse_exchange
from hpc_sla.messages.tags import EXCHANGES
from hpc_sla.messages.together import raise_together


class Peers:
    """The ranks of a communicator. **Collective**, as all that it does unless said.

    Used in a `with` block. Arrays are int64 or float64; what is summed has one shape on all ranks.

    Parameters
    ----------
    comm : mpi4py communicator, or what stands for one of a single process
        It is duplicated, so that no message here meets the caller's.
    """

    def __init__(self, comm: Any) -> None:
        self.comm = comm.Dup() if comm.size > 1 else comm
        self.rank: int = comm.rank
        self.size: int = comm.size
        self._tags = cycle(EXCHANGES)

    def __enter__(self) -> Peers:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # After an error of one rank alone the others may be anywhere.
        if self.size > 1 and (error is None or isinstance(error, HpcSlaError)):
            self.comm.Free()

    def tag(self) -> int:
        """The next messages' tag: no two calls that follow each other have the same."""
        return next(self._tags)

    @contextmanager
    def agree(self) -> Iterator[None]:
        """A local block: an `HpcSlaError` in it is raised on every rank."""
        error: HpcSlaError | None = None
        try:
            yield
        except HpcSlaError as caught:
            error = caught
        if self.size == 1:
            if error is not None:
                raise error
        elif self.sum(np.array([error is not None], dtype=np.int64))[0]:
            raise_together(self.comm, error)

    def exchange(self, messages: Mapping[int, np.ndarray]) -> dict[int, np.ndarray]:
        """Messages to ranks that do not expect them; see `sparse_exchange`."""
        return sparse_exchange(self.comm, messages, self.tag())

    def sum(self, array: np.ndarray) -> np.ndarray:
        """Over ranks."""
        return self._reduced(array, "SUM")

    def max(self, array: np.ndarray) -> np.ndarray:
        """Over ranks."""
        return self._reduced(array, "MAX")

    def any_bits(self, bits: int) -> int:
        """The bits, of 63, that are set on some rank."""
        return int(self._reduced(np.array([bits], dtype=np.int64), "BOR")[0])

    def before(self, array: np.ndarray) -> np.ndarray:
        """The sum over the ranks before this one; zeros on the first."""
        total = np.zeros_like(array)
        if self.size > 1:
            self.comm.Exscan(np.ascontiguousarray(array), total)
            if self.rank == 0:
                total[...] = 0
        return total

    def gather(self, array: np.ndarray) -> np.ndarray:
        """What all ranks have, `[m]`, one after another, on rank 0; nothing on others."""
        if self.size == 1:
            return array
        counts = np.empty(self.size, dtype=np.int64)
        self.comm.Gather(np.array([len(array)], dtype=np.int64), counts)
        whole = np.empty(int(counts.sum()) if self.rank == 0 else 0, dtype=array.dtype)
        self.comm.Gatherv(np.ascontiguousarray(array), [whole, counts])
        return whole

    def allgather(self, array: np.ndarray) -> np.ndarray:
        """The same on every rank: for a few numbers a rank."""
        if self.size == 1:
            return array
        counts = np.empty(self.size, dtype=np.int64)
        self.comm.Allgather(np.array([len(array)], dtype=np.int64), counts)
        whole = np.empty(int(counts.sum()), dtype=array.dtype)
        self.comm.Allgatherv(np.ascontiguousarray(array), [whole, counts])
        return whole

    def _reduced(self, array: np.ndarray, how: str) -> np.ndarray:
        if self.size == 1:
            return array.copy()
        from mpi4py import MPI

        total = np.empty_like(array, order="C")
        self.comm.Allreduce(np.ascontiguousarray(array), total, op=getattr(MPI, how))
        return total

"""What a rank sends: reductions, messages and bytes, those of compiled loops included.

A communicator of `counted`'s counts what Python asks of MPI, on itself and on those that are made
of it, and the compiled loops, which call MPI by pointer, are handed pointers that count. Nothing
else is changed, so what is counted is what runs.
"""

from __future__ import annotations

import ctypes
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from mpi4py import MPI

from hpc_sla.distributed.transport import mpi as transport
from hpc_sla.kernels.burst import Calls
from hpc_sla.precond.amg import aggregation, hierarchy
from hpc_sla.precond.amg.hierarchy import Hierarchy

REDUCTIONS = ("Allreduce", "Iallreduce", "Allgather")
OTHERS = (
    "Allgatherv", "Alltoall", "Alltoallv", "Barrier", "Bcast", "Gather", "Gatherv", "Ibarrier",
    "Iscatterv", "Reduce", "Scatterv", "allgather", "allreduce", "alltoall", "bcast", "gather",
    "reduce", "scatter",
)  # fmt: skip
"""Collective calls. Those in small letters are pickled."""
SENDS = ("Isend", "Issend", "Send", "isend", "send")


_MASK = 2 ** (8 * MPI._sizeof(MPI.Request)) - 1
"""Of a handle, which some give with a sign."""


class Counts:
    """This rank's, since the last `reset`.

    Attributes
    ----------
    calls, bytes : Counter
        By MPI's own name; messages of a halo by "message", of sparse exchanges by "Issend". Bytes
        are what this rank gives.
    """

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()
        self._sends: dict[int, int] = {}

    def reset(self) -> None:
        self.calls.clear()
        self.bytes.clear()

    def add(self, name: str, size: int) -> None:
        self.calls[name] += 1
        self.bytes[name] += size

    def made(self, handle: int, size: int | None) -> None:
        """A persistent request was, that sends so many bytes, or receives (None)."""
        self._sends.pop(handle & _MASK, None)
        if size is not None:
            self._sends[handle & _MASK] = size

    def started(self, handles: Sequence[int], then: Sequence[int]) -> None:
        """Persistent requests were: messages, where they send. MPI may change their handles."""
        sizes = [self._sends.pop(handle & _MASK, None) for handle in handles]
        for size, handle in zip(sizes, then, strict=True):
            if size is not None:
                self.add("message", size)
                self._sends[handle & _MASK] = size


COUNTS = Counts()
"""Of this process."""


def _size(args: tuple[Any, ...]) -> int:
    """Bytes of a buffer that this rank gives; of what is pickled, nothing is known."""
    for given in args:
        array = given[0] if isinstance(given, (list, tuple)) and given else given
        if isinstance(array, np.ndarray):
            if isinstance(given, (list, tuple)) and isinstance(given[1], int):
                return given[1] * (array.nbytes // len(array) if len(array) else 0)
            return array.nbytes
    return 0


def _counting(name: str, of: type) -> Callable[..., Any]:
    original = getattr(of, name)

    def counted(self: Any, *args: Any, **options: Any) -> Any:
        COUNTS.add(name, _size(args))
        return original(self, *args, **options)

    return counted


class _Counted(MPI.Intracomm):
    """Communicators made of it (`Dup`, `Split`) are of its kind."""

    def Send_init(self, buf: Any, *args: Any, **options: Any) -> Any:
        request = super().Send_init(buf, *args, **options)
        COUNTS.made(MPI._handleof(request), buf.nbytes)
        return request

    def Recv_init(self, buf: Any, *args: Any, **options: Any) -> Any:
        request = super().Recv_init(buf, *args, **options)
        COUNTS.made(MPI._handleof(request), None)
        return request

    def Split(self, *args: Any, **options: Any) -> Any:
        made = super().Split(*args, **options)  # which mpi4py does not make of our kind
        return made if made == MPI.COMM_NULL else _Counted(made)


for _name in (*REDUCTIONS, *OTHERS, *SENDS):
    setattr(_Counted, _name, _counting(_name, MPI.Intracomm))


@contextmanager
def counted(comm: MPI.Intracomm = MPI.COMM_WORLD) -> Iterator[MPI.Intracomm]:
    """A communicator for a `World` whose messages go into `COUNTS`. **Collective.**

    What it makes within the block counts, in the block.
    """
    channel = transport.MpiChannel
    start, calls_of = channel.start, transport.calls_of

    def counted_start(self: Any) -> None:
        before = [MPI._handleof(request) for request in self._requests]
        start(self)
        COUNTS.started(before, [MPI._handleof(request) for request in self._requests])

    def counted_calls(comm: MPI.Comm, dtype: Any) -> Calls | None:
        found = calls_of(comm, dtype)
        if found is not None and found.ranks > 1:
            _count_calls(found, 8 if "64" in str(dtype) else 4)
        return found

    channel.start, transport.calls_of = counted_start, counted_calls  # type: ignore[method-assign]
    own = _Counted(comm.Dup())  # what is known of `comm` itself would come with its own duplicate
    try:
        yield own
    finally:
        own.Free()
        channel.start, transport.calls_of = start, calls_of  # type: ignore[method-assign]


@contextmanager
def aggregations() -> Iterator[list[list[int]]]:
    """How often multigrid's set-up looks for aggregates, within the block: it follows from values.

    By levels, and by the thresholds that are tried there: the rounds in which nodes whose strong
    neighbours are all on other ranks look for an aggregate, 0 where there are none.
    """
    found: list[list[int]] = []
    exchanges = 0
    by_level, aggregate, exchange = Hierarchy._aggregate, hierarchy.aggregate, aggregation._exchange

    def of_level(self: Any, *args: Any) -> Any:
        found.append([])
        return by_level(self, *args)

    def of_threshold(*args: Any) -> Any:
        nonlocal exchanges
        exchanges = 0
        made = aggregate(*args)
        found[-1].append(max(0, (exchanges - 2) // 2))  # two a round, one before and one after
        return made

    def exchanged(*args: Any) -> Any:
        nonlocal exchanges
        exchanges += 1
        return exchange(*args)

    changed: Any = (Hierarchy, "_aggregate"), (hierarchy, "aggregate"), (aggregation, "_exchange")
    for (where, name), what in zip(changed, (of_level, of_threshold, exchanged), strict=True):
        setattr(where, name, what)
    try:
        yield found
    finally:
        for (where, name), what in zip(changed, (by_level, aggregate, exchange), strict=True):
            setattr(where, name, what)


def _count_calls(calls: Calls, width: int) -> None:
    """Have a table of MPI's functions count."""
    handle = ctypes.c_int if calls.handle_size == ctypes.sizeof(ctypes.c_int) else ctypes.c_void_p
    pointer, integer = ctypes.c_void_p, ctypes.c_int
    kept = []

    def put(field: str, arguments: tuple[Any, ...], count: Callable[..., Any]) -> None:
        """`count` is given the arguments, and gives what to call when the call has come back."""
        kind = ctypes.CFUNCTYPE(integer, *arguments)
        original = kind(getattr(calls, field))

        def counting(*args: Any) -> int:
            then = count(*args)
            code: int = original(*args)
            if then is not None:
                then()
            return code

        made = kind(counting)
        kept.append((original, made))
        setattr(calls, field, ctypes.cast(made, pointer).value)

    def start_all(count: int, where: int) -> Callable[[], None]:
        handles = (handle * count).from_address(where) if count else ()
        before = [int(h or 0) for h in handles]
        return lambda: COUNTS.started(before, [int(h or 0) for h in handles])

    put("start_all", (integer, pointer), start_all)
    summed = (pointer, pointer, integer, handle, handle, handle)
    put("all_reduce", summed, lambda *args: COUNTS.add("Allreduce", args[2] * width))
    put(
        "start_all_reduce",
        (*summed, pointer),
        lambda *args: COUNTS.add("Iallreduce", args[2] * width),
    )
    calls.kept = calls.kept, kept

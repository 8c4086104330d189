"""An HDF5 file that many ranks write at once, each its own rows.

Rank 0 makes the file with room for every row. From then on the datasets are runs of bytes whose
places are known: each rank puts its rows there itself, and HDF5 has no part in it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from hpc_sla.errors import HpcSlaError, InputError
from hpc_sla.messages.tags import OUTPUT
from hpc_sla.messages.together import raise_together
from hpc_sla.observe import log
from hpc_sla.observe.heartbeat import beat
from hpc_sla.storage.atomic import PendingFile
from hpc_sla.storage.block_sums import BlockSums
from hpc_sla.storage.hdf5_write import Output, write_error

if TYPE_CHECKING:
    from typing_extensions import Self

Datasets = Mapping[str, tuple[tuple[int, ...], Any]]
Writers = Literal["ranks", "nodes"]

_WINDOW_BYTES = 8 << 20


class ParallelOutput:
    """Write rows of datasets from all ranks; the file takes its name in `finish` and not before.

    **Collective.** A context manager: leaving the block without `finish`, for whatever reason,
    removes what was written, and a file that stood at `path` stays as it was.

    The file must be one that ranks see under one name. Ranks that do not (a disc of rank 0's node)
    send their rows to rank 0, which writes them; rows then wait, and take memory, until `flush`.

    Parameters
    ----------
    path : path
        Replicated.
    comm : MPI.Comm or None
        None, or one of a single rank: this process alone, without MPI. Messages in it have the tag
        `OUTPUT` of `hpc_sla.messages.tags`.
    datasets : dict of name to (shape, dtype)
        Replicated. Those whose rows ranks write; names may have groups in them. They lie in the
        file one row after another, little-endian.
    writers : {"ranks", "nodes"}, optional
        Who writes: every rank, or one of each node, to which its others send. As on rank 0; by
        default what HPC_SLA_WRITERS says there, else every rank.

    Raises
    ------
    InputError
        On every rank, from here and from `finish`: the file cannot be written, on whatever rank.

    Examples
    --------
    >>> with ParallelOutput("x.h5", comm, {"x": ((n,), "f8")}) as output:  # doctest: +SKIP
    ...     output.write("x", start, mine)
    ...     output.finish(lambda file: file.attrs.update(format="mine"))
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        comm: Any,
        datasets: Datasets,
        writers: Writers | None = None,
    ) -> None:
        self.path = path
        self._comm: Any = None if comm is None or comm.size == 1 else comm
        self._rank = 0 if self._comm is None else self._comm.rank
        self._datasets = {
            name: (shape, np.dtype(dtype)) for name, (shape, dtype) in datasets.items()
        }
        self._order = list(self._datasets)
        self._sums = {
            name: BlockSums(shape, dtype)
            for name, (shape, dtype) in self._datasets.items()
            if math.prod(shape)
        }
        self._pending: PendingFile | None = None
        self._descriptor: int | None = None
        self._failure: HpcSlaError | None = None
        self._waiting: list[tuple[str, int, np.ndarray]] = []
        self._clients: list[int] = []
        self._open = False
        temporary, self._offsets, who = self._make(writers)
        self._open = True
        self._writer = self._rank
        try:
            self._choose_writers(temporary, who)
        except BaseException:
            self.abandon()
            raise

    def _make(self, writers: str | None) -> tuple[str, dict[str, int], str]:
        """Make the file, on rank 0: its name, where datasets begin in it, and who writes.

        **Collective.**
        """
        made: tuple[str, dict[str, int], str] | None = None
        error: HpcSlaError | None = None
        if self._rank == 0:
            try:
                who = writers or os.environ.get("HPC_SLA_WRITERS") or "ranks"
                if who not in ("ranks", "nodes"):
                    raise InputError(
                        f"is {who!r}", field="HPC_SLA_WRITERS", remedy="Choose ranks or nodes"
                    )
                made = (*self._create(), who)
            except HpcSlaError as caught:
                error = caught
        self._agree(error)
        found = made if self._comm is None else self._comm.bcast(made)
        assert found is not None
        return found

    def _create(self) -> tuple[str, dict[str, int]]:
        self._pending = PendingFile(self.path)
        try:
            with Output(self._pending.temporary, self.path) as output:
                items = {
                    name: output.reserve(name, shape, dtype)
                    for name, (shape, dtype) in self._datasets.items()
                }
                offsets = {name: item.id.get_offset() or 0 for name, item in items.items()}
        except BaseException:
            self._pending.discard()
            self._pending = None
            raise
        return os.fspath(self._pending.temporary), offsets

    def _choose_writers(self, temporary: str, writers: str) -> None:
        """**Collective.**"""
        with suppress(OSError):
            # No more than writing: a client of NFS that also reads would fetch the page first.
            self._descriptor = os.open(temporary, os.O_WRONLY | os.O_CLOEXEC)
        if self._comm is None:
            if self._descriptor is None:
                raise write_error(self.path, OSError(0, "it cannot be opened again"))
            return
        first = self._first_of_node() if writers == "nodes" else self._rank
        there = np.array([self._descriptor is not None, first == self._rank], dtype=np.int64)
        least = self._reduced(there, "MIN")
        if least.all():
            return
        every = self._comm.allgather((bool(there[0]), first))
        # Where a node's first cannot, rank 0 does: it has made the file.
        self._writer = first if every[first][0] else 0
        each = [one if every[one][0] else 0 for _, one in every]
        self._clients = [r for r, w in enumerate(each) if w == self._rank and r != w]
        if not least[0]:
            absent = sum(not there for there, _ in every)
            log.emit("notice", message=f"{absent} rank(s) do not see {temporary}: others write")

    def _first_of_node(self) -> int:
        """The lowest rank of those on this node. **Collective.**"""
        from mpi4py import MPI

        node = self._comm.Split_type(MPI.COMM_TYPE_SHARED)
        first: int = node.bcast(self._rank)
        node.Free()
        return first

    # Rows

    def write(self, name: str, start: int, array: np.ndarray) -> None:
        """Put `array` at rows ``start:start + len(array)`` of a dataset. Local.

        Each row once, by whatever rank. What the system says of it `finish` tells.
        """
        shape, dtype = self._datasets[name]
        stop = start + len(array)
        if not 0 <= start <= stop <= shape[0] or array.shape[1:] != shape[1:]:
            raise ValueError(f"rows {start}:{stop}, shape {array.shape}, do not fit {shape}")
        if not array.size or self._failure is not None:
            return
        if self._writer != self._rank:
            self._waiting.append((name, start, np.array(array, dtype=dtype)))
        else:
            self._put(name, start, array)

    def _put(self, name: str, start: int, array: np.ndarray) -> None:
        beat()
        shape, dtype = self._datasets[name]
        rows = max(1, _WINDOW_BYTES // max(1, array.itemsize * int(np.prod(shape[1:]))))
        row_bytes = dtype.itemsize * int(np.prod(shape[1:], dtype=np.int64))
        for first in range(0, len(array), rows):
            # Whatever has to be copied is: a window at a time.
            window = np.ascontiguousarray(array[first : first + rows], dtype.newbyteorder("<"))
            place = self._offsets[name] + (start + first) * row_bytes
            try:
                self._put_bytes(window.reshape(-1).view(np.uint8).data, place)
            except OSError as error:
                self._failure = write_error(self.path, error)
                return
            self._sums[name].add(start + first, window)

    def _put_bytes(self, data: memoryview, place: int) -> None:
        assert self._descriptor is not None
        while len(data):
            written = os.pwrite(self._descriptor, data, place)
            data, place = data[written:], place + written

    def flush(self) -> None:
        """Have those who write the rows of others write them. **Collective.**"""
        if self._writer != self._rank:
            self._send_waiting()
        for rank in self._clients:
            self._receive(rank)

    def _send_waiting(self) -> None:
        comm = self._comm
        heads = [(self._order.index(name), start, len(a)) for name, start, a in self._waiting]
        comm.send(heads, dest=self._writer, tag=OUTPUT)
        for _, _, array in self._waiting:
            for window in _windows(array):
                comm.Send(window.reshape(-1).view(np.uint8), dest=self._writer, tag=OUTPUT)
        self._waiting.clear()

    def _receive(self, rank: int) -> None:
        for number, start, rows in self._comm.recv(source=rank, tag=OUTPUT):
            name = self._order[number]
            shape, dtype = self._datasets[name]
            hollow = np.broadcast_to(np.zeros((), dtype=dtype), (rows, *shape[1:]))
            for part in _windows(hollow):
                window = np.empty(part.shape, dtype=dtype)
                self._comm.Recv(window.reshape(-1).view(np.uint8), source=rank, tag=OUTPUT)
                if self._failure is None:
                    self._put(name, start, window)
                start += len(window)

    # The end

    def finish(self, complete: Callable[[Output], None] | None = None) -> int:
        """Bring all to the disc, and give the file its name. **Collective.**

        Parameters
        ----------
        complete : callable(Output), optional
            Called on rank 0, to add attributes and what else is small.

        Returns
        -------
        int
            Bytes of the file, on every rank.

        Raises
        ------
        InputError, ValueError
            It could not be written; a row was written never, or twice.
        """
        if not self._open:
            raise ValueError("the file is finished or abandoned already")
        self.flush()
        if self._descriptor is not None and self._failure is None:
            try:
                # Each its own: what a node's system holds back is that node's to write.
                os.fsync(self._descriptor)
            except OSError as error:
                self._failure = write_error(self.path, error)
        self._close()
        self._agree(self._failure)
        self._gather_sums()
        size, gaps = 0, ""
        if self._rank == 0:
            gaps = ", ".join(name for name, sums in self._sums.items() if sums.sums() is None)
            if not gaps:
                try:
                    size = self._complete(complete)
                except HpcSlaError as error:
                    self._failure = error
        self._agree(self._failure)
        if self._comm is not None:
            size, gaps = self._comm.bcast((size, gaps))
        if gaps:
            raise ValueError(f"not every row was written once of {gaps}")
        self._open = False
        return size

    def _complete(self, complete: Callable[[Output], None] | None) -> int:
        assert self._pending is not None
        with Output(self._pending.temporary, self.path, new=False) as output:
            for name, sums in self._sums.items():
                sums.store(output.file[name])
            if complete is not None:
                complete(output)
        size = os.path.getsize(self._pending.temporary)
        self._pending.commit()
        self._pending = None
        return size

    def _gather_sums(self) -> None:
        """Those of all ranks, on rank 0: four numbers a block. **Collective.**"""
        if self._comm is None:
            return
        mine = [np.empty((0, 5), dtype=np.int64)]
        for number, sums in enumerate(self._sums.values()):
            pieces = sums.pieces()
            mine.append(np.concatenate([np.full((len(pieces), 1), number), pieces], axis=1))
        packed = np.concatenate(mine).reshape(-1)
        count = np.array([packed.size], dtype=np.int64)
        counts = np.empty(self._comm.size, dtype=np.int64) if self._rank == 0 else None
        self._comm.Gather(count, counts)
        every = None if counts is None else np.empty(int(counts.sum()), dtype=np.int64)
        self._comm.Gatherv(packed, None if every is None else [every, counts])
        if every is None or counts is None:
            return
        others = every[counts[0] :].reshape(-1, 5)
        for number, sums in enumerate(self._sums.values()):
            sums.merge(others[others[:, 0] == number, 1:])

    def _agree(self, error: HpcSlaError | None) -> None:
        """Raise on every rank what the first one has that has anything. **Collective.**"""
        if self._comm is None:
            if error is not None:
                raise error
            return
        if self._reduced(np.array([error is not None]), "MAX")[0]:
            raise_together(self._comm, error)

    def _reduced(self, numbers: np.ndarray, how: str) -> np.ndarray:
        from mpi4py import MPI

        found = numbers.astype(np.int64)
        self._comm.Allreduce(MPI.IN_PLACE, found, op=getattr(MPI, how))
        return found

    def _close(self) -> None:
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            try:
                os.close(descriptor)
            except OSError as error:  # some file systems tell only now
                self._failure = self._failure or write_error(self.path, error)

    def abandon(self) -> None:
        """Remove what was written, unless it is finished. Local."""
        self._open = False
        self._close()
        if self._pending is not None:
            self._pending.discard()
            self._pending = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.abandon()


def _windows(array: np.ndarray) -> list[np.ndarray]:
    width = max(1, array.itemsize * int(np.prod(array.shape[1:])))
    rows = max(1, _WINDOW_BYTES // width)
    return [array[first : first + rows] for first in range(0, len(array), rows)]

"""One duplicate of a communicator for all Worlds on it: MPI can make only so many."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Iterator
from typing import Any, NoReturn

from hpc_sla.distributed.node import place_on_node
from hpc_sla.distributed.transport.serial import SerialComm
from hpc_sla.errors import HpcSlaError
from hpc_sla.messages.tags import EXCHANGES


class SharedComm:
    """What Worlds on one communicator of the user's have in common.

    It hangs on that communicator as an attribute, and is freed with it, or with the last World
    that is closed thereafter: by collective calls, never by the garbage collector.

    Attributes
    ----------
    comm : MPI.Comm
        The duplicate.
    node : (int, int)
        This process's rank among those on its node, and their number.
    exchanges, channels : iterator of int
        Of tags, which two Worlds must not use at once.
    groups : dict
        torch.distributed's groups of these ranks, by backend and all their devices.
    """

    def __init__(self, comm: Any, attached: bool) -> None:
        self.comm = comm
        self.node = place_on_node(comm)
        self.exchanges: Iterator[int] = itertools.cycle(EXCHANGES)
        self.channels: Iterator[int] = itertools.count()
        self.groups: dict[tuple[str, ...], Any] = {}
        self._thinned: dict[int, Any] = {}
        self._worlds = 0
        self._attached = attached

    def thinned(self, ranks: int) -> Any:
        """A communicator of every few-th rank; None on the others. **Collective.** Made once."""
        if ranks not in self._thinned:
            from mpi4py import MPI

            rank, size = self.comm.rank, self.comm.size
            takes_part = rank in (i * size // ranks for i in range(ranks))
            inner = self.comm.Split(0 if takes_part else MPI.UNDEFINED, rank)
            self._thinned[ranks] = inner if takes_part else None
        return self._thinned[ranks]

    def enter(self) -> None:
        """A World more. Local."""
        self._worlds += 1

    def leave(self) -> None:
        """A World less. **Collective.**"""
        self._worlds -= 1
        self._free_if_idle()

    def detach(self) -> None:
        """The user's communicator is being freed. **Collective.**"""
        self._attached = False
        self._free_if_idle()

    def _free_if_idle(self) -> None:
        if not self._attached and not self._worlds:
            living.discard(self)
            for inner in self._thinned.values():
                if inner is not None:
                    inner.Free()
            self.comm.Free()


living: weakref.WeakSet[SharedComm] = weakref.WeakSet()
"""Those whose duplicates exist."""
_keyval: int | None = None


def share(comm: Any) -> SharedComm:
    """The one of this communicator, made where there is none. **Collective.**

    Raises
    ------
    HpcSlaError
        MPI can make no more communicators.
    """
    if isinstance(comm, SerialComm):
        return SharedComm(comm, attached=False)
    from mpi4py import MPI

    global _keyval
    if _keyval is None:
        _keyval = MPI.Comm.Create_keyval(delete_fn=_detach)
    found = comm.Get_attr(_keyval)
    if found is None:
        try:
            duplicate = comm.Dup()
        except MPI.Exception as error:
            raise HpcSlaError(
                "MPI can make no more communicators. Make one World and keep it, and free the "
                f"communicators that you make: {error}"
            ) from error
        found = SharedComm(duplicate, attached=True)
        comm.Set_attr(_keyval, found)
        living.add(found)
    return found


def _detach(comm: Any, keyval: int, shared: SharedComm) -> None:
    from mpi4py import MPI

    # These two go with MPI itself, when it is too late to free anything.
    if comm not in (MPI.COMM_WORLD, MPI.COMM_SELF):
        shared.detach()


class Closed:
    """Stands where a closed World had its communicator and its transport."""

    def __getattr__(self, name: str) -> Any:
        raise_closed()


def raise_closed() -> NoReturn:
    """What is told to whoever uses a closed World."""
    raise HpcSlaError("this World has been closed: make another with hs.World()")


def congruent(one: Any, other: Any) -> bool:
    """Whether two communicators have the same processes in the same order. Local."""
    if isinstance(one, SerialComm) or isinstance(other, SerialComm):
        return one.size == other.size == 1
    from mpi4py import MPI

    return MPI.Comm.Compare(one, other) in (MPI.IDENT, MPI.CONGRUENT)

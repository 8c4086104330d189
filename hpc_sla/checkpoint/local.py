"""Checkpoints on discs of the nodes: each rank its own part in a file of its own."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from hpc_sla.checkpoint.file import CheckpointFile
from hpc_sla.checkpoint.state import LayoutOf, write_state
from hpc_sla.distributed.world import World
from hpc_sla.errors import InputError

_SLOTS = 2
"""While one set of parts is written, the one before is still there, of all ranks."""


class Found(NamedTuple):
    """A whole set: this rank's part of it, and when it was saved (replicated)."""

    path: str
    moment: int


class LocalParts:
    """The parts of this rank, in a folder that other nodes need not see.

    A set of them is of use to as many ranks as wrote it, each where its part is. Any other job goes
    on from the shared file.

    Parameters
    ----------
    folder : str
        Per rank. Made where it is not there.
    name : str
        Replicated. What files in it are called after.
    """

    def __init__(self, folder: str, name: str) -> None:
        self.folder, self._name = folder, name
        self._slot = 0

    def path(self, world: World, slot: int) -> str:
        """That of this rank's part. Local."""
        part = f"{self._name}.{world.rank}of{world.size}.{slot}.h5"
        return os.path.join(self.folder, part)

    def save(
        self,
        world: World,
        identity: Mapping[str, Any],
        state: Mapping[str, Any],
        layout_of: LayoutOf,
    ) -> int:
        """Write a set; bytes of this rank's part. **Collective.** Raises as `write_state`.

        The moment in `identity` tells it from other sets.
        """
        with world.agree():
            self.make_folder()
        about = {**identity, "part": _part(world)}
        path = self.path(world, self._slot)
        size = write_state(path, world, about, state, layout_of, alone=True)
        self._slot = (self._slot + 1) % _SLOTS
        return size

    def make_folder(self) -> None:
        """Local. Raises InputError."""
        try:
            os.makedirs(self.folder, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"cannot be made: {error.strerror}",
                file=self.folder,
                remedy="Name a folder that this node's disc can have.",
            ) from error

    def newest(self, world: World) -> Found | None:
        """The last set of which every rank has its part, undamaged. **Collective.**"""
        mine = self._mine(world)
        below = 2**63 - 1
        while True:
            moment = _least(world, max((m for m in mine if m < below), default=-1))
            if moment < 0:
                return None
            if _least(world, moment in mine):
                # What is resumed from stays until the next set is whole.
                self._slot = (mine[moment] + 1) % _SLOTS
                return Found(self.path(world, mine[moment]), moment)
            below = moment

    def _mine(self, world: World) -> dict[int, int]:
        """Slots of this rank's parts, by their moments. Local."""
        found = {}
        for slot in range(_SLOTS):
            try:
                with CheckpointFile(self.path(world, slot)) as file:
                    file.check()
                    if file.identity.get("part") == _part(world):
                        found[moment_of(file.identity)] = slot
            except (InputError, LookupError, TypeError, ValueError):
                continue  # damaged, or not there: as good as lost
        return found


def moment_of(identity: Mapping[str, Any]) -> int:
    """When a checkpoint was saved; 0 where it does not say, as those of earlier versions. Local."""
    return int(identity.get("moment", 0))


def _part(world: World) -> str:
    return f"{world.rank} of {world.size}"


def _least(world: World, number: int) -> int:
    """**Collective.**"""
    found = np.array([number], dtype=np.int64)
    if world.size > 1:
        from mpi4py import MPI

        world.comm.Allreduce(MPI.IN_PLACE, found, op=MPI.MIN)
    return int(found[0])

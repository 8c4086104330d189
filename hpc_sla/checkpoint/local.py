"""Checkpoints on discs of the nodes: each rank its own part in a file of its own."""

from __future__ import annotations

import os
import secrets
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
    """A whole set: of all ranks, of one moment."""

    path: str
    slot: int
    iteration: int


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
        self._slot, self._run = 0, 0

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
        """Write a set; bytes of this rank's part. **Collective.** Raises as `write_state`."""
        if not self._run:
            self._run = world.on_root(lambda: secrets.randbits(50) + 1)
        with world.agree():
            self.make_folder()
        about = {**identity, "part": _part(world), "run": self._run}
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
        below = np.inf
        while True:
            best = max((i for i, _ in mine if i < below), default=-1)
            iteration = int(_least(world, [best])[0])
            if iteration < 0:
                return None
            ours = [(r, s) for (i, r), s in mine.items() if i == iteration]
            run, slot = max(ours, default=(0, 0))
            least, most = _least(world, [run, -run])
            if least == -most and least > 0:
                # What is resumed from stays until the next set is whole.
                self._slot = (slot + 1) % _SLOTS
                return Found(self.path(world, slot), slot, iteration)
            below = iteration

    def _mine(self, world: World) -> dict[tuple[int, int], int]:
        """Slots of this rank's parts, by iteration and run. Local."""
        found = {}
        for slot in range(_SLOTS):
            try:
                with CheckpointFile(self.path(world, slot)) as file:
                    file.check()
                    if file.identity.get("part") == _part(world):
                        found[int(file.facts["iteration"]), int(file.identity["run"])] = slot
            except (InputError, LookupError, TypeError, ValueError):
                continue  # damaged, or not there: as good as lost
        return found


def _part(world: World) -> str:
    return f"{world.rank} of {world.size}"


def _least(world: World, numbers: list[int]) -> np.ndarray:
    """**Collective.**"""
    found = np.array(numbers, dtype=np.int64)
    if world.size > 1:
        from mpi4py import MPI

        world.comm.Allreduce(MPI.IN_PLACE, found, op=MPI.MIN)
    return found

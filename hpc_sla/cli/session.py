"""The World of one command: brought up at its start, closed at its end."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from hpc_sla.cli.asked import GuardOptions, RunOptions
from hpc_sla.cli.checkpointing import Guard
from hpc_sla.cli.record import running
from hpc_sla.cli.stall import Watchdog
from hpc_sla.kernels.loading import few_looks_at_files

if TYPE_CHECKING:
    from hpc_sla.distributed.world import World


@contextmanager
def guarded_world(asked: GuardOptions) -> Iterator[tuple[World, Guard]]:
    """Bring up the World as `open_world` does, under a `Guard` and a `Watchdog`. **Collective.**"""
    with (
        Guard(
            asked.checkpoint,
            asked.checkpoint_every,
            asked.resume,
            asked.checkpoint_local,
            asked.checkpoint_copy_every,
        ) as guard,
        Watchdog(asked.stall_timeout),
        open_world(asked) as world,
    ):
        yield world, guard


@contextmanager
def open_world(asked: RunOptions) -> Iterator[World]:
    """Bring up the World. **Collective.** Closed at the end of the block.

    After an exception it is left as it is: the other ranks may be anywhere, so nothing
    collective may follow.
    """
    # torch and MPI come first here: what is refused before needs neither. Importing torch makes
    # objects by the million and no garbage: looking for some takes a tenth of the time.
    gc.disable()
    try:
        with few_looks_at_files():
            import h5py  # noqa: F401  # its questions are among them: see there

            from hpc_sla.distributed.world import World  # loads torch: see `hpc_sla.cli`
    finally:
        gc.freeze()
        gc.enable()

    with World(device=asked.device, transport=asked.transport) as world:
        record = running()
        if record is not None:
            record.world_is_up(world)
        yield world
        if record is not None:
            record.world_ends(world)

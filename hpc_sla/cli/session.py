"""The World of one command: brought up at its start, closed at its end."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from hpc_sla.cli.record import running

if TYPE_CHECKING:
    from hpc_sla.distributed.world import World


@contextmanager
def open_world(device: str = "auto", transport: str = "auto") -> Iterator[World]:
    """Bring up the World. **Collective.** Closed at the end of the block.

    After an exception it is left as it is: the other ranks may be anywhere, so nothing
    collective may follow.
    """
    # Importing torch makes objects by the million and no garbage: looking for some takes a tenth
    # of the time.
    gc.disable()
    try:
        from hpc_sla.distributed.world import World
    finally:
        gc.freeze()
        gc.enable()

    with World(device=device, transport=transport) as world:
        record = running()
        if record is not None:
            record.world_is_up(world)
        yield world
        if record is not None:
            record.world_ends(world)

"""The World of one command: brought up at its start, closed at its end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hpc_sla.world import World


@contextmanager
def open_world(device: str = "auto", transport: str = "auto") -> Iterator[World]:
    """Bring up the World. **Collective.** Closed at the end of the block.

    After an exception it is left as it is: the other ranks may be anywhere, so nothing
    collective may follow.
    """
    from hpc_sla.world import World

    with World(device=device, transport=transport) as world:
        yield world

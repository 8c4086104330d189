"""What every command with a summary says of where it ran, how long and in how much memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hpc_sla.cli.clock import Stages

if TYPE_CHECKING:
    from hpc_sla.distributed.world import World


def measured(world: World, stages: Stages) -> dict[str, Any] | None:
    """The largest over ranks, for rank 0; None elsewhere. **Collective.**"""
    from hpc_sla.observe.memory import peak_rss_bytes

    told = world.gather_objects((stages.seconds(), peak_rss_bytes()))
    if told is None:
        return None
    return {
        "ranks": world.size,
        "device": world.device.type,
        "transport": world.transport.name,
        "seconds": {name: max(seconds[name] for seconds, _ in told) for name in told[0][0]},
        "peak_rss_bytes_max": max(peak for _, peak in told),
    }

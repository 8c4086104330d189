"""Wall time by stage, from the start of the command, and what is said of it at the end."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from hpc_sla.cli import STARTED
from hpc_sla.cli.record import profile
from hpc_sla.distributed.world import World
from hpc_sla.observe import log
from hpc_sla.observe.memory import peak_rss_bytes


class Stages:
    """Seconds of each named stage on this rank, and in all since the command began.

    Examples
    --------
    >>> stages = Stages()
    >>> with stages("read"):
    ...     pass
    >>> sorted(stages.seconds())
    ['read', 'total']
    """

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        measured = profile()
        self.begin(name)
        begin = time.perf_counter()
        try:
            with measured.stage(name) if measured else nullcontext():
                yield
        finally:
            self.end(name, time.perf_counter() - begin)

    def begin(self, name: str) -> None:
        """Tell the log of a stage that `end` will end."""
        log.emit("stage_begin", stage=name)

    def end(self, name: str, seconds: float) -> None:
        """A stage that took so long is over."""
        log.emit("stage_end", stage=name, took=round(seconds, 6))
        self._seconds[name] = self._seconds.get(name, 0.0) + seconds

    @property
    def done(self) -> dict[str, float]:
        """Seconds of each stage that is over."""
        return dict(self._seconds)

    def seconds(self) -> dict[str, float]:
        """The stages so far and ``total``, which also has what no stage has: loading torch."""
        return {**self._seconds, "total": time.perf_counter() - STARTED}


def where_and_how_long(world: World, stages: Stages) -> dict[str, Any] | None:
    """What every summary says of ranks, device, time and memory, on rank 0. **Collective.**

    The largest over ranks; None on the other ranks.
    """
    figures = world.gather_objects((stages.seconds(), peak_rss_bytes()))
    if figures is None:
        return None
    return {
        "ranks": world.size,
        "device": world.device.type,
        "transport": world.transport.name,
        "seconds": {name: max(seconds[name] for seconds, _ in figures) for name in figures[0][0]},
        "peak_rss_bytes_max": max(peak for _, peak in figures),
    }

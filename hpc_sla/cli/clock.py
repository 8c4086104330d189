"""Wall time by stage, from the start of the command."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from hpc_sla.observe import log

_STARTED = time.perf_counter()


def started() -> float:
    """When the command began, by `time.perf_counter`."""
    return _STARTED


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
        from hpc_sla.cli.record import profile

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

    def seconds(self) -> dict[str, float]:
        """The stages so far and ``total``, which also has what no stage has: loading torch."""
        return {**self._seconds, "total": time.perf_counter() - _STARTED}

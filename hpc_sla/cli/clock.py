"""Wall time by stage, from the start of the command."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

_STARTED = time.perf_counter()


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
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.add(name, time.perf_counter() - begin)

    def add(self, name: str, seconds: float) -> None:
        self._seconds[name] = self._seconds.get(name, 0.0) + seconds

    def seconds(self) -> dict[str, float]:
        """The stages so far and ``total``, which also has what no stage has: loading torch."""
        return {**self._seconds, "total": time.perf_counter() - _STARTED}

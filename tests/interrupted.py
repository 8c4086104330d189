"""Ending a solve in the middle, at the same iteration on every rank."""

from __future__ import annotations

from collections.abc import Callable


class Interrupted(Exception):
    """What ends it."""


def interrupt(at: int) -> Callable[[int, float], None]:
    """A callback that does so at that iteration."""

    def callback(iteration: int, norm: float) -> None:
        if iteration >= at:
            raise Interrupted

    return callback

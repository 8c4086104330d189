"""The serial tests in shares that run beside each other, file by file, each about as long."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

EACH = 0.03
"""Seconds of a test in a file that is not named."""

SECONDS: dict[str, float] = {}
"""Of the serial tests of a file, where they are long: the sums of what ``--durations=0`` says of
``pytest -m "not mpi"``. Only which share a file is put into depends on them."""


def shared(items: Sequence, share: str) -> set:
    """Those of share ``i/n``: of every file all or none, and each file in one of the n."""
    which, shares = map(int, share.split("/"))
    files = Counter(file_of(item) for item in items if not item.get_closest_marker("mpi"))
    load = dict.fromkeys(range(1, shares + 1), 0.0)
    mine = set()
    for file, seconds in sorted(weights(files).items(), key=lambda one: (-one[1], one[0])):
        least = min(load, key=lambda share: load[share])
        load[least] += seconds
        if least == which:
            mine.add(file)
    return {item for item in items if file_of(item) in mine}


def weights(files: Counter[str]) -> dict[str, float]:
    return {file: SECONDS.get(file, EACH * count) for file, count in files.items()}


def file_of(item) -> str:
    return item.nodeid.partition("::")[0]

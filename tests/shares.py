"""The serial tests in shares that run beside each other, file by file, each about as long."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

EACH = 0.03
"""Seconds of a test in a file that is not named."""

SECONDS: dict[str, float] = {}
"""Of the serial tests of a file, where they are long: the sums of what ``--durations=0`` says of
``pytest -m "not mpi"``. Only which share a file is put into depends on them."""


def shared(items: Sequence, share: str) -> list:
    """Those of share ``i/n``: each file in one of the n, the longest files first.

    What only waits, as for Slurm, then does so while there is other work beside it.
    """
    which, shares = map(int, share.split("/"))
    counts = Counter(file_of(item) for item in items if not item.get_closest_marker("mpi"))
    seconds = {file: SECONDS.get(file, EACH * count) for file, count in counts.items()}
    load = dict.fromkeys(range(1, shares + 1), 0.0)
    place: dict[str, int] = {}
    for file in sorted(seconds, key=lambda file: (-seconds[file], file)):
        least = min(load, key=lambda share: load[share])
        load[least] += seconds[file]
        if least == which:
            place[file] = len(place)
    mine = [item for item in items if file_of(item) in place]
    return sorted(mine, key=lambda item: place[file_of(item)])


def file_of(item) -> str:
    return item.nodeid.partition("::")[0]

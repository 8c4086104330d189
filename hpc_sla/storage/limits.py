"""What a file declares must be possible: checked before memory is asked for.

A declared size costs its writer nothing. Linux hands out more memory than there is and ends the
process that uses it, so that waiting for a MemoryError would be too late.
"""

from __future__ import annotations

import os
from contextlib import suppress
from functools import cache
from pathlib import Path

from hpc_sla.errors import InputError

_CGROUPS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")

DEFLATE_RATIO = 1100
"""DEFLATE cannot shrink data further than this (RFC 1951's bound is 1032)."""


@cache
def machine_memory() -> int:
    """Bytes that this machine has, or lets this job use. Local."""
    limits = []
    with suppress(ValueError, OSError):
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for name in _CGROUPS:
        with suppress(OSError, ValueError):  # not there, or "max"
            limits.append(int(Path(name).read_text()))
    return min((limit for limit in limits if limit > 0), default=1 << 62)


def check_fits(n_bytes: int, path: str | os.PathLike[str] | None, field: str | None = None) -> None:
    """Refuse what cannot be held.

    Parameters
    ----------
    n_bytes : int
        What the file's words would need on this rank.

    Raises
    ------
    InputError
    """
    there = machine_memory()
    if n_bytes > there:
        raise InputError(
            f"declares {n_bytes} bytes to be read at once, and the machine has {there}",
            file=path,
            field=field,
            remedy="Use more ranks on more machines, if the file is what it should be.",
        )

"""How much memory this process has held at most, from the kernel's own counters.

The kernel keeps, for each process, the largest resident size so far (``VmHWM``). On Linux the
counter can be set back to the present size by writing 5 to ``/proc/self/clear_refs``, which lets
one process measure several stretches of work one after another.
"""

from __future__ import annotations

import ctypes
import gc
import resource
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path

_STATUS = "/proc/self/status"
_CLEAR_REFS = "/proc/self/clear_refs"


def peak_rss_bytes() -> int:
    """The largest resident size this process has had, in bytes.

    ``VmHWM`` is preferred to ``getrusage``: the latter survives ``exec``, so that a small process
    started by a large one would report the size of its parent.
    """
    peak = _status_bytes("VmHWM")
    if peak is not None:
        return peak
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def rss_bytes() -> int | None:
    """The present resident size in bytes; None where the kernel does not tell."""
    return _status_bytes("VmRSS")


def available_bytes() -> int | None:
    """What this process can still get without swapping; None where the kernel does not tell.

    The least of what the machine has (``MemAvailable``) and what its control group may have.
    """
    found = []
    machine = _status_bytes("MemAvailable", "/proc/meminfo")
    if machine is not None:
        found.append(machine)
    with suppress(OSError, ValueError):  # no control groups, or no limit: "max"
        most, used = (
            int(Path("/sys/fs/cgroup", name).read_text())
            for name in ("memory.max", "memory.current")
        )
        found.append(max(0, most - used))
    return min(found, default=None)


def reset_peak() -> str | None:
    """Set the peak counter back to the present size.

    Returns
    -------
    str or None
        None when it worked, else why it did not (no such file on this kernel, or forbidden in this
        container).
    """
    try:
        with open(_CLEAR_REFS, "w") as file:
            file.write("5")
    except OSError as error:
        return f"the kernel's peak counter cannot be reset: {error.strerror} ({_CLEAR_REFS})"
    if _status_bytes("VmHWM") is None or _status_bytes("VmRSS") is None:
        return f"{_STATUS} has no VmHWM and VmRSS"
    return None


def release_free_memory() -> None:
    """Collect garbage and hand freed heap pages back to the kernel.

    Without the second step what one stretch of work freed would stay resident, and the next one
    could use it without being charged for it.
    """
    gc.collect()
    trim()


def trim() -> None:
    """Hand freed heap pages back to the kernel."""
    with suppress(OSError, AttributeError):  # not glibc: nothing to ask
        _process().malloc_trim(0)


@cache
def _process() -> ctypes.CDLL:
    """What the process has loaded: one object, as each is a cycle for the collector."""
    return ctypes.CDLL(None)


def _status_bytes(key: str, path: str = _STATUS) -> int | None:
    try:
        with open(path) as file:
            for line in file:
                if line.startswith(key + ":"):
                    return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    return None

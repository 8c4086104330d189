"""A programme in a process of its own, for so long and with so much memory and no more."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from launch import end, last_words

OVER_TIME, MEMORY, FAILED = "over time", "out of memory", "failed"

LOOK = 0.05
"""Seconds between two looks at the memory that it holds."""


def run(
    command: Sequence[str],
    found: Path,
    seconds: float,
    memory: float,
    environment: Mapping[str, str],
) -> dict[str, Any]:
    """What it has written to `found`; or `status` and `reason` where it did not come so far.

    Parameters
    ----------
    command : sequence of str
    found : Path
        A JSON file that it writes. What it prints goes to a .log beside it.
    seconds, memory : float
        Wall clock, and resident bytes of it and all that it starts. Beyond them it is ended.
    environment : dict
    """
    log = found.with_suffix(".log")
    with open(log, "w", encoding="utf-8") as file:
        try:
            process = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=dict(environment),
                start_new_session=True,
            )
        except OSError as error:
            return {"status": FAILED, "reason": f"cannot be started: {error}"}
        try:
            stopped = _watch(process, seconds, memory)
        finally:
            end(process)
    if stopped:
        return stopped
    if found.exists():  # written whole or not at all
        told: dict[str, Any] = json.loads(found.read_text())
        return told
    return {"status": FAILED, "reason": f"exit code {process.returncode}: {last_words(log)}"}


def _watch(
    process: subprocess.Popen[bytes], seconds: float, memory: float
) -> dict[str, Any] | None:
    """Wait for its end; what it went beyond, or None."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            process.wait(LOOK)
            return None
        except subprocess.TimeoutExpired:
            pass
        if time.monotonic() > deadline:
            return {"status": OVER_TIME, "reason": f"no end within {seconds:g} s"}
        if resident_bytes(process.pid) > memory:
            return {"status": MEMORY, "reason": f"more than {memory / 1e9:.1f} GB"}


def resident_bytes(process: int) -> int:
    """Of a process and all that it has started; 0 where the kernel does not tell."""
    folder = Path("/proc", str(process))
    try:
        pages = int((folder / "statm").read_text().split()[1])
        started = [child for task in (folder / "task").iterdir() for child in _children(task)]
    except (OSError, ValueError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE") + sum(map(resident_bytes, started))


def _children(task: Path) -> list[int]:
    try:
        return [int(word) for word in (task / "children").read_text().split()]
    except OSError:
        return []

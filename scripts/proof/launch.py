"""One part under mpiexec, for so long and no longer."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from record import FAIL, PASS

PROGRAMME = Path(__file__).with_name("part.py")
KEPT = 100
"""Lines of what a part has printed, where something in it failed."""

GRACE = 5.0
"""Seconds between asking a launch to end and insisting."""


def mpiexec() -> str:
    """The launcher that belongs to this Python's environment, else the one on the PATH."""
    beside = Path(sys.executable).with_name("mpiexec")
    return str(beside) if beside.exists() else shutil.which("mpiexec") or "mpiexec"


def launch(
    name: str, ranks: int, folder: Path, seconds: float, share: float, **options: Any
) -> dict[str, Any]:
    """Run a part; what it found, and whether it came to its end.

    Parameters
    ----------
    name : str
    ranks : int
    folder : Path
        For what is written meanwhile.
    seconds : float
        After which it is ended.
    share : float
        Seconds that it is told of, so that it leaves out what would not fit.
    **options
        For the part.
    """
    path = folder / f"{name}-{ranks}.json"
    options["seconds"] = share
    command = [mpiexec(), "-n", str(ranks), sys.executable, str(PROGRAMME), name, str(path)]
    begin = time.monotonic()
    log = folder / f"{name}-{ranks}.log"
    with open(log, "w", encoding="utf-8") as file:
        try:
            process = subprocess.Popen(
                [*command, json.dumps(options)],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
                start_new_session=True,
            )
        except OSError as error:
            return _told(name, ranks, path, 0.0, f"mpiexec cannot be started: {error}")
        try:
            code = process.wait(seconds)
            reason = f"exit code {code}: {last_words(log)}" if code else ""
        except subprocess.TimeoutExpired:
            reason = f"no end within {seconds:.0f} s"
        finally:
            end(process)
    found = _told(name, ranks, path, time.monotonic() - begin, reason)
    wrong = [one for one in [*found["checks"], *found["rows"]] if one["status"] == FAIL]
    if reason or wrong:
        found["log"] = log.read_text(errors="replace").splitlines()[-KEPT:]
    return found


def end(process: subprocess.Popen[bytes]) -> None:
    """With all that it has started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is None:
            os.killpg(process.pid, number)
            try:
                process.wait(GRACE)
            except subprocess.TimeoutExpired:
                continue


def last_words(log: Path) -> str:
    """The last line that says what went wrong, of an exception if there was one."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if "Error" in line and not line.startswith("File ")]
    return (errors or lines or ["it said nothing"])[-1][:500]


def _told(name: str, ranks: int, path: Path, seconds: float, reason: str) -> dict[str, Any]:
    found: dict[str, Any] = {"facts": {}, "checks": [], "rows": []}
    if path.exists():  # written whole or not at all
        found = json.loads(path.read_text())
    elif not reason:
        reason = "it ended well, and wrote nothing"
    outcome = FAIL if reason else PASS
    return {
        "part": name,
        "ranks": ranks,
        "status": outcome,
        "reason": reason,
        "seconds": seconds,
    } | found

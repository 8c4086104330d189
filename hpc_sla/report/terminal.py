"""Whether anybody is watching: does what this rank writes to stderr end on a terminal?

A rank started by ``mpiexec`` never has a terminal itself: its stderr is a pipe to a proxy, which
hands the bytes on to the launcher. So the question is put to the launcher, found among the
ancestors of this process.
"""

from __future__ import annotations

import os
import sys

# Process names (the kernel cuts them to 15 characters) of launchers and their local proxies.
_LAUNCHERS = {
    "mpiexec",
    "mpiexec.hydra",
    "mpirun",
    "hydra_pmi_proxy",
    "hydra_bstrap_pr",
    "orterun",
    "orted",
    "prterun",
    "prted",
}
_MAX_ANCESTORS = 8


def stderr_reaches_terminal() -> bool:
    """True when a line written to stderr is seen at once by a person on a terminal.

    ``HPC_SLA_PROGRESS=1`` or ``=0`` answers in place of the search, for launchers that cannot be
    looked into (``srun`` forwards from another machine).
    """
    forced = os.environ.get("HPC_SLA_PROGRESS")
    if forced in ("0", "1"):
        return forced == "1"
    if sys.stderr.isatty():
        return True
    return _launcher_has_terminal()


def _launcher_has_terminal() -> bool:
    """Look through the launcher's open files in /proc; False wherever that is not possible."""
    pid = os.getppid()
    try:
        for _ in range(_MAX_ANCESTORS):
            with open(f"/proc/{pid}/comm") as file:
                name = file.read().strip()
            if name not in _LAUNCHERS:
                return False
            if os.readlink(f"/proc/{pid}/fd/2").startswith(("/dev/pts/", "/dev/tty")):
                return True
            pid = _parent(pid)
    except (OSError, ValueError):
        pass
    return False


def _parent(pid: int) -> int:
    with open(f"/proc/{pid}/status") as file:
        for line in file:
            if line.startswith("PPid:"):
                return int(line.split()[1])
    raise ValueError(f"process {pid} has no parent")

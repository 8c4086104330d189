"""What a result says about the run that made it, so that anyone can repeat it."""

from __future__ import annotations

import platform
import shlex
import sys
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from typing import Any

_PACKAGES = ("torch", "numpy", "scipy", "mpi4py", "h5py")


def provenance() -> dict[str, Any]:
    """Versions, date, command line and configuration, as attributes of a result file. Local."""
    from mpi4py import MPI

    import hpc_sla
    from hpc_sla.cli.config import effective

    library = MPI.Get_library_version().strip("\x00 \n").splitlines()[0].strip()
    return {
        "version_hpc_sla": hpc_sla.__version__,
        **{f"version_{name}": found for name, found in packages().items()},
        "version_mpi": " ".join(library.split()),
        "version_python": platform.python_version(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": shlex.join(["python", "-m", "hpc_sla", *sys.argv[1:]]),
        "config": effective(),
    }


def packages() -> dict[str, str]:
    """Versions of the packages that compute and store. Local."""
    return {name: _version(name) for name in _PACKAGES}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"

"""What a report says of the machine and the software."""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from planned import Options
from provenance import git, version

SCHEMA = "hpc_sla.paper/1"

PACKAGES = (
    "hpc_sla", "torch", "numpy", "scipy", "mpi4py", "mpich", "eigenpy", "cvxopt",
    "nvmath-python", "cupy-cuda13x", "matplotlib",
)  # fmt: skip


def about(options: Options) -> dict[str, Any]:
    """As JSON."""
    modified = git("status", "--porcelain", "--untracked-files=no")
    return {
        "schema": SCHEMA,
        "begun": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": git("rev-parse", "HEAD"),
        "modified": bool(modified) and modified != "unknown",
        "machine": {
            "processor": _processor(),
            "cores": len(os.sched_getaffinity(0)),
            "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            "load": os.getloadavg()[0],
            "gpu": torch.cuda.get_device_name() if options.device == "cuda" else None,
            "system": platform.platform(),
        },
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
        "options": {
            "quick": options.quick,
            "max_rows": options.max_rows,
            "limit_seconds": options.limit,
            "memory_bytes": options.memory,
            "backends": options.backends,
            "ranks": options.ranks,
            "tables": options.tables,
            "threads": options.threads,
            "device": options.device,
        },
    }


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()

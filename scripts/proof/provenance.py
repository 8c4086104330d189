"""What was run: the commit, and versions of packages."""

from __future__ import annotations

import importlib.metadata
import subprocess
from pathlib import Path


def git(*words: str) -> str:
    """What git says of this clone; `unknown` where there is none."""
    root = Path(__file__).parent
    try:
        said = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return said.stdout.strip() if said.returncode == 0 else "unknown"


def version(package: str) -> str | None:
    """None where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None

"""An environment with torch-sla in it, and with this one's packages, torch above all, behind it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

VERSION = "0.4.0"
"""Of torch-sla: the newest on PyPI when this was written."""

LINK = "the_environment_behind.pth"

PATIENCE = 180.0
"""Seconds for one step of making it."""


class UnavailableError(Exception):
    """It is not there, and why."""


def ensure(folder: Path) -> Path:
    """The Python in it. It is made where it is not there, and used as it is where it is.

    Packages that are not in it are this environment's own, through a .pth file: torch is not
    fetched again, and both are measured with the same one.

    Raises
    ------
    UnavailableError
        It could not be made.
    """
    python = folder / "bin" / "python"
    if not (python.exists() and _has_it(python)):
        try:
            _make(folder, python)
        except (OSError, subprocess.SubprocessError) as error:
            last = getattr(error, "stderr", None) or str(error)
            lines = [line for line in last.strip().splitlines() if line.strip()]
            raise UnavailableError(
                f"pip install torch-sla=={VERSION} into {folder}: {lines[-1] if lines else error}"
            ) from error
    return python


def describe(python: Path) -> str:
    """What it says of itself: version and backends."""
    code = (
        "import torch_sla as t; print('torch-sla', t.__version__ + ', its backends:', '; '.join("
        "f\"{b} ({', '.join(m)})\" for b, m in t.BACKEND_METHODS.items()))"
    )
    return _run(python, "-c", code).stdout.strip()


def _make(folder: Path, python: Path) -> None:
    _run(sys.executable, "-m", "venv", "--clear", "--without-pip", folder)
    place = _run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").stdout
    behind = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    Path(place.strip(), LINK).write_text("".join(f"{path}\n" for path in behind))
    install = (
        "install",
        "--quiet",
        "--no-input",
        "--no-compile",
        "--retries",
        "1",
        "--timeout",
        "20",
    )
    _run(sys.executable, "-m", "pip", "--python", python, *install, f"torch-sla=={VERSION}")


def _has_it(python: Path) -> bool:
    code = "from importlib.metadata import version; import torch; print(version('torch-sla'))"
    try:
        return _run(python, "-c", code).stdout.strip() == VERSION
    except (OSError, subprocess.SubprocessError):
        return False


def _run(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )

"""Start the command line as a user does: under mpiexec, with a time limit."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
# A process that was itself started by a launcher must not hand its rank on.
_LAUNCHER_VARIABLES = ("PMI_", "PMIX_", "OMPI_", "MPI_LOCAL", "HYDI_", "MV2_")


def environment(ranks: int, **extra: str) -> dict[str, str]:
    """This process's environment for a launch of its own, one thread a rank."""
    if ranks > (os.cpu_count() or 1):
        # As in hpc_sla/distributed/launcher.py, for programs that start MPI themselves.
        extra["MPIR_CVAR_ENABLE_HEAVY_YIELD"] = "1"
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(_LAUNCHER_VARIABLES) and name != "HPC_SLA_PROGRESS"
    }
    path = [str(REPOSITORY), *filter(None, [kept.get("PYTHONPATH")])]
    kept.update(OMP_NUM_THREADS="1", PYTHONPATH=os.pathsep.join(path), **extra)
    return kept


def mpiexec() -> str:
    """The launcher that belongs to this Python's environment."""
    beside = Path(sys.executable).with_name("mpiexec")
    found = str(beside) if beside.exists() else shutil.which("mpiexec")
    if found is None:
        raise RuntimeError("no mpiexec beside this Python nor on the PATH")
    return found


def launch_python(
    ranks: int, *arguments: str, timeout: float = 200, cwd: Path, stderr: int = subprocess.PIPE
) -> subprocess.CompletedProcess[str]:
    """Run ``python ARGUMENTS`` on `ranks` ranks; 0 ranks: without a launcher.

    Raises
    ------
    AssertionError
        When it takes longer than `timeout` seconds: all its processes are ended first.
    """
    prefix = [mpiexec(), "-n", str(ranks)] if ranks else []
    process = subprocess.Popen(
        [*prefix, sys.executable, *map(str, arguments)],
        cwd=cwd,
        env=environment(ranks),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
        raise AssertionError(
            f"{ranks} ranks hung for {timeout} s: {arguments}\n{out}\n{err}"
        ) from None
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def launch(
    ranks: int, *arguments: str, timeout: float = 200, cwd: Path, stderr: int = subprocess.PIPE
) -> subprocess.CompletedProcess[str]:
    """Run ``python -m hpc_sla ARGUMENTS`` on `ranks` ranks; 0 ranks: without a launcher."""
    return launch_python(
        ranks, "-m", "hpc_sla", *arguments, timeout=timeout, cwd=cwd, stderr=stderr
    )


def listening(folder: Path) -> list[int]:
    """Pythons in this folder that have a handler for SIGUSR1."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, StopIteration):
            if Path(os.readlink(process / "cwd")) != folder.resolve():
                continue
            if b"python" not in (process / "cmdline").read_bytes().split(b"\0")[0]:
                continue
            lines = (process / "status").read_text().splitlines()
            caught = next(line for line in lines if line.startswith("SigCgt")).split()[1]
            if int(caught, 16) >> (signal.SIGUSR1 - 1) & 1:
                found.append(int(process.name))
    return found

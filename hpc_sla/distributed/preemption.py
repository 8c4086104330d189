"""SIGTERM and SIGUSR1 to the command line: leave together with one exit code, at any moment.

`hpc_sla.__main__` installs this before it imports anything else. Where there are several ranks a
thread does the work: the main one may be waiting in MPI for a rank that has left already, and a
handler of Python's would not run until MPI returns.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

from hpc_sla.distributed.launcher import by_srun, launch

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
EXIT_CODE = 75
_ROOT_FIRST_SECONDS = 0.5
_PATIENCE_SECONDS = 120.0

_listener: Callable[[str], str | None] | None = None
_before: dict[int, Any] = {}
_pipe: tuple[int, int] | None = None


def install() -> bool:
    """Listen from now on; whether it was this call that began. Local, for the main thread."""
    global _pipe
    if _before or threading.current_thread() is not threading.main_thread():
        return False
    if launch().size > 1:
        reading, writing = _pipe = os.pipe()
        os.set_blocking(writing, False)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        threading.Thread(target=_watch, args=(reading,), name="signals", daemon=True).start()
    for number in SIGNALS:
        _before[number] = signal.signal(number, _handle)
    return True


def uninstall() -> None:
    """What `install` found before is put back. Local."""
    global _pipe
    for number, before in _before.items():
        if signal.getsignal(number) is _handle:  # and not one that has taken its place
            signal.signal(number, signal.SIG_DFL if before is None else before)
    _before.clear()
    if _pipe is not None:
        signal.set_wakeup_fd(-1)
        os.close(_pipe[1])  # which ends the thread
        _pipe = None


def listen(listener: Callable[[str], str | None] | None) -> None:
    """Say what to do about a signal; None for leaving at once.

    Parameters
    ----------
    listener : callable(name) -> str or None
        Given the signal's name. A text is printed, and the process leaves; None: it goes on, and
        the listener sees to the rest. Called in a thread of its own.
    """
    global _listener
    _listener = listener


def _handle(number: int, frame: FrameType | None) -> None:
    if _pipe is None:
        _act(number)


def _watch(reading: int) -> None:
    while numbers := os.read(reading, 1):
        if numbers[0] in SIGNALS:
            _act(numbers[0])
    os.close(reading)


def _act(number: int) -> None:
    name = signal.Signals(number).name
    last_words: str | None = f"hpc_sla: told to end by {name}"
    if _listener is not None:
        last_words = _listener(name)
    if last_words is not None:
        _leave(last_words)


def _leave(last_words: str) -> None:
    launched = launch()
    if not launched.is_root:
        # Where all ranks were told, one message will do.
        time.sleep(_ROOT_FIRST_SECONDS)
    # Past Python's buffers, whose lock the main thread may hold.
    os.write(2, f"{last_words}\n".encode(errors="backslashreplace"))
    if launched.size == 1:
        raise SystemExit(EXIT_CODE)
    # srun tells all ranks, and each leaves by itself; where one aborts, it kills the others, and
    # takes their 137 for the step's code.
    if not by_srun():
        _abort()
    os._exit(EXIT_CODE)


def _abort() -> None:
    """End all ranks. MPI is brought up if it is not yet: mpiexec would let the others wait."""
    threading.Timer(_PATIENCE_SECONDS, os._exit, (EXIT_CODE,)).start()
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError):  # no MPI library behind mpi4py
        return
    if not MPI.Is_finalized():
        MPI.COMM_WORLD.Abort(EXIT_CODE)

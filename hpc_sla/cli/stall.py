"""--stall-timeout: a job that makes no progress ends, with a stack of every rank.

Each rank watches over itself and needs no message from another: where one stalls, the others soon
wait for it in a collective, and so stop making progress at about the same time.
"""

from __future__ import annotations

import faulthandler
import logging
import math
import os
import sys
import tempfile
import threading
import time
from typing import TYPE_CHECKING

from hpc_sla.cli import exits
from hpc_sla.distributed.launcher import launch
from hpc_sla.errors import InputError
from hpc_sla.observe import log
from hpc_sla.observe.heartbeat import beats

if TYPE_CHECKING:
    from typing_extensions import Self

# For the other ranks to print their stacks, too, before one of them ends the job.
_GRACE_SECONDS = 2.0
# Where even a thread cannot run (a C function that never gives the interpreter back), a timer
# that needs no interpreter ends the process so much later.
_LAST_RESORT_SECONDS = 4.0


class Watchdog:
    """Ends the job once this process has made no progress for `seconds`. A context manager.

    Progress is `hpc_sla.observe.heartbeat`: each agreement of the ranks, each batch of iterations,
    each slab of a file.

    Parameters
    ----------
    seconds : float or None
        None: watch over nothing.

    Raises
    ------
    InputError
        It is not positive.
    """

    def __init__(self, seconds: float | None) -> None:
        if seconds is not None and not 0 < seconds < math.inf:
            raise InputError(
                f"is {seconds:g}",
                field="--stall-timeout",
                remedy="Give a positive number of seconds, or leave it out.",
            )
        self._seconds = seconds
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        if self._seconds is not None:
            self._thread = threading.Thread(
                target=self._watch, args=(self._seconds,), name="stall watchdog", daemon=True
            )
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        # After an exception, too: whoever handles it may wait for the other ranks.
        self._over.set()
        if self._thread is not None:
            self._thread.join()
            faulthandler.cancel_dump_traceback_later()

    def _watch(self, seconds: float) -> None:
        period = min(0.5, seconds / 10)
        seen, since = beats(), time.monotonic()
        while not self._over.wait(period):
            now = time.monotonic()
            if beats() != seen:
                seen, since = beats(), now
            elif now - since > seconds:
                self._end(now - since)
            _last_resort(seconds)

    def _end(self, idle: float) -> None:
        """Print this process's stacks, and end the job."""
        _last_resort(0.0)
        _print_stacks(f"hpc_sla: rank {launch().rank} has made no progress for {idle:.0f} s:")
        log.emit("stalled", logging.CRITICAL, idle=round(idle, 3), exit_code=exits.STALLED)
        time.sleep(_GRACE_SECONDS)
        mpi = sys.modules.get("mpi4py.MPI")
        if mpi is not None and mpi.Is_initialized() and not mpi.Is_finalized():
            mpi.COMM_WORLD.Abort(exits.STALLED)
        os._exit(exits.STALLED)


def _last_resort(seconds: float) -> None:
    """Unless asked again in time, print the stacks and end with exit code 1."""
    if sys.__stderr__ is not None:
        after = seconds + _GRACE_SECONDS + _LAST_RESORT_SECONDS
        faulthandler.dump_traceback_later(after, exit=True, file=sys.__stderr__)


def _print_stacks(heading: str) -> None:
    """The heading and every thread's stack on stderr, in one piece: all ranks write there."""
    with tempfile.TemporaryFile() as file:
        file.write(f"{heading}\n".encode())
        file.flush()
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        text = file.read()
    os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, text)

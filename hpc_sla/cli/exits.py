"""The exit codes, and how all processes of a launch end with one message, with or without MPI.

Option parsing happens on every rank and needs no MPI. All that must be known by then is which
process speaks for the rest (`hpc_sla.distributed.launcher`), so that one message is printed and
not one per rank.
"""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable
from typing import ParamSpec

from hpc_sla.distributed.launcher import Launch, launch
from hpc_sla.errors import HpcSlaError, InputError

P = ParamSpec("P")

OK = 0
"""Converged, or done."""
FAILED = 1
"""Something broke, or a comparison did not agree."""
USAGE = 2
"""Bad input or wrong usage: one message on stderr says what and what to do."""
NOT_CONVERGED = 3
"""The solver stopped before its tolerance; the result is written all the same."""
STALLED = 70
"""A rank made no progress for --stall-timeout; every rank's stack is on stderr."""
PREEMPTED = 75
"""Ended by SIGTERM or SIGUSR1 before it was done (EX_TEMPFAIL of sysexits.h): run it again."""

MEANINGS = {
    OK: "done",
    FAILED: "failed",
    USAGE: "bad input or usage",
    NOT_CONVERGED: "not converged",
    STALLED: "stalled",
    PREEMPTED: "told to end before it was done",
}
"""Each exit code in the words of the log."""

_PATIENCE_SECONDS = 20.0
_ROOT_FIRST_SECONDS = 2.0


def message_and_code(error: HpcSlaError) -> tuple[str, int]:
    """The one message for an error that a user can mend, and its exit code."""
    if isinstance(error, InputError):
        return f"hpc_sla: error: {error}", USAGE
    return f"hpc_sla: failed: {error}", FAILED


def fail_together(message: str, code: int, launched: Launch) -> int:
    """Print `message` once, on rank 0, and leave no rank behind. **Collective.**

    Some launchers kill every rank as soon as one has ended with an error, so nobody leaves before
    rank 0 has printed. A rank that finds itself alone here (its error was not shared with the
    others, which then wait for it somewhere else) aborts the job after a while: no hang.

    Parameters
    ----------
    message : str
        The same on every rank.
    code : int
        The exit code.
    launched : Launch

    Returns
    -------
    int
        `code`.
    """
    if launched.is_root:
        sys.stdout.flush()
        print(message, file=sys.stderr, flush=True)
    if launched.size == 1:
        return code
    try:
        from mpi4py import MPI  # several ranks only: one has no need of an MPI library
    except (ImportError, RuntimeError):  # no MPI library behind mpi4py
        return code
    if MPI.Is_finalized():
        return code
    if MPI.COMM_WORLD.size < launched.size and not launched.is_root:
        # A launcher that MPI does not know: no message from rank 0 will say that it has printed.
        time.sleep(_ROOT_FIRST_SECONDS)
    request = MPI.COMM_WORLD.Ibarrier()
    end = time.monotonic() + _PATIENCE_SECONDS
    while not request.Test():
        if time.monotonic() > end:
            if not launched.is_root:
                print(f"rank {launched.rank}: {message}", file=sys.stderr, flush=True)
            MPI.COMM_WORLD.Abort(code)
        time.sleep(0.001)
    return code


def serial(function: Callable[P, int]) -> Callable[P, int]:
    """Make a command that needs no MPI safe under a launcher: rank 0 does it all.

    The other ranks end at once, so rank 0 must not wait for them when it fails.
    """

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> int:
        if not launch().is_root:
            return OK
        try:
            return function(*args, **kwargs)
        except HpcSlaError as error:
            message, code = message_and_code(error)
            sys.stdout.flush()
            print(message, file=sys.stderr, flush=True)
            return code

    return wrapper

"""A rank that leaves with an error must not leave the others waiting for it.

An exception that nobody catches aborts the job at once. SystemExit cannot be told from the end of
the program there: where it carries an error, the rank waits for the others to leave as well (all of
them may end with the same code), and aborts the job where they do not.
"""

from __future__ import annotations

import atexit
import builtins
import dis
import functools
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from types import FrameType, TracebackType
from typing import Any, NoReturn

from hpc_sla.distributed.communicators import living

PATIENCE_SECONDS = 20.0
_FORWARDING_SECONDS = 0.2
"""What is in the launcher's pipes when the job is aborted is lost."""
_RETURNS = ("RETURN_VALUE", "RETURN_CONST")
_BESIDE = ("PRECALL", "KW_NAMES", "NOP", "PUSH_NULL", "CACHE")

_status: list[Any] = []
"""What sys.exit was last called with, if it was."""
_afterwards: list[Callable[[], object]] = []
_main: FrameType | None = None
"""That of the program: it tells whether the program ran to its end."""
_together = False
"""Whether the ranks leave together."""


def abort_on_errors() -> None:
    """See to it that an error which ends this rank ends the job. Local; needs MPI.

    The hook for errors once more where another has taken its place since, as torch.distributed's
    does; the rest once: a rank that left twice would wait for others that leave once.
    """
    from mpi4py import MPI

    if MPI.COMM_WORLD.size == 1:
        return
    if not getattr(sys.excepthook, "aborts_mpi", False):
        _abort_on_uncaught_exceptions()
    global _main, _together
    if _together:
        return
    _together = True
    _note_exits()
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_code.co_name == "<module>" and frame.f_globals.get("__name__") == "__main__":
            _main = frame
        frame = frame.f_back
    atexit.register(_leave_together, os.getpid())


def when_all_have_left(clear_up: Callable[[], object]) -> None:
    """Call it at the end of the program, when no rank does anything any more. Local."""
    if not _together:  # of one rank
        atexit.register(clear_up)
        return
    _afterwards.append(clear_up)


def _abort_on_uncaught_exceptions() -> None:
    from mpi4py import MPI

    previous = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        try:
            print(f"uncaught on MPI rank {MPI.COMM_WORLD.rank}:", file=sys.stderr)
            if previous is sys.__excepthook__:
                traceback.print_exception(kind, error, trace)
            else:
                previous(kind, error, trace)
            sys.stderr.flush()
            # A hook over ours, as torch.distributed's, may hold back what is printed until ours
            # returns, which it does not.
            held = getattr(sys.stderr, "getvalue", None)
            if held is not None and sys.__stderr__ is not None:
                sys.__stderr__.write(held())
                sys.__stderr__.flush()
            time.sleep(_FORWARDING_SECONDS)
        finally:
            MPI.COMM_WORLD.Abort(1)

    hook.aborts_mpi = True  # type: ignore[attr-defined]
    sys.excepthook = hook


def _note_exits() -> None:
    sys.exit = _noted(sys.exit)
    for name in ("exit", "quit"):  # of the site module, which there may be without
        if hasattr(builtins, name):
            setattr(builtins, name, _noted(getattr(builtins, name)))


def _noted(leave: Callable[..., NoReturn]) -> Callable[..., NoReturn]:
    @functools.wraps(leave)
    def noted(status: Any = None, /) -> NoReturn:
        _status[:] = [status]
        leave(status)

    return noted


def _leave_together(process: int) -> None:
    """At the end of the interpreter, before MPI's. **Collective** where all goes well."""
    from mpi4py import MPI

    if MPI.Is_finalized() or os.getpid() != process:
        return
    code = _exit_code()
    # MPI's own end would wait for all ranks, too, without an end to its patience.
    requests = [shared.comm.Ibarrier() for shared in living if shared.comm.size > 1]
    end = time.monotonic() + PATIENCE_SECONDS
    nap = 1e-4
    while not MPI.Request.Testall(requests):
        if code and time.monotonic() > end:
            print(
                f"hpc_sla: MPI rank {MPI.COMM_WORLD.rank} has left with an error, and others have "
                f"not within {PATIENCE_SECONDS:.0f} s: ending the job",
                file=sys.stderr,
                flush=True,
            )
            time.sleep(_FORWARDING_SECONDS)
            MPI.COMM_WORLD.Abort(code)
        time.sleep(nap)
        nap = min(2 * nap, 0.02)
    for clear_up in _afterwards:
        clear_up()


def _exit_code() -> int:
    """That of the SystemExit which ends this process; 0 where none does."""
    if _main is None:
        return 0
    steps = list(dis.get_instructions(_main.f_code))
    # The last that began: a call's own place may be behind it, in what the interpreter caches.
    at = max(i for i, step in enumerate(steps) if step.offset <= _main.f_lasti)
    if steps[at].opname in _RETURNS:
        return 0
    code = None
    if steps[at].opname == "RAISE_VARARGS" and steps[at].arg:
        # By the program itself; what sys.exit was called with before was caught.
        code = _code_raised(steps[:at], _main.f_globals)
    if code is not None:
        return code
    return _code_of(_status[0]) if _status else 1


def _code_raised(steps: Sequence[dis.Instruction], names: Mapping[str, Any]) -> int | None:
    """That of a ``raise SystemExit`` by what was done for it; None where that does not tell.

    The exception itself is gone.
    """
    before, last = [step for step in steps if step.opname not in _BESIDE][-2:]
    if not last.opname.startswith("CALL"):
        return 0 if last.argval == "SystemExit" else None
    if before.opname in ("LOAD_CONST", "LOAD_SMALL_INT"):
        return _code_of(before.argval)
    if before.opname in ("LOAD_NAME", "LOAD_GLOBAL"):
        return 0 if before.argval == "SystemExit" else _code_of(names.get(before.argval))
    # raise SystemExit(main()) is how many a program just ends.
    return 0 if before.opname.startswith("CALL") else None


def _code_of(status: Any) -> int:
    """As the interpreter does it: a text goes to stderr, and the code is 1."""
    return 0 if status is None else status & 0xFF if isinstance(status, int) else 1

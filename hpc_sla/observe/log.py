"""What happens, told to Python's `logging`: the logger ``hpc_sla``.

Nothing is emitted unless somebody asks: the logger has no level of its own, so that events of
level INFO cost one look until a program says ``logging.getLogger("hpc_sla").setLevel("INFO")``
and attaches a handler. A record's ``event`` is its name, its ``fields`` a dict of what there is to
know; its message has both, for handlers that know nothing of them.
"""

from __future__ import annotations

import json
import logging
import math
import os
import stat
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime, timezone
from typing import Any

from hpc_sla.errors import InputError

logger = logging.getLogger("hpc_sla")
logger.addHandler(logging.NullHandler())

LINES_PER_SECOND = 1.0
"""Lines about convergence, at most."""


class _Words:
    """Fields as text, made only where a handler wants it."""

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self._fields = fields

    def __str__(self) -> str:
        return "".join(f" {name}={value}" for name, value in self._fields.items())


def enabled(level: int = logging.INFO) -> bool:
    """Whether anybody listens. Local."""
    return logger.isEnabledFor(level)


def emit(event: str, level: int = logging.INFO, **fields: Any) -> None:
    """Log an event. Local.

    Parameters
    ----------
    event : str
        Its name: one word, or several with underscores.
    level : int
        Of `logging`.
    **fields
        What JSON can hold; numbers that are not finite become null in a file.
    """
    if logger.isEnabledFor(level):
        extra = {"event": event, "fields": fields}
        logger.log(level, "%s%s", event, _Words(fields), extra=extra)


def solved(by: str, info: Any) -> None:
    """Tell what became of a solve: a SolveInfo or a NonlinearInfo. Local."""
    if enabled():
        names = ("method", "precond", "reason", "status", "iterations", "residual_norm")
        fields: dict[str, Any] = {
            name: getattr(info, name, None) for name in (*names, "relative_residual")
        }
        if getattr(info, "backward_error", None) is not None:
            fields["backward_error"] = info.backward_error
        emit("solved", by=by, **fields, took=round(info.seconds, 6))


class Convergence:
    """A solver's callback that tells of an iteration a second, and of the last.

    Parameters
    ----------
    scale : float
        What relative residuals are relative to.
    """

    def __init__(self, scale: float) -> None:
        self._scale = scale if scale > 0 else 1.0
        self._next = 0.0
        self._last: tuple[int, float] | None = None
        self._emitted: tuple[int, float] | None = None

    def __call__(self, iteration: int, residual_norm: float) -> None:
        self._last = iteration, residual_norm
        now = time.perf_counter()
        if now >= self._next:
            self._next = now + 1.0 / LINES_PER_SECOND
            self._tell()

    def finish(self) -> None:
        """Tell of the last iteration, unless that was done."""
        if self._last is not None and self._last != self._emitted:
            self._tell()

    def _tell(self) -> None:
        assert self._last is not None
        self._emitted = self._last
        iteration, norm = self._last
        emit(
            "iteration",
            iteration=iteration,
            residual_norm=norm,
            relative_residual=norm / self._scale,
        )


class JsonLines(logging.Handler):
    """A handler that appends one JSON object a line to a file.

    Each line goes to the system in one piece, at once: of a run that is killed all lines are
    there, and lines of several processes do not mix. Where the disk is full, lines are lost and
    the run goes on; standard error says so, once.

    Parameters
    ----------
    path : path
        Made, or appended to where it is such a log already.
    rank : int
        As it is written in each line.
    started : float, optional
        Where `seconds` count from, of `time.perf_counter`; default: now.

    Raises
    ------
    InputError
        It cannot be written, or is something else than a log.
    """

    def __init__(
        self, path: str | os.PathLike[str], rank: int = 0, started: float | None = None
    ) -> None:
        # Opened first: `logging` keeps a handler from its beginning, and closes it at the end.
        file = _open(os.fspath(path))
        super().__init__()
        self.path, self.rank = os.fspath(path), rank
        self._started = time.perf_counter() if started is None else started
        self._lost = False
        self._file = file

    def emit(self, record: logging.LogRecord) -> None:
        event = getattr(record, "event", None)
        fields = getattr(record, "fields", None)
        if event is None:
            event, fields = "message", {"text": record.getMessage(), "logger": record.name}
        line = {
            "time": datetime.fromtimestamp(record.created, timezone.utc).isoformat(
                timespec="microseconds"
            ),
            "seconds": round(time.perf_counter() - self._started, 6),
            "rank": self.rank,
            "level": record.levelname.lower(),
            "event": event,
        }
        # What a line always has keeps its name: a field of that name is set apart.
        for name, value in (fields or {}).items():
            line[f"{name}_" if name in line else name] = plain(value)
        try:
            os.write(self._file, (json.dumps(line, allow_nan=False) + "\n").encode())
        except OSError as error:
            if not self._lost:
                message = (
                    f"hpc_sla: the log {self.path} cannot be written any more: {error.strerror}"
                )
                print(message, file=sys.stderr, flush=True)
            self._lost = True

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
        self._file = -1
        super().close()


def plain(value: Any) -> Any:
    """`value` as JSON has it: None for numbers that are not finite, text for what is unknown."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [plain(entry) for entry in value]
    if hasattr(value, "item"):  # a NumPy scalar
        return plain(value.item())
    return str(value)


def _is_pipe(path: str) -> bool:
    """Whether `path` is a pipe, which blocks, other than this process's own output."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return False
    if not stat.S_ISFIFO(found.st_mode):
        return False
    for own in (1, 2):
        with suppress(OSError):
            if os.path.samestat(found, os.fstat(own)):
                return False
    return True


def _open(path: str) -> int:
    """A file to append lines to."""
    remedy = "Name a file that can be written."
    try:
        if os.path.isdir(path):
            raise InputError("is a folder", file=path, field="--log-file", remedy=remedy)
        if _is_pipe(path):
            raise InputError("is a pipe", file=path, field="--log-file", remedy=remedy)
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOCTTY
        file = os.open(path, flags, 0o666)
    except InputError:  # a ValueError, too
        raise
    except (OSError, ValueError) as error:
        problem = f"cannot be written: {getattr(error, 'strerror', None) or error}"
        raise InputError(problem, file=path, field="--log-file", remedy=remedy) from error
    # Of a terminal or another device there is nothing to be read, or nobody knows when.
    begin = os.read(file, 1) if stat.S_ISREG(os.fstat(file).st_mode) else b""
    if begin not in (b"", b"{"):
        os.close(file)
        raise InputError(
            "exists already, and is not a log",
            file=path,
            field="--log-file",
            remedy="Name another.",
        )
    return file

"""Standard output and error that may be closed, full or broken: what a command did stands."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any


class Guarded:
    """A text stream that drops what it can no longer write, and remembers why.

    Parameters
    ----------
    stream : text stream
    closed : bool
        Whether it is only there to take everything.

    Attributes
    ----------
    failure : OSError or None
        The first one: there was something to write that is lost.
    """

    def __init__(self, stream: Any, closed: bool = False) -> None:
        self._stream = stream
        self._closed = closed
        self.failure: OSError | None = None
        self._errors = getattr(stream, "errors", None)
        # A name that the encoding has no room for is shown as escapes.
        self._encode("backslashreplace")

    def write(self, text: str) -> int:
        if self._closed and text and self.failure is None:
            self.failure = OSError(errno.EBADF, "it is closed")
        if self.failure is None:
            try:
                return int(self._stream.write(text))
            except OSError as error:
                self._fail(error)
        elif not isinstance(text, str):  # click finds out what a stream takes
            raise TypeError("a text stream takes text")
        return len(text)

    def flush(self) -> None:
        if self.failure is None:
            try:
                self._stream.flush()
            except OSError as error:
                self._fail(error)

    def restore(self) -> None:
        """Flush, and leave the stream as it was."""
        self.flush()
        self._encode(self._errors)

    def _encode(self, errors: str | None) -> None:
        if hasattr(self._stream, "reconfigure"):
            with suppress(OSError):  # it flushes
                self._stream.reconfigure(errors=errors)

    def _fail(self, error: OSError) -> None:
        self.failure = error
        # What is left in buffers is written when they are closed, and would fail there again.
        with suppress(OSError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            try:
                os.dup2(nowhere, self._stream.fileno())
            finally:
                os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def guarded(silent: bool) -> Iterator[None]:
    """Guard both standard streams. `silent`: what goes to standard output goes nowhere."""
    _open_what_is_closed()
    before = sys.stdout, sys.stderr
    with open(os.devnull, "w") as nowhere:
        # Python has None for a stream whose descriptor was closed.
        out, error = (nowhere if stream is None else stream for stream in before)
        both = (
            Guarded(nowhere) if silent else Guarded(out, closed=before[0] is None),
            Guarded(error, closed=before[1] is None),
        )
        sys.stdout, sys.stderr = both
        try:
            yield
        finally:
            sys.stdout, sys.stderr = before
            for one in both:
                one.restore()


def failure() -> OSError | None:
    """Why standard output could not be written; None where it could, or its reader went away."""
    sys.stdout.flush()
    found = getattr(sys.stdout, "failure", None)
    return None if isinstance(found, BrokenPipeError) else found


def _open_what_is_closed() -> None:
    """Or the next file that is opened takes the place, and what is printed goes into it."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)

"""What is told of each iteration while a solver runs: to the terminal, a file, TensorBoard.

A monitor is any callable(iteration, residual_norm), which every rank calls; those here work on
rank 0. They are made ready before the first iteration, so that a file that cannot be written is an
error then; one that fails later (a full disk) is a warning once the solve is over, and costs no
solution.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

from hpc_sla.errors import InputError, InputTypeError, MissingDependencyError, warn

if TYPE_CHECKING:
    from typing import TextIO

Callback = Callable[[int, float], None]


class Monitor:
    """What rank 0 does at each iteration. Subclass it, or pass any callable instead.

    One monitor serves one solve after another, each from `begin` to `end`.
    """

    def begin(self, what: str) -> None:
        """Be ready. Local, on rank 0: `what` is "solve", "eigsh" ...

        InputError and OSError become an InputError on every rank.
        """

    def __call__(self, iteration: int, residual_norm: float) -> None:
        """Be told. Local, on rank 0."""
        raise NotImplementedError

    def end(self) -> None:
        """Be done. Local, on rank 0."""


class PrintMonitor(Monitor):
    """A line an iteration on stderr: its number, the residual norm, and that relative to the first.

    Parameters
    ----------
    every : int
        Of so many iterations one, and the first.
    """

    def __init__(self, every: int = 1) -> None:
        if not isinstance(every, int) or isinstance(every, bool) or every < 1:
            raise InputError(f"{every!r} is not a number of iterations, 1 or more", field="every")
        self.every = every
        self._what, self._first, self._stream = "", 0.0, sys.stderr

    def begin(self, what: str) -> None:
        self._what, self._first, self._stream = what, 0.0, sys.stderr

    def __call__(self, iteration: int, residual_norm: float) -> None:
        self._first = self._first or residual_norm
        if iteration % self.every == 0:
            beside = residual_norm / self._first if self._first else 0.0
            print(
                f"{self._what} {iteration:6d}  residual norm {residual_norm:.6e}  {beside:.3e}",
                file=self._stream,
                flush=True,
            )


class FileMonitor(Monitor):
    """A line an iteration in a file, `iteration,residual_norm,seconds`, below these names.

    One solve after another goes on in the file; what it held before the first is overwritten.
    Lines are there as soon as they are written: `tail -f` follows.

    Parameters
    ----------
    path : path
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self._file: TextIO | None = None
        self._begun, self._again = 0.0, False

    def begin(self, what: str) -> None:
        self._file = open(self.path, "a" if self._again else "w", buffering=1)  # noqa: SIM115
        try:
            if not self._again:
                self._file.write("iteration,residual_norm,seconds\n")
        except OSError as error:
            error.filename = self.path
            self.end()
            raise
        self._begun, self._again = time.perf_counter(), True

    def __call__(self, iteration: int, residual_norm: float) -> None:
        assert self._file is not None
        self._file.write(f"{iteration},{residual_norm!r},{time.perf_counter() - self._begun:.6f}\n")

    def end(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()


class TensorBoardMonitor(Monitor):
    """Scalars `solve/residual_norm` (or `eigsh/...`) by iteration, for TensorBoard.

    A second solve goes on behind the first, as steps of one run.

    Parameters
    ----------
    log_dir : path, optional
        Default: TensorBoard's, `runs/...`.
    """

    def __init__(self, log_dir: str | os.PathLike[str] | None = None) -> None:
        self.log_dir = None if log_dir is None else os.fspath(log_dir)
        self._writer: Any = None
        self._name, self._before, self._last = "", 0, -1

    def begin(self, what: str) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter  # optional
        except ImportError as error:
            raise MissingDependencyError(
                "TensorBoard is not installed",
                field="monitor",
                remedy="Install it with `pip install tensorboard`, or monitor to a file",
            ) from error
        self._writer = SummaryWriter(self.log_dir)
        self.log_dir = self._writer.log_dir  # the next solve's, too
        self._name = f"{what}/residual_norm"
        self._before = self._last + 1

    def __call__(self, iteration: int, residual_norm: float) -> None:
        self._last = self._before + iteration
        self._writer.add_scalar(self._name, residual_norm, self._last)

    def end(self) -> None:
        writer, self._writer = self._writer, None
        writer.close()


_HOW = "Choose print, print:every=10, file:PATH, tensorboard, tensorboard:DIRECTORY, or a callable"


def make_monitor(given: Any) -> Any:
    """A monitor of its name, or a callable as it is. Local.

    Raises
    ------
    InputError
        Neither.
    """
    if callable(given) and not isinstance(given, type):
        return given
    if not isinstance(given, str):
        raise InputTypeError(
            f"a {type(given).__name__} is not a monitor", field="monitor", remedy=_HOW
        )
    name, _, rest = given.partition(":")
    if name == "print":
        key, _, number = rest.partition("=")
        if not rest:
            return PrintMonitor()
        if key == "every" and number.isdigit() and int(number) > 0:
            return PrintMonitor(int(number))
    if name == "file" and rest:
        return FileMonitor(rest)
    if name == "tensorboard":
        return TensorBoardMonitor(rest or None)
    raise InputError(f"unknown monitor {given!r}", field="monitor", remedy=_HOW)


def named_once(monitor: Any) -> list[Any] | None:
    """Those of `monitor`, made of their names for several solves that go on in them. Local.

    Raises
    ------
    InputError
        One that is none.
    """
    return None if monitor is None else [make_monitor(one) for one in _each(monitor)]


def _each(monitor: Any) -> list[Any]:
    several = isinstance(monitor, Sequence) and not isinstance(monitor, str)
    return list(monitor) if several else [monitor]


class _Ranks(Protocol):
    """A World, for what is asked of it here."""

    rank: int

    def agree(self, function: str = "", /, **arguments: Any) -> Any:
        """**Collective.**"""


class Watch:
    """The monitors of one solve, and the callback that tells them. **Collective**, with any.

    The solve is a block of it, behind which all is closed. Files are overwritten where it begins:
    that is for when nothing else is left to be refused.

    Parameters
    ----------
    world : World
    what : str
        The function that solves.
    monitor : str, callable, or a sequence of these, or None
        Replicated in number.
    callback : callable or None
        Told as well, on every rank.

    Attributes
    ----------
    callback : callable or None
        What to call at each iteration; None where nobody is to be told.

    Raises
    ------
    InputError
        On every rank: no monitor.
    """

    def __init__(
        self, world: _Ranks, what: str, monitor: Any, callback: Callback | None = None
    ) -> None:
        self._world, self._what, self._callback = world, what, callback
        self._made: list[Any] | None = None
        self._mine: list[Monitor] = []
        self._all: list[Any] = []
        self._failed: list[str] = []
        self.callback = callback
        if monitor is None:
            return
        given = _each(monitor)
        with world.agree(f"{what}: monitor", monitors=len(given)):
            self._made = [make_monitor(one) for one in given]
        self.callback = self._tell

    def begin(self) -> None:
        """Have all ready to be told. **Collective**, with any.

        Raises
        ------
        InputError
            On every rank: one cannot begin.
        """
        if self._made is None:
            return
        with self._world.agree():
            for one in self._made:
                if not isinstance(one, Monitor):
                    self._all.append(one)
                elif self._world.rank == 0:
                    _begin(one, self._what)
                    self._mine.append(one)

    def _tell(self, iteration: int, residual_norm: float) -> None:
        for one in list(self._mine):
            self._try(one, one, iteration, residual_norm)
        for one in self._all:
            one(iteration, residual_norm)
        if self._callback is not None:
            self._callback(iteration, residual_norm)

    def _try(self, one: Monitor, call: Callable[..., None], *given: Any) -> None:
        """On rank 0 alone, where an exception would leave the others waiting."""
        try:
            call(*given)
        except Exception as error:
            self._failed.append(f"{type(one).__name__}: {error}")
            self._mine.remove(one)

    def __enter__(self) -> Watch:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Be done. **Collective**, with any, but after an exception."""
        if self._made is None:
            return
        for one in list(self._mine):
            self._try(one, one.end)
        if error is not None:  # other ranks may be anywhere
            return
        with self._world.agree() as agreed:
            agreed.say("; ".join(self._failed))
        failed = [text for text in agreed.heard if text]
        if failed:
            # On every rank, lest one alone stop where warnings are errors.
            warn(f"a monitor stopped in the midst of it: {failed[0]}", UserWarning)


def _begin(one: Monitor, what: str) -> None:
    """On rank 0: what a monitor cannot write every rank is to hear of."""
    try:
        one.begin(what)
    except OSError as error:
        raise InputError(
            f"cannot be written: {error.strerror or error}",
            file=error.filename if isinstance(error.filename, str) else None,
            field="monitor",
            remedy="Name a place that rank 0 may write to",
        ) from error

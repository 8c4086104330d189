"""What the time of a run goes to, by event: ``--profile``.

Nothing of this is there until a `Profile` is entered: it then puts itself in front of the
functions that it was given, and takes itself away again. It looks at the clock and at sizes, never
at a number, so the iterates are bitwise those of a run without.
"""

from __future__ import annotations

import functools
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch

if TYPE_CHECKING:
    from typing_extensions import Self

Bytes = Callable[[tuple[Any, ...], Any], int]
"""Bytes that a call moved, from its arguments and its result."""

Name = str | Callable[[tuple[Any, ...], dict[str, Any]], str]
"""An event, or what tells it from a call's arguments."""

APPLY = "precond apply"
_STAGES = ("read", "write")


@dataclass
class Event:
    """One event on one rank.

    Attributes
    ----------
    calls : int
    seconds : float
        With what other events took within.
    own : float
        Without: no second is counted twice.
    bytes : int
    """

    calls: int = 0
    seconds: float = 0.0
    own: float = 0.0
    bytes: int = 0


@dataclass(frozen=True)
class Hook:
    """A function to measure.

    Attributes
    ----------
    owner : type or None
        The class it is a method of; None for a function, wherever it is imported.
    function : callable
    event : Name
    bytes : Bytes, optional
    counts : bool
        Whether a call is one of the event, or the second half of one.
    whole : bool
        Whether events within are no events of their own.
    io : bool
        Whether its bytes are those that the process read and wrote.
    """

    owner: type | None
    function: Callable[..., Any]
    event: Name
    bytes: Bytes | None = None
    counts: bool = True
    whole: bool = False
    io: bool = False


@dataclass(frozen=True)
class Setting:
    """An attribute of a class that has another value while events are measured."""

    owner: type
    name: str
    value: Any


class Measured(Protocol):
    """What is needed of a `World`: where its tensors are, and what all its ranks have to tell."""

    device: torch.device

    def gather_objects(self, value: Any, /) -> list[Any] | None: ...


class _Frame:
    def __init__(self, name: str, whole: bool) -> None:
        self.name, self.whole = name, whole
        self.within = 0.0
        self.begin = time.perf_counter()


class Profile:
    """Measures this rank's events, from `__enter__` on. Local but for `gather`.

    On a GPU each event waits for the device: the run is slower for it, and each event has its own
    time.

    Parameters
    ----------
    world : World
    hooks : iterable of Hook
        What to measure.
    settings : iterable of Setting

    Attributes
    ----------
    events : dict of str to Event
        Those within a preconditioner's application are apart: ``precond apply: product``.
    reported : bool
        Whether somebody has shown it.
    """

    def __init__(
        self, world: Measured, hooks: Iterable[Hook], settings: Iterable[Setting] = ()
    ) -> None:
        self.events: dict[str, Event] = {}
        self.reported = False
        self._world = world
        self._hooks, self._settings = list(hooks), list(settings)
        self._stack: list[_Frame] = []
        self._thread = threading.get_ident()
        self._waits = world.device.type == "cuda"
        self._attributes: list[tuple[type, str, Any]] = []
        self._functions: dict[int, tuple[Any, Any]] = {}
        self._began = time.perf_counter()
        self._elapsed: float | None = None

    # Measuring

    @contextmanager
    def event(self, name: str, counts: bool = True, whole: bool = False) -> Iterator[Event | None]:
        """A block of that event; None where it is part of one already."""
        stack = self._stack
        if threading.get_ident() != self._thread or (stack and stack[-1].whole):
            yield None
            return
        inside = any(frame.name == APPLY for frame in stack)
        if inside:
            if name == APPLY:
                yield None
                return
            name = f"{APPLY}: {name}"
        if any(frame.name == name for frame in stack):
            yield None
            return
        found = self.events.setdefault(name, Event())
        self._wait()
        frame = _Frame(name, whole)
        stack.append(frame)
        try:
            yield found
        finally:
            self._wait()
            took = time.perf_counter() - frame.begin
            stack.pop()
            found.calls += counts
            found.seconds += took
            found.own += took - frame.within
            if stack:
                stack[-1].within += took

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """A stage of the command: reading and writing are events."""
        if name not in _STAGES:
            yield
            return
        before = _io_bytes()
        with self.event(name, whole=True) as event:
            yield
        if event is not None:
            event.bytes += _io_bytes() - before

    def _wait(self) -> None:
        if self._waits:
            torch.cuda.synchronize(self._world.device)

    # Being in front of functions

    def __enter__(self) -> Self:
        for hook in self._hooks:
            around = self._around(hook)
            if hook.owner is not None:
                self._set(hook.owner, hook.function.__name__, around)
            else:
                self._functions[id(hook.function)] = hook.function, around
        for setting in self._settings:
            self._set(setting.owner, setting.name, setting.value)
        _replace({key: around for key, (_, around) in self._functions.items()})
        self._began = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        if self._elapsed is not None:
            return
        self._elapsed = time.perf_counter() - self._began
        for owner, name, original in reversed(self._attributes):
            setattr(owner, name, original)
        # Modules that were loaded meanwhile have what was there then.
        _replace({id(around): original for original, around in self._functions.values()})

    def _set(self, owner: type, name: str, value: Any) -> None:
        self._attributes.append((owner, name, vars(owner)[name]))
        setattr(owner, name, value)

    def _around(self, hook: Hook) -> Callable[..., Any]:
        function, event, measure = hook.function, hook.event, hook.bytes

        @functools.wraps(function)
        def measured(*args: Any, **kwargs: Any) -> Any:
            name = event if isinstance(event, str) else event(args, kwargs)
            before = _io_bytes() if hook.io else 0
            with self.event(name, hook.counts, hook.whole) as found:
                result = function(*args, **kwargs)
            if found is not None:
                if measure is not None:
                    found.bytes += measure(args, result)
                if hook.io:
                    found.bytes += _io_bytes() - before
            return result

        return measured

    # Telling

    def gather(self) -> dict[str, Any] | None:
        """All ranks' events, on rank 0; see `summarise`. **Collective.** Ends the measuring."""
        self.__exit__()
        self.reported = True
        ranks = self._world.gather_objects((self._elapsed or 0.0, self.events))
        return None if ranks is None else summarise(ranks)


def summarise(ranks: Sequence[tuple[float, dict[str, Event]]]) -> dict[str, Any]:
    """What all ranks together measured.

    Parameters
    ----------
    ranks : sequence of (float, dict of str to Event)
        One a rank: seconds in all, and its events.

    Returns
    -------
    dict
        ``seconds`` in all (largest), and ``events``, most expensive first, with for each: ``calls``
        (largest), ``seconds_max`` and ``seconds_min`` over the ranks and their ``ratio`` (None for
        0), ``share`` of all ranks' time, ``bytes_per_rank`` (largest), ``gb_per_second`` (all
        ranks' bytes by the largest seconds; None without bytes), and ``seconds_with_inner_max``.
        All but the last are without the time that other events took within. ``by_rank``: that of
        each rank, by event.
    """
    total = sum(elapsed for elapsed, _ in ranks) or 1.0
    names = list(dict.fromkeys(name for _, events in ranks for name in events))
    events: dict[str, dict[str, Any]] = {}
    for name in names:
        each = [events_of.get(name, Event()) for _, events_of in ranks]
        own = [event.own for event in each]
        moved = sum(event.bytes for event in each)
        slowest, fastest = max(own), min(own)
        events[name] = {
            "calls": max(event.calls for event in each),
            "seconds_max": slowest,
            "seconds_min": fastest,
            "ratio": slowest / fastest if fastest > 0 else None,
            "share": sum(own) / total,
            "bytes_per_rank": max(event.bytes for event in each),
            "gb_per_second": moved / slowest / 1e9 if moved and slowest > 0 else None,
            "seconds_with_inner_max": max(event.seconds for event in each),
        }
    ordered = sorted(events.items(), key=lambda item: -item[1]["share"])
    by_rank = {
        name: [
            round(events_of[name].own, 6) if name in events_of else 0.0 for _, events_of in ranks
        ]
        for name, _ in ordered
    }
    elapsed = max(elapsed for elapsed, _ in ranks)
    return {"seconds": elapsed, "events": dict(ordered), "by_rank": by_rank}


def _replace(by_id: dict[int, Any]) -> None:
    """Put others in the place of module attributes, throughout the package."""
    for name, module in list(sys.modules.items()):
        if name.startswith("hpc_sla") and module is not None:
            for attribute, value in list(vars(module).items()):
                if id(value) in by_id:
                    setattr(module, attribute, by_id[id(value)])


def _io_bytes() -> int:
    """Bytes this process has read and written through the system so far; 0 where unknown."""
    try:
        with open("/proc/self/io") as file:
            lines = dict(line.split(":", 1) for line in file)
        return int(lines["rchar"]) + int(lines["wchar"])
    except (OSError, KeyError, ValueError):
        return 0

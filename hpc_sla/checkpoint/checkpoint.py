"""Checkpoint: where, and how often, a solver saves its state; and when it stops early."""

from __future__ import annotations

import logging
import math
import os
import re
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from hpc_sla.checkpoint.local import LocalParts
from hpc_sla.checkpoint.state import LayoutOf, write_state
from hpc_sla.distributed.world import World
from hpc_sla.errors import HpcSlaError, InputError
from hpc_sla.observe import log
from hpc_sla.observe.heartbeat import beat

DEFAULT_EVERY = "60s"

_SECONDS_BETWEEN_QUESTIONS = 0.05
_MOST_BETWEEN_QUESTIONS = 1000
_UNITS = {"s": 1.0, "min": 60.0, "h": 3600.0}


@dataclass(frozen=True)
class Every:
    """How often to save; one of the two is infinite."""

    seconds: float = math.inf
    iterations: float = math.inf


def parse_every(every: str | float) -> Every:
    """Read "60s", "5min", "2h" or "100iterations"; a bare number is of seconds. Local.

    Raises
    ------
    InputError
    """
    text = str(every).replace(" ", "").lower()
    found = re.fullmatch(r"([0-9]*\.?[0-9]+(?:e[-+]?[0-9]+)?)(s|min|h|iterations|)", text)
    number, unit = (float(found[1]), found[2]) if found else (0.0, "")
    whole = unit != "iterations" or number.is_integer()
    if not (0 < number < math.inf and whole):
        raise InputError(
            f"{every!r} is not how often",
            field="every",
            remedy="Give seconds (60 or 60s), minutes (5min), hours (1h) or 100iterations",
        )
    if unit == "iterations":
        return Every(iterations=number)
    return Every(seconds=number * _UNITS[unit or "s"])


class Checkpoint:
    """Saves the state of `solve`, `eigsh` or `nonlinear_solve` from time to time.

    For each solve one of its own. Each checkpoint is whole or not there: it is written beside
    `path`, brought to the disc and renamed, and the one before stands until then. One that cannot
    be written is reported once, on rank 0's stderr, and the solve goes on.

    Vectors are kept in the user's row order, so any number of ranks can go on from a checkpoint:
    the same ones with the very same iterates, bit by bit; others to the solver's tolerance.

    Parameters
    ----------
    path : path or None
        The file, on a file system that all ranks see. None: save nothing, only stop when asked.
    every : str or float
        Replicated. "60s", "5min", "100iterations"; a number is of seconds. At the first iteration
        after that; where iterations come in bursts of up to 10 ms, after the burst that time is up
        in. Of gmres, at the first restart after that: its basis would make the file many times
        larger.
        Of newton, at the next outer iteration.
    resume : bool
        Replicated. Go on from the checkpoint at `path`; where there is none, start, and say so on
        rank 0's stderr.
    local : path, optional
        Per rank, of all or of none. A folder, as a rule on a disc of each node: every checkpoint
        goes there, each rank its own part, and only some to `path` as well. Two of them stay. One
        is of use to as many ranks, each where its part is; `resume` takes it where it is whole on
        all ranks and no older than `path`.
    copy_every : int
        Replicated. With `local`: each how many-th checkpoint goes to `path`, too. So does one that
        is asked for by `request_stop`, and one that a node's disc has no room for.
    tag : str
        Replicated. Another thing the checkpoint belongs to; of another tag it is refused. For
        `nonlinear_solve`, say, whose residual is a function, the problem it is of.

    Attributes
    ----------
    stopped : bool
        Replicated. Whether a solve was stopped; its status then is "preempted".
    written : int
        Checkpoints so far (replicated).
    iteration : int or None
        Replicated. That of the last checkpoint, as far as this solve wrote or read it.
    where : str or None
        `path` or `local`, whichever has it.
    moment : int
        Replicated. When that was saved, in nanoseconds since 1970: of two checkpoints the one of
        the later moment is the newer, whatever their iterations.
    bytes : int
        Of the last one, on rank 0.
    seconds : float
        Spent on saving, on this rank.
    begun : bool
        Whether iterations have begun on this rank: they notice `request_stop`.

    Examples
    --------
    >>> import signal
    >>> import hpc_sla as hs
    >>> checkpoint = hs.Checkpoint("solve.ckpt.h5", every="10min", resume=True)
    >>> handler = lambda number, frame: checkpoint.request_stop("SIGUSR1")
    >>> signal.signal(signal.SIGUSR1, handler)  # doctest: +SKIP
    >>> x, info = hs.solve(A, b, checkpoint=checkpoint)  # doctest: +SKIP
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None,
        every: str | float = DEFAULT_EVERY,
        resume: bool = False,
        tag: str = "",
        local: str | os.PathLike[str] | None = None,
        copy_every: int = 10,
    ) -> None:
        self.path = None if path is None else os.fspath(path)
        self.every, self.resume, self.tag = parse_every(every), resume, tag
        self.local = None if local is None else os.fspath(local)
        whole = isinstance(copy_every, int) and not isinstance(copy_every, bool)
        if not whole or copy_every < 1:
            raise InputError(
                f"is {copy_every!r}, not a number of checkpoints",
                field="copy_every",
                remedy="Give 1 or more",
            )
        if self.local is not None and self.path is None:
            raise InputError(
                "needs a shared file besides", field="local", remedy="Name one that all ranks see"
            )
        self.copy_every, self._uncopied = copy_every, 0
        self.parts = None
        if self.local is not None and self.path is not None:
            self.parts = LocalParts(self.local, os.path.basename(self.path))
        self.where: str | None = None
        self.stopped = self.begun = False
        self.written = self.bytes = 0
        self.seconds = 0.0
        self.iteration: int | None = None
        self.moment = 0
        self._reason = ""
        self._warned = False
        self._begin()

    def replicated(self) -> dict[str, Any]:
        """What must be the same on every rank. Local."""
        every = (self.every.seconds, self.every.iterations)
        plain = {"path": self.path, "every": every, "resume": self.resume, "tag": self.tag}
        return {**plain, "local": self.local is not None, "copy_every": self.copy_every}

    def _begin(self) -> None:
        self._saved_at, self._saved_time = 0, time.monotonic()
        self._asks, self._next, self._stride = 0, 1, 1
        self._agreed_at, self._agreed_time = 0, time.monotonic()
        self._due = False

    def request_stop(self, reason: str = "asked to") -> None:
        """Ask for the solve to save and stop, on all ranks. Local: any rank may.

        Safe in a signal handler. Takes effect at an iteration soon after (within 0.1 s, or at
        the next one where they take longer).
        """
        self._reason = reason

    @property
    def asked(self) -> str:
        """Why this rank asked to stop; empty where it did not."""
        return self._reason

    # For the observer

    def start(self, iteration: int = 0) -> None:
        """Iterations begin, at this one. Local."""
        self._begin()
        self._saved_at = iteration
        self.begun = True

    def ask(
        self, world: World, iteration: int, small: bool = True
    ) -> Literal["go on", "save", "stop"]:
        """What to do after this iteration, the same on all ranks. **Collective.**

        Ranks talk to each other every 0.05 s or so, not at each iteration. Once they have agreed
        to stop it is "stop" for good.

        Parameters
        ----------
        world : World
        iteration : int
        small : bool
            Replicated. Whether this is a good moment to save.
        """
        if self.stopped:
            return "stop"
        self._asks += 1
        beat()
        if self._asks >= self._next and self._agree(world):
            self.stopped = True
            return "stop"
        if self.path is None:
            return "go on"
        due = self._due or iteration - self._saved_at >= self.every.iterations
        return "save" if due and small else "go on"

    def iterations_left(self, iteration: int) -> float:
        """How many there are before one must be saved, 1 at least. Replicated; local."""
        return max(1.0, self._saved_at + self.every.iterations - iteration)

    def stop(self, world: World) -> bool:
        """Whether to stop now, within an iteration of the solver that saves. **Collective.**"""
        return self.ask(world, self._saved_at, False) == "stop"

    def _agree(self, world: World) -> bool:
        """Whether to stop; and whether by rank 0's clock it is time to save. **Collective.**"""
        now = time.monotonic()
        due = world.rank == 0 and now - self._saved_time >= self.every.seconds
        each = (now - self._agreed_time) / (self._asks - self._agreed_at)
        most = np.array([bool(self._reason), due, each])
        if world.size > 1:
            from mpi4py import MPI

            world.comm.Allreduce(MPI.IN_PLACE, most, op=MPI.MAX)
        stop, due, each = most.tolist()
        fit = _SECONDS_BETWEEN_QUESTIONS / each if each > 0 else _MOST_BETWEEN_QUESTIONS
        # Carefully upwards: the next iterations may be slower than these.
        self._stride = int(max(1, min(fit, 2 * self._stride, _MOST_BETWEEN_QUESTIONS)))
        self._agreed_at, self._agreed_time = self._asks, now
        self._next = self._asks + self._stride
        self._due = self._due or bool(due)
        return bool(stop)

    def save(
        self,
        world: World,
        identity: Mapping[str, Any],
        state: Mapping[str, Any],
        layout_of: LayoutOf,
        last: bool = False,
    ) -> None:
        """Write a checkpoint; where that fails, say so once. **Collective.**

        Parameters
        ----------
        world : World
        identity, state, layout_of
            See `write_state`; the state's "iteration" says which one this is.
        last : bool
            Replicated. Whether the solve stops here: whoever goes on may do so on other nodes.
        """
        if self.path is None:
            return
        begun, path, parts = time.monotonic(), self.path, self.parts
        # A clock may be behind that of the node that wrote what was resumed.
        self.moment = world.on_root(lambda: max(time.time_ns(), self.moment + 1))
        identity = {**identity, "moment": self.moment}
        saved = False
        if parts is not None:
            saved = self._save(
                world, state, parts.folder, lambda: parts.save(world, identity, state, layout_of)
            )
        self._uncopied += 1
        if not saved or last or self._uncopied >= self.copy_every:
            copied = self._save(
                world, state, path, lambda: write_state(path, world, identity, state, layout_of)
            )
            saved = copied or saved
            self._uncopied = 0 if copied else self._uncopied
        self.written += saved
        self._due = False
        self._saved_at, self._saved_time = state["iteration"], time.monotonic()
        # Not to be taken for slow iterations.
        self._agreed_at, self._agreed_time = self._asks, self._saved_time
        self._next = self._asks + 1
        self.seconds += self._saved_time - begun

    def _save(
        self, world: World, state: Mapping[str, Any], where: str, write: Callable[[], int]
    ) -> bool:
        """Write one; whether it is there. **Collective.**"""
        begun, iteration = time.monotonic(), state["iteration"]
        try:
            self.bytes = write()
        except HpcSlaError as error:
            if not self._warned:
                kept = "the solve goes on without one"
                if self.iteration is not None:
                    kept = f"that of iteration {self.iteration} stays, and the solve goes on"
                say(world, f"the checkpoint of iteration {iteration} failed; {kept}: {error}")
            self._warned = True
            return False
        self.iteration, self.where = iteration, where
        took = round(time.monotonic() - begun, 6)
        log.emit("checkpoint", path=where, iteration=iteration, bytes=self.bytes, took=took)
        return True


def say(world: World, text: str) -> None:
    """Log a notice, and print it on rank 0's stderr. Local."""
    log.emit("notice", logging.WARNING, message=text)
    if world.rank == 0:
        print(f"hpc_sla: {text}", file=sys.stderr, flush=True)

"""Checkpoint: when a solver saves its state, when it stops early, and how it goes on."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import re
import sys
import time
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from hpc_sla.checkpoint.file import CheckpointFile, CheckpointWriter
from hpc_sla.checkpoint.saved_state import Saved, State, write_vector
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
    """How often; one of the two is infinite."""

    seconds: float = math.inf
    iterations: float = math.inf


def parse_every(every: str | float) -> Every:
    """`"60s"`, `"5min"`, `"2h"`, `"100iterations"`; a bare number is of seconds. Local.

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
        Replicated. "60s", "5min", "100iterations"; a number is of seconds. Of gmres, at the first
        restart after that: its basis would make the file many times larger. Of newton, at the next
        outer iteration.
    resume : bool
        Replicated. Go on from the checkpoint at `path`; where there is none, start, and say so on
        rank 0's stderr.
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
        Replicated. That of the checkpoint at `path`, as far as this solve wrote or read it.
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
    ) -> None:
        self.path = None if path is None else os.fspath(path)
        self.every, self.resume, self.tag = parse_every(every), resume, tag
        self.stopped = self.begun = False
        self.written = self.bytes = 0
        self.seconds = 0.0
        self.iteration: int | None = None
        self._reason = ""
        self._warned = False
        self._begin()

    def replicated(self) -> dict[str, Any]:
        """What must be the same on every rank. Local."""
        asked = (self.every.seconds, self.every.iterations)
        return {"path": self.path, "every": asked, "resume": self.resume, "tag": self.tag}

    def _begin(self) -> None:
        self._saved_at, self._saved_time = 0, time.monotonic()
        self._asks, self._next, self._stride = 0, 1, 1
        self._asked, self._asked_time = 0, time.monotonic()
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

    # For solvers

    def start(self, iteration: int = 0) -> None:
        """Iterations begin, at this one. Local."""
        self._begin()
        self._saved_at = iteration
        self.begun = True

    def ask(
        self, world: World, iteration: int, small: bool = True
    ) -> Literal["go on", "save", "stop"]:
        """What to do after this iteration, the same on all ranks. **Collective.**

        Ranks talk to each other every 0.05 s or so, not at each iteration.

        Parameters
        ----------
        world : World
        iteration : int
        small : bool
            Replicated. Whether this is a good moment to save.
        """
        self._asks += 1
        beat()
        if self._asks >= self._next and self._agree(world):
            self.stopped = True
            return "stop"
        if self.path is None:
            return "go on"
        due = self._due or iteration - self._saved_at >= self.every.iterations
        return "save" if due and small else "go on"

    def stop(self, world: World) -> bool:
        """Whether to stop now, in iterations within an iteration. **Collective.**"""
        return self.ask(world, self._saved_at, False) == "stop"

    def _agree(self, world: World) -> bool:
        """Whether to stop; and whether by rank 0's clock it is time to save. **Collective.**"""
        now = time.monotonic()
        due = world.rank == 0 and now - self._saved_time >= self.every.seconds
        each = (now - self._asked_time) / (self._asks - self._asked)
        told = np.array([bool(self._reason), due, each])
        if world.size > 1:
            from mpi4py import MPI

            world.comm.Allreduce(MPI.IN_PLACE, told, op=MPI.MAX)
        stop, due, each = told.tolist()
        fit = _SECONDS_BETWEEN_QUESTIONS / each if each > 0 else _MOST_BETWEEN_QUESTIONS
        # Carefully upwards: the next iterations may be slower than these.
        self._stride = int(max(1, min(fit, 2 * self._stride, _MOST_BETWEEN_QUESTIONS)))
        self._asked, self._asked_time = self._asks, now
        self._next = self._asks + self._stride
        self._due = self._due or bool(due)
        return bool(stop)

    def save(self, world: World, state: State) -> bool:
        """Write a checkpoint; whether that went well. **Collective.**"""
        if self.path is None:
            return False
        begun = time.monotonic()
        good = True
        try:
            self._write(world, state)
            self.written += 1
            self.iteration = state.iteration
            log.emit(
                "checkpoint",
                path=self.path,
                iteration=state.iteration,
                bytes=self.bytes,
                took=round(time.monotonic() - begun, 6),
            )
        except HpcSlaError as error:
            good = False
            if not self._warned:
                kept = "the solve goes on without one"
                if self.iteration is not None:
                    kept = f"that of iteration {self.iteration} stays, and the solve goes on"
                _say(
                    world, f"the checkpoint of iteration {state.iteration} failed; {kept}: {error}"
                )
            self._warned = True
        self._due = False
        self._saved_at, self._saved_time = state.iteration, time.monotonic()
        # Not to be taken for slow iterations.
        self._asked, self._asked_time, self._next = self._asks, self._saved_time, self._asks + 1
        self.seconds += self._saved_time - begun
        return good

    def _write(self, world: World, state: State) -> None:
        """**Collective.** Through rank 0, a slab at a time."""
        assert self.path is not None
        writer: CheckpointWriter | None = None
        with world.agree():
            if world.rank == 0:
                writer = CheckpointWriter(self.path)
        try:
            for name, (layout, x) in state.vectors.items():
                write_vector(writer, name, layout, x)
            with world.agree():
                if writer is not None:
                    identity = {**state.identity, "tag": self.tag}
                    facts = {**state.facts, "iteration": state.iteration}
                    self.bytes = writer.finish(identity, facts, state.arrays)
        finally:
            if writer is not None:
                writer.__exit__(None, None, None)

    def saved(self, world: World) -> Saved | None:
        """What to go on from, if anything. **Collective.** To be closed.

        Raises
        ------
        InputError
            On every rank: it is damaged, or no checkpoint.
        """
        path = self.path
        if not self.resume or path is None:
            return None
        if not world.on_root(lambda: os.path.exists(path)):
            _say(world, f"there is no checkpoint {path} to resume from: starting afresh")
            return None
        file: CheckpointFile | None = None
        try:
            with world.agree():
                file = CheckpointFile(path)
            assert file is not None
            with world.agree(), file.well_formed():
                saved = Saved(file, world, self.tag)
            told = json.dumps([saved.identity, file.facts], sort_keys=True)
            seen = world.comm.allgather(hashlib.sha256(told.encode()).hexdigest())
            if len(set(seen)) > 1:
                raise InputError(
                    "was replaced while it was read: ranks see different ones",
                    file=path,
                    remedy="Run one job at a time with it",
                )
        except BaseException:
            # Else HDF5 would have it open for as long as the error is kept.
            if file is not None:
                file.close()
            raise
        return saved

    def resumed(self, world: World, iteration: int) -> None:
        """Note that it goes on from there. Local."""
        self.iteration = iteration
        _say(world, f"resuming from {self.path}, iteration {iteration}")


def _say(world: World, text: str) -> None:
    log.emit("notice", logging.WARNING, message=text)
    if world.rank == 0:
        print(f"hpc_sla: {text}", file=sys.stderr, flush=True)

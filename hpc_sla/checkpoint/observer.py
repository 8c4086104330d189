"""The observer: saves a solver from time to time, stops it when told to, and resumes it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import Any, Protocol

from hpc_sla.checkpoint.checkpoint import Checkpoint, say
from hpc_sla.checkpoint.file import CheckpointFile
from hpc_sla.checkpoint.identity import check_identity
from hpc_sla.checkpoint.local import moment_of
from hpc_sla.checkpoint.state import LayoutOf, SavedState
from hpc_sla.distributed.layout import RowLayout
from hpc_sla.distributed.world import World
from hpc_sla.errors import HpcSlaError, InputError


class Solver(Protocol):
    """What a solver gives to be saved and resumed, in torch's words; it imports nothing of here.

    Attributes
    ----------
    iterations : int
        Replicated. Done so far.
    state_is_small : bool
        Replicated. Whether the state is as small now as it ever is: a good moment to save.
    observe : callable(solver) -> bool, or None
        The solver calls it between iterations, on every rank, and ends as "preempted" where it
        says to stop. `state_dict` may be asked for meanwhile.
    unobserved : float
        Replicated. How many iterations it may do at most before it calls `observe`, if it does
        several at a time.
    """

    observe: Callable[[Any], bool] | None
    unobserved: float

    @property
    def iterations(self) -> int: ...

    @property
    def state_is_small(self) -> bool: ...

    def state_dict(self) -> dict[str, Any]:
        """All that it needs to go on with the very same iterates. **Collective.**

        A tensor is this rank's part of a distributed vector, `[n_owned]` or `[n_owned, k]`, of
        the solve's dtype, and may change as the solver goes on. An array is replicated, in double
        precision. Anything else is replicated and JSON can hold it.
        """

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from such a state. **Collective.**

        Each tensor is read when it is asked for, which is collective. Raises ValueError, on every
        rank, where the state does not fit.
        """

    def layout_of(self, name: str) -> RowLayout:
        """The layout that a tensor of the state is distributed by. Local."""


class Observer:
    """Watches over one solve for its `Checkpoint`.

    Parameters
    ----------
    checkpoint : Checkpoint
    world : World
    identify : callable() -> dict, or None
        **Collective**, called once and only if need be: what tells this solve from others, text and
        numbers by name, the "dtype" of the vectors among them. None within an iteration of a
        solver that saves: such a solve only stops when told to.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        world: World,
        identify: Callable[[], Mapping[str, Any]] | None = None,
    ) -> None:
        self._checkpoint, self._world, self._identify = checkpoint, world, identify
        self._resumed = self._told = False

    @cached_property
    def _identity(self) -> dict[str, Any]:
        """**Collective** the first time."""
        assert self._identify is not None
        return {**self._identify(), "tag": self._checkpoint.tag}

    def attach(self, solver: Solver) -> None:
        """Resume a solver, where that was asked for, and observe it. **Collective.**

        Of several solvers of one solve, one after another, the first is resumed.

        Raises
        ------
        InputError
            On every rank: the checkpoint is damaged, none, or of something else.
        """
        if self._identify is None:
            solver.observe = lambda _: self._checkpoint.stop(self._world)
            return
        if not self._resumed:
            self._resumed = True
            self._resume(solver)
        self._checkpoint.start(solver.iterations)
        solver.observe = self._after
        solver.unobserved = self._checkpoint.iterations_left(solver.iterations)

    def _after(self, solver: Solver) -> bool:
        """Save if it is time; whether to stop. **Collective.**"""
        verdict = self._checkpoint.ask(self._world, solver.iterations, solver.state_is_small)
        if verdict != "go on" and self._checkpoint.path is not None:
            state = {"iteration": solver.iterations, **solver.state_dict()}
            last = verdict == "stop"
            self._checkpoint.save(self._world, self._identity, state, solver.layout_of, last)
        solver.unobserved = self._checkpoint.iterations_left(solver.iterations)
        return verdict == "stop"

    def _resume(self, solver: Solver) -> None:
        """**Collective.**"""
        checkpoint = self._checkpoint
        with self._saved(solver.layout_of) as state:
            if state is None:
                return
            mine = self._identity
            with self._world.agree():
                check_identity(state.identity, mine, state.path)
            with _fitting(state.path):
                solver.load_state_dict(state)
            where = checkpoint.local if state.alone else checkpoint.path
            checkpoint.iteration, checkpoint.where = solver.iterations, where
            checkpoint.moment = moment_of(state.identity)
            say(self._world, f"resuming from {where}, iteration {solver.iterations}")

    def saved(self, name: str) -> Any:
        """An array or a number of the state to be resumed; None without. **Collective.**

        Raises
        ------
        InputError
            On every rank: the checkpoint is damaged, or none.
        """
        if self._identify is None:
            return None
        with self._saved() as state:
            return None if state is None or name not in state else state[name]

    @contextmanager
    def _saved(self, layout_of: LayoutOf | None = None) -> Iterator[SavedState | None]:
        """Open what is to be resumed, if there is anything. **Collective.**"""
        world, path = self._world, self._checkpoint.path
        if not self._checkpoint.resume or path is None:
            yield None
            return
        parts = self._checkpoint.parts
        local = None if parts is None else parts.newest(world)
        there = world.on_root(lambda: os.path.exists(path))
        if local is not None and there:
            shared = world.on_root(lambda: _moment(path))
            local = local if local.moment >= shared else None
        if local is None and not there:
            if not self._told:
                say(world, f"there is no checkpoint {path} to resume from: starting afresh")
            self._told = True
            yield None
            return
        alone = local is not None
        opened = path if local is None else local.path
        file: CheckpointFile | None = None
        try:
            with world.agree():
                file = CheckpointFile(opened)
            assert file is not None
            with world.agree(), _fitting(opened):
                state = SavedState(file, layout_of, alone)
            about = file.identity if not alone else {**file.identity, "part": ""}
            text = json.dumps([about, file.facts], sort_keys=True)
            with world.agree() as agreed:
                agreed.say(hashlib.sha256(text.encode()).hexdigest())
            if len(agreed.heard) > 1:
                raise InputError(
                    "was replaced while it was read: ranks see different ones",
                    file=opened,
                    remedy="Run one job at a time with it",
                )
            yield state
        finally:
            # Else HDF5 would have it open for as long as an error is kept.
            if file is not None:
                file.close()


def _moment(path: str) -> int:
    """That of a checkpoint; -1 where it cannot be read. Local."""
    try:
        with CheckpointFile(path) as file:
            return moment_of(file.identity)
    except (InputError, LookupError, TypeError, ValueError):
        return -1


@contextmanager
def _fitting(path: str) -> Iterator[None]:
    """Turn what a solver says of a state that does not fit it into an `InputError`. Local."""
    try:
        yield
    except HpcSlaError:
        raise
    except (LookupError, TypeError, ValueError, ArithmeticError, RuntimeError) as error:
        problem = f"has a state that does not fit ({type(error).__name__}: {error})"
        if isinstance(error, KeyError):
            problem = f"has a state without {error}"
        remedy = "Start afresh with another name for the checkpoint."
        raise InputError(problem, file=path, remedy=remedy) from error

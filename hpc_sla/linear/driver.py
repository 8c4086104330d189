"""The loop around every Krylov method: claims, limits, statuses that tell the truth."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch

from hpc_sla.distributed.layout import RowLayout
from hpc_sla.linear.bursts import CompiledSteps
from hpc_sla.linear.graphs import Bursts
from hpc_sla.linear.info import worst
from hpc_sla.linear.method import Method, System, fill, norms_of
from hpc_sla.linear.outcome import Outcome, unfinished
from hpc_sla.linear.recover import Recovery
from hpc_sla.linear.watch import EVERY, hopeless, next_look
from hpc_sla.observe.heartbeat import beat
from hpc_sla.sparse.fingerprint import layout_fingerprint

Callback = Callable[[int, float], None]

_METHOD = "method."
"""What the names of the method's part of a state begin with."""

_SAVED = ("norm", "iterations", "best", "best_at", "last_claim")
"""What a state has of each `Outcome`, beside its status, target and history."""


class KrylovLoop:
    """Runs a method until the *true* residuals meet the targets, or it cannot.

    Parameters
    ----------
    method : Method
    system : System
        Its x is updated in place; r is b - A x at the end.
    x0 : torch.Tensor like x, or None
        What x is, to go back to; not modified. None for 0, which saves a product.
    max_iterations : int
        Replicated.
    callback : callable(iteration, residual_norm), optional
        With several right-hand sides, the largest norm.
    before : sequence of Outcome
        How each right-hand side fared by other methods, whose iterations count.
    patience : int, optional
        Replicated. Give up where it does not pay: see `hopeless`.
    bursts : Bursts, optional
        What runs several steps between two looks at the numbers; default: each step is looked at.
    steps : CompiledSteps, optional
        Those of the method, where they are there.

    Attributes
    ----------
    iterations : int
        Replicated. Done so far.
    outcomes : list of Outcome
        One a right-hand side, once it runs or has been given a state.
    given_up : bool
        Replicated. Whether it was, for its patience.
    rungs_left : int
        Replicated. How many choices there are behind this one; kept with the state.
    unobserved : float
        Replicated. How many iterations may be done at most before `observe` is called.
    compiled : CompiledSteps or None
        Once it runs by such steps.
    observe : callable(loop) -> bool, or None
        Called on every rank between iterations, or bursts of them: whether to stop.
    """

    def __init__(
        self,
        method: Method,
        system: System,
        x0: torch.Tensor | None,
        max_iterations: int,
        callback: Callback | None = None,
        before: Sequence[Outcome] = (),
        patience: int | None = None,
        bursts: Bursts | None = None,
        steps: CompiledSteps | None = None,
    ) -> None:
        self.method, self.system = method, system
        self._x0, self._max_iterations, self._callback = x0, max_iterations, callback
        self.observe: Callable[[KrylovLoop], bool] | None = None
        self.unobserved = math.inf
        self._before = before
        self.iterations = self._begun_at = max(o.iterations for o in before) if before else 0
        self._patience, self._looked_at = patience, 0
        self.given_up, self.rungs_left = False, 0
        self.outcomes: list[Outcome] = []
        # Which columns iterate; whether the method is in the midst of that; whether to stop.
        self._running: list[bool] = []
        self._within = self._stopped = False
        self._bursts, self.compiled = bursts, steps
        # The residual's 2-norm may rise for long while another norm of the error falls, but hardly
        # for more iterations than the method needs in all without rounding.
        self._stagnant = max(100, system.operator.n_global)

    def run(self) -> list[Outcome]:
        """Iterate; how each right-hand side fared. **Collective.**"""
        method, system, most = self.method, self.system, self._max_iterations
        resumed = bool(self.outcomes)
        if not resumed:
            self.outcomes = self._first_look()
        outcomes = self.outcomes
        self._tell()
        if system.compiled and self.compiled is None:
            self.compiled = CompiledSteps(method)
        recovery = Recovery(method, self._steps, self._x0, at_x0=not resumed)
        while unfinished(outcomes):
            recovery.begin(outcomes, self._within)
            if not self._within:
                self._running = [o.status is None for o in outcomes]
                # Without a step to do there is none to start with.
                if self.compiled is None or self.iterations == most or not self.compiled.start():
                    self._start()
            self._within = False
            while self.iterations < most and unfinished(outcomes):
                if self.compiled is not None:
                    self._burst(self.compiled, most - self.iterations)
                elif self._bursts is not None:
                    self._bursts.run(min(method.scalars.check_every, most - self.iterations))
                    self._read()
                else:
                    method.step()
                    self._read()
                if self._look_up():
                    break
            method.finish()
            spent = vars(type(method)).get("spent", ())  # not of a class that changes one
            system.spare = [getattr(method, name) for name in spent]
            # Where all claim to have converged, they mostly have.
            claimed = {"converged"} == {o.status for o in outcomes}
            norms = system.examine() if claimed else norms_of(system.residual())
            recovery.end(outcomes, norms)
            may_go_on = self.iterations < most and not (self._stopped or self.given_up)
            for outcome, ran, norm in zip(outcomes, self._running, norms, strict=True):
                if not ran:
                    continue
                outcome.judge(norm, may_go_on)
                if self._stopped and outcome.status in ("max_iterations", "breakdown", "stagnated"):
                    outcome.status = "preempted"
        if not self._stopped:
            recovery(outcomes, search=not self.given_up)
        return outcomes

    def _steps(self, count: int) -> None:
        """As many steps as that, no more than between two looks. **Collective.**"""
        if self.compiled is not None:
            self.compiled.run(count)
        elif self._bursts is None:
            self.method.step()
        else:
            self._bursts.run(count)

    def _burst(self, compiled: CompiledSteps, most: int) -> None:
        """Compiled steps, and what they have recorded. **Collective.**"""
        (outcome,) = self.outcomes
        if self._patience is not None:
            done = self.iterations - self._begun_at
            most = min(most, next_look(self._patience, done) - done)
        if self.observe is not None:
            most = int(min(most, self.unobserved))
        norms, row = compiled.advance(most, outcome, self._stagnant)
        if not norms:
            outcome.status = self.method.classify(row, outcome.target)
            return
        last = norms.pop()
        if self._callback is None:
            self.iterations += len(norms)
            outcome.passed(norms)
        else:
            for norm in norms:
                self.iterations += 1
                outcome.passed([norm])
                self._tell()
        self.iterations += 1
        status = self.method.classify(row, outcome.target)
        outcome.iterated(last, status, self._stagnant)
        self._tell()

    def _tell(self) -> None:
        if self._callback:
            self._callback(self.iterations, worst(o.history[-1] for o in self.outcomes))

    def _first_look(self) -> list[Outcome]:
        """Where x begins. **Collective.**"""
        system = self.system
        if self._x0 is None:
            measures = system.measures
            system.r.copy_(system.b)
        else:
            measures = norms_of(system.residual())
        outcomes = [self._outcome(column, norm) for column, norm in enumerate(measures)]
        if self._before:
            for outcome, before in zip(outcomes, self._before, strict=True):
                outcome.follow(before)
        return outcomes

    def _outcome(self, column: int, norm: float) -> Outcome:
        """That of a column whose true residual norm this is. Local."""
        system = self.system
        ceiling = system.ceiling[column] if system.ceiling else math.inf
        return Outcome(system.target[column], norm, max(ceiling, norm * system.dtol))

    def _start(self) -> None:
        """Begin from x and its residual. **Collective.**"""
        method, scalars = self.method, self.method.scalars
        method.start(scalars.flag(self._running))
        (rows,) = scalars.read()
        for outcome, row in zip(self.outcomes, rows, strict=True):
            if outcome.status is None:
                outcome.status = method.classify(row, outcome.target)

    def _read(self) -> None:
        """What the steps have recorded. Local; waits for a GPU."""
        method, scalars, outcomes = self.method, self.method.scalars, self.outcomes
        for rows in scalars.read():
            if all(o.status is not None for o in outcomes):
                break
            self.iterations += 1
            for outcome, row in zip(outcomes, rows, strict=True):
                if outcome.status is None:
                    status = method.classify(row, outcome.target)
                    outcome.iterated(method.norm(row), status, self._stagnant)
            self._tell()

    def _look_up(self) -> bool:
        """Between steps: whether to stop for good. **Collective.**"""
        method, scalars, outcomes = self.method, self.method.scalars, self.outcomes
        beat()
        if "stagnated" in [o.status for o in outcomes]:
            method.keep(scalars.flag([o.status is None for o in outcomes]))
        going = self.iterations < self._max_iterations and unfinished(outcomes)
        self._stopped = self.observe is not None and going and self.observe(self)
        if self._patience is not None and going and not self._stopped:
            done = self.iterations - self._begun_at
            if done // EVERY > self._looked_at // EVERY:  # they may come in bursts
                self.given_up = hopeless(self._patience, done, outcomes)
            self._looked_at = done
        return self._stopped or self.given_up

    # To go on elsewhere

    @property
    def state_is_small(self) -> bool:
        """Whether the state is as small now as it ever is. Replicated."""
        return self.method.state_is_small

    @cached_property
    def _place(self) -> str:
        """**Collective** the first time."""
        return layout_fingerprint(self.system.operator.columns)

    def layout_of(self, name: str) -> RowLayout:
        """The layout of a tensor of the state: that of x or of b. Local."""
        operator = self.system.operator
        like_x = name == "x" or name.removeprefix(_METHOD) in self.method.kept_like_x
        return operator.columns if like_x else operator.layout

    def state_dict(self) -> dict[str, Any]:
        """All that is needed to go on with the very same iterates. **Collective.**

        Tensors are this rank's rows of x and of the method's vectors ("method.NAME"), as they are
        now: they change with the next step. All else is replicated.
        """
        own = self.method.state_dict()  # may change x: see GMRES
        outcomes = self.outcomes
        return {
            "x": self.system.x,
            **{f"{_METHOD}{name}": value for name, value in own.items()},
            **{f"residual_history.{i}": np.array(o.history) for i, o in enumerate(outcomes)},
            "iteration": self.iterations,
            "running_method": str(self.method),
            "running_precond": self.system.precond.name,
            "begun_at": self._begun_at,
            "rungs_left": self.rungs_left,
            "place": self._place,
            "running": list(self._running),
            "statuses": [o.status for o in outcomes],
            "targets": [o.target for o in outcomes],
            **{name: [getattr(o, name) for o in outcomes] for name in _SAVED},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave. **Collective.**

        With the very same iterates on the same ranks; from its x where the method is another, or
        where rows are elsewhere, so that the preconditioner may be another, too, which recurrences
        would not fit.

        Raises
        ------
        ValueError
            On every rank: it is not of this method or of so many right-hand sides.
        """
        method, system = self.method, self.system
        fill(system.x, state["x"])
        self.iterations = int(state["iteration"])
        self._begun_at = state.get("begun_at", 0)
        self._looked_at = self.iterations - self._begun_at
        self._running = list(state["running"])
        self.outcomes = []
        for i in range(len(system.target)):
            outcome = self._outcome(i, state["norm"][i])
            for name in _SAVED:
                setattr(outcome, name, state[name][i])
            outcome.status = state["statuses"][i]
            outcome.history = state[f"residual_history.{i}"].tolist()
            self.outcomes.append(outcome)
        name = system.precond.name
        self._within = (
            state["running_method"] == str(method)
            and (state.get("running_precond", name)) == name
            and (state["place"] == self._place or system.precond.pointwise)
        )
        if self._within:
            method.load_state_dict(_Part(state, _METHOD))
        for outcome, target in zip(self.outcomes, state["targets"], strict=True):
            if outcome.status == "converged" and outcome.target < target:
                outcome.status = None
                if self._within:  # what the method still holds of x, which begins anew
                    method.finish()
                self._within = False
        if not self._within:
            system.residual()


class _Part(Mapping[str, Any]):
    """What of a state has names that begin so; read no sooner than it is asked for."""

    def __init__(self, state: Mapping[str, Any], prefix: str) -> None:
        self._state, self._prefix = state, prefix

    def __getitem__(self, name: str) -> Any:
        return self._state[self._prefix + name]

    def __iter__(self) -> Iterator[str]:
        names = (name for name in self._state if name.startswith(self._prefix))
        return (name.removeprefix(self._prefix) for name in names)

    def __len__(self) -> int:
        return sum(1 for _ in self)

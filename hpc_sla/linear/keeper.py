"""Saving a linear solve, and going on from there."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from hpc_sla.checkpoint.checkpoint import Checkpoint
from hpc_sla.checkpoint.saved_state import Saved, State
from hpc_sla.hashing import noise
from hpc_sla.sparse.fingerprint import layout_fingerprint, matrix_fingerprint
from hpc_sla.sparse.operators import Operator
from hpc_sla.sparse.stored import StoredMatrix

if TYPE_CHECKING:
    from hpc_sla.linear.driver import Outcome
    from hpc_sla.linear.method import Method, System

_OUTCOME = ("norm", "iterations", "_best", "_best_at", "_last_claim")


def identify_matrix(A: Any, operator: Operator) -> str | float:
    """What tells A from others. **Collective.**

    The digest of a matrix's entries; of a matrix-free operator, the norm of its product with a
    fixed vector.
    """
    if isinstance(A, StoredMatrix):
        return matrix_fingerprint(A.stored) + ":T" * A.transposed
    v = torch.from_numpy(noise(operator.columns.rows, 3))
    v = v.to(operator.device, operator.dtype or torch.float64)
    image = v.new_empty(operator.layout.n_owned)
    operator(v, image)
    square = float(image.double().square().sum())
    return math.sqrt(operator.world.sum(square))


class Watch:
    """A checkpoint, and what tells the system from others.

    Parameters
    ----------
    checkpoint : Checkpoint
    saves : bool
        False within another solver's iteration, which then only stops when told to.
    """

    def __init__(self, checkpoint: Checkpoint, saves: bool = True) -> None:
        self.checkpoint, self.saves = checkpoint, saves
        self._identify: Callable[[], dict[str, Any]] | None = None
        self._asked = ""

    def of(self, asked: str, identify: Callable[[], dict[str, Any]]) -> Watch:
        """For a method that was asked for. `identify` is collective, and called if need be."""
        self._asked, self._identify = asked, identify
        return self

    @cached_property
    def identity(self) -> dict[str, Any]:
        """**Collective** the first time."""
        assert self._identify is not None
        return {"kind": "solve", "method": self._asked, **self._identify()}

    def keeper(self, spec: str, system: System) -> Keeper:
        return Keeper(self, spec, system)

    def saved_method(self, operator: Operator) -> str:
        """The method that was running when it was saved; empty without. **Collective.**"""
        saved = self.checkpoint.saved(operator.world) if self.saves else None
        if saved is None:
            return ""
        with saved, saved.well_formed():
            return str(saved.facts.get("running_method", ""))


@dataclass
class Restored:
    """Where to go on.

    Attributes
    ----------
    iterations : int
    outcomes : list of Outcome
    running : list of bool
        Which of them the round began with.
    within : bool
        Whether the method goes on within a round; else it starts from x.
    """

    iterations: int
    outcomes: list[Outcome]
    running: list[bool]
    within: bool


class Keeper:
    """What the driver tells of its iterations, and asks whether to stop.

    Parameters
    ----------
    watch : Watch
    spec : str
        The method that runs.
    system : System
    """

    def __init__(self, watch: Watch, spec: str, system: System) -> None:
        self._watch, self._spec, self._system = watch, spec, system
        self._checkpoint = watch.checkpoint
        self._world = system.operator.world
        self.stopped = False

    @cached_property
    def _identity(self) -> dict[str, Any]:
        return {**self._watch.identity, "precond": self._system.precond.name}

    @cached_property
    def _place(self) -> str:
        return layout_fingerprint(self._system.operator.columns)

    def start(self, iterations: int) -> None:
        if self._watch.saves:
            self._checkpoint.start(iterations)

    def after(
        self,
        method: Method,
        outcomes: Sequence[Outcome],
        running: Sequence[Outcome],
        iterations: int,
    ) -> bool:
        """Save if it is time; whether to stop. **Collective.**"""
        if not self._watch.saves:
            self.stopped = self._checkpoint.stop(self._world)
            return self.stopped
        verdict = self._checkpoint.ask(self._world, iterations, method.small)
        self.stopped = verdict == "stop"
        if verdict != "go on" and self._checkpoint.path is not None:
            self._save(method, outcomes, running, iterations)
        return self.stopped

    def _save(
        self,
        method: Method,
        outcomes: Sequence[Outcome],
        running: Sequence[Outcome],
        iterations: int,
    ) -> None:
        """**Collective.**"""
        numbers = method.numbers()  # may change the vectors: see GMRES
        operator = self._system.operator
        vectors = {"x": (operator.columns, self._system.x)}
        for name, (like_x, tensor) in method.vectors().items():
            vectors[name] = operator.columns if like_x else operator.layout, tensor
        facts = {
            "running_method": self._spec,
            "place": self._place,
            "running": [any(o is one for one in running) for o in outcomes],
            "statuses": [o.status for o in outcomes],
            "targets": [o.target for o in outcomes],
            **{name.strip("_"): [getattr(o, name) for o in outcomes] for name in _OUTCOME},
        }
        arrays = {f"method.{name}": array for name, array in numbers.items()}
        for i, o in enumerate(outcomes):
            arrays[f"residual_history.{i}"] = torch.tensor(
                o.history, dtype=torch.float64, device="cpu"
            ).numpy()
        self._checkpoint.save(
            self._world, State(iterations, self._identity, vectors, arrays, facts)
        )

    def restore(self, method: Method, make: Callable[[int, float], Outcome]) -> Restored | None:
        """Put the state of a checkpoint in place, if there is one. **Collective.**

        Parameters
        ----------
        method : Method
        make : callable(column, norm) -> Outcome
        """
        saved = self._checkpoint.saved(self._world) if self._watch.saves else None
        if saved is None:
            return None
        with saved, saved.well_formed():
            with self._world.agree():
                saved.check(self._identity)
            if saved.facts["running_method"] != self._spec:
                return None  # of method="auto": the one before, which failed
            self._system.x.copy_(saved.read("x", self._system.operator.columns, self._system.x))
            outcomes = _outcomes(saved, len(self._system.target), make)
            # Elsewhere the preconditioner may be another, and recurrences would not fit it.
            within = saved.facts["place"] == self._place or self._system.precond.pointwise
            if within:
                self._load(method, saved)
            for outcome, target in zip(outcomes, saved.facts["targets"], strict=True):
                if outcome.status == "converged" and outcome.target < target:
                    outcome.status = None
                    if within:  # what the method still holds of x, which begins anew
                        method.finish()
                    within = False
            if not within:
                self._system.residual()
            self._checkpoint.resumed(self._world, saved.iteration)
            return Restored(saved.iteration, outcomes, saved.facts["running"], within)

    def _load(self, method: Method, saved: Saved) -> None:
        """**Collective.**"""
        operator = self._system.operator
        own = {
            name.removeprefix("method."): array
            for name, array in saved.arrays.items()
            if name.startswith("method.")
        }
        method.load(own)
        for name, (like_x, tensor) in method.vectors().items():
            layout = operator.columns if like_x else operator.layout
            tensor.copy_(saved.read(name, layout, tensor))
        method.loaded()


def _outcomes(saved: Saved, count: int, make: Callable[[int, float], Outcome]) -> list[Outcome]:
    facts, outcomes = saved.facts, []
    for i in range(count):
        outcome = make(i, facts["norm"][i])
        for name in _OUTCOME:
            setattr(outcome, name, facts[name.strip("_")][i])
        outcome.status = facts["statuses"][i]
        outcome.history = saved.arrays[f"residual_history.{i}"].tolist()
        outcomes.append(outcome)
    return outcomes

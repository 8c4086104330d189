"""The way back from a round of iterations that left x worse than it was."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from hpc_sla.linear.accuracy import accuracy
from hpc_sla.linear.method import Method, norms_of
from hpc_sla.linear.outcome import Outcome
from hpc_sla.observe.heartbeat import beat

_ROOM = 10.0
"""By how much the residual of an iteration that was cut short may exceed its start: that of
conjugate gradients rises while the error falls."""

_LOOKS = 32
"""At the true residual, on the way through the steps once more."""

_LOST = 1e6
"""Times the best: no step will come back from there."""


class Recovery:
    """Takes x back to the best on the way where a method ends above its start.

    Nothing is copied, and no true residual taken, while a method iterates. Where it failed, x goes
    back to the best it began a round from, and the steps of that round are done once more, now with
    looks at the true residual on the way, and again in small steps around the best of them.

    Parameters
    ----------
    method : Method
    steps : callable(count)
        Does so many steps of the method, no more than between two looks. **Collective.**
    x0 : torch.Tensor like x, or None
        The initial guess; None for 0. Kept, and not modified.
    at_x0 : bool
        Whether x is that where the first round begins.
    """

    def __init__(
        self, method: Method, steps: Callable[[int], None], x0: torch.Tensor | None, at_x0: bool
    ) -> None:
        self._method, self._steps, self._x0 = method, steps, x0
        self._system = method.system
        self._at_x0 = at_x0
        self._began: torch.Tensor | None = None
        self._rounds: list[_Round] = []

    def begin(self, outcomes: Sequence[Outcome], within: bool) -> None:
        """Remember where a round begins, if no better one is known. Local.

        Parameters
        ----------
        outcomes : sequence of Outcome
        within : bool
            Whether the method goes on within a round that began in another run.
        """
        x = self._system.x
        if not self._rounds:
            self._rounds = [_Round() for _ in outcomes]
        pairs = list(zip(outcomes, self._rounds, strict=True))
        better = [o.status is None and o.norm < one.norm for o, one in pairs]
        if self._began is None and not self._at_x0:
            self._began = torch.zeros_like(x)
            if self._x0 is not None:
                self._began.copy_(self._x0)
        if self._began is not None:
            self._put(self._began, better, x)
        self._at_x0 = False
        for (outcome, one), new in zip(pairs, better, strict=True):
            one.running = new
            if new:
                one.norm, one.repeatable = outcome.norm, not within
            outcome.begin()

    def end(self, outcomes: Sequence[Outcome], norms: Sequence[float]) -> None:
        """Remember what the round was, and the true residual norms that it left. Local."""
        for outcome, one, norm in zip(outcomes, self._rounds, norms, strict=True):
            if one.running:
                one.steps, one.lowest = outcome.steps, outcome.lowest
                one.lowest_after = outcome.lowest_after
                one.last, one.left = outcome.history[-1], norm
            one.running = False

    def __call__(self, outcomes: Sequence[Outcome], search: bool = True) -> None:
        """Take back the columns that went astray. **Collective.**

        Without `search` to where the round began, which costs no more than a product.
        """
        system, method = self._system, self._method
        astray = self._astray(outcomes) if self._rounds else [False]
        if not any(astray):
            return
        system.found = None
        start = self._began if self._began is not None else self._x0
        self._put(system.x, astray, start)
        if start is None and all(astray):
            system.r.copy_(system.b)
            norms = [one.norm for one in self._rounds]
        else:
            norms = norms_of(system.residual())
        steps = [
            one.steps if gone and search and one.worth_a_search else 0
            for one, gone in zip(self._rounds, astray, strict=True)
        ]
        if any(steps):
            points = {one.lowest_after for one, s in zip(self._rounds, steps, strict=True) if s}
            best = _Best(system.x.clone(), norms)
            if not method.current:
                points = {max(points)}  # a look ends what it has begun
            else:
                points |= {round(max(steps) * 0.75**i) for i in range(_LOOKS)}
            self._repeat(steps, best, points)
            if method.current and any(best.at):
                # The same from the look before the best one to that after it.
                ends = sorted({0, *points})
                where = [ends.index(at) for at, s in zip(best.at, steps, strict=True) if s]
                last = ends[min(max(where) + 1, len(ends) - 1)]
                self._put(system.x, [s > 0 for s in steps], start)
                system.residual()
                self._repeat(steps, best, _between(ends[max(min(where) - 1, 0)], last))
            system.x.copy_(best.x)
            norms = norms_of(system.residual())
        for outcome, norm, gone in zip(outcomes, norms, astray, strict=True):
            outcome.norm = norm if gone else outcome.norm
            if gone and norm <= outcome.target:
                outcome.status = "converged"

    def _astray(self, outcomes: Sequence[Outcome]) -> list[bool]:
        """Which columns to take back. **Collective.**"""
        system = self._system
        astray, doubtful = [], False
        for outcome, one in zip(outcomes, self._rounds, strict=True):
            limited = outcome.status == "max_iterations"
            gone = outcome.status != "converged" and one.norm < math.inf
            if gone and math.isfinite(outcome.norm):
                # Of least squares it is another norm that falls all the way.
                gone = outcome.norm > (_ROOM if limited else 1.0) * one.norm
                gone = gone and not system.least_squares
                doubtful |= gone and outcome.norm <= _ROOM * one.norm
            astray.append(gone)
        if doubtful:
            # The residual of the best x there is may exceed that of 0.
            vectors = system.b, system.x, system.r
            good = accuracy(system.operator, *vectors, math.inf, spare=system.spare)
            astray = [
                gone and not (found.at_rounding and outcome.norm <= _ROOM * one.norm)
                for gone, found, outcome, one in zip(
                    astray, good, outcomes, self._rounds, strict=True
                )
            ]
        return astray

    def _put(self, x: torch.Tensor, columns: list[bool], other: torch.Tensor | None) -> None:
        """Set these columns of x, to 0 without `other`. Local."""
        which = torch.tensor(columns, device=x.device).reshape(x.shape[1:])
        x.copy_(torch.where(which, x.new_zeros(()) if other is None else other, x))

    def _repeat(self, steps: list[int], best: _Best, points: set[int]) -> None:
        """Repeat the steps up to the last of the points, and look there. **Collective.**

        x and its residual are where the round began, but for columns of no steps.
        """
        method, scalars = self._method, self._method.scalars
        method.start(scalars.flag([s > 0 for s in steps]))
        scalars.read()
        done = 0
        for point in sorted(points - {0}):
            while done < point:
                count = min(scalars.check_every, point - done)
                self._steps(count)
                beat()
                scalars.read()
                done += count
            norms = self._look()
            for column, (norm, s) in enumerate(zip(norms, steps, strict=True)):
                # Of equals the first: x may have grown since.
                if s and norm < 0.999 * best.norms[column]:
                    best.norms[column], best.at[column] = norm, point
                    self._put(best.x, [i == column for i in range(len(steps))], self._system.x)
            pairs = zip(norms, best.norms, steps, strict=True)
            if all(not norm <= _LOST * least for norm, least, s in pairs if s):
                break
        method.finish()

    def _look(self) -> list[float]:
        """True residual norms, the method's own r untouched where it goes on. **Collective.**"""
        system, method = self._system, self._method
        if not method.current:
            method.finish()
            return norms_of(system.residual())
        r = torch.empty_like(system.r)
        system.operator(system.x, r)
        torch.sub(system.b, r, out=r)
        (square,) = system.scalars.dots((r, r))
        return norms_of(square)


@dataclass(slots=True)
class _Round:
    """The round of a column that began from its least true residual, which was `norm`.

    `last` and `lowest` are the method's own norms at its end and at its best, after so many steps.
    """

    norm: float = math.inf
    repeatable: bool = True
    running: bool = False
    steps: int = 0
    lowest: float = math.inf
    lowest_after: int = 0
    last: float = 0.0
    left: float = math.inf

    @property
    def worth_a_search(self) -> bool:
        """Whether there may be something better than its start."""
        if not (self.repeatable and math.isfinite(self.norm + self.lowest)):
            return False
        # Where the method knew how bad it was, it knew if it was ever better.
        return self.lowest < self.norm or not self.last > 0.5 * self.left


class _Best:
    """By columns: the best x, its true residual norm, and after how many steps it was."""

    def __init__(self, x: torch.Tensor, norms: list[float]) -> None:
        self.x, self.norms, self.at = x, list(norms), [0] * len(norms)


def _between(first: int, last: int) -> set[int]:
    """The points to look at from one step to another."""
    return {first + round(i * (last - first) / _LOOKS) for i in range(_LOOKS + 1)}

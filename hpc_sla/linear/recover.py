"""The way back from a round of iterations that left x worse than it was."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from hpc_sla.heartbeat import beat
from hpc_sla.linear.accuracy import accuracy
from hpc_sla.linear.graphs import Bursts
from hpc_sla.linear.method import Method, norms_of

if TYPE_CHECKING:
    from hpc_sla.linear.driver import Outcome

_ROOM = 10.0
"""By how much the residual of an iteration that was cut short may exceed its start: that of
conjugate gradients rises while the error falls."""

_LOOKS = 32
"""At the true residual, on the way through the steps once more."""

_LOST = 1e6
"""Times the best: no step will come back from there."""


class Recovery:
    """Takes x back to the best there was in a round of iterations.

    Nothing is copied, and no true residual taken, while a method iterates. Where it ends above its
    start, x goes back to that and the same steps are done once more, now with looks at the true
    residual on the way, and again in small steps around the best of them.

    Parameters
    ----------
    method : Method
    bursts : Bursts
        Of the method.
    x0 : torch.Tensor like x, or None
        The initial guess; None for 0. Kept, and not modified.
    at_x0 : bool
        Whether x is that where the first round begins.
    """

    def __init__(
        self, method: Method, bursts: Bursts, x0: torch.Tensor | None, at_x0: bool
    ) -> None:
        self._method, self._bursts, self._x0 = method, bursts, x0
        self._system = method.system
        self._at_x0, self._repeatable = at_x0, True
        self._began: torch.Tensor | None = None

    def begin(self, outcomes: Sequence[Outcome], restored: bool) -> None:
        """Remember where a round begins. Local.

        Parameters
        ----------
        outcomes : sequence of Outcome
        restored : bool
            Whether the method goes on within a round that began in another run.
        """
        if not self._at_x0:
            if self._began is None:
                self._began = torch.empty_like(self._system.x)
            self._began.copy_(self._system.x)
        self._at_x0, self._repeatable = False, not restored
        for outcome in outcomes:
            outcome.begin()

    def __call__(
        self, outcomes: Sequence[Outcome], running: Sequence[Outcome], norms: list[float]
    ) -> list[float]:
        """Take back the columns that went astray; the true residual norms then. **Collective.**"""
        system = self._system
        astray = self._astray(outcomes, running, norms)
        if not any(astray):
            return norms
        start = self._began if self._began is not None else self._x0
        # Where the method knows how bad it is, it knows if it was ever better.
        knew = [o.history[-1] > 0.5 * norm for o, norm in zip(outcomes, norms, strict=True)]
        self._put(system.x, astray, start)
        if start is None and all(astray):
            system.r.copy_(system.b)
            norms = [o.norm for o in outcomes]
        else:
            norms = norms_of(system.residual())
        steps = [0] * len(norms)
        for i, (outcome, norm) in enumerate(zip(outcomes, norms, strict=True)):
            if astray[i] and self._repeatable and math.isfinite(norm + outcome.lowest):
                steps[i] = 0 if knew[i] and outcome.lowest >= norm else outcome.steps
        if not any(steps):
            return norms
        points = {o.lowest_after for o, s in zip(outcomes, steps, strict=True) if s}
        best = _Best(system.x.clone(), norms)
        if self._method.current:
            points |= {round(max(steps) * 0.75**i) for i in range(_LOOKS)}
        self._again(steps, best, points)
        if self._method.current and any(best.at):
            # The same from the look before the best one to that after it.
            ends = sorted({0, *points})
            where = [ends.index(at) for at, s in zip(best.at, steps, strict=True) if s]
            last = ends[min(max(where) + 1, len(ends) - 1)]
            self._put(system.x, [s > 0 for s in steps], start)
            system.residual()
            self._again(steps, best, _between(ends[max(min(where) - 1, 0)], last))
        system.x.copy_(best.x)
        return norms_of(system.residual())

    def _astray(
        self, outcomes: Sequence[Outcome], running: Sequence[Outcome], norms: list[float]
    ) -> list[bool]:
        """Which columns to take back. **Collective.**"""
        system = self._system
        astray, doubtful = [], False
        for outcome, norm in zip(outcomes, norms, strict=True):
            room = _ROOM if outcome.status is None else 1.0
            gone = any(outcome is one for one in running)
            if gone and math.isfinite(norm):
                # Of least squares it is another norm that falls all the way.
                gone = not system.least_squares and norm > room * outcome.began
                doubtful |= gone and norm <= _ROOM * outcome.began
            astray.append(gone)
        if doubtful:
            # The residual of the best x there is may exceed that of 0.
            good = accuracy(system.operator, system.b, system.x, system.r, math.inf)
            astray = [
                gone and not (one.at_rounding and norm <= _ROOM * outcome.began)
                for gone, one, norm, outcome in zip(astray, good, norms, outcomes, strict=True)
            ]
        return astray

    def _put(self, x: torch.Tensor, columns: list[bool], other: torch.Tensor | None) -> None:
        """Set these columns of x, to 0 without `other`. Local."""
        which = torch.tensor(columns, device=x.device).reshape(x.shape[1:])
        x.copy_(torch.where(which, x.new_zeros(()) if other is None else other, x))

    def _again(self, steps: list[int], best: _Best, points: set[int]) -> None:
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
                self._bursts.run(count)
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


class _Best:
    """By columns: the best x, its true residual norm, and after how many steps it was."""

    def __init__(self, x: torch.Tensor, norms: list[float]) -> None:
        self.x, self.norms, self.at = x, list(norms), [0] * len(norms)


def _between(first: int, last: int) -> set[int]:
    """The points to look at from one step to another."""
    return {first + round(i * (last - first) / _LOOKS) for i in range(_LOOKS + 1)}

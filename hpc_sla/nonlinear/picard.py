"""u <- u + relaxation (g(u) - u): linear at best, one residual an iteration."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from hpc_sla.errors import InputError
from hpc_sla.nonlinear.equations import Equations, Function
from hpc_sla.nonlinear.info import Status
from hpc_sla.nonlinear.linearise import Linearisation
from hpc_sla.nonlinear.method import Callback, Choices, Increments, NonlinearMethod, Stop

_PATIENCE = 50


class FixedPoint:
    """The increments f(u) = g(u) - u of a map g whose fixed point is the root.

    Parameters
    ----------
    equations : Equations
    g : callable(u) or None
        The map itself; without one g(u) = u - M^-1 F(u).
    apply : callable(r) or None
        M^-1; the identity where it is None.
    """

    def __init__(
        self, equations: Equations, g: Function | None, apply: Function | None = None
    ) -> None:
        self.equations, self._map, self._apply = equations, g, apply

    def __call__(self, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """f(u) and F(u). **Collective.**"""
        r = self.equations(u)
        with torch.no_grad():
            if self._map is not None:
                return self._map(u) - u, r
            return -(r if self._apply is None else self._apply(r)), r


class StoppingTest:
    """Decides after each iterate whether to go on (replicated).

    Parameters
    ----------
    equations : Equations
    stop : Stop
    callback : callable or None
    """

    def __init__(self, equations: Equations, stop: Stop, callback: Callback | None) -> None:
        self._info, self._stop, self._callback = equations.info, stop, callback

        self.best = math.inf
        self.best_u: torch.Tensor | None = None
        self._best_at = 0

    def __call__(self, u: torch.Tensor, norm: float) -> Status | None:
        """Take in one more iterate and its ||F||, the first included."""
        info = self._info
        info.residual_history.append(norm)
        start, done = info.residual_history[0], len(info.residual_history) - 1
        info.iterations = done
        if self._callback:
            self._callback(done, norm)
        if norm < self.best:
            self.best, self.best_u, self._best_at = norm, u, done
        if not math.isfinite(norm):
            # What grew so far that its square overflows has diverged before it became infinite.
            grew = done > 0 and info.residual_history[-2] > start
            return "diverged" if grew else "not_finite"
        if norm <= self._stop.target(start):
            return "converged"
        if norm > self._stop.divergence * start:
            return "diverged"
        if done >= self._stop.max_iterations:
            return "max_iterations"
        if done - self._best_at > _PATIENCE:
            return "stagnated"
        return None

    def end(self, u: torch.Tensor, status: Status) -> tuple[torch.Tensor, float, Status]:
        """The best iterate, its ||F|| and the status; of u, where none had a finite one."""
        if self.best_u is None:
            return u, self._info.residual_history[-1], status
        return self.best_u, self.best, status


class Picard(NonlinearMethod):
    """Picard's iteration.

    Parameters
    ----------
    relaxation : float
        Above 0; 1 for g itself.
    """

    name = "picard"

    def __init__(self, relaxation: float = 1.0) -> None:
        self.relaxation = relaxation
        self.check_options()
        check_relaxation(relaxation)

    def run(
        self,
        u: torch.Tensor,
        linear: Linearisation,
        increments: Callable[[], Increments],
        choices: Choices,
        attach: Callable[[Any], None],
    ) -> tuple[torch.Tensor, float, Status]:
        """**Collective.**"""
        equations, step = linear.equations, increments()
        watch = StoppingTest(equations, choices.stop, choices.callback)
        while True:
            f, r = step(u)
            status = watch(u, equations.norm(r))
            if status is not None:
                return watch.end(u, status)
            u = u + self.relaxation * f


def check_relaxation(value: float) -> None:
    """Raise InputError unless it is a positive number. Local."""
    if not (math.isfinite(value) and value > 0):
        raise InputError(f"relaxation={value} is not positive", field="method")

"""Inexact Newton with a line search: quadratic near a root; the safe default."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, cast

import numpy as np
import torch

from hpc_sla.distributed.layout import RowLayout
from hpc_sla.hashing import noise
from hpc_sla.linear.info import SolveInfo
from hpc_sla.nonlinear.equations import Equations
from hpc_sla.nonlinear.info import NonlinearInfo, Status
from hpc_sla.nonlinear.linearise import Linearisation
from hpc_sla.nonlinear.method import Callback, Choices, Increments, NonlinearMethod, Stop
from hpc_sla.precond import AMG

_DECREASE = 1e-4
_BACKTRACKS = 40
# Of rounding in F, below which nothing more is to be had of it.
_ROUNDING = 20.0
# A step that leaves this much of ||F|| may be one in rounding.
_POOR = 0.5

# Of `NonlinearInfo`, in a state.
_LISTS = ("inner_iterations", "step_lengths", "forcing")
_COUNTS = (
    "iterations",
    "residual_evaluations",
    "jacobian_products",
    "jacobians",
    "preconditioners",
    "linear_method",
    "jvp",
    "reason",
    "precond",
)


class Newton(NonlinearMethod):
    """Inexact Newton with Eisenstat and Walker's forcing and a backtracking line search."""

    name = "newton"
    limit = 50
    saves = True

    def run(
        self,
        u: torch.Tensor,
        linear: Linearisation,
        increments: Callable[[], Increments],
        choices: Choices,
        attach: Callable[[Any], None],
    ) -> tuple[torch.Tensor, float, Status]:
        """**Collective.**"""
        iteration = NewtonIteration(
            linear.equations,
            u,
            linear,
            choices.stop,
            choices.forcing,
            choices.line_search,
            choices.callback,
        )
        attach(iteration)
        return iteration.run()


class Forcing:
    """The relative tolerance of each linear solve.

    S. C. Eisenstat and H. F. Walker, "Choosing the forcing terms in an inexact Newton method",
    SIAM J. Sci. Comput. 17 (1996): choice 2 with its safeguard, gamma = 0.9 and alpha the golden
    ratio, from 0.3 on: with multigrid that saves a step beside 0.5 for next to no iterations. As in
    C. T. Kelley, Solving Nonlinear Equations with Newton's Method (2003), 3.2.3, it asks for no
    more than half of what the nonlinear tolerance does.

    Parameters
    ----------
    constant : float or None
        The same for all instead.
    target : float
    """

    first, most, gamma, alpha = 0.3, 0.9, 0.9, (1 + math.sqrt(5)) / 2

    def __init__(self, constant: float | None, target: float) -> None:
        self._constant, self._target = constant, target
        self.last: tuple[float, float] | None = None
        """The one before, and ||F(u)|| there."""

    def __call__(self, norm: float) -> float:
        """At a u with this ||F(u)||."""
        if self._constant is not None:
            return self._constant
        if self.last is None:
            eta = self.first
        else:
            eta_last, norm_last = self.last
            eta = self.gamma * (norm / norm_last) ** self.alpha
            kept = self.gamma * eta_last**self.alpha
            if kept > 0.1:
                eta = max(eta, kept)
        eta = min(self.most, max(eta, 0.5 * self._target / norm))
        self.last = eta, norm
        return eta


class NewtonIteration:
    """Newton's method from u. Writes the history to `equations.info`.

    Parameters
    ----------
    equations : Equations
    u : torch.Tensor [n_owned]
        Where to begin; not modified.
    linear : Linearisation
    stop : Stop
    forcing : float or None
        See `Forcing`.
    line_search : bool
    callback : callable(iteration, norm) or None

    Attributes
    ----------
    observe : callable(newton) -> bool, or None
        Called on every rank before each outer iteration, and where a linear solve in it has been
        stopped: whether to stop.
    """

    state_is_small = True

    def __init__(
        self,
        equations: Equations,
        u: torch.Tensor,
        linear: Linearisation,
        stop: Stop,
        forcing: float | None,
        line_search: bool,
        callback: Callback | None,
    ) -> None:
        self.equations, self.linear, self.stop = equations, linear, stop
        self.observe: Callable[[NewtonIteration], bool] | None = None
        self.unobserved = 1.0
        self._u = self._u0 = u
        self._forcing, self._line_search, self._callback = forcing, line_search, callback
        self._last: tuple[float, float] | None = None
        self._found: tuple[torch.Tensor, float] | None = None
        self._state: dict[str, Any] = {}

    @property
    def iterations(self) -> int:
        """Outer ones so far (replicated)."""
        return self.equations.info.iterations

    def run(self) -> tuple[torch.Tensor, float, Status]:
        """The best u it has seen, its ||F(u)||, and the status. **Collective.**"""
        equations, linear, stop, info = self.equations, self.linear, self.stop, self.equations.info
        if self._found is None:
            r = equations(self._u)
            norm = equations.norm(r)
            info.residual_history.append(norm)
        else:
            r, norm = self._found
        u = self._u
        if self._callback:
            self._callback(info.iterations, norm)
        start = info.residual_history[0]
        target = stop.target(start)
        tolerance = Forcing(self._forcing, target)
        tolerance.last = self._last
        best = u, norm
        while True:
            if norm < best[1]:
                best = u, norm
            if not math.isfinite(norm):
                return *best, "not_finite"
            if norm <= target:
                lost = norm == 0 < start and self._lost(_floor(equations, u, r))
                return u, norm, "stagnated" if lost else "converged"
            if norm > stop.divergence * start:
                return *best, "diverged"
            if info.iterations >= stop.max_iterations:
                return *best, "max_iterations"
            if self.observe is not None:
                self._state = self._present(u, tolerance)
                if self.observe(self):
                    return u, norm, "preempted"
            eta, ended = tolerance(norm), False
            step, failed = _direction(equations, linear, u, r, eta)
            if failed == "preempted" and self.observe is not None:
                self.observe(self)
            if failed is not None:
                return (u, norm, failed) if failed == "preempted" else (*best, failed)
            if self._line_search:
                found = _backtrack(equations, u, step, norm, eta)
                if found is None:
                    return u, norm, self._why_no_step(u, r, norm)
                before = norm
                u, r, norm, length = found
                if norm > max(_POOR * before, target):
                    ended = self._will_do(u, r, norm)
            else:
                u, length = u - step, 1.0
                r = equations(u)
                norm = equations.norm(r)
            info.iterations += 1
            info.step_lengths.append(length)
            info.residual_history.append(norm)
            if self._callback:
                self._callback(info.iterations, norm)
            if ended:
                return u, norm, "converged"

    def _why_no_step(self, u: torch.Tensor, r: torch.Tensor, norm: float) -> Status:
        """**Collective.**"""
        if self._will_do(u, r, norm):
            return "converged"
        return "stagnated" if norm <= _floor(self.equations, u, r) else "line_search_failed"

    def _will_do(self, u: torch.Tensor, r: torch.Tensor, norm: float) -> bool:
        """Whether ||F(u)|| is down to rounding, and small or never was more. **Collective.**"""
        enough, start = self.stop.enough, self.equations.info.residual_history[0]
        if not enough or norm > (floor := _floor(self.equations, u, r)):
            return False
        return (norm <= enough * start or start <= floor) and not self._lost(floor)

    def _lost(self, floor: float) -> bool:
        """Whether rounding makes any F(u), of a u that has grown without end. **Collective.**

        As along the kernel of a singular J. `floor` is that of u.
        """
        equations, start = self.equations, self.equations.info.residual_history[0]
        return start <= floor and start > _floor(equations, self._u0, equations(self._u0))

    # To go on elsewhere

    def layout_of(self, name: str) -> RowLayout:
        """The layout of a tensor of the state. Local."""
        return self.equations.layout

    def state_dict(self) -> dict[str, Any]:
        """The state when the present outer iteration began; while it is observed. Local.

        Tensors are this rank's rows: u and, where the preconditioner serves several iterations, the
        u it was set up at. All else is replicated.
        """
        return self._state

    def _present(self, u: torch.Tensor, tolerance: Forcing) -> dict[str, Any]:
        """The state, at this u. Local."""
        info, linear = self.equations.info, self.linear
        state: dict[str, Any] = {"u": u}
        if linear.made_at is not None and linear.begun_at is not None:
            multigrid = isinstance(linear.precond, AMG)
            if multigrid:
                state["precond_begun_at"] = linear.begun_at
            updated = linear.made_at is not linear.begun_at
            if linear.settings.lag != 1 and (updated or not multigrid):
                state["precond_at"] = linear.made_at
        for name in _COUNTS:
            state[name] = getattr(info, name)
        for name in _LISTS:
            state[name] = list(getattr(info, name))
        state["age"], state["last"] = linear.age, tolerance.last
        state["pace"], state["serves"] = linear.pace, linear.serves
        state["specs"] = linear.specs
        state["inner_lengths"] = [len(one) for one in info.inner_history]
        state["residual_history"] = np.array(info.residual_history)
        state["inner_history"] = np.array([v for one in info.inner_history for v in one], float)
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave. **Collective.**

        Raises
        ------
        ValueError
            On every rank: ||F(u)|| is not what it was.
        """
        equations, linear, info = self.equations, self.linear, self.equations.info
        self._u = u = state["u"].to(self._u)
        linear.specs = state.get("specs")
        for name in ("precond_begun_at", "precond_at"):
            if name in state:
                made_at = state[name].to(u)
                linear.set_up(made_at, *linear.at(made_at, None), fresh=False)
        r = equations(u)
        norm = equations.norm(r)
        self._found = r, norm
        linear.age = state["age"]
        linear.pace, linear.serves = state.get("pace", 0.0), state.get("serves", False)
        self._last = None if state["last"] is None else tuple(state["last"])
        for name in (*_COUNTS, *_LISTS):
            setattr(info, name, state[name])
        info.residual_history = state["residual_history"].tolist()
        inner, first = state["inner_history"].tolist(), 0
        for length in state["inner_lengths"]:
            info.inner_history.append(inner[first : first + length])
            first += length
        history = info.residual_history
        rounding = 1e3 * torch.finfo(u.dtype).eps * history[0]
        if not math.isclose(norm, history[-1], rel_tol=1e-3, abs_tol=rounding):
            raise ValueError(
                f"u is of another problem: ||F(u)|| was {history[-1]:.6e} and is {norm:.6e}"
            )


def _direction(
    equations: Equations, linear: Linearisation, u: torch.Tensor, r: torch.Tensor, eta: float
) -> tuple[torch.Tensor, Status | None]:
    """The s of J s = F(u), to be taken away from u. **Collective.**"""
    info: NonlinearInfo = equations.info
    J, matrix = linear.at(u, r)
    linear.refresh(u, J, matrix)
    s, inner = linear.solve(J, r, eta)
    spent, history = inner.iterations, list(inner.residual_history)
    if inner.status == "preempted":
        return s, "preempted"
    if not inner.converged and linear.stale:
        # Not fit for this u any more?
        linear.set_up(u, J, matrix)
        s, inner = linear.solve(J, r, eta)
        spent, history = spent + inner.iterations, history + inner.residual_history
        if inner.status == "preempted":
            return s, "preempted"
    linear.judge(inner)
    info.inner_iterations.append(spent)
    info.inner_history.append(history)
    info.forcing.append(eta)
    info.linear_method = inner.method
    if inner.converged or _usable(inner):
        return s, None
    # A limit or a halt without any gain is a singular Jacobian's, or a method's that does not fit.
    status = inner.status if inner.status in ("indefinite", "not_finite") else "breakdown"
    return s, cast(Status, status)


def _usable(info: SolveInfo) -> bool:
    """Whether what a linear solve left is a descent direction of ||F||^2.

    With ||F + J s|| < ||F|| it is, whatever the status (R. S. Dembo, S. C. Eisenstat and
    T. Steihaug, SIAM J. Numer. Anal. 19, 1982).
    """
    return math.isfinite(info.relative_residual) and info.relative_residual < 1.0


def _backtrack(
    equations: Equations, u: torch.Tensor, step: torch.Tensor, norm: float, eta: float
) -> tuple[torch.Tensor, torch.Tensor, float, float] | None:
    """A point u - t s with ||F|| sufficiently smaller, and t. **Collective.**

    ||F(u - t s)|| <= (1 - 1e-4 t (1 - eta)) ||F(u)||, the steps by a parabola through the last
    values of ||F||^2, between a tenth and half of the step before (Kelley, Iterative Methods for
    Linear and Nonlinear Equations, 1995, section 8.3.1).
    """
    t, last = 1.0, None
    for _ in range(_BACKTRACKS):
        trial = torch.sub(u, step, alpha=t)
        r = equations(trial)
        found = equations.norm(r)
        if found <= (1.0 - _DECREASE * t * (1.0 - eta)) * norm:
            return trial, r, found, t
        before, last = last, (t, found)
        t *= _shrink(norm, last, before)
    return None


def _shrink(norm: float, last: tuple[float, float], before: tuple[float, float] | None) -> float:
    """By how much to shorten the step, 0.1 to 0.5."""
    t, found = last
    if not math.isfinite(found) or before is None or not math.isfinite(before[1]):
        return 0.5
    # Relative to ||F(u)||^2, so that squares of the norm do not overflow.
    one, two = (found / norm) ** 2 - 1.0, (before[1] / norm) ** 2 - 1.0
    t_before = before[0]
    curvature = (one / t - two / t_before) / (t - t_before)
    slope = one / t - curvature * t
    if not (math.isfinite(curvature) and curvature > 0 and slope < 0):
        return 0.5
    return min(0.5, max(0.1, -0.5 * slope / (curvature * t)))


def _floor(equations: Equations, u: torch.Tensor, r: torch.Tensor) -> float:
    """Below this ||F(u)|| is rounding: by what shaking u in its last place does to F.

    **Collective.**
    """
    eps = torch.finfo(u.dtype).eps
    shake = torch.from_numpy(noise(equations.layout.rows, 7)).to(u)
    largest = equations.layout.world.max(float(u.abs().max()) if u.numel() else 0.0)
    shaken = equations(u + eps * shake.sign() * u.abs().clamp(min=eps * largest))
    return _ROUNDING * equations.norm(shaken - r)

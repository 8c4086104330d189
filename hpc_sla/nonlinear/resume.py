"""Saving Newton's method, and going on from there."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hpc_sla.checkpoint.checkpoint import Checkpoint
from hpc_sla.checkpoint.saved_state import Saved, State
from hpc_sla.errors import InputError
from hpc_sla.nonlinear.equations import Equations
from hpc_sla.nonlinear.linearise import Linearisation
from hpc_sla.precond import AMG

if TYPE_CHECKING:
    from hpc_sla.nonlinear.newton import Forcing

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


class Resume:
    """What Newton's method tells of its outer iterations.

    Saved are u and, where the preconditioner serves several iterations, the u it was set up at.

    Parameters
    ----------
    checkpoint : Checkpoint
    identity : dict
    """

    def __init__(self, checkpoint: Checkpoint, identity: dict[str, Any]) -> None:
        self._checkpoint, self._identity = checkpoint, identity
        self._state: State | None = None
        self._last: list[float] | None = None

    def begin(self, iteration: int, tolerance: Forcing) -> None:
        """Iterations begin. Local."""
        self._checkpoint.start(iteration)
        if self._last is not None:
            eta, norm = self._last
            tolerance.last = eta, norm

    def at(
        self, equations: Equations, u: torch.Tensor, linear: Linearisation, tolerance: Forcing
    ) -> bool:
        """Save if it is time; whether to stop. **Collective.**"""
        self._layout, info = equations.layout, equations.info
        self._world = self._layout.world
        vectors = {"u": (self._layout, u)}
        if linear.made_at is not None and linear.begun_at is not None:
            multigrid = isinstance(linear.precond, AMG)
            if multigrid:
                vectors["precond_begun_at"] = self._layout, linear.begun_at
            updated = linear.made_at is not linear.begun_at
            if linear.settings.lag != 1 and (updated or not multigrid):
                vectors["precond_at"] = self._layout, linear.made_at
        facts = {name: getattr(info, name) for name in _COUNTS}
        facts |= {name: list(getattr(info, name)) for name in _LISTS}
        facts |= {"age": linear.age, "last": tolerance.last}
        facts["inner_lengths"] = [len(one) for one in info.inner_history]
        arrays = {
            "residual_history": np.array(info.residual_history),
            "inner_history": np.array([v for one in info.inner_history for v in one], float),
        }
        self._state = State(info.iterations, self._identity, vectors, arrays, facts)
        verdict = self._checkpoint.ask(self._world, info.iterations)
        if verdict != "go on":
            self.save()
        return verdict == "stop"

    def save(self) -> None:
        """The state as it was when this outer iteration began. **Collective.**"""
        assert self._state is not None
        self._checkpoint.save(self._world, self._state)

    def restore(
        self, equations: Equations, u: torch.Tensor, linear: Linearisation
    ) -> tuple[torch.Tensor, torch.Tensor, float] | None:
        """u, F(u) and its norm as they were saved, if they were. **Collective.**"""
        layout, info = equations.layout, equations.info
        world = layout.world
        saved = self._checkpoint.saved(world)
        if saved is None:
            return None
        with saved, saved.well_formed():
            with world.agree():
                saved.check(self._identity)
            u = saved.read("u", layout, u)
            for name in ("precond_begun_at", "precond_at"):
                if saved.has(name):
                    made_at = saved.read(name, layout, u)
                    linear.set_up(made_at, *linear.at(made_at, None), fresh=False)
            r = equations(u)
            norm = equations.norm(r)
            linear.age = saved.facts["age"]
            self._last = saved.facts["last"]
            _recall(info, saved)
            self._check_norm(norm, info.residual_history, u.dtype)
            self._checkpoint.resumed(world, saved.iteration)
        return u, r, norm

    def _check_norm(self, norm: float, history: list[float], dtype: torch.dtype) -> None:
        """Refuse a u that is not of these equations. Local, but replicated."""
        rounding = 1e3 * torch.finfo(dtype).eps * history[0]
        if math.isclose(norm, history[-1], rel_tol=1e-3, abs_tol=rounding):
            return
        raise InputError(
            f"is the checkpoint of another problem: ||F(u)|| was {history[-1]:.6e} and is "
            f"{norm:.6e}",
            file=self._checkpoint.path,
            field="u",
            remedy="Resume what it belongs to, or start afresh with another name for the "
            "checkpoint",
        )


def _recall(info: Any, saved: Saved) -> None:
    for name in (*_COUNTS, *_LISTS):
        setattr(info, name, saved.facts[name])
    info.residual_history = saved.arrays["residual_history"].tolist()
    inner, first = saved.arrays["inner_history"].tolist(), 0
    for length in saved.facts["inner_lengths"]:
        info.inner_history.append(inner[first : first + length])
        first += length

"""Saving LOBPCG, and going on from there."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hpc_sla.checkpoint.checkpoint import Checkpoint
from hpc_sla.checkpoint.saved_state import State

if TYPE_CHECKING:
    from hpc_sla.eigen.lobpcg import Lobpcg

_FACTS = (
    "iterations",
    "_met",
    "_best",
    "_lowest",
    "_best_at",
    "_last_claim",
    "_failed_claims",
    "_probed",
    "_claim_after",
    "_refreshed_at",
    "_tolerated",
    "_doubt",
    "_allowed",
    "_norms",
    "_scales",
)


class Resume:
    """What LOBPCG tells of its iterations. [X | P] is saved with its images under A and B.

    The images could be made again, but not to the last bit, as they are combined from those of
    earlier vectors.

    Parameters
    ----------
    checkpoint : Checkpoint
    identify : callable() -> dict
        **Collective.**
    """

    def __init__(self, checkpoint: Checkpoint, identify: Callable[[], dict[str, Any]]) -> None:
        self.checkpoint, self._identify = checkpoint, identify

    @cached_property
    def identity(self) -> dict[str, Any]:
        """**Collective** the first time."""
        return {"kind": "eigsh", "method": "lobpcg", **self._identify()}

    def after(self, solver: Lobpcg) -> bool:
        """Save if it is time; whether to stop. **Collective.**"""
        world = solver.problem.A.world
        verdict = self.checkpoint.ask(world, solver.iterations)
        if verdict != "go on" and self.checkpoint.path is not None:
            layout = solver.problem.A.layout
            vectors = {name: (layout, block) for name, block in _blocks(solver).items()}
            arrays = {
                "values": solver.values.double().cpu().numpy(),
                "rescale": solver._rescale.double().cpu().numpy(),
                "active": solver.active.double().cpu().numpy(),
                "measured": np.array(solver.yardstick.measured or [], dtype=np.float64),
                "residual_history": np.array(solver._history, dtype=np.float64),
            }
            facts = {name: getattr(solver, name) for name in _FACTS}
            self.checkpoint.save(
                world, State(solver.iterations, self.identity, vectors, arrays, facts)
            )
        return verdict == "stop"

    def restore(self, solver: Lobpcg) -> bool:
        """Put the state of a checkpoint in place, if there is one. **Collective.**"""
        world, layout = solver.problem.A.world, solver.problem.A.layout
        saved = self.checkpoint.saved(world)
        if saved is None:
            return False
        with saved, saved.well_formed():
            with world.agree():
                saved.check(self.identity)
            solver.space.hold(saved.columns("kept"))
            for name, block in _blocks(solver).items():
                block.copy_(saved.read(name, layout, block))
            for name in _FACTS:
                # Files of before there were probes began without.
                fact = saved.facts.get(name, True) if name == "_probed" else saved.facts[name]
                setattr(solver, name, fact)
            arrays = {name: torch.from_numpy(array) for name, array in saved.arrays.items()}
            solver.values = arrays["values"]
            solver._rescale = arrays["rescale"].to(solver._rescale)
            solver._history = arrays["residual_history"].tolist()
            self.checkpoint.resumed(world, saved.iteration)
            solver.active = arrays["active"] > 0
            solver.yardstick.measured = arrays["measured"].tolist() or None
            return True


def _blocks(solver: Lobpcg) -> dict[str, torch.Tensor]:
    space = solver.space
    blocks = {"kept": space.kept, "A_kept": space.A_kept}
    if space.B is not None:
        blocks["B_kept"] = space.B_kept
    return blocks

"""How far this process has come, for whoever watches over it: see `hpc_sla.cli.stall`."""

from __future__ import annotations

_beats = 0


def beat() -> None:
    """Something has been done: a batch of iterations, a slab, a step of the set-up. Local."""
    global _beats
    _beats += 1


def beats() -> int:
    """How often so far. Local."""
    return _beats

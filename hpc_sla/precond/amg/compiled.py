"""A whole cycle in one compiled call, messages included, on the CPU with one thread.

Between the kernels of a small system Python takes ten times as long as they do. What is computed
is what `Cycle` computes, bit by bit, and the messages are the same: a rank may take either.
"""

from __future__ import annotations

import torch

from hpc_sla.kernels import native
from hpc_sla.kernels.burst import Calls, CompiledApply
from hpc_sla.kernels.cycle import CycleLevel, Units, WholeCycle
from hpc_sla.kernels.modes import lasting
from hpc_sla.precond.amg.cycle import Cycle, MultigridLevel
from hpc_sla.precond.workspace import Turns

Tensor = torch.Tensor


class CompiledCycle:
    """A cycle between vectors of one dtype and number of columns.

    **Collective**: it makes the buffers of the exchanges, in the order that `Cycle` does.

    Parameters
    ----------
    cycle : Cycle
        That `can_compile`.
    r : torch.Tensor [n_owned] or [n_owned, k]
        Like those that come.
    dtype : torch.dtype
        The cycle's.
    units : Units
        Between r and the cycle.
    """

    def __init__(self, cycle: Cycle, r: Tensor, dtype: torch.dtype, units: Units) -> None:
        self._world = cycle.levels[0].layout.world
        with lasting():
            b = torch.empty(r.shape, dtype=dtype, device=r.device)
            levels: list[CycleLevel] = []
            _describe(cycle.levels, b, cycle.kind == "W", levels)
            calls = self._world.transport.calls(dtype)
            assert calls is not None
            self._calls: Calls = calls
            self._whole = WholeCycle(levels, cycle.kind == "W", r, b, units)

    def function(self, turns: Turns) -> CompiledApply:
        """For other compiled loops, which take their turn."""
        return self._whole.function(turns)

    def apply(self, r: Tensor, out: Tensor) -> Tensor:
        """What it makes of r, in `out`. **Collective.**"""
        self._world.check_open()
        code = self._whole(r, out)
        if code:
            self._calls.raise_error(code)
        return out


def can_compile(cycle: Cycle, r: Tensor, out: Tensor, *units: Tensor | None) -> bool:
    """Whether there is a compiled form of it for such vectors. Local."""
    return (
        native.serves(r)
        and r.is_contiguous()
        and out.is_contiguous()
        and out.dtype == r.dtype
        and cycle.kind != "K"
        and not cycle.transpose
        and all(d is None or d.dtype == r.dtype for d in units)
        and cycle.levels[0].layout.world.transport.calls(r.dtype) is not None
    )


def _describe(levels: list[MultigridLevel], b: Tensor, twice: bool, into: list[CycleLevel]) -> None:
    """The levels from the first of these on. **Collective.**"""
    level, rest = levels[0], levels[1:]
    made = CycleLevel(level.layout.n_owned)
    into.append(made)
    made.keep_vectors("work", level.work(b))
    if level.direct is not None:
        made.keep("direct", level.direct.compiled(b))
        return
    steps = level.steps.coefficients
    made.keep("inverse", level.steps.inverse)
    made.keep("coefficients", torch.tensor(steps, dtype=b.dtype, device=b.device))
    made.steps = len(steps)
    if len(steps) > 1 or level.transfer is not None or (twice and len(into) > 1):
        made.keep("A", level.operator.compiled(b))
    if level.transfer is None:
        return
    made.keep_vectors("coarse", level.coarse_vectors(b))
    made.keep("down", level.transfer.compiled_down(b))
    made.goes_on = bool(rest)
    if rest:
        _describe(rest, b, twice, into)
    made.keep("up", level.transfer.compiled_up(b))

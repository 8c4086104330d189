"""Bursts of a method's steps in one compiled call, on the CPU.

Between two kernels of a small system Python takes ten times as long as they do. A burst runs steps
in C (`kernels/burst.h`), messages and reductions included, until the method's own residual norm may
have ended it, or for 10 ms at most: then signals, checkpoints and callbacks have their turn. Its
iterates are those of `Method.step`, bit by bit, and so do not depend on how long bursts were.
"""

from __future__ import annotations

import ctypes
from contextlib import nullcontext
from operator import attrgetter
from typing import ClassVar

import torch

from hpc_sla.kernels.burst import Burst
from hpc_sla.linear.method import Method
from hpc_sla.linear.outcome import Outcome
from hpc_sla.precond import Preconditioner
from hpc_sla.sparse.operator import Operator

_MOST = 1024
"""Steps in a burst."""

_Norms = ctypes.c_double * _MOST
_ALONE = nullcontext()


class CompiledSteps:
    """The steps of a method at work on a right-hand side, in bursts.

    **Collective**: it may make the halo's buffers.

    Parameters
    ----------
    method : Method
        `serves` it on every rank.

    Attributes
    ----------
    method : Method
    system : System
        What it works on.
    lasting : bool
        Whether there is an `again`.
    """

    allowed: ClassVar[bool] = True
    """Replicated. Whether there are such bursts at all."""

    seconds: ClassVar[float] = 0.01
    """Replicated. How long a burst takes at most, or a single step."""

    def __init__(self, method: Method) -> None:
        steps = type(method).compiled
        assert steps is not None
        self.method, self.system, self._steps = method, method.system, steps
        self._world, self.lasting = method.operator.world, steps.lasting
        self._function = steps.entry(method.r)
        self._vectors = attrgetter(*steps.vectors)
        self._norms = _Norms()
        self._burst = Burst(norms=ctypes.addressof(self._norms))
        self._address = ctypes.addressof(self._burst)
        self.begin()

    def begin(self) -> None:
        """Get ready for what is now to be solved. **Collective**, as making it."""
        burst, method = self._burst, self.method
        self._matrix, self._inverse = self.system.matrix, method.precond.inverse
        burst.matrix = ctypes.addressof(self._matrix)
        burst.inverse = None if self._inverse is None else self._inverse.data_ptr()
        burst.seconds, burst.target = self.seconds, method.target
        self._fresh = False

    def again(self) -> Method:
        """The method, for another right-hand side, which the system has. **Collective.**"""
        self.method.again()
        self.begin()
        return self.method

    def rest(self) -> None:
        """Hold nothing of what was solved, until `again`. Local."""
        self.system.rest()
        self.method.x = self.method.r

    def start(self) -> bool:
        """Whether the next `advance` begins with the method's `start`. Local; replicated."""
        self._fresh = self._steps.starts
        return self._fresh

    def run(self, count: int) -> None:
        """Do so many steps, whatever becomes of them. **Collective.**"""
        self._burst.through = 1
        while count:
            count -= self._run(count)

    def advance(
        self, most: int, outcome: Outcome, patience: int
    ) -> tuple[list[float], list[float]]:
        """Do steps until the outcome may be another, most of them at most. **Collective.**

        Returns
        -------
        list of float
            The norm after each step. Nothing but the last is more than `Outcome.passed`. None
            where it ended with its start.
        list of float
            What the last step recorded, or the start.
        """
        burst = self._burst
        burst.through, burst.patience = 0, patience
        burst.ceiling, burst.best = outcome.ceiling, outcome.best
        burst.since_best = outcome.iterations - outcome.best_at
        done = self._run(most)
        return self._norms[:done], burst.row[: self._steps.width]

    def _run(self, most: int) -> int:
        """**Collective.** How many steps were done."""
        self._world.check_open()
        burst, method, steps = self._burst, self.method, self._steps
        method.turn()
        applied = None
        if not method.precond.pointwise:  # asked for each time: it may have been updated
            applied = method.precond.compiled(method.r)
            assert applied is not None
            burst.apply, burst.applied = applied.function, applied.data
        burst.vectors[: len(steps.vectors)] = [v.data_ptr() for v in self._vectors(method)]
        burst.fresh, self._fresh = self._fresh, False
        if not burst.fresh:
            for i, name in enumerate(method.carried):
                burst.scalars[i] = getattr(method, name)
        for i, name in enumerate(steps.numbers):
            burst.numbers[i] = getattr(method, name)
        burst.most, burst.done = int(min(most, _MOST)), 0
        with _ALONE if applied is None else applied.turns:
            code = self._function(self._address)
        if code:
            self._matrix.calls.raise_error(code)
        for i, name in enumerate(method.carried):
            value = burst.scalars[i]
            setattr(method, name, bool(value) if name == "live" else value)
        for i, name in enumerate(steps.numbers):
            setattr(method, name, type(getattr(method, name))(burst.numbers[i]))
        if burst.done % 2:
            for one, other in steps.swaps:
                vector = getattr(method, one)
                setattr(method, one, getattr(method, other))
                setattr(method, other, vector)
        return burst.done


def serve(method: Method, operator: Operator, precond: Preconditioner, b: torch.Tensor) -> bool:
    """Whether there are compiled steps for such a solve. Local: ranks have yet to agree."""
    steps = vars(type(method)).get("compiled")  # and not of a class that this one changes
    return (
        CompiledSteps.allowed
        and steps is not None
        and steps.of is type(method).step
        and b.dim() == 1
        and (precond.pointwise or (steps.preconditioned and precond.compiles(b)))
        and operator.compiled(b)
    )

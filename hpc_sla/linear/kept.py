"""What one solve leaves for the next: work vectors, and the compiled steps that know them.

Of a small system, making them takes longer than the steps do.
"""

from __future__ import annotations

import torch

from hpc_sla.linear.bursts import CompiledSteps
from hpc_sla.linear.method import Method
from hpc_sla.precond import Preconditioner
from hpc_sla.sparse.operator import Operator

_MOST = 1 << 18
"""Numbers that are kept on a rank, at most: beyond, memory is worth more than the time."""


class Kept:
    """What the last solve left, for all copies of a solver that is set up. Per rank; all is local.

    A solve takes it, and leaves it at its end: one within another, or in another thread, finds
    nothing and makes its own. Of one that ends in an exception nothing is left, and never anything
    of what the user holds.
    """

    def __init__(self) -> None:
        self._left: list[tuple[Method, CompiledSteps]] = []

    def take(
        self, method: Method, operator: Operator, precond: Preconditioner, b: torch.Tensor
    ) -> CompiledSteps | None:
        """Steps of that very method, at work with the same, for vectors like b; None if none are.

        b is one that compiled steps serve.
        """
        try:
            by, steps = self._left.pop()  # at once, whatever other threads do
        except IndexError:
            return None
        system = steps.system
        same = by is method and system.operator is operator and system.precond is precond
        r = system.r
        return steps if same and r.dtype == b.dtype and r.shape == b.shape else None

    def leave(self, method: Method, steps: CompiledSteps) -> None:
        """For the next solve by this method, if it serves that and is not too much to keep."""
        if steps.lasting and 8 * steps.system.r.numel() <= _MOST:
            steps.rest()
            self._left[:] = [(method, steps)]

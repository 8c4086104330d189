"""What all ranks decide of the same numbers, though their processors may round otherwise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from hpc_sla.distributed.agreement import alike, numbers_of
from hpc_sla.eigen.problem import EigenProblem

Decision = tuple[Any, ...]
"""What it is, in a word, and tensors of the host."""

NOTHING = numbers_of()
"""Where there is nothing to compare: of it all ranks have the same."""


class Together:
    """Decisions of all ranks, and with them the sums that the next one needs.

    Of the same numbers LAPACK may make others on another processor, by rounding, and ranks that
    keep different directions would wait for each other for ever. From the first time on that they
    differ, rank 0 decides.

    Parameters
    ----------
    problem : EigenProblem
    count : int
        How many numbers each rank has to sum beside a decision.
    """

    def __init__(self, problem: EigenProblem, count: int, device: torch.device) -> None:
        self._problem, self._world = problem, problem.A.world
        # As many whatever it is: a rank that decides otherwise meets the others in the same sum.
        self._nothing = torch.zeros(count, dtype=torch.float64, device=device)
        self._root_decides = False

    def decide(self, decide: Callable[[], Decision]) -> Decision:
        """What all ranks decide. **Collective**, in one reduction where they do so alike.

        Parameters
        ----------
        decide : callable
            Local, of replicated numbers.
        """
        return self.go_on(decide, lambda decision: None, lambda: None)[0]

    def go_on(
        self,
        decide: Callable[[], Decision],
        take: Callable[[Decision], torch.Tensor | None],
        undo: Callable[[], None],
    ) -> tuple[Decision, torch.Tensor | None]:
        """`decide`, and in the same reduction the sums that come of it. **Collective.**

        Parameters
        ----------
        take : callable
            What each rank does with a decision, for its part of the sums; None where it does
            nothing. Local.
        undo : callable
            How it takes that back. Local.

        Returns
        -------
        Decision
        torch.Tensor [count] or None
            Replicated.
        """
        world = self._world
        while True:
            if not self._root_decides:
                decision = decide()
            else:
                decision = world.comm.bcast(decide() if world.rank == 0 else None)
            mine = take(decision)
            told: Sequence[float] = NOTHING
            if world.size > 1 and not self._root_decides:
                told = numbers_of(decision[0].encode(), *(t.numpy() for t in decision[1:]))
            sums, totals = self.summed(self._nothing if mine is None else mine, told)
            if self._root_decides or alike(totals, world.size):
                return decision, None if mine is None else sums
            if mine is not None:
                undo()
            self._root_decides = True

    def summed(
        self, numbers: torch.Tensor, told: Sequence[float] = NOTHING
    ) -> tuple[torch.Tensor, list[float]]:
        """The sums over ranks of both, in one reduction. **Collective.** On the host."""
        device = self._nothing.device
        packed = torch.cat([numbers.to(device), numbers.new_tensor(told).to(device)])
        sums, others = self._problem.all_sum(packed).cpu().split([len(numbers), len(told)])
        return sums, others.tolist()

"""Whether an iteration pays: what it is likely to take, beside what it may."""

from __future__ import annotations

import math
from collections.abc import Sequence

from hpc_sla.linear.outcome import Outcome

_EVERY = 5
"""Iterations between two looks."""

_LEAST = 15
"""Iterations before the first: the first few tell nothing of the rate."""

ROOM = 2
"""How many times its patience an iteration may be expected to take, and may take."""


def hopeless(patience: int, start: int, outcomes: Sequence[Outcome]) -> bool:
    """Whether to give up an iteration that will not end in time. Local, of replicated numbers.

    From a third of its patience on, the rate at which residuals fell in the second half of the
    iterations so far is taken for that of all to come. Where that makes more than `ROOM` times the
    patience, or so many were done, it is given up: that is the most that one which fails may cost.

    Parameters
    ----------
    patience : int
        Iterations that it is worth.
    start : int
        How many there were before it, by others.
    outcomes : sequence of Outcome
    """
    going = [o for o in outcomes if o.status is None]
    done = max(o.iterations for o in going) - start
    if done < max(_LEAST, patience // 3) or done % _EVERY:
        return False
    if done >= ROOM * patience:
        return True
    return done + max(_needed(o, start) for o in going) > ROOM * patience


def _needed(outcome: Outcome, start: int) -> float:
    """How many iterations more, at the present rate."""
    history = outcome.history[start:]
    middle = len(history) // 2
    before = min(history[: middle + 1])
    now = min(before, *history[middle:])
    if now >= before:
        return math.inf
    if now <= outcome.target:
        return 0.0
    rate = math.log(before / now) / (len(history) - 1 - middle) if now > 0 else math.inf
    return math.log(now / outcome.target) / rate if outcome.target > 0 else math.inf

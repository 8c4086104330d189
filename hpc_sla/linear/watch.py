"""Whether an iteration pays: what it is likely to take, beside what it may."""

from __future__ import annotations

import math
from collections.abc import Sequence

from hpc_sla.linear.outcome import Outcome

EVERY = 5
"""Iterations between two looks, at least."""

_LEAST = 15
"""Iterations before the first: the first few tell nothing of the rate."""

ROOM = 2
"""How many times its patience an iteration may be expected to take, and may take."""

_DOUBT = 4
"""How many times more of it before the patience has gone: residuals of conjugate gradients rise at
first, and rates get better."""


def next_look(patience: int, done: int) -> int:
    """The iteration to look at next, after so many: no sooner can it be hopeless. Local."""
    first = max(done + 1, min(_first_look(patience), ROOM * patience))
    return -(-first // EVERY) * EVERY


def _first_look(patience: int) -> int:
    return max(_LEAST, patience // 3)


def hopeless(patience: int, done: int, outcomes: Sequence[Outcome]) -> bool:
    """Whether to give up an iteration that will not end in time. Local, of replicated numbers.

    What residuals fell by from the second quarter of the iterations so far to the last half is
    taken for the rate of all to come. Once the patience is used up, one that so needs more than
    `ROOM` times as many in all is given up; from a third of it on, one that needs `_DOUBT` times
    more than that; from half of it on, one that gains nothing. `ROOM` times the patience is the
    most that one which fails may cost.

    Parameters
    ----------
    patience : int
        Iterations that it is worth.
    done : int
        How many there were.
    outcomes : sequence of Outcome
        Of all right-hand sides; those that iterate still are looked at.
    """
    if done >= ROOM * patience:
        return True
    if done < _first_look(patience):
        return False
    needed = max(_needed(o.history[-done - 1 :], o.target) for o in outcomes if o.status is None)
    if math.isinf(needed):
        return 2 * done >= patience
    return done + needed > ROOM * patience * (1 if done >= patience else _DOUBT)


def _needed(history: Sequence[float], target: float) -> float:
    """How many iterations more, at the present rate; infinity where nothing is gained."""
    quarter, middle = len(history) // 4, len(history) // 2
    before, now = min(history[quarter:middle]), min(history[middle:])
    if now >= before or target <= 0:
        return math.inf
    if now <= target:
        return 0.0
    rate = math.log(before / now) / (len(history) - middle)
    return math.log(now / target) / rate

"""Waiting for one rank that computes while the others cannot go on."""

from __future__ import annotations

import time
from typing import Any

_SPINS = 20
_SHORTEST, _LONGEST = 2e-5, 5e-3
_PART = 0.05
"""How long to sleep before looking again, of the time waited so far."""


def wait_asleep(request: Any) -> None:
    """Wait for a request of MPI without occupying a core. Local; as long as it takes.

    `Wait` polls without end, which takes the processor from the rank that all are waiting for where
    ranks outnumber cores.
    """
    spins, start = 0, time.perf_counter()
    while not request.Test():
        spins += 1
        if spins > _SPINS:
            waited = time.perf_counter() - start
            time.sleep(min(max(_PART * waited, _SHORTEST), _LONGEST))

"""An error of one rank, raised on all."""

from __future__ import annotations

from typing import Any

import numpy as np

from hpc_sla.errors import HpcSlaError


def raise_together(comm: Any, error: HpcSlaError | None) -> None:
    """The error of the first rank that has one, on every rank. **Collective.**"""
    failed = np.empty(comm.size, dtype=np.uint8)
    comm.Allgather(np.array([error is not None], dtype=np.uint8), failed)
    ranks = np.flatnonzero(failed).tolist()
    mine = None if error is None else (type(error), str(error), vars(error))
    kind, text, state = comm.bcast(mine, root=ranks[0])
    if 0 < len(ranks) < comm.size and ranks != [0]:
        text = f"{text} [on {named(ranks)}]"
    rebuilt = kind.__new__(kind)
    Exception.__init__(rebuilt, text)
    vars(rebuilt).update(state)
    raise rebuilt from error


def named(ranks: list[int]) -> str:
    """``ranks 1, 2``."""
    shown = ", ".join(map(str, ranks[:8])) + (" ..." if len(ranks) > 8 else "")
    return f"rank{'s' if len(ranks) > 1 else ''} {shown}"

"""Equal runs of the user's rows, in the user's order."""

from __future__ import annotations

import numpy as np

from hpc_sla.partition.offsets import even_offsets


def contiguous(n: int, parts: int) -> np.ndarray:
    """Part of every row, int32 [n]: runs whose lengths differ by at most one."""
    return np.repeat(np.arange(parts, dtype=np.int32), np.diff(even_offsets(n, parts)))

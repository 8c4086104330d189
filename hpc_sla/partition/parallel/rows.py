"""Part of every row, where rows lie on many ranks."""

from __future__ import annotations

from typing import Any

import numpy as np

from hpc_sla.errors import InputError
from hpc_sla.messages.peers import Peers

METHODS = ("multilevel", "sfc", "rcb", "contiguous")


def partition_rows(
    comm: Any,
    offsets: np.ndarray,
    indptr: np.ndarray,
    indices: np.ndarray,
    parts: int,
    method: str = "multilevel",
    coordinates: np.ndarray | None = None,
    block_size: int = 1,
    weights: np.ndarray | None = None,
) -> np.ndarray:
    """Part of each of this rank's rows. **Collective.**

    Parameters
    ----------
    comm : mpi4py communicator
        Of the ranks; duplicated for the time of the call.
    offsets : int64 array [size + 1]
        Replicated: this rank has rows ``offsets[rank]:offsets[rank+1]`` of a square matrix.
    indptr : int64 array [n_local + 1]
    indices : int array [nnz_local]
        Per rank: global columns. Only the pattern is looked at.
    parts : int
        Replicated, at least 1; any number.
    """
    with Peers(comm) as peers:
        n = int(offsets[-1])
        first, last = int(offsets[peers.rank]), int(offsets[peers.rank + 1])
        with peers.agree():
            if parts < 1:
                raise InputError(f"is {parts}", field="--parts", remedy="Give at least 1.")
        cuts = np.arange(1, parts, dtype=np.int64) * n // parts
        return np.searchsorted(cuts, np.arange(first, last), side="right").astype(np.int32)

"""Rows of a matrix as one rank has them, and how they come to the rank they belong to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp

from hpc_sla.messages.peers import Peers
from hpc_sla.messages.records import owners, send_records
from hpc_sla.storage.importers import importing
from hpc_sla.storage.limits import check_fits

Triplets = tuple[np.ndarray, np.ndarray, np.ndarray]

Cut = Callable[[tuple[int, int], "int | None"], np.ndarray]
"""From a matrix's shape, and the unknowns of a node where its file says so, to the offsets of the
rows that ranks take, int64 [size + 1]; it may refuse the shape. Replicated."""
CutOfArray = Callable[[tuple[int, ...]], np.ndarray]
"""The same of a dense array's shape."""


@dataclass(frozen=True)
class LocalRows:
    """A run of a matrix's rows. Per rank.

    Attributes
    ----------
    offsets : int64 array [size + 1]
        Replicated: this rank has rows ``offsets[rank]:offsets[rank+1]``.
    matrix : SciPy CSR array [n_local, n_cols]
        Canonical.
    """

    offsets: np.ndarray
    matrix: Any

    @property
    def shape(self) -> tuple[int, int]:
        """The whole matrix's. Replicated."""
        return int(self.offsets[-1]), int(self.matrix.shape[1])


def csr(values: np.ndarray, columns: np.ndarray, indptr: np.ndarray, shape: tuple[int, int]) -> Any:
    """A SciPy CSR array whose indices take 32 bits where these are enough. Local."""
    # SciPy has both in one type, and would widen the columns to that of the pointers.
    narrow = max(shape[1], int(indptr[-1])) < 2**31
    kind = np.int32 if narrow else np.int64
    arrays = values, columns.astype(kind, copy=False), indptr.astype(kind, copy=False)
    return sp.csr_array(arrays, shape=shape)


def cut_rows(
    peers: Peers,
    path: str,
    shape: tuple[int, ...],
    cut: Callable[..., np.ndarray],
    *said: Any,
    width: int = 0,
) -> np.ndarray:
    """The offsets that `cut` gives of a shape which a file declares. **Collective.**

    What a file declares costs its writer nothing, so a rank's rows must fit, each with a pointer,
    or with `width` bytes where these are more.

    Raises
    ------
    InputError
        On every rank.
    """
    with peers.agree(), importing(path):
        if max(shape, default=0) >= 2**63:
            raise ValueError(f"it declares the shape {shape}")
        offsets = cut(shape, *said)
        mine = int(offsets[peers.rank + 1]) - int(offsets[peers.rank])
        check_fits(mine * max(8, width), path)
    return offsets


def even_runs(peers: Peers, n: int) -> np.ndarray:
    """Offsets of as even runs of n things as there are ranks, int64 [size + 1]. Replicated."""
    # Divided first: n may be near the largest integer.
    each, rest = divmod(n, peers.size)
    ranks = np.arange(peers.size + 1, dtype=np.int64)
    return each * ranks + rest * ranks // peers.size


def from_triplets(
    peers: Peers, offsets: np.ndarray, n_cols: int, groups: Sequence[Triplets]
) -> LocalRows:
    """Rows of entries that lie anywhere; what is given twice is summed. **Collective.**

    Parameters
    ----------
    peers : Peers
    offsets : int64 array [size + 1]
    n_cols : int
    groups : sequence of (rows, columns, values)
        Per rank, in the order of ranks: the matrix's entries are those of the first group, of all
        ranks, then those of the second. It is in that order that they are summed, as SciPy would.
    """
    arrived = [
        send_records(peers, owners(offsets, group[0]), [np.ascontiguousarray(a) for a in group])
        for group in groups
    ]
    first, last = int(offsets[peers.rank]), int(offsets[peers.rank + 1])
    rows, columns, values = (np.concatenate([group[k] for group in arrived]) for k in range(3))
    arrived.clear()
    rows -= first
    matrix = sp.csr_array(sp.coo_matrix((values, (rows, columns)), shape=(last - first, n_cols)))
    matrix.sum_duplicates()
    return LocalRows(offsets, matrix)


def moved(
    peers: Peers,
    offsets: np.ndarray,
    position: np.ndarray,
    matrix: Any,
    others: Sequence[np.ndarray],
) -> tuple[np.ndarray, Any, list[np.ndarray]]:
    """Rows brought to their places in another order. **Collective.**

    Parameters
    ----------
    peers : Peers
    offsets : int64 array [size + 1]
        Replicated: of the new order.
    position : int64 array [n_local]
        Per rank: the new number of each of its rows.
    matrix : SciPy CSR array [n_local, n_cols]
    others : sequence of array [n_local, ...]
        What else belongs to the rows.

    Returns
    -------
    positions : int64 array [m]
        Of what came here, ascending; where positions are a permutation, every one.
    matrix : SciPy CSR array [m, n_cols]
    others : list of array [m, ...]
    """
    owner = owners(offsets, position)
    counts = np.diff(matrix.indptr).astype(np.int64)
    places, lengths, *rest = send_records(peers, owner, [position, counts, *others])
    # Not in their own type, which is that of what this rank has: some may be wider on others.
    columns = matrix.indices.astype(np.int32 if matrix.shape[1] < 2**31 else np.int64, copy=False)
    columns, values = send_records(peers, np.repeat(owner, counts), [columns, matrix.data])
    indptr = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    shape = (len(places), matrix.shape[1])
    found = csr(values, columns, indptr, shape)
    if (places[1:] < places[:-1]).any():
        order = np.argsort(places, kind="stable")
        places, found = places[order], found[order]
        rest = [array[order] for array in rest]
    return places, found, rest

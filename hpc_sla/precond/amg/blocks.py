"""A rank's rows as SciPy sees them during set-up: the owned columns' block and the halo's."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch

from hpc_sla.distributed.halo import HaloPlan
from hpc_sla.distributed.layout import RowLayout
from hpc_sla.kernels.csr import CsrPattern
from hpc_sla.kernels.multigrid import split
from hpc_sla.sparse.matrix import DSparseMatrix
from hpc_sla.sparse.pattern import DistributedPattern


@dataclass(frozen=True)
class Blocks:
    """The rows of this rank, on the host; memory is shared with the matrix where it lies there.

    Attributes
    ----------
    owned : csr_matrix [n_owned, n_owned_columns]
    halo : csr_matrix [len(boundary), n_halo]
    boundary : int32 array
        The owned rows with entries in halo columns.
    """

    owned: sp.csr_matrix
    halo: sp.csr_matrix
    boundary: np.ndarray

    @classmethod
    def of(cls, A: DSparseMatrix) -> Blocks:
        pattern, packed = A.pattern, A.held.packed
        boundary = pattern.boundary.cpu().numpy()
        if packed is not None:
            indptr, indices, data = packed.csr()
            n, m = packed.n_rows, packed.n_columns
            owned = csr(data, indices, indptr.astype(np.int32), n, m)
            return cls(owned, as_scipy(pattern.halo, A.held.halo), boundary)
        values = A.held.plain
        return cls(
            as_scipy(pattern.owned, pattern.owned_values(values)),
            as_scipy(pattern.halo, pattern.halo_values(values)),
            boundary,
        )

    def spread(self, rows: sp.csr_matrix) -> sp.csr_matrix:
        """A matrix of the boundary rows as one of all rows. Local."""
        n = self.owned.shape[0]
        counts = np.zeros(n + 1, dtype=rows.indptr.dtype)
        counts[self.boundary + 1] = np.diff(rows.indptr)
        return csr(rows.data, rows.indices, np.cumsum(counts, dtype=counts.dtype), n, rows.shape[1])


def csr(data: np.ndarray, indices: np.ndarray, indptr: np.ndarray, n: int, m: int) -> sp.csr_matrix:
    """A SciPy matrix on these very arrays."""
    return sp.csr_matrix((data, indices, indptr), shape=(n, m), copy=False)


def some_rows(matrix: sp.csr_matrix, begin: int, end: int) -> sp.csr_matrix:
    """Rows from begin to end; the entries are shared, where SciPy's slices copy. Local."""
    first, last = matrix.indptr[begin], matrix.indptr[end]
    indptr = matrix.indptr[begin : end + 1] - first
    entries = matrix.data[first:last], matrix.indices[first:last]
    return csr(*entries, indptr, end - begin, matrix.shape[1])


def as_scipy(pattern: CsrPattern, values: torch.Tensor) -> sp.csr_matrix:
    """A rank-local matrix on the host. Local."""
    data, indices, indptr = (t.cpu().numpy() for t in (values, pattern.indices, pattern.indptr))
    return csr(data, indices, indptr, pattern.n_rows, pattern.n_columns)


def as_pattern(matrix: sp.csr_matrix, device: torch.device) -> CsrPattern:
    """The pattern of a SciPy matrix, on the rank's device. Local."""
    indptr, indices = (
        torch.from_numpy(a.astype(np.int32, copy=False)).to(device)
        for a in (matrix.indptr, matrix.indices)
    )
    return CsrPattern(indptr, indices, matrix.shape[1])


class Columns:
    """Columns as this rank numbers them in set-up: its own first, then others as they come up.

    Parameters
    ----------
    layout : RowLayout
        Of the columns.

    Attributes
    ----------
    away : int64 array
        The stored numbers of the others.
    """

    def __init__(self, layout: RowLayout) -> None:
        self.layout = layout
        self.away = np.empty(0, dtype=np.int64)

    def __len__(self) -> int:
        return self.layout.n_owned + len(self.away)

    def local(self, stored: np.ndarray) -> np.ndarray:
        """Local numbers of stored ones, as int32; new ones join `away`. Local."""
        start, n = self.layout.start, self.layout.n_owned
        result = stored - start
        outside = np.flatnonzero((result < 0) | (result >= n))
        if len(outside):
            wanted, inverse = np.unique(stored[outside], return_inverse=True)
            new = np.setdiff1d(wanted, self.away, assume_unique=True)
            self.away = np.concatenate([self.away, new])
            order = np.argsort(self.away, kind="stable")
            place = order[np.searchsorted(self.away, wanted, sorter=order)]
            result[outside] = n + place[inverse]
        return result.astype(np.int32)

    def stored(self, local: np.ndarray) -> np.ndarray:
        """Stored numbers of local ones. Local."""
        n = self.layout.n_owned
        result = local.astype(np.int64) + self.layout.start
        outside = np.flatnonzero(local >= n)
        result[outside] = self.away[local[outside] - n]
        return result


def distribute(
    layout: RowLayout, columns: Columns, rows: sp.csr_matrix
) -> tuple[DistributedPattern, np.ndarray, sp.csr_matrix]:
    """This rank's rows, in local columns, as a distributed pattern. **Collective.**

    Parameters
    ----------
    layout : RowLayout
        Of the rows.
    columns : Columns
    rows : csr_matrix [n_owned, len(columns)]
        Its `indices` are renumbered, in place, so that halo columns ascend.

    Returns
    -------
    DistributedPattern
    array [nnz]
        The values in the pattern's order.
    csr_matrix [n_owned, n_owned_columns + n_halo]
        The same rows, in the pattern's columns.
    """
    n = columns.layout.n_owned
    device = layout.world.device
    away = np.empty(0, dtype=np.int64)
    if len(columns.away):
        away = np.flatnonzero(rows.indices >= n)
    used = np.unique(rows.indices[away])
    halo = columns.away[used - n]
    order = np.argsort(halo)
    rank_of = np.empty(len(used), dtype=np.int32)
    rank_of[order] = np.arange(len(used), dtype=np.int32)
    rows.indices[away] = n + rank_of[np.searchsorted(used, rows.indices[away])]
    rows = csr(rows.data, rows.indices, rows.indptr, layout.n_owned, n + len(used))
    owned, boundary, there = split(rows, n)
    pattern = DistributedPattern(
        layout,
        as_pattern(owned, device),
        as_pattern(there, device),
        torch.from_numpy(boundary).to(device),
        HaloPlan(columns.layout, halo[order]),
    )
    values = np.concatenate([owned.data, there.data]) if there.nnz else owned.data
    return pattern, values, rows

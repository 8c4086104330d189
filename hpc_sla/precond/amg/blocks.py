"""A rank's rows as set-up sees them: the owned columns' block and the halo's."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch

from hpc_sla.distributed.halo import HaloPlan
from hpc_sla.distributed.layout import RowLayout
from hpc_sla.kernels import native
from hpc_sla.kernels.csr import CsrPattern
from hpc_sla.kernels.galerkin import TwoParts
from hpc_sla.kernels.matrix import Matrix
from hpc_sla.kernels.multigrid import Local, local_matrix
from hpc_sla.kernels.packed import Packed
from hpc_sla.sparse.matrix import DSparseMatrix
from hpc_sla.sparse.pattern import DistributedPattern


@dataclass(frozen=True)
class Blocks:
    """The rows of this rank, on the host; memory is shared with the matrix where it lies there.

    Attributes
    ----------
    local : Packed, Matrix or csr_matrix [n_owned, n_owned_columns]
        As compiled loops take it, where there are any.
    halo : csr_matrix [len(boundary), n_halo]
    boundary : int32 array
        The owned rows with entries in halo columns.
    """

    local: Local
    halo: sp.csr_matrix
    boundary: np.ndarray

    @classmethod
    def of(cls, A: DSparseMatrix) -> Blocks:
        pattern, held = A.pattern, A.held
        there = pattern.halo_values(held.plain) if held.packed is None else held.halo
        halo = as_scipy(pattern.halo, there)
        return cls(owned_block(A), halo, pattern.boundary.cpu().numpy())

    @property
    def owned(self) -> sp.csr_matrix:
        """The block of owned columns, as SciPy has it. Local."""
        local = self.local
        if isinstance(local, Packed):
            indptr, indices, values = local.csr()
            return csr(values, indices, indptr.astype(np.int32), local.n_rows, local.n_columns)
        if not isinstance(local, Matrix):
            return local
        indptr, indices, values = (part.numpy() for part in local.tensors)
        return csr(values, indices, indptr, local.rows, local.columns)

    @property
    def there(self) -> sp.csr_matrix | None:
        """The halo's block with all rows, None where nothing is in it. Local."""
        return self.spread(self.halo) if self.halo.nnz else None

    def spread(self, rows: sp.csr_matrix) -> sp.csr_matrix:
        """A matrix of the boundary rows as one of all rows. Local."""
        n = rows_of(self.local)
        counts = np.zeros(n + 1, dtype=rows.indptr.dtype)
        counts[self.boundary + 1] = np.diff(rows.indptr)
        return csr(rows.data, rows.indices, np.cumsum(counts, dtype=counts.dtype), n, rows.shape[1])


def owned_block(A: DSparseMatrix) -> Local:
    """A's block of owned columns as set-up's loops take it. Local."""
    if A.held.packed is not None:
        return A.held.packed
    owned = as_scipy(A.pattern.owned, A.pattern.owned_values(A.held.plain))
    return owned if native.LIBRARY is None else local_matrix(owned)


def rows_of(local: Local) -> int:
    """How many it has. Local."""
    if isinstance(local, Packed):
        return local.n_rows
    return local.rows if isinstance(local, Matrix) else int(local.shape[0])


def csr(data: np.ndarray, indices: np.ndarray, indptr: np.ndarray, n: int, m: int) -> sp.csr_matrix:
    """A SciPy matrix on these very arrays."""
    return sp.csr_matrix((data, indices, indptr), shape=(n, m), copy=False)


def as_scipy(pattern: CsrPattern, values: torch.Tensor) -> sp.csr_matrix:
    """A rank-local matrix on the host. Local."""
    indptr, indices = pattern.host_arrays()
    return csr(values.cpu().numpy(), indices, indptr, pattern.n_rows, pattern.n_columns)


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
        return result.astype(np.int32, copy=False)

    def stored(self, local: np.ndarray) -> np.ndarray:
        """Stored numbers of local ones. Local."""
        n = self.layout.n_owned
        result = local.astype(np.int64) + self.layout.start
        outside = np.flatnonzero(local >= n)
        result[outside] = self.away[local[outside] - n]
        return result


def distribute(
    layout: RowLayout, columns: Columns, rows: TwoParts
) -> tuple[DistributedPattern, torch.Tensor]:
    """This rank's rows, in local columns, as a distributed matrix. **Collective.**

    Parameters
    ----------
    layout : RowLayout
        Of the rows.
    columns : Columns
    rows : TwoParts
        Those of owned columns, and the others.

    Returns
    -------
    DistributedPattern
    torch.Tensor [nnz_owned]
        The values.
    """
    n, device = columns.layout.n_owned, layout.world.device
    halo, indices = used(columns, rows.far_indices)
    boundary = np.flatnonzero(np.diff(rows.far_indptr)).astype(np.int32)
    ends = rows.far_indptr[np.concatenate([[0], boundary + 1])]

    def tensor(array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array).to(device)

    pattern = DistributedPattern(
        layout,
        CsrPattern(tensor(rows.indptr), tensor(rows.indices), n),
        CsrPattern(tensor(ends), tensor(indices), len(halo)),
        tensor(boundary),
        HaloPlan(columns.layout, halo),
    )
    return pattern, tensor(rows.values)


def used(columns: Columns, local: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which columns of others there are among local ones, and where each is. Local.

    Returns
    -------
    int64 array
        Stored numbers, ascending.
    int32 array like local
        Places in it.
    """
    there, inverse = np.unique(local, return_inverse=True)
    halo = columns.away[there - columns.layout.n_owned]
    order = np.argsort(halo)
    rank_of = np.empty(len(halo), dtype=np.int32)
    rank_of[order] = np.arange(len(halo), dtype=np.int32)
    return halo[order], rank_of[inverse]

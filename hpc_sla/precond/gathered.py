"""A distributed matrix, whole and in the user's order, on rank 0; and vectors there and back."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch

from hpc_sla.direct.base import LocalMatrix
from hpc_sla.direct.fill import Cost, elimination
from hpc_sla.distributed.patience import wait_asleep
from hpc_sla.errors import InputError
from hpc_sla.kernels.csr import CsrPattern
from hpc_sla.sparse.matrix import DSparseMatrix
from hpc_sla.sparse.pattern import DistributedPattern

_MOST_ROWS, _MOST_ENTRIES = 1_000_000, 40_000_000


class Gathered:
    """A square pattern on rank 0, to which values and right-hand sides are brought. **Collective.**

    The user's order makes what follows the same for any number of ranks and any partition.

    Attributes
    ----------
    pattern : CsrPattern or None
        On rank 0, on the CPU.
    """

    def __init__(self, A: DSparseMatrix) -> None:
        self._world, n = A.world, A.layout.n_global
        with A.world.agree():
            if A.nnz_global >= 2**31 or n >= 2**31:
                raise InputError(
                    f"{A.nnz_global} entries are too many for one rank to factorise",
                    field="precond",
                    remedy='Choose "amg" or "additive_schwarz"',
                )
        self._counts = np.diff(A.layout.offsets)
        mine, self._order = _rows_of(A)
        rows = A.layout.rows
        self.pattern: CsrPattern | None = None
        self._turn: np.ndarray | None = None
        self._rows: torch.Tensor | None = None
        self._entries = np.array([mine.nnz])
        if A.world.size > 1:
            self._entries = np.diff(A.world.offsets(mine.nnz))
            lengths = self._to_root(np.diff(mine.indptr).astype(np.int32), self._counts)
            indices = self._to_root(mine.indices.astype(np.int32, copy=False), self._entries)
            user = self._to_root(rows, self._counts)
            if lengths is None or indices is None or user is None:
                return
            indptr = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
            mine = sp.csr_matrix(
                (np.arange(len(indices)), indices, indptr.astype(np.int32)), shape=(n, n)
            )
            rows = user
        if not (np.diff(rows) == 1).all():
            # Row i of the user's is stored as number places[i].
            places = np.argsort(rows)
            if A.world.size == 1:
                mine = sp.csr_matrix((np.arange(mine.nnz), mine.indices, mine.indptr), (n, n))
            mine = mine[places]
            self._turn, self._rows = mine.data, torch.from_numpy(rows)
        self.pattern = pattern_of(mine)

    def matrix(self, values: torch.Tensor) -> LocalMatrix | None:
        """The whole matrix in double precision, on rank 0. **Collective.**"""
        data = values.detach().cpu().numpy()
        if self._order is not None:
            data = data[self._order]
        found = self._to_root(data, self._entries)
        if self.pattern is None or found is None:
            return None
        if self._turn is not None:
            found = found[self._turn]
        double = found.astype(np.float64)  # always a copy: a backend may keep it
        return LocalMatrix(self.pattern, torch.from_numpy(double))

    def to_root(self, r: torch.Tensor) -> torch.Tensor | None:
        """A vector `[n_owned]` or `[n_owned, k]` in the user's order, on rank 0. **Collective.**"""
        whole = self._to_root(r.detach().contiguous().cpu().numpy(), self._counts)
        if whole is None:
            return None
        found = torch.from_numpy(whole)
        if self._rows is None:
            return found
        return torch.empty_like(found).index_copy_(0, self._rows, found)

    def from_root(self, x: torch.Tensor | None, out: torch.Tensor) -> torch.Tensor:
        """The way back: this rank's rows into `out`, or in a new tensor. **Collective.**"""
        if x is not None and self._rows is not None:
            x = x.index_select(0, self._rows)
        if self._world.size == 1:
            assert x is not None
            return x.to(out.device)
        like = out.new_empty(out.shape, device="cpu")
        whole = None
        if x is not None:
            whole = self._message(x.contiguous().cpu().numpy(), self._counts)
        wait_asleep(self._world.comm.Iscatterv(whole, like.numpy(), root=0))
        return like.to(out.device)

    def _to_root(self, array: np.ndarray, counts: np.ndarray) -> np.ndarray | None:
        """The arrays of all ranks, one after another, on rank 0. **Collective.**"""
        if self._world.size == 1:
            return array
        comm, whole, message = self._world.comm, None, None
        if comm.rank == 0:
            whole = np.empty((int(counts.sum()), *array.shape[1:]), dtype=array.dtype)
            message = self._message(whole, counts)
        wait_asleep(comm.Igatherv(np.ascontiguousarray(array), message, root=0))
        return whole

    def _message(self, whole: np.ndarray, counts: np.ndarray) -> list[Any]:
        counts = counts * int(np.prod(whole.shape[1:], dtype=np.int64))
        return [whole, (counts, np.cumsum(counts) - counts)]


def _rows_of(A: DSparseMatrix) -> tuple[sp.csr_matrix, np.ndarray | None]:
    """This rank's rows in the user's columns, ascending, and which entry is which; None where they
    are as they stand. **Collective.**
    """
    n, owned = A.layout.n_global, A.pattern.owned
    if A.world.size == 1 and (np.diff(A.layout.rows) == 1).all():
        indptr, indices = owned.host_arrays()
        ones = np.empty(len(indices), dtype=np.int8)
        plain = sp.csr_matrix((ones, indices, indptr), shape=(n, n))
        if plain.has_canonical_format:
            return plain, None
    _user_rows, columns = A.entries()
    rows = A.pattern.local_rows().cpu().numpy()
    numbers = np.arange(len(rows))
    shape = (A.layout.n_owned, n)
    found = sp.coo_matrix((numbers, (rows, columns)), shape=shape).tocsr()
    found.sort_indices()
    return found, found.data


def pattern_of(csr: sp.csr_matrix) -> CsrPattern:
    """That of a SciPy matrix. Local."""
    indptr, indices = (a.astype(np.int32, copy=False) for a in (csr.indptr, csr.indices))
    return CsrPattern(torch.from_numpy(indptr), torch.from_numpy(indices), csr.shape[1])


_KEPT: weakref.WeakKeyDictionary[DistributedPattern, Gathered] = weakref.WeakKeyDictionary()


def gather(A: DSparseMatrix) -> Gathered:
    """A's pattern on rank 0. **Collective** the first time; kept with the pattern."""
    if A.pattern not in _KEPT:
        _KEPT[A.pattern] = Gathered(A)
    return _KEPT[A.pattern]


def can_be_gathered(A: DSparseMatrix) -> bool:
    """Whether A is small enough to be brought to one rank to see what it costs. Local; replicated.

    By rows and entries alone.
    """
    return A.shape[0] <= _MOST_ROWS and A.nnz_global <= _MOST_ENTRIES


def expected(A: DSparseMatrix) -> Cost | None:
    """What `Direct` will cost, before it is set up. **Collective**; replicated.

    The same for any number of ranks and any partition. The pattern is gathered and ordered for it,
    and both are kept: setting up `Direct` on this pattern does not do it again. None for a matrix
    too large to be gathered for a look.
    """
    if not can_be_gathered(A):
        return None
    gathered = gather(A)
    matrix, cost = gathered.matrix(A.values), None
    if matrix is not None:
        cost = elimination(matrix).cost
    return from_rank_0(A, cost)


def from_rank_0(A: DSparseMatrix, value: Any) -> Any:
    """What rank 0 worked out, on every rank; the others sleep until then. **Collective.**"""
    if A.world.size > 1:
        wait_asleep(A.world.comm.Ibarrier())
    return A.world.comm.bcast(value)

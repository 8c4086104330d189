"""The Galerkin product: the next level's matrix."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import torch

from hpc_sla.distributed.halo import HaloPlan
from hpc_sla.kernels import multigrid as kernels
from hpc_sla.kernels.csr import CsrPattern
from hpc_sla.precond.amg.blocks import Blocks, Columns, csr, distribute, some_rows
from hpc_sla.precond.amg.prolongator import Prolongator
from hpc_sla.precond.amg.remote import fetch_rows, send_home
from hpc_sla.sparse.matrix import DSparseMatrix
from hpc_sla.sparse.pattern import DistributedPattern


def galerkin(A: DSparseMatrix, blocks: Blocks, P: Prolongator) -> DSparseMatrix:
    """`P^T A P`. **Collective.**

    The rows of P that A's halo columns meet are fetched; what this rank adds to the rows of
    others is sent home and summed.

    Parameters
    ----------
    A : DSparseMatrix
    blocks : Blocks
        Of A.
    P : Prolongator
    """
    coarse = P.pattern.columns
    rows, columns = _columns(P)
    there = fetch_rows(A.pattern.plan, P.rows, columns)
    halo = blocks.spread(blocks.halo)
    product = kernels.triple_product(P.transposed, blocks.owned, halo, P.rows, there, len(columns))
    n = coarse.n_owned
    more = send_home(some_rows(product, n, n + len(rows.away)), rows, columns)
    pattern, values, _ = distribute(coarse, columns, _added(product, n, len(columns), *more))
    # Products come in the dtype of what a rank had to add up, and ranks differ in that.
    return DSparseMatrix(
        pattern, torch.from_numpy(np.ascontiguousarray(values)).to(A.device, A.dtype)
    )


class KnownProduct:
    """`P^T A P` for other values of A, on the product's known pattern. **Collective.**

    Parameters
    ----------
    plan : HaloPlan
        A's.
    P : Prolongator
    pattern : DistributedPattern
        Of the product: all entries that it can have, whatever the values, as the compiled loops
        give it.
    """

    def __init__(self, plan: HaloPlan, P: Prolongator, pattern: DistributedPattern) -> None:
        self._pattern = pattern
        self._rows, self._columns = _columns(P)
        self._there = fetch_rows(plan, P.rows, self._columns)
        halo = self._columns.local(pattern.plan.halo)
        n = pattern.layout.n_owned
        self._owned = _arrays(pattern.owned)
        indptr, indices = _arrays(pattern.halo)
        counts = np.zeros(n + 1, dtype=np.int32)
        counts[pattern.boundary.cpu().numpy() + 1] = np.diff(indptr)
        self._halo = np.cumsum(counts, dtype=np.int32), halo[indices]
        self._targets: np.ndarray | None = None

    def __call__(self, blocks: Blocks, P: Prolongator) -> DSparseMatrix:
        """The product. **Collective.**

        Parameters
        ----------
        blocks : Blocks
            Of A.
        P : Prolongator
            The same.
        """
        n = self._pattern.layout.n_owned
        halo = blocks.spread(blocks.halo)
        between = blocks.owned, halo, P.rows, self._there
        mine = some_rows(P.transposed, 0, n)
        others = some_rows(P.transposed, n, n + len(self._rows.away))
        beyond = kernels.triple_product(others, *between, len(self._columns))
        row, column, value = send_home(beyond, self._rows, self._columns)
        values = kernels.triple_values(mine, *between, len(self._columns), self._owned, self._halo)
        if self._targets is None:
            self._targets = self._find(row, column)
        targets, inverse = np.unique(self._targets, return_inverse=True)
        values[targets] += np.bincount(inverse, weights=value, minlength=len(targets))
        values = values.astype(blocks.owned.dtype, copy=False)  # as when it was set up
        return DSparseMatrix(
            self._pattern, torch.from_numpy(values).to(self._pattern.layout.world.device)
        )

    def _find(self, row: np.ndarray, column: np.ndarray) -> np.ndarray:
        """Which of the pattern's entries these are. Local."""
        n, width, first = self._pattern.layout.n_owned, len(self._columns), 0
        result, everywhere = np.zeros(len(row), dtype=np.int64), np.zeros(len(row), dtype=bool)
        for indptr, indices in (self._owned, self._halo) if len(row) else ():
            numbers = csr(np.arange(1, len(indices) + 1), indices, indptr, n, width)
            found = np.asarray(numbers[row, column]).ravel()
            result[found > 0] = first + found[found > 0] - 1
            first += len(indices)
            everywhere |= found > 0
        assert everywhere.all()  # the pattern has all that there can be
        return result


def _columns(P: Prolongator) -> tuple[Columns, Columns]:
    """P's columns, twice: as the product's rows, and as the start of its columns."""
    rows, columns = Columns(P.pattern.columns), Columns(P.pattern.columns)
    rows.away = columns.away = P.pattern.plan.halo
    return rows, columns


def _arrays(pattern: CsrPattern) -> tuple[np.ndarray, np.ndarray]:
    return pattern.indptr.cpu().numpy(), pattern.indices.cpu().numpy()


def _added(
    product: sp.csr_matrix,
    n: int,
    width: int,
    row: np.ndarray,
    column: np.ndarray,
    value: np.ndarray,
) -> sp.csr_matrix:
    """The first n rows of a product, and triplets added; zeros stay, as the pattern does. Local."""
    total = some_rows(product, 0, n)
    total.resize(n, width)
    if not len(row):
        return total
    # Summed before they are added, and in the order of their ranks, as in `KnownProduct`.
    touched, place = np.unique(row, return_inverse=True)
    keys, inverse = np.unique(place * width + column, return_inverse=True)
    sums = np.bincount(inverse, weights=value)
    more = sp.coo_matrix((sums, divmod(keys, width)), shape=(len(touched), width))
    before = total[touched].tocoo()
    data, there, here = (
        np.concatenate([getattr(part, name) for part in (before, more)])
        for name in ("data", "row", "col")
    )
    merged = sp.coo_matrix((data, (there, here)), shape=more.shape).tocsr()
    order = np.arange(n)
    order[touched] = n + np.arange(len(touched))
    return sp.vstack([total, merged], format="csr")[order]

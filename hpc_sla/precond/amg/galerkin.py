"""The Galerkin product: the next level's matrix."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import scipy.sparse as sp
import torch

from hpc_sla.distributed.halo import HaloPlan
from hpc_sla.kernels.csr import CsrPattern
from hpc_sla.kernels.galerkin import TwoParts, triple_product
from hpc_sla.kernels.tiles import Tiles
from hpc_sla.precond.amg.blocks import Blocks, Columns, csr, distribute
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
    work = _Work(A.pattern.plan, P)
    pattern, values = distribute(P.plan.layout, work.columns, work.product(blocks, P))
    return DSparseMatrix(pattern, values)


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
        self._pattern, self._work = pattern, _Work(plan, P)
        halo = self._work.columns.local(pattern.plan.halo)
        indptr, indices = _arrays(pattern.halo)
        counts = np.zeros(pattern.layout.n_owned + 1, dtype=np.int32)
        counts[pattern.boundary.cpu().numpy() + 1] = np.diff(indptr)
        ends = np.cumsum(counts, dtype=np.int32)
        self._known = TwoParts(*_arrays(pattern.owned), ends, halo[indices], np.empty(0))

    def __call__(self, blocks: Blocks, P: Prolongator) -> DSparseMatrix:
        """The product. **Collective.**

        Parameters
        ----------
        blocks : Blocks
            Of A.
        P : Prolongator
            The same.
        """
        values = np.empty(self._pattern.nnz_owned, dtype=blocks.halo.dtype)
        product = self._work.product(blocks, P, replace(self._known, values=values))
        device = self._pattern.layout.world.device
        return DSparseMatrix(self._pattern, torch.from_numpy(product.values).to(device))


class _Work:
    """What a product of other values can be made with. **Collective.**"""

    def __init__(self, plan: HaloPlan, P: Prolongator) -> None:
        # P's columns, twice: as the product's rows, and as the start of its columns.
        self._rows, self.columns = Columns(P.plan.layout), Columns(P.plan.layout)
        self._rows.away = self.columns.away = P.plan.halo
        there = fetch_rows(plan, P.rows, self.columns).astype(P.rows.values.dtype)
        self._there = Tiles.of(there, P.rows.size[1])

    def product(self, blocks: Blocks, P: Prolongator, known: TwoParts | None = None) -> TwoParts:
        """This rank's rows. **Collective.** Raises as `triple_product`, on every rank."""
        n, wide, world = P.plan.layout.n_owned, P.rows.size[1], P.plan.layout.world
        mine, others = P.parts()
        parts = blocks.local, blocks.there, P.rows, self._there
        everything = len(self.columns) // wide
        agreed = world.agree() if known is None else nullcontext()  # it has been made before
        with agreed:
            beyond = triple_product(others, *parts, everything, everything)
        home = send_home(beyond.whole(len(self.columns)), self._rows, self.columns)
        more = _summed(*home, n, len(self.columns))
        sizes = n // wide, len(self.columns) // wide
        with agreed:
            return triple_product(mine, *parts, *sizes, more, known)


def _arrays(pattern: CsrPattern) -> tuple[np.ndarray, np.ndarray]:
    return pattern.host_arrays()


def _summed(
    row: np.ndarray, column: np.ndarray, value: np.ndarray, n: int, width: int
) -> sp.csr_matrix | None:
    """Triplets as a matrix, those of one entry summed in the order of their ranks. Local."""
    if not len(row):
        return None
    keys, inverse = np.unique(row * width + column, return_inverse=True)
    sums = np.bincount(inverse, weights=value)
    indptr = np.searchsorted(keys, np.arange(n + 1) * width)
    arrays = sums, (keys % width).astype(np.int32), indptr.astype(np.int32)
    return csr(*arrays, n, width)

"""The hierarchy: levels until the last can be solved directly."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from hpc_sla.layout import RowLayout
from hpc_sla.matrix import DSparseMatrix
from hpc_sla.precond.amg.aggregation import aggregate
from hpc_sla.precond.amg.blocks import Blocks
from hpc_sla.precond.amg.coarse import DenseSolve
from hpc_sla.precond.amg.cycle import Level
from hpc_sla.precond.amg.eigenvalue import largest_eigenvalue
from hpc_sla.precond.amg.galerkin import galerkin
from hpc_sla.precond.amg.options import AmgOptions
from hpc_sla.precond.amg.products import Operator, Transfer
from hpc_sla.precond.amg.prolongator import Prolongator, smoothed_prolongator
from hpc_sla.precond.amg.shrink import Shrink
from hpc_sla.precond.amg.smoother import Steps
from hpc_sla.precond.amg.strength import node_graph
from hpc_sla.precond.amg.tentative import tentative
from hpc_sla.precond.jacobi import Jacobi

_STALLED = 0.8
"""A level with more than this part of the rows before it is not worth having."""


@dataclass(frozen=True)
class LevelSummary:
    """A line of the hierarchy's table. Replicated.

    Attributes
    ----------
    rows, nonzeros : int
        Of the level's matrix, over all ranks.
    ranks : int
        That take part.
    bytes : int
        Over all ranks, of the matrix and the transfers to the next level in the cycle's dtype.
    """

    rows: int
    nonzeros: int
    ranks: int
    bytes: int


@dataclass
class _Kept:
    """What `update` needs of a level besides its operators (per rank)."""

    aggregates: RowLayout
    group: np.ndarray
    B: np.ndarray
    block_size: int
    threshold: float


class Hierarchy:
    """Levels from a matrix and its near-nullspace. **Collective.**

    Parameters
    ----------
    A : DSparseMatrix
        Square.
    B : float64 array [n_owned, m]
        Per rank: the near-nullspace.
    options : AmgOptions

    Attributes
    ----------
    levels : list of Level
        Those this rank takes part in.
    summaries : list of LevelSummary
    seconds : dict of str to float
        This rank's time in each step of the set-up.
    """

    def __init__(self, A: DSparseMatrix, B: np.ndarray, options: AmgOptions) -> None:
        self._options = options
        self.dtype = getattr(torch, options.dtype)
        self.levels: list[Level] = []
        self.summaries: list[LevelSummary] = []
        self.seconds: dict[str, float] = defaultdict(float)
        self._kept: list[_Kept] = []
        self._world = A.world
        block_size, threshold = options.block_size, options.strength
        current: DSparseMatrix | None = A
        while current is not None:
            level, largest = self._add_level(current)
            rows = current.shape[0]
            if rows <= options.coarse_size or len(self.levels) == options.max_levels:
                break
            with self._timed("aggregation"):
                blocks = Blocks.of(current)
                graph = node_graph(current, blocks, block_size)
                aggregates, group = aggregate(graph, threshold)
            coarse_rows = aggregates.n_global * B.shape[1]
            if not 0 < coarse_rows <= _STALLED * rows:
                break
            kept = _Kept(aggregates, group.astype(np.int32), B, block_size, threshold)
            with self._timed("prolongator"):
                P, B = self._prolongator(current, blocks, kept, largest)
            with self._timed("galerkin"):
                coarse = galerkin(current, blocks, P)
            with self._timed("transfer"):
                transfer = Transfer(P, self.dtype)
            shrink = self._shrink(coarse)
            level.correct_with(transfer, shrink, options.cycle)
            self._kept.append(kept)
            self._summarise(current, level)
            del P, blocks, graph
            current = coarse
            if shrink is not None:
                with self._timed("shrink"):
                    current, B = shrink.matrix(coarse), shrink.rows(B)
            block_size = B.shape[1] if B is not None else 1
        else:
            self._share_summaries()
            return
        if current.shape[0] <= options.coarse_size:
            with self._timed("coarse"):
                level.direct = DenseSolve(current, self.dtype)
        self._summarise(current, level)
        self._share_summaries()

    def _add_level(self, A: DSparseMatrix) -> tuple[Level, float]:
        with self._timed("smoother"):
            operator = Operator(A.pattern, A.values.detach().to(self.dtype))
            inverse = Jacobi(A.diagonal().detach()).inverse.to(self.dtype)
            largest = largest_eigenvalue(operator, A.layout, inverse)
            if not 0 < largest < math.inf:
                largest = 1.0
            steps = Steps(A, largest, self._options, self.dtype)
        self.levels.append(Level(A.layout, operator, steps))
        return self.levels[-1], largest

    def _prolongator(
        self, A: DSparseMatrix, blocks: Blocks, kept: _Kept, largest: float
    ) -> tuple[Prolongator, np.ndarray]:
        group = kept.group.astype(np.int64)
        if kept.block_size > 1:
            group = np.repeat(group, kept.block_size)
        Q, B = tentative(kept.aggregates, group, kept.B)
        coarse = RowLayout(A.world, kept.aggregates.offsets * B.shape[1])
        diagonal = blocks.owned.diagonal()
        inverse = 1 / np.where(diagonal == 0, 1.0, diagonal)
        plan = A.pattern.plan
        return smoothed_prolongator(blocks, inverse, largest, plan, group, Q, coarse), B

    def _shrink(self, A: DSparseMatrix) -> Shrink | None:
        """Where to go on, if on fewer ranks. **Collective.**"""
        size = A.world.size
        ranks = max(1, min(size, A.shape[0] // self._options.rows_per_rank))
        if ranks > size / 2:
            return None
        return Shrink(A.layout, ranks)

    # The table

    def _summarise(self, A: DSparseMatrix, level: Level) -> None:
        size = level.bytes + A.pattern.owned.indptr.numel() * 4 + A.nnz_owned * 4
        total = int(A.world.sum(size))
        self.summaries.append(LevelSummary(A.shape[0], A.nnz_global, A.world.size, total))

    def _share_summaries(self) -> None:
        # Rank 0 goes all the way down.
        self.summaries = self._world.comm.bcast(self.summaries)

    @contextmanager
    def _timed(self, step: str) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        self.seconds[step] += time.perf_counter() - begin

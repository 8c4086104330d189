"""The hierarchy: levels until the last can be solved directly."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from hpc_sla.distributed.layout import RowLayout
from hpc_sla.distributed.world import World
from hpc_sla.errors import HpcSlaError, InputError, UnsuitableError
from hpc_sla.kernels import native
from hpc_sla.observe.memory import trim
from hpc_sla.precond.amg.agglomeration import Load, Visit, agglomerated, by_rows
from hpc_sla.precond.amg.aggregation import aggregate
from hpc_sla.precond.amg.blocks import Blocks
from hpc_sla.precond.amg.coarse import DenseSolve
from hpc_sla.precond.amg.costs import Costs, costs_of
from hpc_sla.precond.amg.cycle import MultigridLevel
from hpc_sla.precond.amg.eigenvalue import Estimate, largest_eigenvalue
from hpc_sla.precond.amg.galerkin import KnownProduct, galerkin
from hpc_sla.precond.amg.of_level import LevelSummary, Reusable
from hpc_sla.precond.amg.options import MOST_DENSE, AmgOptions
from hpc_sla.precond.amg.products import LevelOperator, Transfer
from hpc_sla.precond.amg.prolongator import smoothed_prolongator
from hpc_sla.precond.amg.repartition import Repartition
from hpc_sla.precond.amg.smoother import Steps, smoothing_diagonal
from hpc_sla.precond.amg.strength import node_graph
from hpc_sla.precond.amg.tentative import tentative
from hpc_sla.precond.jacobi import inverse_diagonal
from hpc_sla.sparse.matrix import DSparseMatrix

_STALLED = 0.8
"""A level with more than this part of the rows before it is not worth having."""

_FILLED = 4.0
"""A level with more than so many times the entries of the finest costs more than all it saves."""

_TRIES = 5
"""Thresholds to try for aggregates that are not mostly single nodes."""


class Hierarchy:
    """Levels from a matrix and its near-nullspace. **Collective.**

    Parameters
    ----------
    A : DSparseMatrix
        Square.
    B : float64 array [n_owned, m]
        Per rank: the near-nullspace.
    options : AmgOptions
    decoupled : bool tensor [n_owned], optional
        Per rank, on every rank or on none: rows of A with a diagonal alone, which no aggregate
        and no smoother is to touch.
    previous : Hierarchy, optional
        Of the same pattern, to take from it what `keep` says: see `updated`.

    Attributes
    ----------
    levels : list of MultigridLevel
        Those this rank takes part in.
    summaries : list of LevelSummary
    singular : bool
        Whether the last level is solved directly, and singular. Replicated.
    indefinite : bool
        Whether the last level shows that A, if it is symmetric, is indefinite. Replicated.
    costs : Costs
        By which it was decided on how many ranks levels go on.
    seconds : dict of str to float
        This rank's time in each step of the set-up.

    Raises
    ------
    UnsuitableError
        On every rank: a level that fills up, as those of a graph with hubs or of dense rows.
    """

    def __init__(
        self,
        A: DSparseMatrix,
        B: Any,
        options: AmgOptions,
        decoupled: torch.Tensor | None = None,
        previous: Hierarchy | None = None,
        keep: str = "",
    ) -> None:
        self._options = options
        self.dtype = getattr(torch, options.dtype)
        self.levels: list[MultigridLevel] = []
        self.summaries: list[LevelSummary] = []
        self.seconds: dict[str, float] = defaultdict(float)
        self._kept: list[Reusable] = []
        self._estimates: list[Estimate] = []
        self._finest, self._held, self._total = A.world.size, 0, 0
        # On all ranks, as measuring is collective; those of later levels are fewer.
        self.costs: Costs = previous.costs if previous else costs_of(options.costs, A.world)
        self._B = B
        trim()
        met: HpcSlaError | None = None
        try:
            self._make_levels(A, B, decoupled, previous, keep)
        except HpcSlaError as error:
            met = error
        trim()
        self._tell_all(A.world, met)

    def _make_levels(
        self,
        A: DSparseMatrix,
        B: Any,
        decoupled: torch.Tensor | None,
        previous: Hierarchy | None,
        keep: str,
    ) -> None:
        """Those this rank takes part in. **Collective.** Raises on all ranks of a level."""
        options = self._options
        block_size = options.block_size
        current: DSparseMatrix | None = A
        while current is not None:
            depth = len(self._kept)
            estimate = previous._estimates[depth] if previous else None
            inverse = self._add_level(current, estimate, decoupled)
            level = self.levels[-1]
            before = previous._kept[depth] if previous and depth < len(previous._kept) else None
            if previous is None and not self._ends_here(current):
                before = self._aggregate(current, B, block_size, decoupled)
            if before is None:
                if current.shape[0] <= options.coarse_size:
                    _check_dense(current)
                    with self._timed("coarse"):
                        level.direct = DenseSolve(current, self.dtype)
                break
            blocks = self._blocks(current)
            with self._timed("prolongator"):
                transfer = before.transfer if keep == "prolongators" else None
                if transfer is None:
                    P, B_coarse = self._prolongator(current, blocks, before, B, inverse, decoupled)
                else:
                    P, B_coarse = transfer.prolongator(), None
                    P = P if before.move is None else P.by(before.plan)
                del inverse
            with self._timed("galerkin"):
                coarse, product = self._product(current, blocks, P, before, transfer is not None)
                del blocks
            if coarse.nnz_global > _FILLED * max(A.nnz_global, 1):
                grown = (self._total + coarse.nnz_global) / A.nnz_global
                raise UnsuitableError(
                    f"multigrid's levels grow: operator complexity {grown:.1f}",
                    field="precond",
                    remedy="Choose another preconditioner, such as additive_schwarz or jacobi",
                )
            move, plan = before.move, before.plan
            if previous is None:
                with self._timed("repartition"):
                    move = self._repartition(coarse, current, before.vectors)
            with self._timed("transfer"):
                if transfer is None and move is not None:
                    plan, P = P.home, P.over(move.among_all)
                transfer = transfer or self._transfer(P)
            kept = replace(before, coarse=coarse.pattern, product=product)
            kept = replace(kept, transfer=transfer, move=move, plan=plan)
            level.correct_with(transfer, options.cycle)
            self._kept.append(kept)
            block_size = kept.vectors
            del P
            current = coarse
            if move is not None:
                with self._timed("repartition"):
                    current, B_coarse = self._moved(move, coarse, B_coarse)
            B = np.empty((0, block_size)) if B_coarse is None else B_coarse
            decoupled = None

    def _tell_all(self, world: World, met: HpcSlaError | None) -> None:
        """What the levels below are like, to ranks that are not in them. **Collective.**

        Parameters
        ----------
        world : World
            Of the finest level.
        met : HpcSlaError or None
            What this rank's last level met, which those that are not in it hear of here.
        """
        # Rank 0 goes all the way down.
        whole = world.rank == 0
        with world.agree() as agreed:
            if met is not None:
                raise met
            agreed.number = len(self.levels) if whole else 0
        table = np.zeros((int(agreed.number) + 1, 4), dtype=np.int64)
        table[: len(self.levels), 3] = [level.bytes for level in self.levels]
        if whole:
            table[:-1, :3] = [(each.rows, each.nonzeros, each.ranks) for each in self.summaries]
            direct = self.levels[-1].direct
            if direct is not None:
                table[-1, :2] = direct.singular, direct.indefinite
        *levels, (singular, indefinite, _, _) = world.sums(table).tolist()
        self.summaries = [LevelSummary(*each) for each in levels]
        self.singular, self.indefinite = bool(singular), bool(indefinite)

    def updated(
        self,
        A: DSparseMatrix,
        keep: str,
        decoupled: torch.Tensor | None = None,
        B: np.ndarray | None = None,
    ) -> Hierarchy:
        """The hierarchy of other values on the same pattern. **Collective.**

        Parameters
        ----------
        A : DSparseMatrix
        keep : {"prolongators", "aggregates"}
        decoupled : bool tensor [n_owned], optional
        B : float64 array [n_owned, m], optional
            Another near-nullspace of as many vectors, on every rank or on none.
        """
        if B is None:
            B = self._B
        return type(self)(A, B, self._options, decoupled, self, keep)

    def _ends_here(self, A: DSparseMatrix) -> bool:
        small = A.shape[0] <= self._options.coarse_size
        return small or len(self.levels) == self._options.max_levels

    def _aggregate(
        self, A: DSparseMatrix, B: Any, block_size: int, decoupled: torch.Tensor | None
    ) -> Reusable | None:
        """The aggregates, None where they would be next to as many as rows. **Collective.**"""
        with self._timed("aggregation"):
            graph, grouped = self._graph(A, block_size)
            nodes = graph.n_global
            if decoupled is not None:
                alone = decoupled.view(-1, block_size).all(dim=1)
                nodes -= int(A.world.sum(int(alone.sum())))
            threshold = self._options.strength
            for _ in range(_TRIES):
                aggregates, group = grouped(threshold)
                # Where weak connections are most of them, what is strong leaves nodes alone.
                if 2 * aggregates.n_global <= nodes:
                    break
                threshold /= 2
            if not 0 < aggregates.n_global * B.shape[1] <= _STALLED * A.shape[0]:
                return None
            return Reusable(aggregates, group, B.shape[1], block_size)

    def _add_level(
        self, A: DSparseMatrix, before: Estimate | None, decoupled: torch.Tensor | None
    ) -> torch.Tensor:
        """Add a level without its transfer; the diagonal of D^-1. **Collective.**"""
        with self._timed("smoother"):
            # Before the operator lets the pattern's columns go, which these two read.
            inverse = inverse_diagonal(A.diagonal().detach())
            if decoupled is not None:
                inverse.masked_fill_(decoupled, 0)
            smoothing = smoothing_diagonal(A, inverse, self._options)
            operator = LevelOperator(A.pattern, A.held.to(self.dtype), own=bool(self.levels))
            estimate = self._estimate(operator, A.layout, inverse.to(self.dtype), before)
            if not 0 < estimate.largest < math.inf:
                estimate = Estimate(1.0, 1.0, 0.0)
            steps = Steps(smoothing, estimate.largest, self._options, self.dtype)
        self.levels.append(MultigridLevel(A.layout, operator, steps))
        self.summaries.append(LevelSummary(A.shape[0], A.nnz_global, A.world.size, 0))
        self._held += A.nnz_owned
        self._total += A.nnz_global
        self._estimates.append(estimate)
        return inverse

    # What goes another way where it is done on a device: `DeviceHierarchy`

    def _blocks(self, A: DSparseMatrix) -> Any:
        """A's rows, as the next two take them. Local."""
        return Blocks.of(A)

    def _graph(
        self, A: DSparseMatrix, block_size: int
    ) -> tuple[RowLayout, Callable[[float], tuple[RowLayout, Any]]]:
        """The nodes, and what makes aggregates of them by a threshold. **Collective.**"""
        graph = node_graph(A, Blocks.of(A), block_size)
        return graph.layout, lambda threshold: aggregate(graph, threshold)

    def _estimate(
        self,
        operator: LevelOperator,
        layout: RowLayout,
        inverse: torch.Tensor,
        before: Estimate | None,
    ) -> Estimate:
        """**Collective.**"""
        return largest_eigenvalue(operator, layout, inverse, before)

    def _prolongator(
        self,
        A: DSparseMatrix,
        blocks: Any,
        kept: Reusable,
        B: Any,
        inverse: torch.Tensor,
        decoupled: torch.Tensor | None,
    ) -> tuple[Any, Any]:
        """P, and the next level's near-nullspace. **Collective.**"""
        group, m = kept.group, kept.vectors
        if kept.block_size > 1:
            group = np.repeat(group, kept.block_size)
        if decoupled is not None:
            alone = decoupled.cpu().numpy()
            group = np.where(alone, -1, group).astype(np.int32)
            if m > 1:
                B = np.where(alone[:, None], 0.0, B)
        Q, B = tentative(kept.aggregates, group, B)
        tile = (kept.block_size if m > 1 else 1), m
        dtype = np.dtype(self._options.dtype)
        system = inverse.cpu().numpy(), self._estimates[-1].largest, A.pattern.plan
        return smoothed_prolongator(blocks, *system, kept.aggregates, group, Q, tile, dtype), B

    def _product(
        self, A: DSparseMatrix, blocks: Any, P: Any, before: Reusable, same: bool
    ) -> tuple[DSparseMatrix, KnownProduct | None]:
        """`P^T A P`; with the same P as before, what is known of it. **Collective.**"""
        # Without the compiled loops the pattern lacks what was zero by chance.
        known = before.coarse if native.LIBRARY is not None else None
        if not same or known is None:
            return galerkin(A, blocks, P), None
        product = before.product or KnownProduct(A.pattern.plan, P, known)
        return product(blocks, P), product

    def _transfer(self, P: Any) -> Transfer:
        """**Collective.**"""
        return Transfer(P, self.dtype)

    def _moved(
        self, move: Repartition, A: DSparseMatrix, B: Any
    ) -> tuple[DSparseMatrix | None, Any]:
        """A, and a near-nullspace, where they go on. **Collective.**"""
        return move.moved(A, B)

    # On which ranks

    def _repartition(
        self, A: DSparseMatrix, above: DSparseMatrix, block: int
    ) -> Repartition | None:
        """Where A goes on, if not where it is. **Collective.**"""
        if A.world.size == 1 or A.shape[0] <= self._options.coarse_size:
            return None  # every rank takes part in the direct solve: one message less
        offsets = self._owners(self._load(A, above), block)
        return None if offsets is None else Repartition(A.layout, offsets)

    def _owners(self, load: Load, block: int) -> np.ndarray | None:
        """The rows of each rank that goes on, None where all stays. Local; replicated."""
        options = self._options
        if options.rows_per_rank:
            return by_rows(load, options.rows_per_rank, block)
        products, size = 2 * options.degree, self.dtype.itemsize
        visit = Visit(products, options.coarse_size, size, options.balance)
        return agglomerated(load, self.costs, visit, block)

    def _load(self, A: DSparseMatrix, above: DSparseMatrix) -> Load:
        """**Collective.**"""
        plan = A.pattern.plan
        mine = [A.nnz_owned, self._held, len(plan.receives.ranks), plan.n_halo]
        table = A.world.of_each(np.array(mine, dtype=np.int64)).T
        return Load(
            A.layout.offsets,
            entries=table[0],
            above=table[1],
            neighbours=table[2],
            halo=table[3],
            total=self._total,
            ranks=self._finest,
            previous=above.nnz_global,
        )

    @contextmanager
    def _timed(self, step: str) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        self.seconds[step] += time.perf_counter() - begin


def _check_dense(A: DSparseMatrix) -> None:
    """Raise InputError where a dense inverse is out of the question. On every rank alike."""
    if A.shape[0] > MOST_DENSE:
        raise InputError(
            f"makes a dense inverse of {A.shape[0]} rows, more than {MOST_DENSE}",
            field="amg:coarse_size",
            remedy="Choose a smaller one, such as the default of 500",
        )

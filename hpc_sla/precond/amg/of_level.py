"""What is told of a level, and what of it outlives its matrix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hpc_sla.distributed.layout import RowLayout
from hpc_sla.precond.amg.galerkin import KnownProduct
from hpc_sla.precond.amg.products import Transfer
from hpc_sla.precond.amg.repartition import Repartition
from hpc_sla.sparse.pattern import DistributedPattern


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


@dataclass(frozen=True)
class Reusable:
    """What outlives a level's matrix, for `updated` (per rank).

    The prolongator's columns and the product's rows are first owned as the aggregates are: `plan`
    is the prolongator's there, where the level then moves elsewhere.
    """

    aggregates: RowLayout
    group: Any
    vectors: int
    block_size: int
    transfer: Transfer | None = None
    move: Repartition | None = None
    plan: Any = None
    coarse: DistributedPattern | None = None
    product: KnownProduct | None = None

"""The rows of a distributed matrix on other ranks."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp
import torch

from hpc_sla.distributed.arguments import tensor_of
from hpc_sla.distributed.layout import RowLayout
from hpc_sla.distributed.ownership import Directory
from hpc_sla.distributed.shipment import Shipment
from hpc_sla.distributed.world import World
from hpc_sla.errors import InputError
from hpc_sla.partition.parallel import partition_rows
from hpc_sla.sparse.entries import pattern_of
from hpc_sla.sparse.pattern import DistributedPattern
from hpc_sla.sparse.unknowns import Unknowns

ENTRIES, ROWS = "entries", "rows"
"""What may be said of rows' costs in a word."""


def new_ranks(
    layout: RowLayout,
    mine: sp.csr_matrix,
    unknowns: Unknowns,
    method: str,
    weights: str | torch.Tensor | np.ndarray,
    coordinates: torch.Tensor | np.ndarray | None,
    shares: Any,
) -> np.ndarray:
    """The rank that each owned row had better be on, int32 [n_owned]. **Collective.**

    Parameters and errors are those of `DSparseMatrix.repartition`.

    Parameters
    ----------
    layout : RowLayout
    mine : SciPy CSR matrix [n_owned, n]
        This rank's rows, in stored numbers.
    """
    world = layout.world
    costs: np.ndarray | None = None
    points: np.ndarray | None = None
    with world.agree(
        "repartition",
        method=method,
        weights=weights if isinstance(weights, str) else "costs",
        coordinates=coordinates is not None,
        shares=shares if shares is None else [float(s) for s in np.ravel(shares)],
    ):
        if layout.n_global != mine.shape[1]:
            raise InputError(
                f"is {layout.n_global} x {mine.shape[1]}",
                field="matrix",
                remedy="Rows of square matrices are partitioned in parallel; give a rectangular "
                "one to from_scipy with partition='metis'",
            )
        if isinstance(weights, str):
            if weights not in (ENTRIES, ROWS):
                raise InputError(
                    f"there are no weights {weights!r}",
                    field="weights",
                    remedy=f"Choose {ENTRIES} or {ROWS}, or pass a cost for each owned row",
                )
            costs = np.diff(mine.indptr).astype(np.float64) if weights == ENTRIES else None
        else:
            costs = _numpy(weights, "weights")
        if coordinates is None:
            coordinates = unknowns.coordinates
        if coordinates is not None:
            points = _numpy(coordinates, "coordinates")
    return partition_rows(
        world.comm,
        layout.offsets,
        mine.indptr,
        mine.indices,
        world.size,
        method,
        points,
        unknowns.block_size or 1,
        costs,
        shares,
    )


def redistributed(
    layout: RowLayout,
    rows: np.ndarray,
    columns: np.ndarray,
    local_rows: np.ndarray,
    values: torch.Tensor,
    part: np.ndarray,
) -> tuple[RowLayout, DistributedPattern, torch.Tensor]:
    """A square matrix whose rows go to the ranks given. **Collective.**

    A rank has its rows in the order of the user's.

    Parameters
    ----------
    layout : RowLayout
    rows, columns : int64 arrays [nnz_owned]
        Of each entry, the user's.
    local_rows : int array [nnz_owned]
    values : torch.Tensor [nnz_owned]
    part : int array [n_owned]
        The rank of each owned row.

    Returns
    -------
    RowLayout, DistributedPattern, torch.Tensor [new nnz_owned]
        The values are a differentiable function of `values`.
    """
    world: World = layout.world
    (own,) = Shipment(world, part).arrived(np.ascontiguousarray(layout.rows))
    own = np.sort(own)
    new = RowLayout.numbered(world, world.offsets(len(own)), own)
    shipment = Shipment(world, part[local_rows])
    rows, columns = shipment.arrived(rows, columns)
    stored = Directory(new).stored(columns)
    pattern, place = pattern_of(new, np.searchsorted(own, rows), stored)
    shipment.put(place)
    with world.agree() as agreed:
        agreed.number = float(values.requires_grad)
    if agreed.number and not values.requires_grad:  # a rank without entries follows the others
        values = values.detach().requires_grad_()
    return new, pattern, shipment(values)


def moved(unknowns: Unknowns, old: RowLayout, new: RowLayout) -> Unknowns:
    """What is known of the rows, on their new ranks. **Collective.**"""
    points, vectors = (
        None if known is None else old.move(known, new)
        for known in (unknowns.coordinates, unknowns.near_nullspace)
    )
    return Unknowns(unknowns.block_size, points, vectors, unknowns.found)


def _numpy(given: Any, field: str) -> np.ndarray:
    found: np.ndarray = tensor_of(given, field).detach().cpu().numpy().astype(np.float64)
    return found

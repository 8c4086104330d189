"""Divide a matrix's rows into parts: METIS, recursive coordinate bisection, or equal runs."""

from __future__ import annotations

from typing import Any

import numpy as np

from hpc_sla.errors import InputError
from hpc_sla.partition.blocks import check_block_size, node_pattern
from hpc_sla.partition.columns import column_parts
from hpc_sla.partition.metis import metis, metis_rectangular
from hpc_sla.partition.offsets import column_offsets_for, contiguous, even_offsets, offsets_for
from hpc_sla.partition.quality import PartitionQuality, quality
from hpc_sla.partition.rcb import rcb
from hpc_sla.partition.reorder import StoredOrder, order_by_part, reorder, stored_order

__all__ = [
    "METHODS",
    "PartitionQuality",
    "StoredOrder",
    "check_block_size",
    "column_offsets_for",
    "column_parts",
    "even_offsets",
    "offsets_for",
    "order_by_part",
    "partition",
    "quality",
    "reorder",
    "stored_order",
]

METHODS = ("metis", "rcb", "contiguous")


def partition(
    matrix: Any,
    parts: int,
    method: str = "metis",
    coordinates: np.ndarray | None = None,
    block_size: int = 1,
) -> np.ndarray:
    """Part of every row of a sparse matrix. `column_parts` then gives a rectangular one's columns'.

    Parameters
    ----------
    matrix : SciPy CSR matrix or array [m, n]
        Only its pattern is looked at.
    parts : int
        At least 1; more parts than rows leaves some empty.
    method : {"metis", "rcb", "contiguous"}
        "metis" works on the symmetrised pattern, or on the bipartite graph of a rectangular
        matrix's rows and columns; "rcb" on `coordinates`.
    coordinates : float array [m, dimensions], optional
        Points of the rows, for "rcb".
    block_size : int
        Rows ``block_size * i`` to ``block_size * (i + 1) - 1`` of a square matrix are the
        unknowns of node i, and go to the same part. It is the nodes that are then divided; for
        "rcb" a node lies where its first row does.

    Returns
    -------
    ndarray, int32 [m]
        Values in ``[0, parts)``; the same input always gives the same answer.
    """
    n_rows, n_cols = matrix.shape
    if parts < 1:
        raise InputError(f"is {parts}", field="--parts", remedy="Give at least 1.")
    check_block_size(matrix.shape, block_size)
    if method == "rcb":
        coordinates = _points(coordinates, n_rows)
    if block_size > 1:
        points = None if coordinates is None else coordinates[::block_size]
        nodes = partition(node_pattern(matrix, block_size), parts, method, points)
        return np.repeat(nodes, block_size)
    if method == "contiguous":
        return contiguous(n_rows, parts)
    if method == "metis":
        return metis(matrix, parts) if n_rows == n_cols else metis_rectangular(matrix, parts)
    if method != "rcb":
        raise InputError(
            f"there is no partitioner {method!r}",
            field="--method",
            remedy=f"Choose one of {', '.join(METHODS)}.",
        )
    assert coordinates is not None
    return rcb(coordinates, parts)


def _points(coordinates: Any, n_rows: int) -> np.ndarray:
    if coordinates is None:
        raise InputError(
            "rcb needs the rows' coordinates",
            field="--coordinates",
            remedy="Give them with --coordinates C.npy, or use --method metis.",
        )
    try:
        points = np.asarray(coordinates, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"is not an array of numbers: {error}", field="coordinates") from error
    if points.ndim != 2 or len(points) != n_rows or not points.shape[1]:
        raise InputError(
            f"has shape {points.shape}, and one point for each of {n_rows} rows is needed",
            field="coordinates",
            remedy=f"Give an array of shape ({n_rows}, dimensions).",
        )
    if not np.isfinite(points).all():
        raise InputError("holds NaN or Inf", field="coordinates", remedy="Give finite points.")
    return points

"""Matrices with several unknowns a node: what is cut and ordered is the graph of the nodes."""

from __future__ import annotations

from numbers import Integral
from typing import Any

import numpy as np

from hpc_sla.errors import InputError


def check_block_size(shape: tuple[int, int], block_size: int, field: str = "block_size") -> None:
    """Nodes of `block_size` rows must fill a square matrix."""
    if not isinstance(block_size, Integral):
        raise InputError(
            f"is {block_size!r}", field=field, remedy="Give a whole number, at least 1."
        )
    if block_size == 1:
        return
    if block_size < 1:
        raise InputError(f"is {block_size}", field=field, remedy="Give at least 1.")
    if shape[0] != shape[1]:
        raise InputError(
            f"is {block_size} for a {shape[0]} x {shape[1]} matrix",
            field=field,
            remedy="Only rows of square matrices are kept together.",
        )
    if shape[0] % block_size:
        raise InputError(
            f"is {block_size}, which does not divide {shape[0]} rows",
            field=field,
            remedy="It is the number of unknowns at each node, numbered node by node.",
        )


def node_pattern(matrix: Any, block_size: int) -> Any:
    """Which nodes are coupled: a CSR pattern of ones ``[n / block_size, n / block_size]``.

    Node i is the rows and columns ``block_size * i`` to ``block_size * (i + 1) - 1``.
    """
    import scipy.sparse as sp  # slow to load; ranks that only read do without

    nodes = matrix.shape[0] // block_size
    # The rows of a node follow each other, and so do their entries.
    ones = np.ones(matrix.nnz, dtype=np.bool_)
    pattern = sp.csr_array(
        (ones, matrix.indices // block_size, matrix.indptr[::block_size].copy()),
        shape=(nodes, nodes),
    )
    pattern.sum_duplicates()
    return pattern


def spread_over_rows(nodes: np.ndarray, block_size: int) -> np.ndarray:
    """Row numbers of nodes, node by node: ``[len(nodes) * block_size]``."""
    return (nodes[:, None] * block_size + np.arange(block_size)).ravel()


def points_of_rows(points: np.ndarray, n: int, block_size: int) -> np.ndarray:
    """A point for each of n rows, of as many points or of one for each node; others as they are."""
    if len(points) != n and len(points) * block_size == n:
        return points.repeat(block_size, axis=0)
    return points

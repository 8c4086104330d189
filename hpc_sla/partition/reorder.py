"""Number the rows part by part, and inside a part so that products stay in cache."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from hpc_sla.partition.blocks import node_pattern, spread_over_rows
from hpc_sla.partition.columns import column_parts

# A user's own numbering of a grid or mesh beats reverse Cuthill-McKee by up to 1.5 times in a
# product although the two have similar column distances; a scattered one loses by 1.7 times at
# 50 times the distance. In between, only a clear gain is worth giving up the user's order for.
_CLEAR_GAIN = 2.0


def order_by_part(
    part: np.ndarray, parts: int, matrix: Any = None
) -> tuple[np.ndarray, np.ndarray]:
    """Stored order of the rows: part after part.

    Inside a part the rows keep the user's order, unless `matrix` is given and reverse
    Cuthill-McKee brings the columns of that part's own block more than twice as close to the
    diagonal on average, as it does when the user's numbering is scattered.

    Parameters
    ----------
    part : int array [n]
        Part of every row.
    parts : int
        Number of parts; some may be empty.
    matrix : SciPy CSR matrix or array [n, n], optional
        In the user's order.

    Returns
    -------
    permutation : ndarray, int64 [n]
        Stored row to user's row.
    part_offsets : ndarray, int64 [parts + 1]
    """
    part = np.asarray(part)
    permutation = np.argsort(part, kind="stable").astype(np.int64, copy=False)
    sizes = np.bincount(part, minlength=parts)
    part_offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    if matrix is not None:
        stored = reorder(matrix, permutation)
        for start, stop in pairwise(part_offsets):
            local = closer_order(_own_block(stored, int(start), int(stop)))
            if local is not None:
                permutation[start:stop] = permutation[start:stop][local]
    return permutation, part_offsets


def reorder(
    matrix: Any, permutation: np.ndarray, column_permutation: np.ndarray | None = None
) -> Any:
    """`matrix` with rows and columns in stored order, canonical CSR.

    Entry (i, j) of the result is entry ``(permutation[i], column_permutation[j])`` of `matrix`,
    the column permutation of a square one being `permutation` itself.
    """
    import scipy.sparse as sp  # slow to load; ranks that only read do without

    columns = permutation if column_permutation is None else column_permutation
    stored = sp.csr_array(matrix)[permutation]
    inverse = np.empty(len(columns), dtype=stored.indices.dtype)
    inverse[columns] = np.arange(len(columns), dtype=inverse.dtype)
    result = sp.csr_array((stored.data, inverse[stored.indices], stored.indptr), shape=matrix.shape)
    result.sum_duplicates()
    return result


@dataclass(frozen=True)
class StoredOrder:
    """The order in which a matrix in parts is stored.

    Attributes
    ----------
    permutation : int64 array [m]
        Stored row to user's row.
    part_offsets : int64 array [parts + 1]
    column_permutation, column_part_offsets : int64 array, or None
        The same of a rectangular matrix's columns; a square one's are as its rows.
    """

    permutation: np.ndarray
    part_offsets: np.ndarray
    column_permutation: np.ndarray | None = None
    column_part_offsets: np.ndarray | None = None


def stored_order(
    matrix: Any,
    part: np.ndarray,
    parts: int,
    column_part: np.ndarray | None = None,
    block_size: int = 1,
    renumber: bool = True,
) -> StoredOrder:
    """Part after part, rows and columns; inside parts as `order_by_part` decides.

    Parameters
    ----------
    matrix : SciPy CSR matrix or array [m, n]
        In the user's order.
    part : int array [m]
    parts : int
    column_part : int array [n], optional
        Of a rectangular matrix's columns; default `column_parts`.
    block_size : int
        Of a square matrix: as in `partition`. The rows of a node, which must be in one part,
        stay together and in order.
    renumber : bool
        False for the user's order inside of parts, whatever it is.
    """
    if not renumber and matrix.shape[0] == matrix.shape[1]:
        return StoredOrder(*order_by_part(part, parts))
    if block_size > 1:
        nodes, cuts = order_by_part(part[::block_size], parts, node_pattern(matrix, block_size))
        return StoredOrder(spread_over_rows(nodes, block_size), cuts * block_size)
    if matrix.shape[0] == matrix.shape[1]:
        return StoredOrder(*order_by_part(part, parts, matrix))
    if column_part is None:
        column_part = column_parts(matrix, part, parts)
    return StoredOrder(*order_by_part(part, parts), *order_by_part(column_part, parts))


def _own_block(stored: Any, start: int, stop: int) -> Any:
    """Pattern of rows and columns ``start:stop``, int32 indices from 0."""
    import scipy.sparse as sp  # slow to load; ranks that only read do without

    first, last = stored.indptr[start], stored.indptr[stop]
    columns = stored.indices[first:last]
    own = (columns >= start) & (columns < stop)
    count = np.concatenate([[0], np.cumsum(own)])
    indptr = count[stored.indptr[start : stop + 1] - first].astype(np.int32)
    indices = (columns[own] - start).astype(np.int32)
    shape = (stop - start, stop - start)
    return sp.csr_array((np.ones(len(indices), dtype=np.bool_), indices, indptr), shape=shape)


def closer_order(pattern: Any) -> np.ndarray | None:
    """Reverse Cuthill-McKee's order of a part's own rows, or None where the present one will do.

    `pattern` is their canonical CSR pattern in that order; it is symmetrised.
    """
    if not pattern.nnz:
        return None
    block = pattern + pattern.T.tocsr()
    from scipy.sparse.csgraph import reverse_cuthill_mckee  # slow to load

    order = reverse_cuthill_mckee(block, symmetric_mode=True)
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    rows = np.repeat(np.arange(block.shape[0]), np.diff(block.indptr))
    now = np.abs(rows - block.indices).sum()
    then = np.abs(place[rows] - place[block.indices]).sum()
    return order if now > _CLEAR_GAIN * then else None

"""Number the rows part by part, and inside a part so that products stay in cache."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

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
            block = _own_block(stored, int(start), int(stop))
            local = _closer_order(block)
            if local is not None:
                permutation[start:stop] = permutation[start:stop][local]
    return permutation, part_offsets


def reorder(matrix: Any, permutation: np.ndarray) -> Any:
    """The square `matrix` with rows and columns in stored order, canonical CSR.

    Entry (i, j) of the result is entry ``(permutation[i], permutation[j])`` of `matrix`.
    """
    import scipy.sparse as sp  # slow to load; ranks that only read do without

    stored = sp.csr_array(matrix)[permutation]
    inverse = np.empty(len(permutation), dtype=stored.indices.dtype)
    inverse[permutation] = np.arange(len(permutation), dtype=inverse.dtype)
    result = sp.csr_array((stored.data, inverse[stored.indices], stored.indptr), shape=matrix.shape)
    result.sum_duplicates()
    return result


def _own_block(stored: Any, start: int, stop: int) -> Any:
    """Symmetrised pattern of rows and columns ``start:stop``, int32 indices from 0."""
    import scipy.sparse as sp  # slow to load; ranks that only read do without

    first, last = stored.indptr[start], stored.indptr[stop]
    columns = stored.indices[first:last]
    own = (columns >= start) & (columns < stop)
    count = np.concatenate([[0], np.cumsum(own)])
    indptr = count[stored.indptr[start : stop + 1] - first].astype(np.int32)
    indices = (columns[own] - start).astype(np.int32)
    shape = (stop - start, stop - start)
    block = sp.csr_array((np.ones(len(indices), dtype=np.bool_), indices, indptr), shape=shape)
    return block + block.T.tocsr()


def _closer_order(block: Any) -> np.ndarray | None:
    """Reverse Cuthill-McKee's order of `block`, or None where the present one will do."""
    if not block.nnz:
        return None
    from scipy.sparse.csgraph import reverse_cuthill_mckee  # slow to load

    order = reverse_cuthill_mckee(block, symmetric_mode=True)
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    rows = np.repeat(np.arange(block.shape[0]), np.diff(block.indptr))
    now = np.abs(rows - block.indices).sum()
    then = np.abs(place[rows] - place[block.indices]).sum()
    return order if now > _CLEAR_GAIN * then else None
